"""One process at a time writes to a run folder; without TensorFlow."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import pathlib
import socket
import stat
import threading
import time
from typing import Any

from gmeta_tf.side_threads import Work, begin

__all__ = ["LOCK", "RunLock", "check_unlocked"]

LOCK = ".lock"

# Where locks do not tell, the file's time does: its owner renews it so often. A job that is not
# suspended misses no ten of them in a row.
_BEAT_SECONDS = 30.0
_STALE_SECONDS = 300.0
_LOG = logging.getLogger(__name__)

_held: dict[str, RunLock] = {}


@dataclasses.dataclass(frozen=True)
class RunLock:
    """A run folder that this process has taken: a locked file with its host and process number.

    The system unlocks the file when the process ends, in whatever way, so that a lock on this host
    whose owner is gone is taken over. Of another host, which may be a container that has ended,
    that cannot be seen on every file system. So the owner renews the file's time every 30 seconds,
    and a lock that nobody has renewed for 5 minutes is taken over, too.

        with RunLock.take(run):
            ...

    Attributes:
        path: the file.
        descriptor: of the open file.
        ended: set when the folder was given back; the time is renewed until then.
        renewing: what renews it.
    """

    path: pathlib.Path
    descriptor: int
    ended: threading.Event
    renewing: Work[None]

    @classmethod
    def take(cls, run: str | os.PathLike[str]) -> RunLock:
        """Takes an existing folder; one that this process has already is taken as it is.

        Raises:
            ValueError: another process has it.
            OSError: its file cannot be written.
        """
        path = pathlib.Path(os.path.realpath(run)) / LOCK
        if str(path) in _held:
            return _held[str(path)]
        descriptor = _opened(path, run)
        try:
            os.ftruncate(descriptor, 0)
            own = {**_own_name(), "renewed_every_seconds": _BEAT_SECONDS}
            os.pwrite(descriptor, json.dumps(own).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        ended = threading.Event()
        lock = cls(path, descriptor, ended, Work(lambda: _renew(path, ended)))
        _held[str(path)] = lock
        # In a thread of its own, since a step or an export may hold up the others for minutes.
        begin(lock.renewing)
        return lock

    def check(self) -> None:
        """Checks that the folder is still this process's, before something is written there.

        Raises:
            ValueError: this process was suspended for so long that another one has taken it over.
        """
        own = _own_name()
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            holder = None
        else:
            holder = _holder(descriptor)
            os.close(descriptor)
        if holder != (own["host"], own["pid"]):
            who = "nobody's" if holder is None else f"that of process {holder[1]} on {holder[0]}"
            raise ValueError(
                f"{self.path.parent} is no longer this process's: expected its lock {self.path} to "
                f"be that of process {own['pid']} on {own['host']}, found it to be {who}. This "
                "process stops; see that one alone trains there, and go on with --resume."
            )

    def release(self) -> None:
        """Gives the folder back and removes the file; does nothing the second time."""
        if _held.pop(str(self.path), None) is None:
            return
        self.ended.set()
        with contextlib.suppress(OSError):
            if _is_at(self.descriptor, self.path):
                self.path.unlink()
        os.close(self.descriptor)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def check_unlocked(run: str | os.PathLike[str]) -> None:
    """Checks that no other process has a run folder, and touches nothing.

    Raises:
        ValueError: another process has it, which the message names.
    """
    path = pathlib.Path(os.path.realpath(run)) / LOCK
    if str(path) in _held or not os.path.lexists(path):
        return
    os.close(_opened(path, run))


@atexit.register
def _release_all() -> None:
    for lock in list(_held.values()):
        lock.release()


def _opened(path: pathlib.Path, run: str | os.PathLike[str]) -> int:
    """The descriptor of the lock's file, locked; raises where another process has it."""
    while True:
        # Neither waits for a pipe nor follows a link.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o644)
        try:
            _check_holder(descriptor, path, run)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever had it has removed the file since it was opened.
        os.close(descriptor)


def _check_holder(descriptor: int, path: pathlib.Path, run: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ValueError(f"{path} is not a file, so {os.fspath(run)} cannot be locked. Remove it.")
    is_known_free = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(run, _holder(descriptor), "") from error
    except OSError:
        is_known_free = False  # a file system without locks
    holder = _holder(descriptor)
    if holder is None:
        return
    host, pid = holder
    is_elsewhere = host != socket.gethostname()
    may_be_alive = not is_known_free and pid != os.getpid() and _is_alive(pid)
    if not is_elsewhere and not may_be_alive:
        return
    if not _renews(descriptor):
        raise _in_use(run, holder, f" If that process is gone, remove {path}.")
    age = time.time() - os.fstat(descriptor).st_mtime
    if age <= _STALE_SECONDS:
        raise _in_use(
            run,
            holder,
            f" It gave a sign of life {max(0, round(age))} s ago; if it is gone, the folder is "
            f"free {round(_STALE_SECONDS)} s after the last one, or when you remove {path}.",
        )
    _LOG.warning(
        "%s: taken over from process %d on %s, which has given no sign of life for %d s",
        os.fspath(run),
        pid,
        host,
        round(age),
    )


def _renew(path: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        # A store that cannot be reached for a while is no reason to end a training.
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)


def _own_name() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _renews(descriptor: int) -> bool:
    """Whether the owner renews the file's time; those of earlier versions do not."""
    try:
        return "renewed_every_seconds" in json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, TypeError):
        return False


def _holder(descriptor: int) -> tuple[str, int] | None:
    """The host and process number in the file; None where it holds none."""
    try:
        values = json.loads(os.pread(descriptor, 4096, 0))
        return str(values["host"]), int(values["pid"])
    except (ValueError, KeyError, TypeError, OSError):  # a pipe has no beginning to read from
        return None


def _in_use(run: str | os.PathLike[str], holder: tuple[str, int] | None, remedy: str) -> ValueError:
    who = "another process" if holder is None else f"process {holder[1]} on {holder[0]}"
    return ValueError(
        f"{os.fspath(run)} is in use by {who}: expected no other process to train there. Wait for "
        f"it to end, or choose another --run.{remedy}"
    )


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return True
