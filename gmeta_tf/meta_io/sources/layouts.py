"""What the published layouts share: their files in a folder, and text files without a header."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Sequence

from gmeta_tf.meta_io.sources.compressed import compression_of
from gmeta_tf.meta_io.sql import sql_text

__all__ = ["expected_files", "headerless"]


def expected_files(
    directory: str | os.PathLike[str], names: Sequence[str], data: str, remedy: str
) -> tuple[pathlib.Path, ...]:
    """The paths of files that a folder is expected to have.

    Raises:
        ValueError: one is missing.
    """
    folder = pathlib.Path(directory)
    if all((folder / name).is_file() for name in names):
        return tuple(folder / name for name in names)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise ValueError(
        f"{folder} is not a folder of {data}: expected the files {', '.join(names)}; "
        f"found {', '.join(found[:10]) or 'nothing'}. {remedy}"
    )


def headerless(
    files: Sequence[str | os.PathLike[str]], columns: Sequence[str], delimiter: str
) -> str:
    """The SQL table of UTF-8 files without a header and without quotes, every column as text.

    The files are compressed all alike.
    """
    types = ", ".join(f"{sql_text(column)}: 'VARCHAR'" for column in columns)
    paths = ", ".join(sql_text(glob.escape(os.fspath(file))) for file in files)
    return (
        f"read_csv([{paths}], auto_detect=false, header=false, columns={{{types}}}, "
        f"delim={sql_text(delimiter)}, quote='', escape='', "
        f"compression='{compression_of(os.fspath(files[0]))}')"
    )
