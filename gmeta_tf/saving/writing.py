"""Files that a run writes: whole or not at all, and named where the disk is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

import tensorflow as tf

from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.files import is_full_disk

__all__ = ["named_if_full", "remove_left_beside", "unwritten", "write_whole"]


@contextlib.contextmanager
def named_if_full(shown: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a library calls a file that cannot be written is one line that names the file.

    Args:
        shown: the file, by the name that it would have got.

    Raises:
        OSError: with ENOSPC where the disk is full.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # Inner errors have named their file.
        if getattr(error, "filename", None) is not None and _REMEDY in str(error):
            raise
        if not is_full_disk(error):
            raise
        raise unwritten(shown, error) from error


def write_whole(path: pathlib.Path, text: str) -> None:
    """Replaces a small text file at once: after an error the older one is as it was.

    Raises:
        OSError: it cannot be written.
    """
    with named_if_full(path), _locked_beside(path) as (new, file):
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        new.replace(path)
        to_disk(path.parent)


@contextlib.contextmanager
def _locked_beside(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """A new hidden file to write, gone at the end; those of killed processes are removed first.

    It is locked, as work folders are, by which the others know that its process is alive.
    """
    remove_left_beside(path)
    while True:
        new = path.with_name(f".{path.name}.{os.getpid()}")
        with open(new, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not (new.exists() and os.path.samestat(new.stat(), os.fstat(file.fileno()))):
                continue  # another process came before the lock
            try:
                yield new, file
            finally:
                # What was renamed is no longer there, and what is there now is nobody else's.
                new.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # of a full disk, which was told
                    file.close()
            return


def remove_left_beside(path: pathlib.Path) -> None:
    """Removes what killed processes have left of `write_whole` of a file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.name.removeprefix(f".{path.name}.").isdecimal():
            _remove_unlocked(left)


def _remove_unlocked(left: pathlib.Path) -> None:
    with contextlib.suppress(OSError), open(left, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink()


_REMEDY = "Make room, and start again; what was saved before is as it was"


def unwritten(shown: str | os.PathLike[str], error: Exception) -> OSError:
    """The one line that says why a file could not be written, and what to do."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    what = "the disk is full" if is_full_disk(error) else "it cannot be written"
    return OSError(errno.ENOSPC, f"{what}: {first_line}. {_REMEDY}", os.fspath(shown))
