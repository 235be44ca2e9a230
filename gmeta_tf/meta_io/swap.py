"""Two names of one file system that change places at once, so that neither is ever absent."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["swapped"]

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
# Of file systems that cannot, such as NFS, and of kernels before 3.15.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def swapped(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Lets two files or folders change places, where the system and the file system can.

    Returns:
        Whether they did; False has changed nothing.

    Raises:
        OSError: one of them is not there, or may not be renamed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # not Linux, or a C library without it
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _CANNOT:
        return False
    raise OSError(error, os.strerror(error), os.fspath(one), None, os.fspath(other))
