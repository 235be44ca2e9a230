"""All rows of the tables of one width, a copy of which every rank holds."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.embedding.exchange import Route, departure_of
from gmeta_tf.embedding.table import StaticShard, TableRange
from gmeta_tf.world import World

__all__ = ["ReplicatedShard"]


class ReplicatedShard(StaticShard):
    """A copy of a group of tables: the shard of a rank that is alone, on every rank.

    The ranks' copies start equal, since initial rows are a function of (seed, table, key), and stay
    equal to the last bit, since every rank makes the same updates from the same sums: as the copies
    of the dense weights do.

    Two ranks and a table of three rows; rank 0 has read the keys 2 and 0, rank 1 the key 2:

        rank 0 has gradients [a b], rank 1 has [c]
        gradients of all rows   rank 0: [b 1] [0 0] [a 1]    rank 1: [0 0] [0 0] [c 1]
        their sum, on both      [b 1] [0 0] [a + c 2]
        touched                 places [0 2], sums [b a + c]

    Attributes:
        world: of one rank.
    """

    def __init__(
        self, tables: tuple[TableRange, ...], width: int, *, scale: float, name: str
    ) -> None:
        """Builds the copy with its initial rows.

        Args:
            tables: the tables, in order and without gaps.
            width: D.
            scale: the largest absolute initial value.
            name: of the variable.
        """
        super().__init__(tables, width, World(), scale=scale, name=name)

    def route(self, keys: tf.Tensor) -> Route:
        """The route of a step's keys, int64 `[U]`: they stay here."""
        return Route(departure_of(keys, None, self.world, self.key_type), None)

    def gradients_of_all_rows(self, gradients: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """What the ranks add up: of each row its gradient, and 1 where this rank has read it.

        Row optimizers update the rows that a step has read, and a row may be read and have a
        gradient of zeros.

        Args:
            gradients: float32 `[U, D]`.
            places: int64 `[U]`, distinct.

        Returns:
            float32 `[num_rows, D + 1]`.
        """
        was_read = tf.ones([tf.shape(gradients)[0], 1], gradients.dtype)
        marked = tf.ensure_shape(tf.concat([gradients, was_read], axis=1), [None, self.width + 1])
        return tf.math.unsorted_segment_sum(marked, places, self.num_rows)

    def touched(self, summed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The places of the rows that any rank has read, int64 `[V]`, and their sums, `[V, D]`.

        Args:
            summed: the sum over the ranks of `gradients_of_all_rows`.
        """
        places = tf.reshape(tf.where(summed[:, self.width] > 0), [-1])
        return places, tf.gather(summed, places)[:, : self.width]
