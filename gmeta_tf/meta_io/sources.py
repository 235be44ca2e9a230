"""Where raw rows come from."""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from gmeta_tf.meta_io.sql import sql_text

__all__ = ["Source", "files_source"]

# Everything is read as text, so that the key "007" stays "007", and nothing of the layout is left
# to DuckDB's guess, so that two files of one data set are never read in two ways.
_TEXT_OPTIONS = "header=true, all_varchar=true, quote='\"', escape='\"', skip=0, comment=''"
_READERS = {
    "csv": f"read_csv({{paths}}, delim=',', {_TEXT_OPTIONS})",
    "tsv": f"read_csv({{paths}}, delim='\t', {_TEXT_OPTIONS})",
    "parquet": "read_parquet({paths}, binary_as_string=true)",
}
_ENDINGS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where raw rows come from: a query that DuckDB runs.

    Attributes:
        description: what error messages and the records' `details` call it.
        query: a SELECT that gives the raw columns under their names.
        row: the query's column that numbers the rows in the order of the files, for a query that
            does not keep that order (a join). None numbers the rows as they come, from 1.
    """

    description: str
    query: str
    row: str | None = None


def files_source(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Source:
    """CSV, TSV or Parquet files, read one after the other as if they were one.

    CSV and TSV files are UTF-8 with a header, plain or gzipped. Columns go by their names.

    Args:
        paths: a path or a glob pattern (its files in the order of their names), or several.
            The endings tell the format: .csv, .csv.gz, .tsv, .tsv.gz, .parquet.

    Raises:
        FileNotFoundError: no such file, or nothing matches.
        ValueError: no path, another ending, or endings of different formats.
    """
    patterns = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [file for pattern in patterns for file in _matches(os.fspath(pattern))]
    if not files:
        raise ValueError("the source has no file: expected at least one path, got none.")
    formats = {file: _format_of(file) for file in files}
    if len(set(formats.values())) > 1:
        raise ValueError(
            f"expected files of one format, got {_shown(formats)} of "
            f"{', '.join(sorted(set(formats.values())))}. Prepare them apart or convert them."
        )
    names = ", ".join(sql_text(glob.escape(file)) for file in files)
    reader = _READERS[formats[files[0]]].format(paths=f"[{names}]")
    return Source(_shown(files), f"SELECT * FROM {reader}")


def _matches(pattern: str) -> list[str]:
    if pathlib.Path(pattern).is_file():
        return [pattern]
    files = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
    if not files:
        raise FileNotFoundError(
            f"no file {pattern}: expected the path of a file, or a pattern that matches one."
        )
    return files


def _format_of(file: str) -> str:
    for ending, name in _ENDINGS.items():
        if file.lower().endswith(ending):
            return name
    raise ValueError(
        f"{file}: expected a name that ends in {', '.join(_ENDINGS)}. "
        "Rename or convert the file, or write a Source with its own query."
    )


def _shown(files: Any) -> str:
    names = list(files)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
