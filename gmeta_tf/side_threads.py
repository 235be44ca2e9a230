"""Work in other threads that is done even where no other thread can be had.

At the end of memory `threading.Thread.start` may wait for ever: it waits for a sign of the new
thread, which dies before it can give one. So may a `ThreadPoolExecutor`, which starts threads the
same way. Here the thread that asks waits only for what another has really begun, and does the rest
itself.
"""

from __future__ import annotations

import _thread
import contextlib
import mmap
import os
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Work", "begin", "side_by_side"]

# What a thread takes of the address space: its stack, and what malloc reserves for it.
_ROOM_BYTES = 192 << 20

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Work(Generic[_Out]):
    """A call that is made once, by whichever thread takes it first.

    Example:
        >>> begin(work := Work(lambda: 6 * 7))
        >>> work.result()
        42
    """

    __slots__ = ("_call", "_done", "_error", "_taken", "_value")

    def __init__(self, call: Callable[[], _Out]) -> None:
        """Keeps the call for later."""
        self._call = call
        self._taken, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._done.acquire()
        self._error: BaseException | None = None
        self._value: _Out

    def try_call(self) -> None:
        """Makes the call, unless another thread has taken it; its error is kept for `result`."""
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._value = self._call()
        except BaseException as error:  # told by `result`, in the thread that asks
            self._error = error
        finally:
            self._done.release()

    def drop(self) -> None:
        """Sees to it that nobody begins the call any more, and waits if somebody has."""
        if not self._taken.acquire(blocking=False):
            self.wait()

    def wait(self, seconds: float = -1) -> bool:
        """Whether a call that somebody has begun ends within the seconds; for ever if negative."""
        is_done = self._done.acquire(timeout=seconds)
        if is_done:
            self._done.release()
        return is_done

    def result(self) -> _Out:
        """What the call returned; it is made here and now if no thread has begun it.

        Raises:
            BaseException: what the call raised.
        """
        self.try_call()
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value


def begin(work: Work[_Out]) -> None:
    """Has another thread make the call, if there is one to be had.

    The interpreter does not wait for that thread when it exits.
    """
    _start(work.try_call)


def side_by_side(
    function: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None
) -> list[_Out]:
    """`[function(item) for item in items]`, in several threads.

    Args:
        function: one that leaves Python's lock most of the time: reads, hashes, waits.
        items: its arguments.
        threads: how many work at most, the caller's among them; a core each if None.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: that of the first item whose call raised one; what was not begun by then is
            left out.

    Example:
        >>> side_by_side(abs, [-1, 2, -3])
        [1, 2, 3]
    """
    works = [Work(_bound(function, item)) for item in items]

    def work_through() -> None:
        for work in works:
            work.try_call()
            if work._error is not None:
                return

    try:
        for _ in range(min(threads or os.cpu_count() or 1, len(works)) - 1):
            _start(work_through)
        work_through()
        return [work.result() for work in works]
    finally:
        for work in works:
            work.drop()


def _bound(function: Callable[[_In], _Out], item: _In) -> Callable[[], _Out]:
    return lambda: function(item)


def _start(call: Callable[[], None]) -> None:
    # Without a thread, the caller works. A thread that can be started, but has no memory for its
    # first line, would only print that.
    with contextlib.suppress(OSError, RuntimeError, MemoryError):
        mmap.mmap(-1, _ROOM_BYTES).close()
        _thread.start_new_thread(call, ())
