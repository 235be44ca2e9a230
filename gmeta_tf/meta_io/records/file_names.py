"""The names that `prepare` gives to the files of a records folder."""

from __future__ import annotations

import json
import os
import pathlib
import re

__all__ = ["is_own_file", "problem_of_replacing"]

_OWN = re.compile(
    r"(\w+-\d{3,}-\d{5,}-of-\d{5,}\.tfrecord|index-\w+-\d{3,}\.npy|tasks-\d{3,}\.parquet"
    r"|vocabulary/[^/]+-\d{3,}\.parquet|schema\.json\.new)"
)
_DESCRIPTION = "schema.json"


def is_own_file(name: str) -> bool:
    """Whether a file other than `schema.json` has a name that `prepare` gives.

    Args:
        name: relative to the folder.

    Example:
        >>> [is_own_file(name) for name in ("index-train-000.npy", "vocabulary/item-001.parquet",
        ...                                 "notes.txt")]
        [True, True, False]
    """
    return _OWN.fullmatch(name) is not None


def problem_of_replacing(folder: pathlib.Path) -> str | None:
    """Why a folder is not one of records and nothing else; None where it is.

    Records that are damaged are records: the names of their files tell.
    """
    if not (folder / _DESCRIPTION).is_file():
        return f"it has no {_DESCRIPTION}"
    others = []
    num_own = 0
    for path, folders, names in os.walk(folder):
        for name in (*folders, *names):
            inside = (pathlib.Path(path) / name).relative_to(folder).as_posix()
            if is_own_file(inside):
                num_own += 1
            elif inside not in (_DESCRIPTION, "vocabulary"):
                others.append(inside)
    if others:
        return f"it holds {min(others)}"
    if num_own or _describes_records(folder / _DESCRIPTION):
        return None
    return f"its {_DESCRIPTION} is not one of records"


def _describes_records(path: pathlib.Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"format_version", "splits"} <= set(values)
