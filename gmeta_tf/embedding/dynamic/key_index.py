"""Which row each key has, when the key was last seen, and which keys give their rows up."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from gmeta_tf.embedding.dynamic.eviction_order import EvictionOrder
from gmeta_tf.embedding.dynamic.growing_arrays import ArrayGroup, Blocks, GrowingArray, when

__all__ = ["KeyIndex"]

_SWEPT_A_STEP = 1 << 14
_FREE = -1
_LOOKED_AHEAD = 8  # less than an eighth of the rows are free: those that go first are looked for
_NO_KEYS = (
    "KeyIndex: expected evicts=True or a time_to_live, which finding keys by their row indices "
    "needs, got neither. State one of them when the index is made."
)


class KeyIndex:
    """The row indices of keys that come and go, on one rank.

    A key gives its row up when it was not seen for more than `time_to_live` steps. From then on
    the key is not found. A hand that goes round frees such rows: a call of `sweep` looks at 2^14
    rows, or four times the step's keys where that is more. So a row is free at the latest
    (rows / 2^14) steps after it was given up, and at most a third more rows are held than are
    alive.

    Where rows are short, `make_room` frees as many as are needed, those of the least recently seen
    keys (see `EvictionOrder`); among keys last seen in one step the smallest go first.

    Steps are counted by the caller and may not go back; they are kept as int32.

    Attributes:
        group: what grows with the rows.
        limit: the most keys.
        key_of: row index -> key; None where no rule ever takes a row from a key.
        last_seen: row index -> step, -1 for a row without a key.
        used: int64 variable, the rows ever handed out, the caller's first ones included.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        first_row: int,
        limit: int,
        time_to_live: int | None,
        evicts: bool,
        name: str,
    ) -> None:
        """Makes an index without keys.

        Args:
            blocks: how rows are laid out; `first_row + limit` fit.
            first_row: the first row index that keys get; those before it are the caller's.
            limit: the most keys.
            time_to_live: steps; None is forever.
            evicts: whether `make_room` may be called.
            name: of the variables.
        """
        self.first_row, self.limit = first_row, limit
        self.time_to_live = time_to_live
        self.group = ArrayGroup(blocks, name=name)
        self.last_seen = self.group.array(None, tf.int32, "last_seen")
        self._free = self.group.array(None, tf.int64, "free")
        self.key_of: GrowingArray | None = None
        self._order: EvictionOrder | None = None
        if evicts or time_to_live is not None:
            self.key_of = self.group.array(None, tf.int64, "key_of")
            self._order = EvictionOrder(
                self.last_seen, self.key_of, first_row=first_row, name=f"{name}/order"
            )
        with tf.device("CPU:0"):
            # int64 -> int64 and rows beside it: a table of vectors is slower and has no gradients,
            # and a DenseHashTable reserves two keys and takes more memory a key.
            self._row_index_of = tf.lookup.experimental.MutableHashTable(
                tf.int64, tf.int64, default_value=-1, name=f"{name}_row_index_of"
            )
            self.used = _counter(first_row, f"{name}/used")
            self._num_free = _counter(0, f"{name}/num_free")
            self._hand = _counter(0, f"{name}/hand")

    @property
    def num_keys(self) -> tf.Tensor:
        """The keys that have rows, int64 scalar; given up ones count until they are swept."""
        return self.used - self.first_row - self._num_free

    def find(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The row indices `[V]` of keys `[V]`, -1 for a key without a row. Changes nothing."""
        row_indices = self._look_up(keys)
        if self.time_to_live is None:
            return row_indices
        return tf.where(self._given_up(row_indices, step), tf.constant(-1, tf.int64), row_indices)

    def see(self, keys: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Does as `find`, notes that the keys were seen and frees the rows that they had given up.

        Args:
            keys: int64 `[V]`, distinct.
            step: int64 scalar.

        Returns:
            The row indices `[V]`, -1 for keys without a row; and int64 scalar, the rows freed.
        """
        row_indices = self._look_up(keys)
        freed = tf.constant(0, tf.int64)
        if self.time_to_live is not None:
            given_up = self._given_up(row_indices, step)
            freed = tf.math.count_nonzero(given_up)
            when(
                freed > 0,
                lambda: self.drop(
                    tf.boolean_mask(row_indices, given_up), tf.boolean_mask(keys, given_up)
                ),
            )
            row_indices = tf.where(given_up, tf.constant(-1, tf.int64), row_indices)
        found = tf.cond(
            tf.reduce_all(row_indices >= 0),
            lambda: row_indices,
            lambda: tf.boolean_mask(row_indices, row_indices >= 0),
        )
        self.last_seen.scatter(found, _same(step, found))
        return row_indices, freed

    def add(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Gives rows to keys `[N]` that have none, and returns their row indices `[N]`.

        There must be `num_free_rows` for them.

        Rows that were freed last go first, then new ones; keys in the order in which they come.
        """
        count = tf.size(keys, tf.int64)
        num_free = tf.identity(self._num_free)
        again = tf.minimum(num_free, count)
        reused = self._free.gather(tf.range(num_free - again, num_free))
        fresh = tf.range(self.used, self.used + count - again)
        self._num_free.assign_sub(again)
        self.used.assign_add(count - again)
        row_indices = tf.concat([reused, fresh], axis=0)
        self.group.reach(self.used)
        self._row_index_of.insert(keys, row_indices)
        if self.key_of is not None:
            self.key_of.scatter(row_indices, keys)
        self.last_seen.scatter(row_indices, _same(step, row_indices))
        return row_indices

    def drop(self, row_indices: tf.Tensor, keys: tf.Tensor) -> None:
        """Frees the rows at distinct row indices `[N]`, those of keys `[N]`."""
        self._row_index_of.remove(keys)
        self.last_seen.scatter(
            row_indices, tf.fill(tf.shape(row_indices), tf.constant(_FREE, tf.int32))
        )
        count = tf.size(row_indices, tf.int64)
        self._free.scatter(tf.range(self._num_free, self._num_free + count), row_indices)
        self._num_free.assign_add(count)

    def num_free_rows(self) -> tf.Tensor:
        """How many keys `add` may still be given, int64 scalar."""
        return self.limit - self.num_keys

    def make_room(self, needed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Frees rows so that `needed` keys can be added, never of keys seen in this step.

        Args:
            needed: int64 scalar.
            step: int64 scalar.

        Returns:
            int64 scalar, the rows freed.
        """
        order = self._order
        if order is None:
            raise ValueError(_NO_KEYS)
        num_free = self.num_free_rows()
        missing = needed - num_free
        when(
            -missing < self.limit // _LOOKED_AHEAD,
            lambda: order.look_on(needed, num_free, self.used, step),
        )

        def evict() -> tf.Tensor:
            row_indices = order.take(missing, self.used, step)
            self.drop(row_indices, self._keys_at(row_indices))
            return tf.size(row_indices, tf.int64)

        return tf.cond(missing > 0, evict, lambda: tf.constant(0, tf.int64))

    def sweep(self, step: tf.Tensor, num_keys: tf.Tensor) -> tf.Tensor:
        """Frees given up rows among the next ones that the hand comes to.

        Args:
            step: int64 scalar.
            num_keys: int64 scalar, the keys of the step.

        Returns:
            int64 scalar, the rows freed.
        """
        if self.time_to_live is None:
            return tf.constant(0, tf.int64)
        length = self.used - self.first_row
        # At least four rows for each key that the step may add, or keys could come faster than
        # the hand goes round.
        window = tf.minimum(tf.maximum(tf.constant(_SWEPT_A_STEP, tf.int64), 4 * num_keys), length)
        turn = (self._hand + tf.range(window)) % tf.maximum(length, 1)
        row_indices = turn + self.first_row
        row_indices = tf.boolean_mask(row_indices, self._given_up(row_indices, step))
        self._hand.assign((self._hand + window) % tf.maximum(length, 1))
        when(tf.size(row_indices) > 0, lambda: self.drop(row_indices, self._keys_at(row_indices)))
        return tf.size(row_indices, tf.int64)

    def clear(self) -> None:
        """Forgets every key. What was reserved stays."""
        keys, _ = self._row_index_of.export()
        self._row_index_of.remove(keys)
        self.used.assign(self.first_row)
        self._num_free.assign(0)
        self._hand.assign(0)
        if self._order is not None:
            self._order.clear()

    def keys_and_row_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Every key and its row index, int64 `[N]` each, in the order of the row indices."""
        keys, row_indices = (array.numpy() for array in self._row_index_of.export())
        order = np.argsort(row_indices)
        return keys[order], row_indices[order]

    def restore(self, keys: np.ndarray, last_seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds keys that were seen before; where all are too many, those seen last stay.

        Args:
            keys: int64 `[N]`, distinct.
            last_seen: `[N]`, the steps.

        Returns:
            Which of the keys were added, bool `[N]`, and their row indices.

        Raises:
            ValueError: a key that the index has already.
        """
        known = keys[self._look_up(tf.constant(keys)).numpy() >= 0]
        if known.size:
            raise ValueError(
                f"the key {known[0]} comes twice among the keys to load. Load each rank's part of "
                "one checkpoint once."
            )
        stays = np.ones(len(keys), bool)
        surplus = int(self.num_keys) + len(keys) - self.limit
        if surplus > 0:
            old_keys, old_indices = self.keys_and_row_indices()
            old_seen = self.last_seen.gather(tf.constant(old_indices)).numpy()
            all_keys, all_seen = np.append(old_keys, keys), np.append(old_seen, last_seen)
            leaves = np.zeros(len(all_keys), bool)
            leaves[np.lexsort((all_keys, all_seen))[:surplus]] = True
            going = leaves[: len(old_keys)]
            self.drop(tf.constant(old_indices[going]), tf.constant(old_keys[going]))
            stays = ~leaves[len(old_keys) :]
        row_indices = self.add(tf.constant(keys[stays]), tf.constant(0, tf.int64))
        self.last_seen.scatter(row_indices, tf.constant(last_seen[stays], tf.int32))
        if self._order is not None:
            self._order.clear()
        return stays, row_indices.numpy()

    def _keys_at(self, row_indices: tf.Tensor) -> tf.Tensor:
        if self.key_of is None:
            raise ValueError(_NO_KEYS)
        return self.key_of.gather(row_indices)

    def _look_up(self, keys: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(self._row_index_of.lookup(keys), [None])

    def _given_up(self, row_indices: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seen = self.last_seen.gather(tf.maximum(row_indices, 0))
        age = tf.cast(step, tf.int32) - seen
        return (row_indices >= 0) & (seen != _FREE) & (age > self.time_to_live)


def _counter(value: int, name: str) -> tf.Variable:
    return tf.Variable(value, dtype=tf.int64, trainable=False, name=name)


def _same(step: tf.Tensor, row_indices: tf.Tensor) -> tf.Tensor:
    return tf.fill(tf.shape(row_indices), tf.cast(step, tf.int32))
