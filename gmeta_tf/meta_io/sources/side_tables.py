"""Tables beside the log, of users and items: checked once, and joined to every row.

log (user, film, rating) + films (film, year), genres (film, genre: a line each)
    -> (user, film, rating, year, [genre, ...])
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import duckdb

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import (
    Join,
    Source,
    check_unchanged,
    files_source,
    joined_query,
    reading_error,
)
from gmeta_tf.meta_io.sql import one_value, sql_name, sql_parquet, sql_text, trimmed
from gmeta_tf.schema import Schema, SideTable

__all__ = ["ROW", "joined", "side_table_source"]

ROW = "gmeta_tf row"
"""The column that numbers the rows of a log that is joined, from 1: a join keeps no order."""


def joined(
    source: Source,
    schema: Schema,
    wanted: Sequence[str],
    folder: pathlib.Path,
    database: duckdb.DuckDBPyConnection,
    *,
    own_columns_first: bool = False,
) -> Source:
    """The source with the columns that the schema's tables give; reads the tables, not the log.

    A table may be joined on what another one gives, whatever their order in the schema.

    Args:
        source: the log.
        schema: says which tables.
        wanted: the columns that are needed; others are not joined.
        folder: for a Parquet file of each table, which the source reads.
        database: reads them.
        own_columns_first: where the log and a table both have a column, take the log's; otherwise
            that is an error.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a table cannot be read, lacks a column, has several lines for a key and does not
            say `many`, gives nothing that is wanted, or what the log has already.
    """
    described = database.execute(f"DESCRIBE {source.query}").fetchall()
    there = [column[0] for column in described]
    joins: list[Join] = []
    pending = list(schema.tables_to_join)
    while pending:
        table = next((one for one in pending if one.on in there), None)
        if table is None:
            if own_columns_first and set(wanted) <= set(there):
                break
            raise ValueError(
                f"{source.description} has no column {pending[0].on!r}, which the table "
                f"{pending[0].name!r} is joined on; there are {', '.join(there)}. Correct `on`, or "
                "add the column to the table that gives it."
            )
        pending.remove(table)
        side = side_table_source(table, folder)
        needed = {*wanted, *(one.on for one in pending)}
        gives = _given_columns(table, side, database)
        columns = [(new, old) for new, old in gives if new in needed]
        known = {one.lower() for one in there}  # to DuckDB they are the same
        kept = [(new, old) for new, old in columns if new.lower() not in known]
        if not own_columns_first:
            _check_given(source, table, side, [new for new, _ in gives], columns, kept)
        if not kept:
            continue
        path = folder / f"side-table-{len(joins):03d}.parquet"
        _write(table, side, kept, path, database)
        names = tuple(new for new, _ in kept)
        there += names
        joins.append(Join(table.name, table.on, os.fspath(path), names))
    if not joins:
        return source  # it has all of their columns itself
    return dataclasses.replace(
        source,
        row=source.row or ROW,
        joins=tuple(joins),
        unjoined=source.query,
        query=joined_query(source.query, joins, None if source.row else ROW),
    )


def _check_given(
    source: Source,
    table: SideTable,
    side: Source,
    gives: Sequence[str],
    columns: Sequence[tuple[str, str]],
    kept: Sequence[tuple[str, str]],
) -> None:
    """Checks that a table gives something that is needed, and nothing that is there already."""
    if not columns:
        raise ValueError(
            f"the table {table.name!r} ({side.description}) gives no column that the schema "
            f"reads: expected a field of {', '.join(gives) or 'its columns'}. Add the field, or "
            "drop the table."
        )
    twice = [pair[0] for pair in columns if pair not in kept]
    if twice:
        raise ValueError(
            f"the column {twice[0]!r} is in {source.description} and in the table "
            f"{table.name!r} ({side.description}): expected it in one of them. Rename it with "
            f"`columns: {{NEW NAME: {twice[0]}}}`, or list the columns that are meant."
        )


def side_table_source(table: SideTable, folder: pathlib.Path) -> Source:
    """The files of a table; remote ones are copied to the folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: they cannot be read.
    """
    try:
        options = ReaderOptions.from_json(dict(table.read))
        copies = folder if files.is_remote(table.path) else None
        return files_source(table.path, options=options, copies=copies)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the table {table.name!r} of tables_to_join: {error} Correct its path in the schema "
            "(it is relative to the schema's file), or with `predict` say --tables "
            f"{table.name}=PATH."
        ) from error
    except ValueError as error:
        raise ValueError(f"the table {table.name!r} of tables_to_join: {error}") from error


def _given_columns(
    table: SideTable, side: Source, database: duckdb.DuckDBPyConnection
) -> list[tuple[str, str]]:
    """The columns that a table gives, (new name, its own)."""
    types = _types(side, database)
    for column in (table.key_column, *(old for _, old in table.columns)):
        if column not in types:
            what = "key" if column == table.key_column else "columns"
            raise ValueError(
                f"the table {table.name!r} ({side.description}) has no column {column!r}; its "
                f"columns are {', '.join(types)}. Correct `{what}`, or say under `read` how the "
                "file is written."
            )
    if table.many is not None and types[table.many].endswith("]"):
        raise ValueError(
            f"the table {table.name!r} ({side.description}): the column {table.many!r} has lists "
            "already, and `many` is for one value a line. Name it under `columns`."
        )
    return list(table.columns) or [(one, one) for one in types if one != table.key_column]


def _types(side: Source, database: duckdb.DuckDBPyConnection) -> Mapping[str, str]:
    described = database.execute(f"DESCRIBE {side.query}").fetchall()
    return {column[0]: column[1] for column in described}


def _write(
    table: SideTable,
    side: Source,
    columns: Sequence[tuple[str, str]],
    path: pathlib.Path,
    database: duckdb.DuckDBPyConnection,
) -> None:
    """Writes a table with one row a key: `key`, a text, and the columns."""
    named = ", ".join(f"{sql_name(old)} AS {sql_name(new)}" for new, old in columns)
    key = trimmed(sql_name(table.key_column))
    try:
        database.execute(
            f"CREATE OR REPLACE TEMP TABLE side_table AS SELECT row_number() OVER () AS place, "
            f"{key} AS key, {named} FROM ({side.query})"
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise reading_error(side.description, error) from error
    check_unchanged(side)
    num_rows = one_value(database, "SELECT count(*) FROM side_table")
    check_every_line(database, side, num_rows)
    names = [sql_name(new) for new, _ in columns]
    if table.many is not None:
        rows = (
            f"SELECT key, list({names[0]} ORDER BY place) FILTER ({names[0]} IS NOT NULL) "
            f"AS {names[0]} FROM side_table WHERE key IS NOT NULL GROUP BY key"
        )
    else:
        rows = f"SELECT DISTINCT key, {', '.join(names)} FROM side_table WHERE key IS NOT NULL"
    database.execute(f"COPY ({rows}) TO {sql_text(path)} (FORMAT parquet)")
    database.execute("DROP TABLE side_table")
    _check_one_row_a_key(table, side, path, database)


def _check_one_row_a_key(
    table: SideTable, side: Source, path: pathlib.Path, database: duckdb.DuckDBPyConnection
) -> None:
    stored = sql_parquet(path)
    num_rows, num_keys = database.execute(
        f"SELECT count(*), count(DISTINCT key) FROM {stored}"
    ).fetchall()[0]
    if num_rows == 0:
        raise ValueError(
            f"the table {table.name!r} ({side.description}) has no key in {table.key_column!r}: "
            "expected one in some row. Correct `key`."
        )
    if num_rows == num_keys:
        return
    twice, first = database.execute(
        "SELECT count(*), min(key) FROM (SELECT key FROM "
        f"{stored} GROUP BY key HAVING count(*) > 1)"
    ).fetchall()[0]
    raise ValueError(
        f"the table {table.name!r} ({side.description}): expected one row for each "
        f"{table.key_column!r}, but {twice} of {num_keys} have several that differ, such as "
        f"{first!r}. Leave one of each; or, where each line has one of several values, say "
        "`many: COLUMN`, which makes a list of them."
    )
