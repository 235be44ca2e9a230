"""Checked rows to keys and episodes, in DuckDB.

How a value becomes a key (serving has to do the same):

1. White space (space, tab, line feed, carriage return, vertical tab, form feed) is cut off both
   ends of every value, the task's included; what is then empty is missing.
2. A categorical value is looked up in its table's vocabulary; unknown or missing is key 0.
3. A multi-valued text is cut at the separator (a list is taken as it is) and its parts are looked
   up. Empty, unknown and repeated parts are left out, the first `max_values` of the rest are kept
   in their order, and -1 fills up. A row with none left has the single key 0.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator

import duckdb
import numpy as np

from gmeta_tf.meta_io.records import encode_episode
from gmeta_tf.meta_io.sql import one_value, sql_parquet, sql_text
from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY, Field, Schema

__all__ = ["encode_rows", "episodes_of_split", "make_vocabulary", "read_vocabulary", "save_tables"]

_CHUNK_ROWS = 1 << 18


def make_vocabulary(database: duckdb.DuckDBPyConnection, schema: Schema, table: str) -> int:
    """Makes a table's `vocabulary` and its fields' `keys`; returns the table's num_rows."""
    readers = [
        (position, field)
        for position, field in enumerate(schema.fields)
        if field.kind != "dense" and field.table_name == table
    ]
    values = " UNION ALL ".join(
        f"SELECT part AS value, count FROM {_parts(field, position, 'training')}"
        for position, field in readers
    )
    vocabulary = _vocabulary_name(schema, table)
    min_count = min(field.min_count for _, field in readers)
    database.execute(
        f"CREATE TABLE {vocabulary} AS SELECT value, row_number() OVER (ORDER BY count DESC, "
        f"value) AS key FROM (SELECT value, sum(count) AS count FROM (WITH training AS (SELECT * "
        f"FROM grouped WHERE split = 'train') {values}) GROUP BY value) WHERE count >= {min_count} "
        "ORDER BY key"
    )
    for position, field in readers:
        # A column a slot and not one list: DuckDB puts aggregates of a fixed size on disk when
        # memory runs out, and lists it cannot.
        slots = ", ".join(
            f"max(key) FILTER (place = {slot}) AS slot_{slot}" for slot in range(field.num_slots)
        )
        database.execute(
            f"CREATE TABLE keys_{position} AS SELECT text, {slots} FROM (SELECT text, "
            "CAST(key AS INTEGER) AS key, "
            "row_number() OVER (PARTITION BY text ORDER BY place) - 1 AS place "
            f"FROM {_parts(field, position, 'grouped')} JOIN {vocabulary} ON part = value) "
            f"WHERE place < {field.num_slots} GROUP BY text"
        )
    return 1 + one_value(database, f"SELECT count(*) FROM {vocabulary}")


def _vocabulary_name(schema: Schema, table: str) -> str:
    # By number: the names of DuckDB's tables do not tell "Item" from "item".
    return f"vocabulary_{[one.name for one in schema.tables].index(table)}"


def _parts(field: Field, position: int, rows: str) -> str:
    """A field's distinct texts cut in parts: (text, part, place of the first, count of rows).

    Texts and not rows are cut, since there are far fewer of them in most data.
    """
    text = f"field_{position}"
    texts = f"SELECT {text} AS text, count(*) AS count FROM {rows} GROUP BY {text}"
    parts = "[text]" if field.kind == "categorical" else "text"
    return (
        f"(SELECT text, trimmed(part) AS part, min(place) AS place, any_value(count) AS count FROM "
        f"(SELECT text, count, unnest({parts}) AS part, generate_subscripts({parts}, 1) AS place "
        f"FROM ({texts})) WHERE trimmed(part) IS NOT NULL GROUP BY text, trimmed(part))"
    )


def encode_rows(database: duckdb.DuckDBPyConnection, schema: Schema) -> None:
    """Makes `encoded`: split, task, then a record's planes, in the order of the records."""
    planes = ["CAST(label AS FLOAT) AS plane_0"]
    joins = []
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            continue
        joins.append(f"LEFT JOIN keys_{position} ON field_{position} = keys_{position}.text")
        for slot in range(field.num_slots):
            missing = UNKNOWN_KEY if slot == 0 else PADDING_KEY
            planes.append(
                f"coalesce(keys_{position}.slot_{slot}, {missing}) AS plane_{len(planes)}"
            )
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            planes.append(f"CAST(field_{position} AS FLOAT) AS plane_{len(planes)}")
    database.execute(
        f"CREATE TABLE encoded AS SELECT split, task, {', '.join(planes)} FROM grouped "
        f"{' '.join(joins)} ORDER BY split, task, time_key, row"
    )


def episodes_of_split(
    database: duckdb.DuckDBPyConnection, schema: Schema, split: str
) -> Iterator[tuple[int, int, bytes]]:
    """A split's episodes, `(task, rows, record)`, fetched in chunks of whole tasks."""
    num_slots = sum(field.num_slots for field in schema.key_fields)
    planes = [f"plane_{plane}" for plane in range(1 + num_slots + len(schema.dense_fields))]
    for tasks, rows_of in _chunks(database, split):
        columns = database.execute(
            f"SELECT {', '.join(planes)} FROM encoded WHERE split = {sql_text(split)} "
            f"AND task BETWEEN {tasks[0]} AND {tasks[-1]}"
        ).fetchnumpy()
        label = columns["plane_0"]
        keys = np.reshape([columns[plane] for plane in planes[1 : 1 + num_slots]], [-1, len(label)])
        dense = np.reshape([columns[plane] for plane in planes[1 + num_slots :]], [-1, len(label)])
        for task, rows, end in zip(tasks, rows_of, np.cumsum(rows_of), strict=True):
            part = slice(end - rows, end)
            record = encode_episode(int(task), label[part], keys[:, part], dense[:, part])
            yield int(task), int(rows), record


def _chunks(
    database: duckdb.DuckDBPyConnection, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A split's tasks in order and their rows, cut where the chunk's number of rows is reached."""
    found = database.execute(
        f"SELECT task, rows FROM tasks WHERE split = {sql_text(split)} ORDER BY task"
    ).fetchnumpy()
    tasks, rows = found["task"], found["rows"]
    chunk_of = (np.cumsum(rows) - rows) // _CHUNK_ROWS
    cuts = [0, *np.flatnonzero(np.diff(chunk_of)) + 1, len(tasks)]
    for first, last in itertools.pairwise(cuts):
        if first < last:
            yield tasks[first:last], rows[first:last]


def save_tables(database: duckdb.DuckDBPyConnection, schema: Schema, folder: pathlib.Path) -> None:
    (folder / "vocabulary").mkdir()
    saved = {"tasks": folder / "tasks.parquet"}
    for table in schema.tables:
        path = folder / "vocabulary" / f"{table.name}.parquet"
        saved[_vocabulary_name(schema, table.name)] = path
    for name, path in saved.items():
        database.execute(f"COPY {name} TO {sql_text(path)} (FORMAT parquet)")


def read_vocabulary(records: str | os.PathLike[str], table: str) -> np.ndarray:
    """The values of a table of a records folder, str `[num_rows - 1]`: entry i has key i + 1.

    Raises:
        FileNotFoundError: no such table or folder.
    """
    folder = pathlib.Path(records) / "vocabulary"
    path = folder / f"{table}.parquet"
    if not path.is_file():
        there = sorted(file.stem for file in folder.glob("*.parquet"))
        raise FileNotFoundError(
            f"{records} has no vocabulary of the table {table!r}: expected {path}, "
            f"found {', '.join(there) or 'none'}."
        )
    with contextlib.closing(duckdb.connect()) as database:
        query = f"SELECT value FROM {sql_parquet(path)} ORDER BY key"
        return np.asarray(database.execute(query).fetchnumpy()["value"], object)
