"""One process at a time writes to a run folder; without TensorFlow."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import stat

__all__ = ["LOCK", "RunLock", "check_unlocked"]

LOCK = ".lock"

_held: dict[str, RunLock] = {}


@dataclasses.dataclass(frozen=True)
class RunLock:
    """A run folder that this process has taken: a locked file with its host and process number.

    The system unlocks the file when the process ends, in whatever way, so that a lock on this host
    whose owner is gone is taken over. Of another host that cannot be seen on every file system:
    its lock stands until the file is removed.

        with RunLock.take(run):
            ...

    Attributes:
        path: the file.
        descriptor: of the open file.
    """

    path: pathlib.Path
    descriptor: int

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
            own = {"host": socket.gethostname(), "pid": os.getpid()}
            os.pwrite(descriptor, json.dumps(own).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        lock = cls(path, descriptor)
        _held[str(path)] = lock
        return lock

    def release(self) -> None:
        """Gives the folder back and removes the file; does nothing the second time."""
        if _held.pop(str(self.path), None) is None:
            return
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
    if host != socket.gethostname():
        raise _in_use(run, holder, f" If that process is gone, remove {path}.")
    if not is_known_free and pid != os.getpid() and _is_alive(pid):
        raise _in_use(run, holder, "")


def _holder(descriptor: int) -> tuple[str, int] | None:
    """The host and process number in the file; None where it holds none."""
    try:
        values = json.loads(os.pread(descriptor, 4096, 0))
        return str(values["host"]), int(values["pid"])
    except (ValueError, KeyError, TypeError):
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
