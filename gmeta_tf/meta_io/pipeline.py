"""Records to batches of tasks, with the keys of a step made distinct before the step sees them.

shard -> interleave -> shuffle -> decode, draw support and query -> batch T -> distinct keys
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io.records import (
    Records,
    deal_files,
    decode_episode,
    encode_episode,
    num_planes,
    slot_ranges,
)
from gmeta_tf.schema import PADDING_KEY, Schema
from gmeta_tf.world import World

__all__ = ["Batch", "TaskBatches", "distinct_keys", "key_groups"]

Batch = dict[str, Any]

_SHUFFLE_EPISODES = 4096
_INTERLEAVED_FILES = 4


def key_groups(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The tables that travel together: those of one width, by the name of the learner's input.

    Returns:
        `"embedded"` -> the tables that take the model's width; `"embedded_16"` -> those that
        state width 16; and so on, tables in the schema's order. One exchange serves a group.
    """
    groups: dict[str, list[str]] = {}
    for table in schema.tables:
        group = "embedded" if table.width is None else f"embedded_{table.width}"
        groups.setdefault(group, []).append(table.name)
    return {group: tuple(names) for group, names in groups.items()}


@dataclasses.dataclass(frozen=True)
class TaskBatches:
    """The steps of one rank: T tasks each, every task with its support and its query rows.

    A batch is a dict (shape letters: docs/architecture.md):

        keys            group -> int64 [U], the distinct keys of all rows; a table's keys start
                        where the rows of the tables before it in the group end
        pair_to_key     group -> int32 [P]; entry 0 is the padding's, entry p > 0 says that the
                        (task, key) pair p reads keys[pair_to_key[p] - 1]
        support, query  each: pairs: group -> int32 [T, S, slots] (0 is padding),
                        dense float32 [T, S, num_dense], label and weight float32 [T, S]
        task            int64 [T], the tasks' numbers, -1 where the step has no task left
        out_of_range    int64 [tables], the largest key of each table that it has no row for, or -1

    Support rows are drawn at random and the query from the rest, redrawn in every epoch by a pure
    function of (seed, epoch, task). A task of n rows gives min(S, n - 1) support rows, so there is
    always something to judge; rows that are missing have weight 0.

    Every rank has the same number of steps, known from the index before the first; a rank that has
    run dry gets empty tasks of weight 0.

    Attributes:
        records: the data.
        split: which split of it.
        tasks: T, the tasks in a step of one rank.
        support: S.
        query: Q.
        every_query: judge all the rows that are not support: a task with more than Q of them stands
            in the batches several times, one after the other, with the same support. For
            evaluation. Otherwise a task stands once an epoch with up to Q rows.
        shuffle: the order of files and episodes, new in every epoch.
        seed: of the order and of the draws.
        world: whose shard; None detects it.

    Raises:
        ValueError: a size below 1, an unknown split, or more tasks a step than any rank has.
    """

    records: Records
    split: str
    _: dataclasses.KW_ONLY
    tasks: int = 32
    support: int = 10
    query: int = 20
    every_query: bool = False
    shuffle: bool = True
    seed: int = 0
    world: World = dataclasses.field(default_factory=World.detect)

    def __post_init__(self) -> None:
        for name in ("tasks", "support", "query"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TaskBatches: expected {name} of at least 1, got {getattr(self, name)}."
                )
        most = max(self._episodes_of_ranks)
        if most == 0:
            raise ValueError(
                f"TaskBatches: the split {self.split!r} of {self.records.path} has no tasks. "
                "Prepare the data with a larger fraction for it."
            )
        if self.tasks > most:
            raise ValueError(
                f"TaskBatches: tasks={self.tasks} a step is more than any of {self.world.size} "
                f"rank(s) has of the split {self.split!r}: at most {most}. "
                f"Lower tasks to {most} or less, or prepare more data."
            )

    @property
    def schema(self) -> Schema:
        """What a row is."""
        return self.records.schema

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch, equal on every rank."""
        return -(-max(self._episodes_of_ranks) // self.tasks)

    @functools.cached_property
    def _index(self) -> np.ndarray:
        return self.records.index(self.split)

    @functools.cached_property
    def _files_of_ranks(self) -> list[list[int]]:
        return deal_files(self._index, self.records.num_files, self.world.size)

    @functools.cached_property
    def _episodes_of_ranks(self) -> list[int]:
        rows = self._index["rows"].astype(np.int64)
        chunks = self._num_chunks(rows) if self.every_query else np.ones_like(rows)
        return [
            int(chunks[np.isin(self._index["file"], files)].sum()) for files in self._files_of_ranks
        ]

    def _num_chunks(self, rows: Any) -> Any:
        """How often a task of so many rows stands in the batches when every row is judged."""
        num_support = np.minimum(self.support, rows - 1)
        return -(-(rows - num_support) // self.query)

    def dataset(self, first_epoch: int = 0) -> tf.data.Dataset:
        """The batches of `first_epoch`, then those of the epochs after it, without end.

        The same seed, epoch and world give the same batches, whatever epoch came first.
        """
        assemble = functools.partial(assemble_batch, schema=self.schema, num_support=self.support)
        options = tf.data.Options()
        options.deterministic = True
        return (
            self.episodes(first_epoch)
            .batch(self.tasks, drop_remainder=True)
            .map(assemble, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
            .with_options(options)
        )

    def episodes(self, first_epoch: int = 0) -> tf.data.Dataset:
        """What `dataset` batches: one drawn episode after the other, without end.

        Each is a dict: task int64, -1 of one that fills a step up; words int32 `[C, S + Q]`, the
        planes of its support and then its query rows (see `records`); num_support and num_query,
        how many of them are there.
        """
        draw = functools.partial(self._draw_episode, planes=num_planes(self.schema))
        return (
            tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
            .flat_map(self._records_of_epoch)
            .map(draw, num_parallel_calls=tf.data.AUTOTUNE)
        )

    @functools.cached_property
    def samples_per_epoch(self) -> int:
        """The support and query rows of all ranks in an epoch, without padding."""
        rows = self._index["rows"].astype(np.int64)
        num_support = np.minimum(self.support, rows - 1)
        num_query = rows - num_support
        if self.every_query:
            return int((num_support * self._num_chunks(rows) + num_query).sum())
        return int((num_support + np.minimum(self.query, num_query)).sum())

    def _seed(self, epoch: tf.Tensor) -> tf.Tensor:
        # A stride keeps the epochs of neighbouring seeds apart.
        return self.seed * 1_000_003 + epoch

    def _records_of_epoch(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """This rank's `(epoch, chunk, record)`, filled up with empty records to whole steps."""
        files = [self.records.files(self.split)[file] for file in self._own_files]
        length = self.steps_per_epoch * self.tasks
        empty = tf.data.Dataset.from_tensors(_empty_record(self.schema)).repeat()
        empty = empty.map(lambda record: (epoch, tf.constant(0, tf.int64), record))
        if not files:
            return empty.take(length)
        names = tf.constant(files)
        if self.shuffle:
            names = tf.random.experimental.stateless_shuffle(names, seed=[0, self._seed(epoch)])
        records = tf.data.Dataset.from_tensor_slices(names).interleave(
            tf.data.TFRecordDataset,
            cycle_length=_INTERLEAVED_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if self.shuffle:
            # Dataset.shuffle mixes the program's global seed in. Inside a traced function this sets
            # the function's own, so that the order depends on (seed, epoch) alone.
            tf.random.set_seed(1)
            records = records.shuffle(_SHUFFLE_EPISODES, seed=self._seed(epoch))
        return (
            records.flat_map(functools.partial(self._chunks, epoch)).concatenate(empty).take(length)
        )

    @property
    def _own_files(self) -> list[int]:
        return self._files_of_ranks[self.world.rank]

    def _chunks(self, epoch: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
        """One record, once for every Q of its rows that are to be judged."""
        if not self.every_query:
            return tf.data.Dataset.from_tensors((epoch, tf.constant(0, tf.int64), record))
        rows = tf.io.decode_raw(tf.strings.substr(record, 4, 4), tf.int32)[0]
        num_query = rows - tf.minimum(self.support, rows - 1)
        num_chunks = tf.cast(-(-num_query // self.query), tf.int64)
        return tf.data.Dataset.range(num_chunks).map(lambda chunk: (epoch, chunk, record))

    def _draw_episode(
        self, epoch: tf.Tensor, chunk: tf.Tensor, record: tf.Tensor, planes: int
    ) -> dict[str, tf.Tensor]:
        """Draws S support rows of one episode and the Q query rows of its chunk.

        Returns:
            words int32 [C, S + Q], support rows first, zeros where rows are missing; num_support
            and num_query, how many are not; task, or -1 of an episode without rows.
        """
        task, words = decode_episode(record, planes)
        num_rows = tf.shape(words)[1]
        num_support = tf.maximum(tf.minimum(self.support, num_rows - 1), 0)
        draws = tf.random.stateless_uniform([num_rows], seed=[self._seed(epoch), task])
        order = tf.cast(tf.argsort(draws), tf.int64)
        first = num_support + tf.cast(chunk, tf.int32) * self.query
        support, query = order[:num_support], order[first : first + self.query]
        # Column n is all zeros: where rows are missing, that is what is drawn.
        drawn = tf.concat(
            [_fill_up(support, self.support, num_rows), _fill_up(query, self.query, num_rows)], 0
        )
        return {
            "task": tf.where(num_rows > 0, task, tf.constant(-1, tf.int64)),
            "words": tf.gather(tf.pad(words, [[0, 0], [0, 1]]), drawn, axis=1),
            "num_support": num_support,
            "num_query": tf.size(query),
        }


def assemble_batch(
    episodes: dict[str, tf.Tensor], schema: Schema, num_support: int | tf.Tensor
) -> Batch:
    """T drawn episodes to one batch (see `TaskBatches`).

    Args:
        episodes: words int32 `[T, C, S + Q]`, num_support and num_query int32 `[T]`, task int64
            `[T]`.
        schema: what the planes are.
        num_support: S.
    """
    words = episodes["words"]
    num_query = tf.shape(words)[2] - num_support
    present = tf.concat(
        [
            tf.sequence_mask(episodes["num_support"], num_support),
            tf.sequence_mask(episodes["num_query"], num_query),
        ],
        axis=1,
    )
    present = tf.ensure_shape(present, [words.shape[0], words.shape[2]])
    label = tf.bitcast(words[:, 0], tf.float32)
    if schema.positive_from is not None:
        label = tf.cast(label >= schema.positive_from, tf.float32)
    rows = {
        "label": tf.where(present, label, 0.0),
        "weight": tf.cast(present, tf.float32),
        "dense": _dense(words, present, schema),
    }
    batch: Batch = {"task": episodes["task"], "keys": {}, "pair_to_key": {}}
    out_of_range = []
    pairs = {}
    for group, tables in key_groups(schema).items():
        keys, largest = _group_keys(words, present, schema, tables)
        distinct = distinct_keys(keys)
        batch["keys"][group], batch["pair_to_key"][group], pairs[group] = distinct
        out_of_range.append(largest)
    batch["out_of_range"] = tf.concat(out_of_range, axis=0)
    for part, columns in (("support", slice(num_support)), ("query", slice(num_support, None))):
        batch[part] = {name: value[:, columns] for name, value in rows.items()}
        batch[part]["pairs"] = {group: value[:, columns] for group, value in pairs.items()}
    return batch


def distinct_keys(keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The distinct keys of a step, its distinct (task, key) pairs, and each position's pair.

    Two tasks, the first reads the keys 7 and 9 and one padding, the second 9 twice and 4:

        keys [[7 9 -1] [9 9 4]]  ->  distinct [7 9 4]
        pairs: 0 padding, 1 (task 0, 7), 2 (task 0, 9), 3 (task 1, 9), 4 (task 1, 4)
        pair_to_key [0 1 2 2 3], positions [[1 2 0] [3 3 4]]

    Args:
        keys: int64 `[T, ...]`, -1 is padding.

    Returns:
        The keys, int64 `[U]`; each pair's key, counted from 1, int32 `[P]`, where entry 0 is the
        padding's and is 0; and the pairs of the positions, int32 in the shape of `keys`.
    """
    where = tf.where(keys >= 0)
    distinct, key_of = tf.unique(tf.gather_nd(keys, where), out_idx=tf.int64)
    num_keys = tf.maximum(tf.size(distinct, out_type=tf.int64), 1)
    codes, pair_of = tf.unique(where[:, 0] * num_keys + key_of)
    positions = tf.scatter_nd(where, pair_of + 1, tf.shape(keys, out_type=tf.int64))
    pair_to_key = tf.cast(codes % num_keys, tf.int32) + 1
    return distinct, tf.pad(pair_to_key, [[1, 0]]), tf.ensure_shape(positions, keys.shape)


def _group_keys(
    words: tf.Tensor, present: tf.Tensor, schema: Schema, tables: tuple[str, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The keys of a group of tables, `[T, R, slots]`, and each table's largest key out of range."""
    sizes = [_num_rows(schema, name) for name in tables]
    first_rows = np.cumsum([0, *sizes])[:-1]
    ranges = zip(schema.fields, slot_ranges(schema), strict=True)
    slots = np.array(
        [
            (plane, tables.index(field.table_name))
            for field, (first, last) in ranges
            if field.kind != "dense" and field.table_name in tables
            for plane in range(first, last)
        ]
    )
    planes, table_of_slot = slots.T
    limits, first_rows = np.array(sizes)[table_of_slot], first_rows[table_of_slot]
    keys = tf.cast(tf.gather(words, planes, axis=1), tf.int64)
    keys = tf.where(present[:, tf.newaxis], keys, PADDING_KEY)
    outside = (keys >= limits[:, np.newaxis]) | (keys < PADDING_KEY)
    inside = ~outside & (keys != PADDING_KEY)
    largest = tf.reduce_max(tf.where(outside, tf.abs(keys), -1), axis=[0, 2])
    largest = tf.math.unsorted_segment_max(largest, table_of_slot, len(tables))
    keys = tf.where(inside, keys + first_rows[:, np.newaxis], PADDING_KEY)
    # A transposition: tf.transpose of integers prints an oneDNN error on machines without AVX-512.
    return tf.stack(tf.unstack(keys, axis=1), axis=2), largest


def _num_rows(schema: Schema, table: str) -> int:
    num_rows = schema.table(table).num_rows
    if num_rows is None:
        raise ValueError(
            f"the table {table!r} has no num_rows: expected a schema whose vocabularies are "
            "built. Use the schema of the records folder (Records.schema)."
        )
    return num_rows


def _dense(words: tf.Tensor, present: tf.Tensor, schema: Schema) -> tf.Tensor:
    """The dense fields, float32 `[T, R, num_dense]`."""
    num_dense = len(schema.dense_fields)
    planes = words[:, words.shape[1] - num_dense :]
    values = tf.transpose(tf.bitcast(planes, tf.float32), [0, 2, 1])
    return tf.where(present[:, :, tf.newaxis], values, 0.0)


def _fill_up(rows: tf.Tensor, size: int, value: tf.Tensor) -> tf.Tensor:
    missing = size - tf.size(rows)
    filled = tf.pad(rows, [[0, missing]], constant_values=tf.cast(value, rows.dtype))
    return tf.ensure_shape(filled, [size])


def _empty_record(schema: Schema) -> bytes:
    slots = sum(field.num_slots for field in schema.key_fields)
    return encode_episode(
        0, np.zeros(0), np.zeros([slots, 0]), np.zeros([len(schema.dense_fields), 0])
    )
