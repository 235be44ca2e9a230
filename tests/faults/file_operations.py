"""Every file operation of a process, of all its libraries and threads: counted, killed or failed.

The kernel stops the process at each system call that changes files and asks its parent what to do
(seccomp's user notification), so that the writes of DuckDB and TensorFlow, which Python's own hooks
never see, count like all others. A process is stopped *before* a call; one that is killed within a
call that has written half of its bytes is not to be had this way, nor are writes through mapped
memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import platform
import signal
import socket
import struct
from typing import NamedTuple

__all__ = ["Operation", "Watch", "why_unavailable"]


class Operation(NamedTuple):
    """A file operation: the system call's name and the path that it changes."""

    name: str
    path: str

    @property
    def takes_room(self) -> bool:
        """Whether it fails on a full disk."""
        return self.name not in _FREES


# name: number on x86-64 and on AArch64 (None: not there), which argument is a descriptor or a
# folder's, which one is a path, which one holds an open's flags.
_CALLS: dict[str, tuple[int | None, int | None, int | None, int | None, int | None]] = {
    "write": (1, 64, 0, None, None),
    "pwrite": (18, 68, 0, None, None),
    "writev": (20, 66, 0, None, None),
    "pwritev": (296, 70, 0, None, None),
    "sendfile": (40, 71, 0, None, None),
    "copy_file_range": (326, 285, 2, None, None),
    "fsync": (74, 82, 0, None, None),
    "fdatasync": (75, 83, 0, None, None),
    "ftruncate": (77, 46, 0, None, None),
    "fallocate": (285, 47, 0, None, None),
    "truncate": (76, 45, None, 0, None),
    "open": (2, None, None, 0, 1),
    "creat": (85, None, None, 0, None),
    "openat": (257, 56, 0, 1, 2),
    "mkdir": (83, None, None, 0, None),
    "mkdirat": (258, 34, 0, 1, None),
    "rename": (82, None, None, 1, None),
    "renameat": (264, 38, 2, 3, None),
    "renameat2": (316, 276, 2, 3, None),
    "link": (86, None, None, 1, None),
    "linkat": (265, 37, 2, 3, None),
    "symlink": (88, None, None, 1, None),
    "symlinkat": (266, 36, 1, 2, None),
    "unlink": (87, None, None, 0, None),
    "unlinkat": (263, 35, 0, 1, None),
    "rmdir": (84, None, None, 0, None),
}
_FREES = ("unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "fsync", "fdatasync")
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine(), -1)
_NUMBERS = {
    calls[_COLUMN]: name
    for name, calls in _CALLS.items()
    if _COLUMN is not None and calls[_COLUMN] is not None
}
_SET_MODE_FILTER, _NEW_LISTENER, _NO_NEW_PRIVILEGES = 1, 8, 38
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_HERE = -100  # AT_FDCWD


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("first", ctypes.POINTER(_Instruction)))


class Watch:
    """Counts the file operations of a child below a folder, and kills or fails it at one.

    Args:
        root: operations elsewhere do not count.
        at: the operation, counted from 1; None is none.
        full_disk: from that operation on the disk is full, until the child ends; otherwise the
            child is killed there.

    Attributes:
        operations: those that there were.
    """

    def __init__(
        self, root: pathlib.Path, *, at: int | None = None, full_disk: bool = False
    ) -> None:
        self.operations: list[Operation] = []
        self._root, self._at, self._full_disk = f"{root}{os.sep}", at, full_disk
        self._parents, self._childs = socket.socketpair()

    def enter(self) -> None:
        """In the child: from here on it is watched."""
        descriptor = _ask_at_file_operations()
        socket.send_fds(self._childs, [b"x"], [descriptor])
        os.close(descriptor)

    def listener(self) -> int:
        """In the parent, after the fork: the descriptor to wait at, and to `answer`."""
        self._childs.close()
        _, descriptors, _, _ = socket.recv_fds(self._parents, 1, 1)
        self._parents.close()
        if not descriptors:
            raise RuntimeError("the child cannot be watched: it ended before it was")
        return descriptors[0]

    def answer(self, listener: int) -> None:
        """Decides about the operation at which the child waits."""
        question = bytearray(80)
        try:
            fcntl.ioctl(listener, _RECEIVE, question)
            identity, pid, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", question)
            fails = self._decide(pid, _NUMBERS[number], arguments)
            reply = struct.pack("QqiI", identity, 0, -fails, 0 if fails else _CONTINUE)
            fcntl.ioctl(listener, _SEND, reply)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the child is gone
                raise

    def _decide(self, pid: int, name: str, arguments: list[int]) -> int:
        """0, or the error of an operation; the child may be killed."""
        try:
            path = _path_of(pid, name, arguments)
        except (FileNotFoundError, ProcessLookupError):
            return 0
        if not path.startswith(self._root):
            return 0
        self.operations.append(Operation(name, path))
        if self._at is None or len(self.operations) < self._at:
            return 0
        if self._full_disk:
            return 0 if name in _FREES else errno.ENOSPC
        # Another thread of the child may ask while it dies of the first kill.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return 0


def why_unavailable() -> str | None:
    """Why children cannot be watched on this machine; None where they can."""
    if _COLUMN is None:
        return f"the numbers of system calls are not known here for {platform.machine()}"
    actions = pathlib.Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.exists() or "user_notif" not in actions.read_text().split():
        return "the kernel has no user notification of seccomp (Linux 5.5 has)"
    pid = os.fork()
    if pid == 0:
        try:
            _ask_at_file_operations()
            os._exit(0)
        except OSError:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return "this process may not filter system calls (seccomp)" if status else None


def _ask_at_file_operations() -> int:
    """Has the kernel ask at each call of this process that may change files: the listener."""
    library = ctypes.CDLL(None, use_errno=True)
    instructions = [_Instruction(_LOAD, 0, 0, 0)]
    for number, name in _NUMBERS.items():
        flags = _CALLS[name][4]
        if flags is None:
            instructions += [
                _Instruction(_EQUAL, 0, 1, number),
                _Instruction(_RETURN, 0, 0, _ASK),
            ]
            continue
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        instructions += [
            _Instruction(_EQUAL, 0, 4, number),
            _Instruction(_LOAD, 0, 0, 16 + 8 * flags),
            _Instruction(_ANY_BIT, 0, 1, writes),
            _Instruction(_RETURN, 0, 0, _ASK),
            _Instruction(_RETURN, 0, 0, _ALLOW),
        ]
    instructions.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener = library.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener


def _path_of(pid: int, name: str, arguments: list[int]) -> str:
    """The path that a call of a stopped process changes."""
    _, _, descriptor, path, _ = _CALLS[name]
    folder = "cwd"
    if descriptor is not None:
        number = ctypes.c_int(arguments[descriptor] & 0xFFFFFFFF).value
        folder = "cwd" if number == _HERE else f"fd/{number}"
    base = os.readlink(f"/proc/{pid}/{folder}")
    return base if path is None else os.path.join(base, _text_at(pid, arguments[path]))


def _text_at(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        page = os.sysconf("SC_PAGESIZE")
        # No further than the page's end: what is behind it need not be there.
        text = memory.read(page - address % page)
        if b"\0" not in text:
            text += memory.read(page)
    return os.fsdecode(text.partition(b"\0")[0])
