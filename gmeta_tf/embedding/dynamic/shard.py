"""A rank's shard of a table whose rows come with their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

import tensorflow as tf

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic import state as dynamic_state
from gmeta_tf.embedding.dynamic.admission import BUCKET, WaitingRoom, buckets_of, fractions_of
from gmeta_tf.embedding.dynamic.growing_arrays import Blocks, blocks_of, rows_in_memory
from gmeta_tf.embedding.dynamic.key_index import KeyIndex
from gmeta_tf.embedding.dynamic.row_store import RowStore
from gmeta_tf.embedding.dynamic.rules import DynamicTable
from gmeta_tf.embedding.dynamic.state import DynamicState
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.static_shard import LocatedKeys, initial_rows

__all__ = ["NO_PROBLEM", "DynamicShard"]

COUNTS = (
    "insertions",
    "evictions",
    "expirations",
    "not_admitted",
    "refused_when_full",
    "bucket_collisions",
)
DEFAULT_ROW = 0
_ROWS_AT_A_TIME = 1 << 14
_FIRST_ROWS_BYTES, _FIRST_KEYS = 1 << 26, 1 << 23
NO_PROBLEM = (0, -(2**63), 0, -(2**63))


def _unlimited_rows(width: int, at_once: int) -> Blocks:
    first = max(_FIRST_ROWS_BYTES // (4 * width), at_once)
    return blocks_of(rows_in_memory(width), first, growth=2)


@final
class DynamicShard:
    """The rows of a dynamic table that this rank owns: those of the keys with `key % W == rank`.

    A step locates its keys once, gathers their rows and updates them:

        row_indices, problem = shard.locate(keys, step, training=True)
        rows = shard.gather(row_indices)
        shard.update(row_indices, gradients, optimizer, step)

    Row indices hold until the next `locate` in training, which may give them to other keys. The
    same calls give the same row indices, rows and metrics. Keys may be any int64.

    Not a `tf.Module`: its variables are address space that is used in part, and saving one whole
    would write all of it. `state` saves what is used.

    Attributes:
        options: the table's rules.
        table: its name.
        width: D.
        world: the ranks.
        index: the keys that have rows.
        waiting: the keys that wait for one; None where the first sighting is enough.
        store: the rows and slots. Row 0 is the default row; the buckets follow it.
    """

    def __init__(
        self,
        options: DynamicTable,
        *,
        table: str,
        width: int,
        seed: int,
        world: World,
        scale: float,
        name: str,
    ) -> None:
        """Builds a shard without keys.

        Args:
            options: the table's rules.
            table: its name.
            width: D.
            seed: of the initial rows, of chance and of buckets.
            world: whose shard.
            scale: the largest absolute initial value.
            name: of the variables.
        """
        self.options, self.table, self.width, self.world = options, table, width, world
        self._seed, self._scale = seed, scale
        self._num_buckets = options.num_buckets if options.has_buckets else 0
        first_row = 1 + self._num_buckets
        own = options.keys_of_a_rank(world.size)
        if own is None:
            rows = _unlimited_rows(width, first_row)
            # Fewer blocks than of rows: what is kept of a key is small beside its row.
            keys = blocks_of(rows.num_rows, max(_FIRST_KEYS, rows.first), growth=4)
        else:
            rows = keys = Blocks(first_row + own)
        self.index = KeyIndex(
            keys,
            first_row=first_row,
            limit=rows.num_rows - first_row,
            time_to_live=options.time_to_live,
            evicts=own is not None and options.when_full == "evict",
            name=name,
        )
        self.store = RowStore(rows, width, name=name)
        self.waiting: WaitingRoom | None = None
        if options.admit_after > 1 and options.unknown_in_training == "insert":
            self.waiting = WaitingRoom(
                max_keys=-(-options.max_waiting // world.size),
                forget_after=options.forget_after,
                name=f"{name}/waiting",
            )
        with tf.device("CPU:0"):
            self._counts = tf.Variable(
                tf.zeros([len(COUNTS)], tf.int64), trainable=False, name=f"{name}/counts"
            )
        self._begin_shared_rows()

    def clear(self) -> None:
        """Forgets every key, and counts from 0 again. The default row and buckets begin anew."""
        self.index.clear()
        if self.waiting is not None:
            self.waiting.index.clear()
        self._counts.assign(tf.zeros_like(self._counts))
        self._begin_shared_rows()

    def _begin_shared_rows(self) -> None:
        buckets = initial_rows(
            tf.range(self._num_buckets, dtype=tf.int64),
            self.width,
            self._seed ^ BUCKET,
            self._scale,
        )
        rows = tf.concat([tf.zeros([1, self.width]), buckets], axis=0)
        self.store.begin(tf.range(1 + self._num_buckets, dtype=tf.int64), rows)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the slots of the optimizer. Call it before the first `update`."""
        self.store.make_slots(optimizer)
        for first in range(0, int(self.index.used), 1 << 18):
            last = min(first + (1 << 18), int(self.index.used))
            self.store.begin_slots(tf.range(first, last, dtype=tf.int64))

    @property
    def slot_widths(self) -> dict[str, int | None]:
        """How many numbers the optimizer keeps of a row, by name."""
        return {name: slot.width for name, slot in self.store.slots.items()}

    def locate(self, keys: tf.Tensor, step: tf.Tensor, *, training: bool) -> LocatedKeys:
        """Finds the rows of keys; in training it also notes them and gives rows by the rules.

        Args:
            keys: int64 `[V]`, distinct and this rank's own; V may be 0.
            step: int64 scalar, the training steps done so far. Call once a step, even without
                keys: time passes with the calls.
            training: whether the step trains. Otherwise nothing changes.

        Returns:
            Row indices, int64 `[V]`, 0 for the default row; and the problem, int64 `[4]`, what the
            policies `"error"` object to: how many keys are unknown and the largest of them, how
            many found the rank full and the largest of them; `NO_PROBLEM` where nothing is wrong.
            `meta.validation` words it and raises it on every rank: a rank that raised alone would
            leave the others in their next collective.
        """
        if not training:
            row_indices = self.index.find(keys, step)
            return self._treat_unknown(keys, row_indices, self.options.unknown_otherwise)
        swept = self.index.sweep(step, tf.size(keys, tf.int64))
        row_indices, freed = self.index.see(keys, step)
        self._count(expirations=swept + freed)
        if self.options.unknown_in_training != "insert":
            located = self._treat_unknown(keys, row_indices, self.options.unknown_in_training)
            self._count_collisions(located.row_indices)
            return located
        return tf.cond(
            tf.reduce_all(row_indices >= 0),
            lambda: LocatedKeys(row_indices, tf.constant(NO_PROBLEM, tf.int64)),
            lambda: self._insert_unknown(keys, row_indices, step),
        )

    def gather(self, row_indices: tf.Tensor) -> tf.Tensor:
        """The rows `[V, D]` at row indices `[V]`."""
        return self.store.rows.gather(row_indices)

    def update(
        self, row_indices: tf.Tensor, gradients: tf.Tensor, optimizer: RowOptimizer, step: tf.Tensor
    ) -> None:
        """Applies the optimizer; the gradients of one bucket are summed first.

        Args:
            row_indices: int64 `[V]`, what `locate` gave in training. The default row stays.
            gradients: float32 `[V, D]`.
            optimizer: the one that `make_slots` was called with.
            step: int64 scalar, the steps done before this one.
        """
        trained = row_indices != DEFAULT_ROW
        row_indices, gradients = tf.cond(
            tf.reduce_all(trained),
            lambda: (row_indices, gradients),
            lambda: (tf.boolean_mask(row_indices, trained), tf.boolean_mask(gradients, trained)),
        )
        if self.options.unknown_in_training == "bucket":
            row_indices, which = tf.unique(row_indices)
            gradients = tf.math.unsorted_segment_sum(gradients, which, tf.size(row_indices))
        self.store.update(row_indices, gradients, optimizer, step)

    def bucket_of(self, keys: tf.Tensor) -> tf.Tensor:
        """The bucket of its owner that each key `[N]` shares where it has no row, int64 `[N]`."""
        return buckets_of(keys, self._seed, self._num_buckets)

    def export_state(
        self, step: int, *, keys_at_a_time: int = dynamic_state.KEYS_AT_A_TIME
    ) -> Iterator[DynamicState]:
        """What the shard holds after so many steps, by key: see `state.export`."""
        return dynamic_state.export(self, step, keys_at_a_time)

    def load_state(self, states: Iterable[DynamicState]) -> None:
        """Loads this shard's part of a table's states: see `state.load`."""
        dynamic_state.load(self, states)

    @property
    def key_type(self) -> tf.DType:
        """The type in which its keys travel: they may be any int64."""
        return tf.int64

    def metrics(self) -> dict[str, tf.Tensor]:
        """This rank's counts since it was made or loaded, int64 scalars.

        `occupancy`: the keys that have rows, given up ones too until their row is free.
        `insertions`; `evictions`, to stay in the capacity; `expirations`, after the time to live.
        `not_admitted` and `refused_when_full`: keys that read the default row for that reason,
        counted once a step. `bucket_collisions`: the keys of a step less the buckets they share.
        """
        counts = tf.unstack(self._counts, num=len(COUNTS))
        return {"occupancy": self.index.num_keys, **dict(zip(COUNTS, counts, strict=True))}

    def _treat_unknown(self, keys: tf.Tensor, row_indices: tf.Tensor, policy: str) -> LocatedKeys:
        unknown = row_indices < 0
        problem = tf.constant(NO_PROBLEM, tf.int64)
        instead: tf.Tensor = tf.constant(DEFAULT_ROW, tf.int64)
        if policy == "bucket":
            instead = 1 + self.bucket_of(keys)
        if policy == "error":
            problem = tf.concat([_worst(tf.boolean_mask(keys, unknown)), problem[2:]], axis=0)
        return LocatedKeys(tf.where(unknown, instead, row_indices), problem)

    def _insert_unknown(
        self, keys: tf.Tensor, row_indices: tf.Tensor, step: tf.Tensor
    ) -> LocatedKeys:
        where = tf.where(row_indices < 0)
        unknown = tf.gather_nd(keys, where)
        admitted = self._admitted(unknown, step)
        chosen = tf.boolean_mask(unknown, admitted)
        where = tf.boolean_mask(where, admitted)
        wanted = tf.size(chosen, tf.int64)
        evicted = tf.constant(0, tf.int64)
        if self.options.capacity is not None and self.options.when_full == "evict":
            evicted = self.index.make_room(wanted, step)
        inserted = tf.minimum(wanted, self.index.num_free_rows())
        new, rejected = chosen[:inserted], chosen[inserted:]
        new_indices = self.index.add(new, step)
        self.store.group.reach(self.index.used)
        self._begin_rows(new, new_indices)
        if self.waiting is not None:
            self.waiting.leave(new, step)
        self._count(
            insertions=inserted,
            evictions=evicted,
            not_admitted=tf.size(unknown, tf.int64) - wanted,
            refused_when_full=wanted - inserted,
        )
        row_indices = tf.tensor_scatter_nd_update(
            tf.maximum(row_indices, DEFAULT_ROW), where[:inserted], new_indices
        )
        problem = tf.constant(NO_PROBLEM, tf.int64)
        if self.options.when_full == "error":
            problem = tf.concat([problem[:2], _worst(rejected)], axis=0)
        return LocatedKeys(row_indices, problem)

    def _begin_rows(self, keys: tf.Tensor, row_indices: tf.Tensor) -> None:
        """Writes the initial rows of keys `[N]`, some at a time to save memory."""

        def begin(first: tf.Tensor) -> tf.Tensor:
            some = keys[first : first + _ROWS_AT_A_TIME]
            rows = initial_rows(some, self.width, self._seed, self._scale)
            self.store.begin(row_indices[first : first + _ROWS_AT_A_TIME], rows)
            return (first + _ROWS_AT_A_TIME,)

        count = tf.size(keys)
        tf.while_loop(lambda first: first < count, begin, (0,), parallel_iterations=1)

    def _admitted(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Which of the keys `[N]` without rows may have one now, bool `[N]`."""
        admitted = tf.ones_like(keys, tf.bool)
        if self.options.admit_probability < 1:
            admitted = fractions_of(keys, self._seed) < self.options.admit_probability
        if self.waiting is None:
            return admitted
        sightings = self.waiting.see(tf.boolean_mask(keys, admitted), step)
        return tf.tensor_scatter_nd_update(
            tf.zeros_like(admitted), tf.where(admitted), sightings >= self.options.admit_after
        )

    def _count(self, **amounts: tf.Tensor) -> None:
        zero = tf.constant(0, tf.int64)
        self._counts.assign_add(tf.stack([amounts.get(name, zero) for name in COUNTS]))

    def _count_collisions(self, row_indices: tf.Tensor) -> None:
        if self.options.unknown_in_training == "bucket":
            shared = tf.boolean_mask(row_indices, row_indices < self.index.first_row)
            distinct, _ = tf.unique(shared)
            self._count(bucket_collisions=tf.size(shared, tf.int64) - tf.size(distinct, tf.int64))


def _worst(keys: tf.Tensor) -> tf.Tensor:
    """How many keys, and the largest (the smallest int64 where there are none), int64 `[2]`."""
    return tf.stack([tf.size(keys, tf.int64), tf.reduce_max(tf.concat([keys, [-(2**63)]], axis=0))])
