"""Small pieces of DuckDB's SQL."""

from __future__ import annotations

import glob
import os
import pathlib
from typing import Any

import duckdb

from gmeta_tf.number_texts import WHITE_SPACE

__all__ = [
    "connect",
    "number_of",
    "one_value",
    "reason_of",
    "sql_name",
    "sql_parquet",
    "sql_text",
    "trimmed",
    "trimmed_text",
]


def connect(spill_folder: pathlib.Path, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    """A database in memory that goes to disk when memory runs out.

    Not one in a file: its tables would be compressed as they are made, which takes three times as
    long as to read CSV.

    Raises:
        ValueError: the limit is not a size.
    """
    database = duckdb.connect()
    # With UTC a text time without a zone means the same on every machine. The insertion order is
    # what "the order of the files" and the reading of sorted chunks rest on.
    database.execute("SET TimeZone='UTC'")
    database.execute("SET preserve_insertion_order=true")
    database.execute(f"SET temp_directory={sql_text(spill_folder)}")
    database.execute("SET enable_progress_bar=true")
    database.execute("SET enable_progress_bar_print=false")
    if memory_limit is not None:
        try:
            database.execute(f"SET memory_limit={sql_text(memory_limit)}")
        except duckdb.Error as error:
            database.close()
            raise ValueError(
                f"expected memory_limit to be a size such as '8GB', got {memory_limit!r}: "
                f"{reason_of(error)}"
            ) from error
    return database


def reason_of(error: Exception) -> str:
    """What went wrong, in one line: DuckDB goes on with the query and a caret under it.

    Example:
        >>> reason_of(ValueError("Invalid data.\\nLINE 1: SELECT ..."))
        'Invalid data'
    """
    first_line = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    return first_line or type(error).__name__


def one_value(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value that a query gives."""
    # All rows: while a result has not been read to its end, DuckDB 2 refuses to register data.
    rows = database.execute(query).fetchall()
    if not rows:
        raise RuntimeError(f"expected one value, got no row: {query}")
    return rows[0][0]


def sql_name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_text(value: object) -> str:
    """An SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_parquet(path: str | os.PathLike[str]) -> str:
    """The SQL table of a Parquet file."""
    return f"read_parquet({sql_text(glob.escape(os.fspath(path)))})"


def trimmed(value: str) -> str:
    """A value as text, white space cut off; NULL if nothing is left."""
    return f"nullif(trim(CAST({value} AS VARCHAR), {sql_text(WHITE_SPACE)}), '')"


def trimmed_text(value: str) -> str:
    """The same as `trimmed` of values of which few have white space around them, and faster.

    A text that begins with a letter beyond the white space, and ends in none, is not looked at
    letter by letter.
    """
    text = f"CAST({value} AS VARCHAR)"
    ends = " OR ".join(f"ends_with({text}, {sql_text(letter)})" for letter in WHITE_SPACE)
    return f"CASE WHEN {text} >= '!' AND NOT ({ends}) THEN {text} ELSE {trimmed(value)} END"


def number_of(text: str, type_name: str = "DOUBLE") -> str:
    """The SQL of the number that a text is by the rule of `number_texts`; NULL if it is none.

    DuckDB's cast differs from the rule by `1_000` alone, and by `inf` and `nan`, which give values
    that are not finite. To look for one letter takes no time, and a pattern takes much.
    """
    return f"CASE WHEN NOT contains({text}, '_') THEN TRY_CAST({text} AS {type_name}) END"
