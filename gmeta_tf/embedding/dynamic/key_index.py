"""Which key has which place, when it was last seen, and who gives a place up."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from gmeta_tf.embedding.dynamic.growing_arrays import ArrayGroup, Blocks, GrowingArray, when

__all__ = ["KeyIndex"]

_SWEPT_A_STEP = 1 << 14
_FREE = -1


class KeyIndex:
    """The places of keys that come and go, on one rank.

    A place is given up when its key was not seen for more than `time_to_live` steps. From then on
    the key is not found. A hand that goes round frees such places: a call of `sweep` looks at 2^14
    places, or four times the step's keys where that is more, so a place is free at the latest
    (places / 2^14) steps after it was given up, and what is held stays within a third above what
    is alive.

    Where places are short, `make_room` frees those of the least recently seen keys, of keys seen
    in one step the smallest first. It frees a sixteenth of the limit at a time, because finding
    them reads what every place was last seen.

    Steps are counted by the caller and may not go back; they are kept as int32.

    Attributes:
        group: what grows with the places.
        limit: the most keys.
        key_of: place -> key; None where no rule ever takes a place from a key.
        last_seen: place -> step, -1 where no key is.
        used: int64 variable, the places ever handed out, the caller's first ones included.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        first_place: int,
        limit: int,
        time_to_live: int | None,
        evicts: bool,
        name: str,
    ) -> None:
        """Makes an index without keys.

        Args:
            blocks: how places are laid out; `first_place + limit` fit.
            first_place: the places before it are the caller's.
            limit: the most keys.
            time_to_live: steps; None is forever.
            evicts: whether `make_room` may be called.
            name: of the variables.
        """
        self.first_place, self.limit = first_place, limit
        self.time_to_live = time_to_live
        self.group = ArrayGroup(blocks, name=name)
        self.last_seen = self.group.array(None, tf.int32, "last_seen")
        self._free = self.group.array(None, tf.int64, "free")
        self.key_of: GrowingArray | None = None
        if evicts or time_to_live is not None:
            self.key_of = self.group.array(None, tf.int64, "key_of")
        with tf.device("CPU:0"):
            # int64 -> int64 and rows beside it: a table of vectors is slower and has no gradients,
            # and a DenseHashTable reserves two keys and takes more memory a key.
            self._place_of = tf.lookup.experimental.MutableHashTable(
                tf.int64, tf.int64, default_value=-1, name=f"{name}_place_of"
            )
            self.used = _counter(first_place, f"{name}/used")
            self._num_free = _counter(0, f"{name}/num_free")
            self._hand = _counter(0, f"{name}/hand")

    @property
    def num_keys(self) -> tf.Tensor:
        """The places that are taken, int64 scalar; given up ones too until they are swept."""
        return self.used - self.first_place - self._num_free

    def find(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The places `[V]` of keys `[V]`, -1 for one that has none. Changes nothing."""
        places = self._look_up(keys)
        if self.time_to_live is None:
            return places
        return tf.where(self._given_up(places, step), tf.constant(-1, tf.int64), places)

    def see(self, keys: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`find`, which notes that the keys were seen and frees the places they had given up.

        Args:
            keys: int64 `[V]`, distinct.
            step: int64 scalar.

        Returns:
            The places `[V]`, -1 for keys that have none; and int64 scalar, the places freed.
        """
        places = self._look_up(keys)
        freed = tf.constant(0, tf.int64)
        if self.time_to_live is not None:
            given_up = self._given_up(places, step)
            freed = tf.math.count_nonzero(given_up)
            when(
                freed > 0,
                lambda: self.drop(
                    tf.boolean_mask(places, given_up), tf.boolean_mask(keys, given_up)
                ),
            )
            places = tf.where(given_up, tf.constant(-1, tf.int64), places)
        found = tf.cond(
            tf.reduce_all(places >= 0),
            lambda: places,
            lambda: tf.boolean_mask(places, places >= 0),
        )
        self.last_seen.scatter(found, _same(step, found))
        return places, freed

    def add(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Gives places `[N]` to keys `[N]` that have none, as far as `free_places` says.

        Places that were freed last go first, then new ones; keys in the order in which they come.
        """
        count = tf.size(keys, tf.int64)
        num_free = tf.identity(self._num_free)
        again = tf.minimum(num_free, count)
        reused = self._free.gather(tf.range(num_free - again, num_free))
        fresh = tf.range(self.used, self.used + count - again)
        self._num_free.assign_sub(again)
        self.used.assign_add(count - again)
        places = tf.concat([reused, fresh], axis=0)
        self.group.reach(self.used)
        self._place_of.insert(keys, places)
        if self.key_of is not None:
            self.key_of.scatter(places, keys)
        self.last_seen.scatter(places, _same(step, places))
        return places

    def drop(self, places: tf.Tensor, keys: tf.Tensor) -> None:
        """Frees distinct places `[N]` of keys `[N]`."""
        self._place_of.remove(keys)
        self.last_seen.scatter(places, tf.fill(tf.shape(places), tf.constant(_FREE, tf.int32)))
        count = tf.size(places, tf.int64)
        self._free.scatter(tf.range(self._num_free, self._num_free + count), places)
        self._num_free.assign_add(count)

    def free_places(self) -> tf.Tensor:
        """How many keys `add` may still be given, int64 scalar."""
        return self.limit - self.num_keys

    def make_room(self, needed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Frees places so that `needed` keys can be added, never of keys seen in this step.

        Args:
            needed: int64 scalar.
            step: int64 scalar.

        Returns:
            int64 scalar, the places freed.
        """
        missing = needed - self.free_places()

        def evict() -> tf.Tensor:
            count = tf.maximum(missing, self.limit // 16)
            places = self.least_recent(tf.minimum(count, self.limit), step)
            self.drop(places, self._keys_at(places))
            return tf.size(places, tf.int64)

        return tf.cond(missing > 0, evict, lambda: tf.constant(0, tf.int64))

    def least_recent(self, count: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The places of the `count` keys seen longest ago, fewer where not so many are older.

        Args:
            count: int64 scalar.
            step: int64 scalar; keys seen in it, or later, are left out.
        """
        seen = self.last_seen.gather(tf.range(self.first_place, self.used))
        # What is not to be chosen counts as seen last.
        last = tf.constant(tf.int32.max, tf.int32)
        seen = tf.where((seen >= 0) & (seen < tf.cast(step, tf.int32)), seen, last)
        count = tf.minimum(count, tf.math.count_nonzero(seen < last))
        bound = _smallest_bound(seen, count)
        older = tf.where(seen < bound)[:, 0] + self.first_place
        ties = tf.where((seen == bound) & (seen < last))[:, 0] + self.first_place
        wanted = tf.cast(count - tf.size(older, tf.int64), tf.int32)
        # ~ turns the order of int64 round, where a minus has no answer for the smallest.
        smallest = tf.math.top_k(tf.bitwise.invert(self._keys_at(ties)), wanted).indices
        return tf.concat([older, tf.gather(ties, smallest)], axis=0)

    def sweep(self, step: tf.Tensor, num_keys: tf.Tensor) -> tf.Tensor:
        """Frees given up places among the next ones that the hand comes to.

        Args:
            step: int64 scalar.
            num_keys: int64 scalar, the keys of the step.

        Returns:
            int64 scalar, the places freed.
        """
        if self.time_to_live is None:
            return tf.constant(0, tf.int64)
        length = self.used - self.first_place
        # At least four places for each key that the step may add, or keys could come faster than
        # the hand goes round.
        window = tf.minimum(tf.maximum(tf.constant(_SWEPT_A_STEP, tf.int64), 4 * num_keys), length)
        turn = (self._hand + tf.range(window)) % tf.maximum(length, 1)
        places = turn + self.first_place
        places = tf.boolean_mask(places, self._given_up(places, step))
        self._hand.assign((self._hand + window) % tf.maximum(length, 1))
        when(tf.size(places) > 0, lambda: self.drop(places, self._keys_at(places)))
        return tf.size(places, tf.int64)

    def clear(self) -> None:
        """Forgets every key. What was reserved stays."""
        keys, _ = self._place_of.export()
        self._place_of.remove(keys)
        self.used.assign(self.first_place)
        self._num_free.assign(0)
        self._hand.assign(0)

    def keys_and_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Every key and its place, int64 `[N]` each, in the order of the places."""
        keys, places = (array.numpy() for array in self._place_of.export())
        order = np.argsort(places)
        return keys[order], places[order]

    def restore(self, keys: np.ndarray, last_seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds keys that were seen before; where all are too many, those seen last stay.

        Args:
            keys: int64 `[N]`, distinct.
            last_seen: `[N]`, the steps.

        Returns:
            Which of the keys were added, bool `[N]`, and their places.

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
            old_keys, old_places = self.keys_and_places()
            old_seen = self.last_seen.gather(tf.constant(old_places)).numpy()
            all_keys, all_seen = np.append(old_keys, keys), np.append(old_seen, last_seen)
            leaves = np.zeros(len(all_keys), bool)
            leaves[np.lexsort((all_keys, all_seen))[:surplus]] = True
            leaving = leaves[: len(old_keys)]
            self.drop(tf.constant(old_places[leaving]), tf.constant(old_keys[leaving]))
            stays = ~leaves[len(old_keys) :]
        places = self.add(tf.constant(keys[stays]), tf.constant(0, tf.int64))
        self.last_seen.scatter(places, tf.constant(last_seen[stays], tf.int32))
        return stays, places.numpy()

    def _keys_at(self, places: tf.Tensor) -> tf.Tensor:
        if self.key_of is None:
            raise ValueError(
                "KeyIndex: expected evicts=True or a time_to_live, where keys are to be found by "
                "their places. State it when the index is made."
            )
        return self.key_of.gather(places)

    def _look_up(self, keys: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(self._place_of.lookup(keys), [None])

    def _given_up(self, places: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seen = self.last_seen.gather(tf.maximum(places, 0))
        age = tf.cast(step, tf.int32) - seen
        return (places >= 0) & (seen != _FREE) & (age > self.time_to_live)


def _counter(value: int, name: str) -> tf.Variable:
    return tf.Variable(value, dtype=tf.int64, trainable=False, name=name)


def _same(step: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.fill(tf.shape(places), tf.cast(step, tf.int32))


def _smallest_bound(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The smallest b with at least `count` of the values `[N]`, all at least 0, at most b.

    By halving: 31 passes that hold nothing, where a sort would hold the values twice more.
    """

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = low + (high - low) // 2
        enough = tf.math.count_nonzero(values <= middle) >= count
        return tf.where(enough, low, middle + 1), tf.where(enough, middle, high)

    low, _ = tf.while_loop(
        lambda low, high: low < high,
        halve,
        (tf.constant(0, tf.int32), tf.constant(tf.int32.max, tf.int32)),
    )
    return low
