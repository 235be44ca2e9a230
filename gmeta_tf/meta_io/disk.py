"""Files and folders that are on the disk itself, and not in the system's memory alone.

A rename may reach the disk before what was written to the renamed file does: after a power cut the
name would stand for an empty file. So files come first, then their folder, then the rename, then
the folder that has the new name.
"""

from __future__ import annotations

import errno
import os
import pathlib

from gmeta_tf.side_threads import side_by_side

__all__ = ["to_disk", "tree_to_disk"]

# Writing is the disk's; a few at once keep it busy.
_THREADS = 4
# Of file systems that have no fsync of folders.
_NOT_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def to_disk(*paths: str | os.PathLike[str]) -> None:
    """Waits until files, or the names in folders, are on the disk; one after the other.

    Raises:
        OSError: they cannot get there, since the disk is full or broken.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if not (os.path.isdir(path) and error.errno in _NOT_OF_FOLDERS):
                raise
        finally:
            os.close(descriptor)


def tree_to_disk(folder: str | os.PathLike[str]) -> None:
    """Waits until a folder with all that is in it is on the disk: files first, then folders.

    Raises:
        OSError: as `to_disk`.
    """
    folders, names = [], []
    for path, _, of_folder in os.walk(folder, topdown=False):
        folders.append(path)
        names += [pathlib.Path(path) / name for name in of_folder]
    side_by_side(to_disk, [name for name in names if not name.is_symlink()], _THREADS)
    to_disk(*folders)
