"""Which keys get rows: by chance, and after how many sightings."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.embedding.dynamic.growing_arrays import Blocks
from gmeta_tf.embedding.dynamic.key_index import KeyIndex
from gmeta_tf.embedding.static_shard import initial_rows

__all__ = ["WaitingRoom", "buckets_of", "fractions_of"]

# Other streams of random numbers than that of the rows.
CHANCE, BUCKET = 0x5DEECE66D, 0x2545F491


def fractions_of(keys: tf.Tensor, seed: int) -> tf.Tensor:
    """A number in [0, 1) for each key `[N]`, float32 `[N]`: a pure function of (seed, key)."""
    return (initial_rows(keys, 1, seed ^ CHANCE, 1.0)[:, 0] + 1.0) / 2.0


def buckets_of(keys: tf.Tensor, seed: int, num_buckets: int) -> tf.Tensor:
    """Which of the buckets each key `[N]` shares, int64 `[N]`: a pure function of (seed, key)."""
    fraction = tf.cast(fractions_of(keys, seed ^ BUCKET), tf.float64)
    return tf.cast(fraction * num_buckets, tf.int64)


class WaitingRoom:
    """How often keys without rows were seen.

    Attributes:
        index: the waiting keys.
        sightings: row index -> the steps in which its key was seen.
    """

    def __init__(self, *, max_keys: int, forget_after: int, name: str) -> None:
        """Makes an empty room.

        Args:
            max_keys: beyond it those seen longest ago are forgotten.
            forget_after: after so many steps without a sighting a key is forgotten.
            name: of the variables.
        """
        self.index = KeyIndex(
            Blocks(max_keys),
            first_row=0,
            limit=max_keys,
            time_to_live=forget_after,
            evicts=True,
            name=name,
        )
        self.sightings = self.index.group.array(None, tf.int32, "sightings")

    def see(self, keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Counts one sighting of each key.

        Where this step alone has more keys than the room holds, the last are not counted.

        Args:
            keys: int64 `[N]`, distinct, without rows.
            step: int64 scalar.

        Returns:
            int32 `[N]`, their sightings, this one included.
        """
        self.index.sweep(step, tf.size(keys, tf.int64))
        row_indices, _ = self.index.see(keys, step)
        known = tf.boolean_mask(row_indices, row_indices >= 0)
        self.sightings.scatter(known, self.sightings.gather(known) + 1)
        new = tf.boolean_mask(keys, row_indices < 0)
        self.index.make_room(tf.size(new, tf.int64), step)
        new = new[: self.index.num_free_rows()]
        added = self.index.add(new, step)
        self.sightings.scatter(added, tf.ones_like(added, tf.int32))
        row_indices = self.index.find(keys, step)
        counts = self.sightings.gather(tf.maximum(row_indices, 0))
        return tf.where(row_indices >= 0, counts, 1)

    def leave(self, keys: tf.Tensor, step: tf.Tensor) -> None:
        """Forgets those of the keys `[N]` that it has counted."""
        row_indices = self.index.find(keys, step)
        counted = row_indices >= 0
        self.index.drop(tf.boolean_mask(row_indices, counted), tf.boolean_mask(keys, counted))
