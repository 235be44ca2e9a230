"""Sharded tables over SOK, whose look-up sends a step's keys and rows itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gmeta_tf.batch import Rows
from gmeta_tf.distributed.collectives import allreduce_sum
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.exchange_strategy import (
    Arrivals,
    Departures,
    ExchangeStrategy,
    Keys,
    Located,
    Returned,
    Routes,
)
from gmeta_tf.embedding.sok.backend import SokShard

__all__ = ["SokExchange"]


class SokExchange(ExchangeStrategy):
    """Exchanges by SOK: two AlltoAlls a group to fetch rows, and one to return gradients.

    Attributes:
        shards: group -> this rank's rows, in variables of SOK.
    """

    sends_keys = False

    def __init__(self, shards: Mapping[str, SokShard], world: World) -> None:
        """Exchanges the rows of the shards.

        Args:
            shards: group -> this rank's rows.
            world: the ranks.
        """
        self.shards = dict(shards)
        self.groups = tuple(shards)
        self._world = world

    def routes(self, keys: Keys, departures: Departures, arrivals: Arrivals) -> Routes:
        return {group: shard.route(keys[group]) for group, shard in self.shards.items()}

    def locate(self, routes: Routes, step: tf.Tensor, *, training: bool) -> Located:
        for group in self.groups:
            routes[group].trains = training
        return Located({}, {})

    def fetch(self, routes: Routes, located: Located) -> Rows:
        return {group: shard.fetch(routes[group]) for group, shard in self.shards.items()}

    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: Departures,
        totals: Sequence[tf.Tensor],
    ) -> Returned:
        updates = {
            group: shard.return_gradients(gradients[group], routes[group])
            for group, shard in self.shards.items()
        }
        return Returned(updates, {}, allreduce_sum(totals, self._world, name="totals"))
