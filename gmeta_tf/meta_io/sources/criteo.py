"""Criteo's click logs as a source of raw rows.

The layout, and that the rows are in the order of time: https://www.kaggle.com/c/criteo-display-ad-
challenge/data (`train.txt` of the Display Advertising Challenge) and https://huggingface.co/
datasets/criteo/CriteoClickLogs (`day_0` to `day_23` of the terabyte log, gzipped).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from gmeta_tf.meta_io.sources.compressed import compression_of
from gmeta_tf.meta_io.sources.layouts import headerless
from gmeta_tf.meta_io.sources.plain_files import shown
from gmeta_tf.meta_io.sources.sources import Source, matching_files, source_files
from gmeta_tf.meta_io.sql import number_of
from gmeta_tf.schema import Field, Schema

__all__ = ["criteo_schema", "criteo_source"]

_INTEGERS = tuple(f"I{number}" for number in range(1, 14))
_CATEGORIES = tuple(f"C{number}" for number in range(1, 27))


def criteo_schema(task: str, min_count: int = 1) -> Schema:
    """The schema of what `criteo_source` gives, with a task of the caller's choice.

    The log names no task, and what its columns mean is not published. The task's column is no
    field, since a cold task's value would be unknown anyway. Rows without a value in it are bad
    rows: leave them out with prepare's `on_bad_row="drop"`.

    Args:
        task: one of C1 to C26.
        min_count: values seen fewer times share the unknown value's row, in every field.

    Raises:
        ValueError: another task.
    """
    if task not in _CATEGORIES:
        raise ValueError(f"expected a task of C1 to C26, got {task!r}.")
    categories = [name for name in _CATEGORIES if name != task]
    return Schema(
        (
            *(Field(name, min_count=min_count) for name in categories),
            *(Field(name, "dense") for name in _INTEGERS),
        ),
        label="label",
        task=task,
    )


def criteo_source(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Source:
    """Criteo's files: 40 columns parted by tabs, without a header, in any ending.

    It gives label, I1 to I13 and C1 to C26. An integer x becomes sign(x) ln(1 + |x|), as they are
    counts of very different sizes of which some are negative; a missing one becomes 0. What is no
    number is left missing, which makes a bad row. A missing category stays missing.

    Args:
        paths: a path or a glob pattern (its files in the order of their names, in which day_10
            comes before day_2), or several; .gz and .zst are unpacked.

    Raises:
        FileNotFoundError: no such file, or nothing matches.
        ValueError: no path, or a compressed file that was cut off.
    """
    files = matching_files(paths)
    columns = ("label", *_INTEGERS, *_CATEGORIES)
    dense = (
        f"CASE WHEN {name} IS NULL THEN 0 ELSE sign({number_of(name)}) "
        f"* ln(1 + abs({number_of(name)})) END AS {name}"
        for name in _INTEGERS
    )
    rows = " UNION ALL ".join(
        f"SELECT * FROM {headerless(list(alike), columns, chr(9))}"
        for _, alike in itertools.groupby(files, compression_of)
    )
    return Source(
        f"Criteo's {shown(files)}",
        f"SELECT label, {', '.join(dense)}, {', '.join(_CATEGORIES)} FROM ({rows})",
        files=source_files(files),
    )
