"""Checked rows to the planes of records, in DuckDB.

How a value becomes a key (serving has to do the same):

1. White space (space, tab, line feed, carriage return, vertical tab, form feed) is cut off both
   ends of every value, the task's included; what is then empty is missing.
2. A categorical value gets its key by its table (see `Table.keys`): by the vocabulary, where an
   unknown value is key 0; by its hash; or it is the key. A missing value is key 0.
3. A multi-valued text is cut at the separator (a list is taken as it is) and its parts get their
   keys. Empty parts, repeated ones (by their texts) and those that the vocabulary does not have
   are left out, the first `max_values` of the rest are kept in their order, and -1 fills up. A row
   with none left has the single key 0.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.job import Job
from gmeta_tf.meta_io.preparing.raw_rows import RawRows, dense_value
from gmeta_tf.meta_io.preparing.split import SPLITS
from gmeta_tf.meta_io.preparing.vocabularies import is_mapped
from gmeta_tf.meta_io.records.codec import num_planes, num_row_planes
from gmeta_tf.meta_io.sql import one_value, trimmed
from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY, Schema
from gmeta_tf.side_threads import Work, begin

__all__ = ["EncodedRows", "encode_rows"]

_CHUNK_WORDS = 1 << 23
_LEAST_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class EncodedRows:
    """The table `encoded`: place, then a column for each plane but for the high words of keys.

    Its rows are in the order of the records: by side, task, time and place in the source.

    Attributes:
        database: that has it.
        schema: what a row is.
        task_bits: the bits of `place` that are the task; those above are the side.
        with_times: whether there is a column `moment` in the end, for two further planes.
    """

    database: duckdb.DuckDBPyConnection
    schema: Schema
    task_bits: int
    with_times: bool = False

    @property
    def rows_of_tasks(self) -> str:
        """The SQL of how many rows there are of each task (task, more)."""
        task = f"place & {(1 << self.task_bits) - 1}"
        return f"SELECT CAST({task} AS BIGINT) AS task, count(*) AS more FROM encoded GROUP BY 1"

    def count(self) -> int:
        """How many rows there are."""
        return one_value(self.database, "SELECT count(*) FROM encoded")

    def read(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A split's rows, `(task int64 [n], words int32 [C, n])`, in chunks."""
        sides = f"SELECT place >> {self.task_bits} AS side, count(*) FROM encoded GROUP BY side"
        counts = dict(self.database.execute(sides).fetchall())
        side = SPLITS.index(split)
        first = sum(count for other, count in counts.items() if other < side)
        last = first + counts.get(side, 0)
        step = max(_LEAST_ROWS, _CHUNK_WORDS // num_planes(self.schema))
        # One chunk is fetched while the one before it is used; never two, a connection has one
        # query at a time.
        ahead: Work[tuple[np.ndarray, np.ndarray]] | None = None
        try:
            for start in [*range(first, last, step), last]:
                rows = None if ahead is None else ahead.result()
                ahead = None
                if start < last:
                    chunk = start, min(start + step, last)
                    begin(ahead := Work(functools.partial(self._read_chunk, *chunk)))
                if rows is not None:
                    yield rows
        finally:
            if ahead is not None:
                ahead.drop()

    def _read_chunk(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.database.execute(
            f"SELECT * FROM encoded WHERE rowid >= {first} AND rowid < {last}"
        ).fetchnumpy()
        num_columns = len(found) - 1 - self.with_times
        columns = iter(np.asarray(found[f"column_{place}"]) for place in range(num_columns))
        words = np.empty([num_planes(self.schema) + 2 * self.with_times, last - first], np.int32)
        plane = num_row_planes(self.schema)
        for of_row in words[:plane]:
            of_row[:] = next(columns).view(np.int32)
        for field in self.schema.key_fields:
            slots = list(itertools.islice(columns, field.num_slots))
            for slot in slots:
                words[plane] = slot.astype(np.int32)  # the low words of int64
                plane += 1
            if self.schema.table(field.table_name).words_per_key == 2:
                for slot in slots:
                    words[plane] = slot >> 32
                    plane += 1
        for column in columns:
            words[plane] = column.view(np.int32)
            plane += 1
        if self.with_times:
            time = (np.asarray(found["moment"]) + 0).view(np.int64)  # -0.0 is 0.0
            words[plane], words[plane + 1] = time.astype(np.int32), time >> 32
        place = np.asarray(found["place"]).astype(np.int64)
        return place & ((1 << self.task_bits) - 1), words


def encode_rows(
    database: duckdb.DuckDBPyConnection, job: Job, rows: RawRows, side: str
) -> EncodedRows:
    """Makes `encoded` of the good rows, by the `keys_<i>` of their texts."""
    schema = job.schema
    columns = ["CAST(label AS FLOAT)"]
    columns += [] if schema.weight is None else ["CAST(weight AS FLOAT)"]
    joins = []
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            continue
        if is_mapped(field, schema):
            joins.append(f"LEFT JOIN keys_{position} ON field_{position} = keys_{position}.raw")
            for slot in range(field.num_slots):
                missing = UNKNOWN_KEY if slot == 0 else PADDING_KEY
                columns.append(f"coalesce(keys_{position}.slot_{slot}, {missing})")
        else:
            words = schema.table(field.table_name).words_per_key
            key = f"coalesce(CAST({trimmed(f'field_{position}')} AS BIGINT), {UNKNOWN_KEY})"
            columns.append(f"CAST({key} AS {'INTEGER' if words == 1 else 'BIGINT'})")
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            kind = rows.types[field.column_name]
            columns.append(dense_value(field, kind, f"field_{position}"))
    named = ", ".join(f"{column} AS column_{place}" for place, column in enumerate(columns))
    named += f", {rows.time} AS moment" if job.with_times else ""
    left_out = f"WHERE {side} IS NOT NULL" if job.split.by == "both" else ""
    num_tasks = one_value(database, "SELECT count(*) FROM tasks")
    # Sorting takes a third less time where the numbers to sort by have 14 bytes and not 29.
    task_bits, kind = (30, "UINTEGER") if num_tasks <= 1 << 30 else (56, "BIGINT")
    place = f"(CAST({side} AS {kind}) << {task_bits}) | CAST(task_of.task AS {kind})"
    database.execute(
        f"CREATE TABLE encoded AS SELECT {place} AS place, {named} "
        f"FROM loaded JOIN task_of ON loaded.task = task_of.raw {' '.join(joins)} {left_out} "
        f"ORDER BY {place}, {_order_in_task(database, schema, rows)}"
    )
    return EncodedRows(database, schema, task_bits, job.with_times)


def _order_in_task(database: duckdb.DuckDBPyConnection, schema: Schema, rows: RawRows) -> str:
    """What a task's rows are sorted by: time and place, in one number if they fit into 63 bits."""
    row = f"loaded.{rows.row}"
    if schema.time is None:
        return row
    if rows.time_kind == "number":
        return f"{rows.time}, {row}"
    earliest, latest, first, last = database.execute(
        f"SELECT min({rows.time}), max({rows.time}), min({row}), max({row}) FROM loaded"
    ).fetchall()[0]
    bits = int(last).bit_length()
    if first < 0 or (latest - earliest).bit_length() + bits > 63:
        return f"{rows.time}, {row}"
    return f"(({rows.time} - ({earliest})) << {bits}) | {row}"
