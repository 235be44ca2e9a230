"""Sharded tables over Horovod, exchanged within each host before anything crosses hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from gmeta_tf.batch import Rows
from gmeta_tf.distributed.host_layout import HostLayout
from gmeta_tf.embedding.dynamic.shard import DynamicShard
from gmeta_tf.embedding.exchange import departure_of
from gmeta_tf.embedding.exchange_strategy import (
    Arrivals,
    Departures,
    Keys,
    Located,
    Returned,
    Routes,
)
from gmeta_tf.embedding.horovod_exchange import HorovodExchange
from gmeta_tf.embedding.host_routes import (
    HostArrival,
    fetch,
    host_route,
    return_gradients,
    send_keys,
)
from gmeta_tf.embedding.static_shard import StaticShard

__all__ = ["HostExchange"]


class HostExchange(HorovodExchange):
    """The exchange of `HorovodExchange` in two stages (`host_routes`): fewer bytes cross hosts.

    A step has twice as many AlltoAlls, each among fewer ranks.

    Attributes:
        layout: which ranks share a host.
    """

    arrival_type = HostArrival

    def __init__(
        self, shards: Mapping[str, StaticShard | DynamicShard], layout: HostLayout, wire: str
    ) -> None:
        """Exchanges the rows of the shards.

        Args:
            shards: group -> this rank's rows.
            layout: which ranks share a host; `collectives.start` has its `parts`.
            wire: the type in which rows, and the hosts' sums of gradients, travel.
        """
        super().__init__(shards, layout.world, wire)
        self.layout = layout

    def departures(self, keys: Keys, counts: Keys | None = None) -> Departures:
        # The pipeline's order is that of the owners, which is not that of the rails.
        return {
            group: departure_of(keys[group], None, self.layout.host, shard.key_type)
            for group, shard in self.shards.items()
        }

    def arrivals(self, departures: Departures) -> Arrivals:
        sent = send_keys(list(departures.values()), self.layout, name="keys")
        return dict(zip(departures, sent, strict=True))

    def routes(self, keys: Keys, departures: Departures, arrivals: Arrivals) -> Routes:
        return {
            group: host_route(departures[group], arrivals[group], self.layout)
            for group in self.groups
        }

    def fetch(self, routes: Routes, located: Located) -> Rows:
        own = [shard.gather(located.row_indices[group]) for group, shard in self.shards.items()]
        ways = [routes[group] for group in self.groups]
        rows = fetch(ways, own, self.layout, name="rows", wire=self._wire)
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
            self.layout,
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
