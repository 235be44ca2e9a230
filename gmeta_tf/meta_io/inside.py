"""Names of files that a folder's own description gives: they must be files of that folder."""

from __future__ import annotations

import os
import pathlib
import stat

from gmeta_tf.meta_io.files import is_remote

__all__ = ["check_inside", "is_inside_name"]


def is_inside_name(name: object) -> bool:
    """Whether a name is relative, in POSIX form, and stays in its folder.

    Example:
        >>> [is_inside_name(name) for name in ("a.npy", "b/c.npy", "/etc/x", "../x", "b/../../x")]
        [True, True, False, False, False]
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or "://" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def check_inside(folder: str | os.PathLike[str], name: str) -> None:
    """Checks, before anything is read, that `name` is a regular file in `folder`, or is not there.

    Of a remote folder only the name is looked at.

    Raises:
        ValueError: the name is absolute or has `..`, the file is a link that leaves the folder, or
            it is not a regular file, such as a pipe whose reader would wait for ever.
    """
    shown = os.fspath(folder)
    if not is_inside_name(name):
        raise ValueError(
            f"{shown} names the file {name!r}: expected a name inside the folder, without `..` and "
            "not absolute. It was not made by gmeta_tf, or was changed; make it again."
        )
    if is_remote(folder):
        return
    path = pathlib.Path(folder, name)
    if path.is_symlink() or any(parent.is_symlink() for parent in path.parents[: name.count("/")]):
        target, root = path.resolve(), pathlib.Path(folder).resolve()
        if not target.is_relative_to(root):
            raise ValueError(
                f"{path} is a link that leaves its folder, to {target}: expected a file of "
                f"{shown}. Put a copy of the file in its place."
            )
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever reads it says that it is missing
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is not a file but {_kind_of(mode)}: expected a regular file. Remove it, and "
            "make the folder again."
        )


def _kind_of(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((words for is_kind, words in kinds if is_kind(mode)), "a device")
