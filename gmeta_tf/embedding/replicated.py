"""Replicated tables: every rank holds all rows of the tables of one width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gmeta_tf.batch import Rows
from gmeta_tf.distributed.ownership import num_own_rows, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.exchange import Route, departure_of
from gmeta_tf.embedding.exchange_strategy import (
    Arrivals,
    Departures,
    ExchangeStrategy,
    Keys,
    Located,
    Returned,
    Routes,
)
from gmeta_tf.embedding.static_shard import StaticShard, TableRange

__all__ = ["ReplicatedExchange", "ReplicatedShard"]


class ReplicatedShard(StaticShard):
    """All rows of a group of tables, on every rank.

    The replicas start equal, since initial rows are a function of (seed, table, key). They stay
    equal to the last bit, since every rank makes the same updates from the same sums, as for the
    dense weights.

    Two ranks and a table of three rows; rank 0 has read the keys 2 and 0, rank 1 the key 2:

        rank 0 has gradients [a b], rank 1 has [c]
        gradients of all rows   rank 0: [b 1] [0 0] [a 1]    rank 1: [0 0] [0 0] [c 1]
        their sum, on both      [b 1] [0 0] [a + c 2]
        touched                 row indices [0 2], sums [b a + c]

    Attributes:
        world: of one rank.
        ranks: the ranks that hold replicas.
    """

    def __init__(
        self,
        tables: tuple[TableRange, ...],
        width: int,
        ranks: World,
        *,
        scale: float,
        name: str,
    ) -> None:
        """Builds the replica with its initial rows.

        Args:
            tables: the tables, in order and without gaps.
            width: D.
            ranks: those that hold replicas.
            scale: the largest absolute initial value.
            name: of the variable.
        """
        super().__init__(tables, width, World(), scale=scale, name=name)
        self.ranks = ranks

    def route(self, keys: tf.Tensor) -> Route:
        """The route of a step's keys, int64 `[U]`, which stay here."""
        return Route(departure_of(keys, None, self.world, self.key_type), None)

    def gradients_of_all_rows(self, gradients: tf.Tensor, row_indices: tf.Tensor) -> tf.Tensor:
        """The numbers that the ranks add up: each row's gradient, and 1 where this rank read it.

        Row optimizers update the rows that a step has read, and a row that was read may have a
        gradient of zeros.

        Args:
            gradients: float32 `[U, D]`.
            row_indices: int64 `[U]`, distinct.

        Returns:
            float32 `[num_rows, D + 1]`.
        """
        was_read = tf.ones([tf.shape(gradients)[0], 1], gradients.dtype)
        marked = tf.ensure_shape(tf.concat([gradients, was_read], axis=1), [None, self.width + 1])
        return tf.math.unsorted_segment_sum(marked, row_indices, self.num_rows)

    def touched(self, summed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The indices of the rows that any rank has read, int64 `[V]`, and their sums, `[V, D]`.

        Args:
            summed: the sum over the ranks of `gradients_of_all_rows`.
        """
        row_indices = tf.reshape(tf.where(summed[:, self.width] > 0), [-1])
        return row_indices, tf.gather(summed, row_indices)[:, : self.width]

    @property
    def num_state_rows(self) -> int:
        """A checkpoint has the rows that this rank would own if the tables were sharded."""
        return num_own_rows(0, self.num_rows, self.ranks)

    def _state_rows(self, first: int, last: int) -> tf.Tensor:
        return own_keys(first, last, self.ranks)


class ReplicatedExchange(ExchangeStrategy):
    """Reads rows in place; their gradients are summed with the totals of the other groups.

    Attributes:
        shards: group -> the replica of its tables.
        others: exchanges the other groups.
        groups: the other groups, whose rows travel.
    """

    def __init__(self, shards: Mapping[str, ReplicatedShard], others: ExchangeStrategy) -> None:
        """Puts replicated groups beside exchanged ones.

        Args:
            shards: group -> the replica of its tables; may be empty.
            others: exchanges the other groups, if any.
        """
        self.shards = dict(shards)
        self.others = others
        self.groups = others.groups
        self.sends_keys = others.sends_keys
        self.arrival_type = others.arrival_type

    def departures(self, keys: Keys, counts: Keys | None = None) -> Departures:
        return self.others.departures(keys, counts)

    def arrivals(self, departures: Departures) -> Arrivals:
        return self.others.arrivals(departures)

    def routes(self, keys: Keys, departures: Departures, arrivals: Arrivals) -> Routes:
        own = {group: shard.route(keys[group]) for group, shard in self.shards.items()}
        return own | self.others.routes(keys, departures, arrivals)

    def locate(self, routes: Routes, step: tf.Tensor, *, training: bool) -> Located:
        own = {
            group: shard.locate(routes[group].owned).row_indices
            for group, shard in self.shards.items()
        }
        others = self.others.locate(routes, step, training=training)
        return others._replace(row_indices=own | others.row_indices)

    def fetch(self, routes: Routes, located: Located) -> Rows:
        own = {
            group: shard.gather(located.row_indices[group]) for group, shard in self.shards.items()
        }
        return own | self.others.fetch(routes, located)

    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: Departures,
        totals: Sequence[tf.Tensor],
    ) -> Returned:
        own = [
            shard.gradients_of_all_rows(gradients[group], located.row_indices[group])
            for group, shard in self.shards.items()
        ]
        returned = self.others.return_gradients(
            gradients, routes, located, following=following, totals=[*own, *totals]
        )
        sums, totals = returned.totals[: len(own)], returned.totals[len(own) :]
        updates = {
            group: shard.touched(summed)
            for (group, shard), summed in zip(self.shards.items(), sums, strict=True)
        }
        return returned._replace(updates=updates | returned.updates, totals=totals)

    def as_sent(self, gradients: tf.Tensor, group: str) -> tf.Tensor:
        return gradients if group in self.shards else self.others.as_sent(gradients, group)
