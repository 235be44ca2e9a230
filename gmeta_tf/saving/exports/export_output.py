"""Where an exported model may be written."""

from __future__ import annotations

import os
import pathlib

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.work_folder import replace_folder
from gmeta_tf.saving.exports.export_digests import write_digests

__all__ = ["check_export_output", "commit_export"]

_OWN_FILES = ("saved_model.pb", "assets.extra/schema.json")


def check_export_output(path: str | pathlib.Path) -> None:
    """Checks that an export may be written to `path`, and touches nothing.

    Raises:
        ValueError: it exists, is not empty and is not an export, so it must not be replaced.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not all((path / name).is_file() for name in _OWN_FILES):
        raise ValueError(
            f"{path} exists and is not an exported model (expected {' and '.join(_OWN_FILES)} in "
            "it), so it is not replaced. Choose another output."
        )
    for name in _OWN_FILES:
        check_inside(path, name)


def commit_export(built: pathlib.Path, path: pathlib.Path, work: pathlib.Path) -> None:
    """Gives what was built its digests and its name; an earlier export goes to the work folder.

    Raises:
        ValueError: another process has put something else there meanwhile.
    """
    write_digests(built)
    check_export_output(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    replace_folder(built, path, work)
