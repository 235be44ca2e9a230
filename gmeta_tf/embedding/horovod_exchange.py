"""Sharded tables over Horovod: one message each way for all groups of tables together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gmeta_tf.batch import Rows
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.shard import DynamicShard
from gmeta_tf.embedding.exchange import (
    Route,
    departure_of,
    fetch,
    return_gradients,
    send_keys,
)
from gmeta_tf.embedding.exchange_strategy import (
    Arrivals,
    Departures,
    ExchangeStrategy,
    Keys,
    Located,
    Returned,
    Routes,
)
from gmeta_tf.embedding.static_shard import StaticShard

__all__ = ["HorovodExchange"]


class HorovodExchange(ExchangeStrategy):
    """Keys to their owners, rows back, gradients to the owners: AlltoAlls of `exchange`.

    Attributes:
        shards: group -> this rank's rows.
    """

    def __init__(
        self, shards: Mapping[str, StaticShard | DynamicShard], world: World, wire: str
    ) -> None:
        """Exchanges the rows of the shards.

        Args:
            shards: group -> this rank's rows; where empty, only totals are sent.
            world: the ranks.
            wire: the type in which rows and gradients travel.
        """
        self.shards = dict(shards)
        self.groups = tuple(shards)
        self.sends_keys = world.is_distributed and bool(shards)
        self._world = world
        self._wire = tf.as_dtype(wire)

    def departures(self, keys: Keys, counts: Keys | None = None) -> Departures:
        return {
            group: departure_of(
                keys[group], counts[group] if counts else None, self._world, shard.key_type
            )
            for group, shard in self.shards.items()
        }

    def arrivals(self, departures: Departures) -> Arrivals:
        sent = send_keys(list(departures.values()), self._world, name="keys")
        return dict(zip(departures, sent, strict=True))

    def routes(self, keys: Keys, departures: Departures, arrivals: Arrivals) -> Routes:
        return {group: Route(departures[group], arrivals[group]) for group in self.groups}

    def locate(self, routes: Routes, step: tf.Tensor, *, training: bool) -> Located:
        found = {
            group: shard.locate(routes[group].owned, step, training=training)
            for group, shard in self.shards.items()
        }
        return Located(
            {group: one.row_indices for group, one in found.items()},
            {group: one.problem for group, one in found.items() if one.problem is not None},
        )

    def fetch(self, routes: Routes, located: Located) -> Rows:
        own = [shard.gather(located.row_indices[group]) for group, shard in self.shards.items()]
        ways = [routes[group] for group in self.groups]
        rows = fetch(ways, own, self._world, name="rows", wire=self._wire)
        return dict(zip(self.groups, rows, strict=True))

    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: Departures,
        totals: Sequence[tf.Tensor],
    ) -> Returned:
        sums, arrivals, totals = return_gradients(
            [gradients[group] for group in self.groups],
            [routes[group] for group in self.groups],
            self._world,
            name="gradients",
            wire=self._wire,
            following=list(following.values()),
            totals=totals,
        )
        updates = {
            group: (located.row_indices[group], summed)
            for group, summed in zip(self.groups, sums, strict=True)
        }
        return Returned(updates, dict(zip(following, arrivals, strict=True)), totals)

    def as_sent(self, gradients: tf.Tensor, group: str) -> tf.Tensor:
        if self._wire == tf.float32 or not self._world.is_distributed:
            return gradients
        return tf.cast(tf.cast(gradients, self._wire), gradients.dtype)
