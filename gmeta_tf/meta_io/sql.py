"""Small pieces of DuckDB's SQL."""

from __future__ import annotations

import glob
import pathlib
from typing import Any

import duckdb

__all__ = ["one_value", "sql_name", "sql_parquet", "sql_text"]


def one_value(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value that a query gives."""
    row = database.execute(query).fetchone()
    if row is None:
        raise RuntimeError(f"expected one value, got no row: {query}")
    return row[0]


def sql_name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_text(value: object) -> str:
    """An SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_parquet(path: pathlib.Path) -> str:
    return f"read_parquet({sql_text(glob.escape(str(path)))})"
