"""Tables in memory as a source of raw rows: pandas, Polars and pyarrow, none of which is imported.

DuckDB reads them where they are, and looks at all rows for what it would guess from a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gmeta_tf.meta_io.sources.plain_files import no_column_twice
from gmeta_tf.meta_io.sources.sources import TABLE, Source
from gmeta_tf.meta_io.sql import sql_name

__all__ = ["as_source", "table_source"]

_KINDS = {
    ("pandas", "DataFrame"): "the pandas DataFrame",
    ("polars", "DataFrame"): "the Polars DataFrame",
    ("pyarrow", "Table"): "the pyarrow Table",
}
_EXPECTED = (
    "a Source, a pandas or Polars DataFrame, a pyarrow Table, or a mapping of names to NumPy arrays"
)


def as_source(rows: Source | Any) -> Source:
    """The source of what a caller gave: a source, or a table.

    Raises:
        ValueError: it is neither, or as `table_source`.
    """
    return rows if isinstance(rows, Source) else table_source(rows)


def table_source(table: Any) -> Source:
    """The rows of a table in memory, by the rules of Parquet: columns have names and types.

    Null, NaN in a column of numbers, and None are missing values; a list is several values. An
    index of pandas is no column. The table is not copied, and must not change meanwhile.

    Args:
        table: a pandas or Polars DataFrame, a pyarrow Table, or a mapping of names to NumPy arrays.

    Raises:
        ValueError: another type, no column, columns whose names are no texts or stand twice, or
            arrays of different lengths.

    Example:
        >>> table_source({"user": np.array([1, 1, 2]), "click": np.array([0, 1, 1])}).columns
        ('user', 'click')
    """
    if isinstance(table, Mapping):
        description = "the NumPy arrays"
        table = {name: _array(name, column) for name, column in table.items()}
        names = list(table)
        if len({len(column) for column in table.values()}) > 1:
            lengths = ", ".join(f"{name!r} {len(column)}" for name, column in table.items())
            raise ValueError(f"expected arrays of one length, got {lengths}.")
    else:
        description = _described(table)
        names = list(getattr(table, "column_names", table.columns))
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{description}: expected columns with texts as names, got {name!r}. Name them; an "
                "index of pandas becomes columns by reset_index()."
            )
    if not names:
        raise ValueError(f"{description} has no columns.")
    no_column_twice(description, names)
    columns = ", ".join(map(sql_name, names))
    query = f"SELECT {columns} FROM {sql_name(TABLE)}"
    return Source(description, query, columns=tuple(names), table=table)


def _described(table: Any) -> str:
    kind = type(table)
    described = _KINDS.get((kind.__module__.partition(".")[0], kind.__name__))
    if described is None:
        raise ValueError(
            f"expected {_EXPECTED}, got {kind.__module__}.{kind.__name__}. Of files make a source "
            "by gm.files_source(PATHS); of a lazy frame collect() the rows."
        )
    return described


def _array(name: str, column: Any) -> np.ndarray:
    if not isinstance(column, np.ndarray) or column.ndim != 1:
        got = f"shape {column.shape}" if isinstance(column, np.ndarray) else type(column).__name__
        raise ValueError(f"the column {name!r}: expected a NumPy array of one axis, got {got}.")
    if isinstance(column, np.ma.MaskedArray):
        # DuckDB reads what is below the mask.
        raise ValueError(
            f"the column {name!r}: expected an array without a mask, got a masked one. Write NaN "
            "where a number is missing, or None in an array of objects."
        )
    return column
