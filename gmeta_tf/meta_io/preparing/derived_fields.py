"""Fields that are made of others, added to rows on their way from an engine to the files.

An engine reads, checks, encodes and sorts the fields of the log. What follows from those keys is
made here, once and for both engines.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.crosses import crossed_keys
from gmeta_tf.meta_io.preparing.histories import History, distinct_known, last_keys_file
from gmeta_tf.meta_io.preparing.job import Job
from gmeta_tf.meta_io.records.codec import num_planes, num_row_planes, slot_ranges
from gmeta_tf.meta_io.records.word_checks import keys_of
from gmeta_tf.meta_io.sql import one_value, sql_parquet
from gmeta_tf.schema import Field, Schema

__all__ = ["DerivedFields"]

_CHUNK_WORDS = 1 << 23
_BLOCK_ROWS = 1 << 16
_BLOCK_KEYS = 1 << 22
_IN_TIME = ("train", "valid", "test")


class DerivedFields:
    """Adds the planes of derived fields.

    Attributes:
        cut_values: of each field the combinations beyond its `max_values` so far.
    """

    def __init__(self, job: Job) -> None:
        """Finds out which planes are whose.

        Args:
            job: its schema is what a row of the records is.
        """
        self._job, self._schema = job, job.schema
        self._planes = _planes_of(job.schema)
        self._given = _planes_of(job.schema.without_derived())
        self._fields = {field.name: field for field in job.schema.fields}
        self._crosses = [field for field in job.schema.fields if field.cross]
        self._last = [field for field in job.schema.fields if field.last is not None]
        widest = max([1, *map(self._num_combinations, self._crosses + self._last)])
        self._block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_KEYS // widest))
        self._chunk_rows = max(self._block_rows, _CHUNK_WORDS // num_planes(job.schema))
        self._histories: dict[str, History] = {}
        self.cut_values: collections.Counter[str] = collections.Counter()

    def job_of_engine(self) -> Job:
        """The same job, of the fields that read a column of the log."""
        schema = self._schema.without_derived()
        return dataclasses.replace(self._job, schema=schema, with_times=bool(self._last))

    def in_order(self, splits: Sequence[str]) -> list[str]:
        """The order in which splits have to pass: where time cuts them, as time does."""
        if not (self._last and self._job.split.by_time):
            return list(splits)
        return [split for split in _IN_TIME if split in splits]

    def add(
        self, chunks: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A split's rows of an engine, `(task int64 [n], words int32 [C, n])`, with all planes."""
        if self._last and not self._histories:
            self._histories = self._new_histories()
        if not (self._crosses or self._last):
            yield from chunks
            return
        for task, words in chunks:
            # Rows get wider: as many as an engine gives at once may be too many.
            for first in range(0, len(task), self._chunk_rows):
                part = slice(first, first + self._chunk_rows)
                yield task[part], self._with_planes(task[part], words[:, part])
        for history in self._histories.values():
            history.end_of_split()

    def _num_combinations(self, field: Field) -> int:
        """How many keys of a row are looked at to make the field."""
        if not field.cross:
            return field.num_slots
        return math.prod(self._fields[name].num_slots for name in field.cross)

    def _new_histories(self) -> dict[str, History]:
        if self._job.split.by != "time":
            return {field.name: History(field.num_slots) for field in self._last}
        with contextlib.closing(duckdb.connect()) as database:
            count = f"SELECT count(*) FROM {sql_parquet(self._job.tasks_file)}"
            num_tasks = one_value(database, count)
        made = {}
        for place, field in enumerate(self._last):
            path = self._job.spill_folder / f"last-keys-{place}"
            last_keys = last_keys_file(path, num_tasks, field.num_slots)
            made[field.name] = History(field.num_slots, last_keys)
        return made

    def _with_planes(self, task: np.ndarray, words: np.ndarray) -> np.ndarray:
        made = np.empty([num_planes(self._schema), words.shape[1]], np.int32)
        of_rows = slice(num_row_planes(self._schema))
        made[of_rows] = words[of_rows]
        for name, planes in self._given.items():
            made[self._planes[name]] = words[planes]
        for first in range(0, words.shape[1], self._block_rows):
            block = slice(first, first + self._block_rows)
            for field in self._last:
                time = keys_of(words[-2:, block], 2)[0]
                key = self._keys(self._fields[str(field.of)], made[:, block])[:, 0]
                past = self._histories[field.name].add(task[block], time, key)
                self._put(field, distinct_known(past), made[:, block])
            for field in self._crosses:
                self._cross(field, made[:, block])
        return made

    def _cross(self, field: Field, block: np.ndarray) -> None:
        parts = [self._keys(self._fields[name], block) for name in field.cross]
        table = self._schema.table(field.table_name)
        keys, num_cut = crossed_keys(parts, table, field.num_slots)
        if num_cut:
            self.cut_values[field.name] += num_cut
        self._put(field, keys, block)

    def _keys(self, field: Field, block: np.ndarray) -> np.ndarray:
        """The keys of a field, int64 `[n, slots]`."""
        planes = block[self._planes[field.name]]
        return keys_of(planes, self._schema.table(field.table_name).words_per_key).T

    def _put(self, field: Field, keys: np.ndarray, block: np.ndarray) -> None:
        """Writes keys, int64 `[n, slots]`, to a field's planes: low words, then high ones."""
        planes = block[self._planes[field.name]]
        planes[: field.num_slots] = keys.T.astype(np.int32)
        if self._schema.table(field.table_name).words_per_key == 2:
            planes[field.num_slots :] = keys.T >> 32


def _planes_of(schema: Schema) -> dict[str, slice]:
    ranges = zip(schema.fields, slot_ranges(schema), strict=True)
    return {field.name: slice(*planes) for field, planes in ranges}
