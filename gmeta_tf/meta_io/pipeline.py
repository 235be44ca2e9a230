"""Records to batches of tasks, with the keys of a step made distinct before the step sees them.

plan -> read windows -> check, pick rows -> steps of T tasks -> distinct keys -> prefetch
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io.pieces import Cut
from gmeta_tf.meta_io.plan import EpochPlan, Segment
from gmeta_tf.meta_io.records import Records, num_planes, slot_ranges
from gmeta_tf.meta_io.windows import WindowReader
from gmeta_tf.schema import PADDING_KEY, Schema, Table
from gmeta_tf.world import World

__all__ = [
    "Batch",
    "Progress",
    "TaskBatches",
    "distinct_keys",
    "input_groups",
    "key_groups",
    "timed",
    "with_next_keys",
]

Batch = dict[str, Any]

_LARGEST_STRIDE = 1 << 40
_MOST_SMALL = (1 << 31) - 1
_MOST_WORDS = 1 << 30
# Steps come in bursts, a window at a time. tf.data's own choice would grow with every burst.
_READY_STEPS = 16


def timed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `waited`: the seconds for which its step waited, float64."""
    clock = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())
    options = tf.data.Options()
    # A buffer behind the clocks would take its own time and not the step's; a map that runs in
    # parallel has one.
    options.experimental_optimization.inject_prefetch = False
    options.experimental_optimization.map_parallelization = False
    return (
        tf.data.Dataset.zip((clock, dataset, clock))
        .map(lambda before, batch, after: {**batch, "waited": after - before})
        .with_options(options)
    )


def with_next_keys(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `next`: what is known of the batch that follows it.

        keys, keys_of_rank  its keys, as in `TaskBatches`
        known   bool, whether one follows: the keys behind the last batch are nobody's

    The data is read once: a batch is held until the one behind it has come.
    """
    nothing = tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype), dataset.element_spec
    )

    def hold(held: Batch, batch: Batch, known: tf.Tensor) -> tuple[Batch, Batch]:
        following = {name: batch[name] for name in ("keys", "keys_of_rank") if name in batch}
        return batch, {**held, "next": {**following, "known": known}}

    known = tf.data.Dataset.from_tensors(True).repeat()
    batches = tf.data.Dataset.zip((dataset, known))
    ended = batches.concatenate(tf.data.Dataset.from_tensors((nothing, False)))
    # What is held at first is nothing, and left out.
    return ended.scan(nothing, lambda held, batch: hold(held, *batch)).skip(1)


def key_groups(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The tables whose keys are told apart together.

    Returns:
        `"embedded"` -> the tables of known size that take the model's width; `"embedded_16"` ->
        those that state width 16; and so on, tables in the schema's order. A dynamic table is a
        group of its own, `"embedded:<table>"`: its keys leave no room for those of others.
    """
    groups: dict[str, list[str]] = {}
    for table in schema.tables:
        name = _input_of(table)
        group = f"{name}:{table.name}" if table.is_dynamic else name
        groups.setdefault(group, []).append(table.name)
    return {group: tuple(names) for group, names in groups.items()}


def input_groups(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The learner's inputs, and the groups of tables that each reads: those of one width."""
    inputs: dict[str, list[str]] = {}
    for group, tables in key_groups(schema).items():
        inputs.setdefault(_input_of(schema.table(tables[0])), []).append(group)
    return {name: tuple(groups) for name, groups in inputs.items()}


def _input_of(table: Table) -> str:
    return "embedded" if table.width is None else f"embedded_{table.width}"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is in its data: what to save so that it can go on, at another W too.

    Attributes:
        epoch: the epoch that is going on.
        done: what it has had so far; more than one segment when it was stopped more than once.
        drawn_by: what decides, beside W and T, which rows stand in which step; batches that would
            draw others can not go on. "" where there is nothing to go on with.
    """

    epoch: int = 0
    done: tuple[Segment, ...] = ()
    drawn_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` undoes it."""
        return dataclasses.asdict(self) | {"done": [dataclasses.asdict(one) for one in self.done]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Reads what `to_json` gave."""
        segments = tuple(Segment(**one) for one in values["done"])
        return cls(values["epoch"], segments, values["drawn_by"])


@dataclasses.dataclass(frozen=True)
class TaskBatches:
    """The steps of one rank: T tasks each, every task with its support and its query rows.

    A batch is a dict (shape letters: docs/architecture.md):

        keys            group -> int64 [U], the distinct keys of all rows; a table's keys start
                        where the rows of the tables before it in the group end; on several
                        ranks those of rank 0 come first, then those of rank 1, and so on
        keys_of_rank    on several ranks: group -> int32 [W], how many keys each rank owns
        pair_to_key     group -> int32 [P]; entry 0 is the padding's, entry p > 0 says that the
                        (task, key) pair p reads keys[pair_to_key[p] - 1]; pairs are numbered task
                        after task
        support, query  each: pairs: group -> int32 [T, S, slots] (0 is padding),
                        dense float32 [T, S, num_dense], label and weight float32 [T, S]
        task            int64 [T], the tasks' numbers, -1 where the step has no task left
        out_of_range    int64 [tables], the largest key of each table that it has no row for, or -1

    An episode of n rows gives min(S, n - 1) support rows, so there is always something to judge;
    rows that are missing have weight 0. What is drawn is a pure function of (seed, epoch, task,
    episode), whatever the number of ranks.

    Each rank reads one run of the records, even with the others' by the rows that its steps
    compute. Every rank has the same number of steps, known from the index before the first; a rank
    that has run dry gets empty tasks of weight 0.

    Attributes:
        records: the data.
        split: which split of it.
        tasks: T, the tasks in a step of one rank.
        support: S.
        query: Q.
        every_row: read all rows of an epoch: an episode of more than S + Q rows stands in it as
            several tasks, as even as can be, each with its own support. Otherwise an episode stands
            once an epoch with up to S + Q of its rows.
        every_query: judge all the rows that are not support: an episode with more than Q of them
            stands in the batches several times, one after the other, with the same support. For
            evaluation.
        in_time_order: adapt on the earlier rows of an episode and judge the later ones; otherwise
            both are drawn at random, anew in every epoch.
        buckets: with more than one, episodes of up to (S + Q) / 2 rows, a quarter, ... get steps of
            their own, with more tasks and less padding; S and Q are then the largest.
        shuffle: the order of the files' blocks and of the episodes, new in every epoch.
        deterministic: steps come in the order of the plan; otherwise those of an epoch come as they
            are ready, which may be quicker, and a run that goes on within an epoch may have a task
            twice or miss one.
        seed: of the order and of the draws.
        window_rows: about how many rows are read and shuffled at once. Memory grows with it, and
            not with the data.
        world: whose shard; None detects it.
        begin: where an earlier run was stopped (see `progress`). At the same W and T the steps that
            follow are those that would have followed; at another, what is left of the epoch is
            dealt anew, and still nothing comes twice.

    Raises:
        ValueError: a size below 1, `every_row` together with `every_query`, buckets where
            every query row is judged, an unknown split, more tasks a step than any rank has, a
            window of more than 2**30 words, or a beginning that other settings drew.
    """

    records: Records
    split: str
    _: dataclasses.KW_ONLY
    tasks: int = 32
    support: int = 10
    query: int = 20
    every_row: bool = False
    every_query: bool = False
    in_time_order: bool = False
    buckets: int = 1
    shuffle: bool = True
    deterministic: bool = True
    seed: int = 0
    window_rows: int = 1 << 17
    world: World = dataclasses.field(default_factory=World.detect)
    begin: Progress = Progress()

    def __post_init__(self) -> None:
        for name in ("tasks", "support", "query", "buckets", "window_rows"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TaskBatches: expected {name} of at least 1, got {getattr(self, name)}."
                )
        if self.every_query and (self.every_row or self.buckets > 1):
            raise ValueError(
                "TaskBatches: every_query judges an episode in steps that follow one another; "
                "expected every_row=False and buckets=1 with it, got "
                f"every_row={self.every_row} and buckets={self.buckets}."
            )
        if self.window_rows * num_planes(self.schema) > _MOST_WORDS:
            most = _MOST_WORDS // num_planes(self.schema)
            raise ValueError(
                f"TaskBatches: expected window_rows of at most {most} for rows of "
                f"{num_planes(self.schema)} words, got {self.window_rows}."
            )
        if self.begin.done and self.begin.drawn_by != self._drawn_by:
            raise ValueError(
                f"TaskBatches: the epoch that is to go on was drawn by {self.begin.drawn_by}; "
                f"these batches draw by {self._drawn_by}. Give the earlier run's records and "
                "settings (W and T may differ), or begin with a whole epoch."
            )
        if not len(self._index):
            raise ValueError(
                f"TaskBatches: the split {self.split!r} of {self.records.path} has no tasks. "
                "Prepare the data with a larger fraction for it."
            )
        most = int(self._plan(0).pieces_of_ranks.sum(axis=1).max())
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
        """The steps of an epoch, equal on every rank and in every epoch."""
        return self._plan(0).num_steps

    @functools.cached_property
    def samples_per_epoch(self) -> int:
        """The support and query rows of all ranks in an epoch, without padding."""
        return self._plan(0).num_rows

    @functools.cached_property
    def padding(self) -> float:
        """The share of the rows in an epoch's steps that are padding."""
        plan = self._plan(0)
        return 1 - plan.num_rows / plan.num_padded_rows

    def progress(self, epoch: int, step: int) -> Progress:
        """What to save after some steps of an epoch.

        Args:
            epoch: which, from 0.
            step: the steps that each rank has had of it from these batches.
        """
        begin = self.begin if self.begin.epoch == epoch else Progress(epoch)
        step += self._steps_before(begin)
        segment = (Segment(self.world.size, self.tasks, step),) if step else ()
        return Progress(epoch, self._dealt_before(begin) + segment, self._drawn_by)

    @functools.cached_property
    def steps_at_begin(self) -> int:
        """The steps of each rank in what is left of the epoch that `begin` stopped in."""
        return self._steps_left(self.begin)

    def _steps_left(self, begin: Progress) -> int:
        plan = self._plan(begin.epoch, self._dealt_before(begin))
        return plan.num_steps - self._steps_before(begin)

    def dataset(self, first_epoch: int | None = None) -> tf.data.Dataset:
        """The batches of an epoch, then those of the epochs after it, without end.

        The same seed, epoch and world give the same batches, whatever epoch came first.

        Args:
            first_epoch: counted from 0; None starts at `begin`.
        """
        options = tf.data.Options()
        options.deterministic = self.deterministic
        if self.deterministic:
            batches = self._assembled(self.picked(first_epoch))
        else:
            batches = self._epoch_after_epoch(first_epoch)
        return batches.prefetch(_READY_STEPS).with_options(options)

    def _assembled(self, picked: tf.data.Dataset) -> tf.data.Dataset:
        assemble = functools.partial(
            assemble_batch,
            schema=self.schema,
            num_support=self.support,
            num_ranks=self.world.size,
        )
        return picked.map(assemble, num_parallel_calls=tf.data.AUTOTUNE)

    def _epoch_after_epoch(self, first_epoch: int | None) -> tf.data.Dataset:
        """Epochs that do not run into one another: each step that comes early is of its epoch."""
        begin = self.begin if first_epoch is None else Progress(first_epoch)
        first = self._assembled(self.picked(first_epoch).take(self._steps_left(begin)))
        later = tf.data.Dataset.counter(begin.epoch + 1).flat_map(
            lambda epoch: self._assembled(self.picked(epoch).take(self.steps_per_epoch))
        )
        return first.concatenate(later)

    def picked(self, first_epoch: int | tf.Tensor | None = None) -> tf.data.Dataset:
        """What `dataset` makes batches of: the rows of a step's tasks.

        Each is a dict: task int64 `[T]`, -1 where there is none; words int32 `[T, S + Q, C]`, the
        words of its support and then its query rows (see `records`), -1 where rows are missing;
        num_support and num_query int32 `[T]`, how many are there.
        """
        begin = self.begin if first_epoch is None else Progress()
        epoch = begin.epoch if first_epoch is None else first_epoch
        reader = WindowReader(
            self.records.files(self.split),
            num_planes(self.schema),
            self.records.compression,
            self._plan(0),
            self.world.rank,
        )

        def plan_of(epoch: int) -> EpochPlan:
            return self._plan(epoch, self._dealt_before(begin) if epoch == begin.epoch else ())

        return reader.steps(plan_of, epoch).skip(self._steps_before(begin))

    def _plan(self, epoch: int, done: tuple[Segment, ...] = ()) -> EpochPlan:
        coverage = "judge" if self.every_query else "all" if self.every_row else "one"
        return EpochPlan(
            self._index,
            Cut(self.support, self.query, coverage, self.in_time_order),
            self.tasks,
            self.world.size,
            buckets=self.buckets,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            window_rows=self.window_rows,
            row_bytes=4 * num_planes(self.schema),
            done=done,
        )

    @functools.cached_property
    def _drawn_by(self) -> str:
        names = "seed support query every_row every_query in_time_order buckets shuffle window_rows"
        settings = [f"{name}={getattr(self, name)}" for name in (*names.split(), "split")]
        return ", ".join([*settings, f"episodes={len(self._index)}"])

    @functools.cached_property
    def _index(self) -> np.ndarray:
        return self.records.index(self.split)

    def _goes_on(self, begin: Progress) -> bool:
        """Whether the last segment was of this W and T, so that its steps go on as they were."""
        sizes = [(segment.size, segment.tasks) for segment in begin.done[-1:]]
        return sizes == [(self.world.size, self.tasks)]

    def _dealt_before(self, begin: Progress) -> tuple[Segment, ...]:
        return begin.done[:-1] if self._goes_on(begin) else begin.done

    def _steps_before(self, begin: Progress) -> int:
        return begin.done[-1].steps if self._goes_on(begin) else 0


def assemble_batch(
    episodes: dict[str, tf.Tensor],
    schema: Schema,
    num_support: int | tf.Tensor,
    num_ranks: int = 1,
) -> Batch:
    """T drawn episodes to one batch (see `TaskBatches`).

    Args:
        episodes: words int32 `[T, S + Q, C]`, -1 where rows are missing; num_support and num_query
            int32 `[T]`; task int64 `[T]`.
        schema: what the words of a row are.
        num_support: S; where words has room for fewer rows than that and one, that many.
        num_ranks: W; of more than one, the keys come in the order of their owners.
    """
    words = episodes["words"]
    most_rows = words.shape[1] if words.shape[1] is not None else tf.shape(words)[1]
    if isinstance(most_rows, tf.Tensor):
        num_support = tf.minimum(num_support, most_rows - 1)
    present = _is_present(episodes, num_support, most_rows)
    label = tf.bitcast(words[:, :, 0], tf.float32)
    if schema.positive_from is not None:
        label = tf.cast(label >= schema.positive_from, tf.float32)
    dense = tf.bitcast(words[:, :, words.shape[2] - len(schema.dense_fields) :], tf.float32)
    rows = {
        "label": tf.where(present, label, 0.0),
        "weight": tf.cast(present, tf.float32),
        "dense": tf.where(present[:, :, tf.newaxis], dense, 0.0),
    }
    batch: Batch = {"task": episodes["task"], "keys": {}, "pair_to_key": {}}
    out_of_range = []
    pairs = {}
    for group, tables in key_groups(schema).items():
        keys, there, largest = _group_keys(words, schema, tables)
        distinct = distinct_keys(keys, there, _num_keys(schema, tables))
        keys, pair_to_key, pairs[group] = distinct
        if num_ranks > 1:
            keys, pair_to_key, counts = _by_owner(keys, pair_to_key, num_ranks)
            batch.setdefault("keys_of_rank", {})[group] = counts
        batch["keys"][group], batch["pair_to_key"][group] = keys, pair_to_key
        out_of_range.append(largest)
    batch["out_of_range"] = tf.concat(out_of_range, axis=0)
    for part, columns in (("support", slice(num_support)), ("query", slice(num_support, None))):
        batch[part] = {name: value[:, columns] for name, value in rows.items()}
        batch[part]["pairs"] = {group: value[:, columns] for group, value in pairs.items()}
    return batch


def distinct_keys(
    keys: tf.Tensor, there: tf.Tensor, num_keys: int | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The distinct keys of a step, its distinct (task, key) pairs, and each position's pair.

    Two tasks, the first reads the keys 7 and 9 and one padding, the second 9 twice and 4:

        keys [[7 9 -1] [9 9 4]], there [[1 1 0] [1 1 1]]  ->  distinct [7 9 4]
        pairs: 0 padding, 1 (task 0, 7), 2 (task 0, 9), 3 (task 1, 9), 4 (task 1, 4)
        pair_to_key [0 1 2 2 3], positions [[1 2 0] [3 3 4]]

    Args:
        keys: int32 or int64 `[T, ...]`.
        there: bool in the shape of `keys`; where it is false is padding, whatever key stands there.
        num_keys: the keys are below this; None is any key. With it, it takes half the time.

    Returns:
        The keys, int64 `[U]`; each pair's key, counted from 1, int32 `[P]`, where entry 0 is the
        padding's and is 0; and the pairs of the positions, int32 in the shape of `keys`.
    """
    shape, static_shape = tf.shape(keys), keys.shape
    values = None
    if num_keys is None or num_keys > _LARGEST_STRIDE:
        # Such keys leave no room for the task beside them: first smaller numbers for them.
        values, keys = tf.unique(tf.reshape(keys, [-1]), out_idx=tf.int64)
        num_keys = tf.size(values, out_type=tf.int64)
    elif static_shape[0] is not None and static_shape[0] * num_keys <= _MOST_SMALL:
        keys = tf.cast(keys, tf.int32)
    else:
        keys = tf.cast(keys, tf.int64)
    # One integer names a pair, and 0 the padding. The padding comes first, so that it is pair 0.
    num_keys = tf.cast(num_keys, keys.dtype)
    first_codes = tf.range(tf.cast(shape[0], keys.dtype)) * num_keys + 1
    codes = tf.reshape(keys, [shape[0], tf.reduce_prod(shape[1:])]) + first_codes[:, tf.newaxis]
    # Not tf.where, which takes five times as long on a CPU.
    codes = tf.reshape(codes, [-1]) * tf.cast(tf.reshape(there, [-1]), keys.dtype)
    codes, positions = tf.unique(tf.concat([tf.zeros([1], keys.dtype), codes], axis=0))
    distinct, key_of = tf.unique((codes[1:] - 1) % num_keys)
    distinct = tf.cast(distinct, tf.int64) if values is None else tf.gather(values, distinct)
    positions = tf.ensure_shape(tf.reshape(positions[1:], shape), static_shape)
    return distinct, tf.concat([[0], key_of + 1], axis=0), positions


def _by_owner(
    keys: tf.Tensor, pair_to_key: tf.Tensor, num_ranks: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The keys in the order of their owners `key % W`, and how many each rank owns.

    Done here, where it is done ahead of time, it spares the step the sorting of the keys, of the
    rows that come for them and of their gradients.

    Args:
        keys: int64 `[U]`.
        pair_to_key: int32 `[P]`, counted from 1.
        num_ranks: W.

    Returns:
        The keys and `pair_to_key` of the new order; and int32 `[W]`.
    """
    owner = tf.cast(keys % num_ranks, tf.int32)
    places = tf.dynamic_partition(tf.range(tf.size(keys)), owner, num_ranks)
    order = tf.concat(places, axis=0)
    place_of = tf.concat([[0], tf.math.invert_permutation(order) + 1], axis=0)
    counts = tf.stack([tf.size(place) for place in places])
    return tf.gather(keys, order), tf.gather(place_of, pair_to_key), counts


def _is_present(
    episodes: dict[str, tf.Tensor], num_support: int | tf.Tensor, most_rows: int | tf.Tensor
) -> tf.Tensor:
    """Which rows are there, bool `[T, S + Q]`."""
    counts = (("num_support", num_support), ("num_query", most_rows - num_support))
    return tf.concat(
        [tf.range(columns) < episodes[name][:, tf.newaxis] for name, columns in counts], axis=1
    )


def _group_keys(
    words: tf.Tensor, schema: Schema, tables: tuple[str, ...]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The keys of a group of tables.

    Returns:
        The keys, `[T, R, slots]`, int32 where there are not too many; which of them have a row,
        bool; and each table's largest key that has none, int64 `[tables]`.
    """
    num_keys = _num_keys(schema, tables)
    ranges = zip(schema.fields, slot_ranges(schema), strict=True)
    slots = np.array(
        [
            (first + slot, first + slot + (last - first) // 2, tables.index(field.table_name))
            for field, (first, last) in ranges
            if field.kind != "dense" and field.table_name in tables
            for slot in range(field.num_slots)
        ]
    )
    low_planes, high_planes, table_of_slot = slots.T
    is_wide = np.array([schema.table(name).words_per_key == 2 for name in tables])[table_of_slot]
    keys = _planes(words, low_planes)
    if is_wide.any() or (num_keys or 0) > _MOST_SMALL:
        keys = tf.cast(keys, tf.int64)
    if is_wide.any():
        high = tf.cast(_planes(words, high_planes), tf.int64)
        whole = tf.bitwise.left_shift(high, tf.constant(32, tf.int64)) | (keys & 0xFFFFFFFF)
        keys = tf.where(is_wide, whole, keys)
    if num_keys is None:
        least = tf.cast(tf.reduce_min(keys), tf.int64)
        # The smallest int64 has no positive one.
        wrong = tf.where(least < PADDING_KEY, tf.maximum(tf.abs(least), 0), -1)
        return keys, keys > PADDING_KEY, tf.reshape(wrong, [1])
    sizes = [_num_rows(schema, name) for name in tables]
    limits = np.array(sizes, keys.dtype.as_numpy_dtype)[table_of_slot]
    first_rows = np.cumsum([0, *sizes[:-1]]).astype(limits.dtype)[table_of_slot]
    by_slot = tf.reshape(keys, [-1, len(slots)])
    least, most = (
        tf.cast(bound(by_slot, axis=0), tf.int64) for bound in (tf.reduce_min, tf.reduce_max)
    )
    largest = tf.maximum(
        tf.where(least < PADDING_KEY, tf.abs(least), -1), tf.where(most >= limits, most, -1)
    )
    if words.shape[1] is not None:
        # As long as what they are added to and compared with: short ones are broadcast slowly.
        limits, first_rows = (np.tile(one, [words.shape[1], 1]) for one in (limits, first_rows))
    return (
        keys + first_rows,
        (keys > PADDING_KEY) & (keys < limits),
        tf.math.unsorted_segment_max(largest, table_of_slot, len(tables)),
    )


def _planes(words: tf.Tensor, planes: np.ndarray) -> tf.Tensor:
    """Some of the words of each row, `[T, R, planes]`."""
    first, last = planes[0], planes[-1] + 1
    if np.array_equal(planes, np.arange(first, last)):
        return words[:, :, first:last]
    return tf.gather(words, planes, axis=2)


def _num_keys(schema: Schema, tables: tuple[str, ...]) -> int | None:
    """How many keys a group of tables has; None of a dynamic one."""
    if schema.table(tables[0]).is_dynamic:
        return None
    return sum(_num_rows(schema, name) for name in tables)


def _num_rows(schema: Schema, table: str) -> int:
    num_rows = schema.table(table).num_rows
    if num_rows is None:
        raise ValueError(
            f"the table {table!r} has no num_rows: expected a schema whose vocabularies are "
            "built. Use the schema of the records folder (Records.schema)."
        )
    return num_rows
