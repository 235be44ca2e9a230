"""Folders of versions, as TensorFlow Serving reads them: `models/films/1`, `models/films/2`, ..."""

from __future__ import annotations

import pathlib
import re

from gmeta_tf.meta_io.preparing.work_folder import work_folder

__all__ = ["drop_older", "next_version", "versions_in"]


def versions_in(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Number -> the exported model, the oldest first; empty where the folder is not there.

    Folders that are being written have hidden names, and do not count.
    """
    if not folder.is_dir():
        return {}
    found = {
        int(path.name): path
        for path in folder.iterdir()
        if re.fullmatch(r"[0-9]{1,18}", path.name) and (path / "saved_model.pb").is_file()
    }
    return dict(sorted(found.items()))


def next_version(folder: pathlib.Path) -> pathlib.Path:
    """Where the next version goes.

    Raises:
        ValueError: the folder is an exported model itself, or no folder.
    """
    if (folder / "saved_model.pb").exists() or (folder.exists() and not folder.is_dir()):
        raise ValueError(
            f"expected {folder} to be a folder of versions, such as {folder}/1, got an exported "
            "model or a file. Choose another folder."
        )
    return folder / str(max(versions_in(folder), default=0) + 1)


def drop_older(folder: pathlib.Path, keep: int) -> list[int]:
    """Removes all but the newest versions; each is hidden at once and removed then.

    Returns:
        The numbers of those that were removed.
    """
    dropped = list(versions_in(folder).items())[:-keep]
    for _, path in dropped:
        with work_folder(path) as work:
            path.rename(work / "removed")
    return [number for number, _ in dropped]
