"""The exchange in two stages: within each host, and then along rails from host to host.

    keys        rank -> rail of its host -> owner         a key that several ranks of a host want
    rows        owner -> rail of the host -> rank         crosses once, and so does its row
    gradients   rank -> rail of its host -> owner         summed in the host before they cross

Both stages are those of `exchange`, among fewer ranks: `key % L` chooses the rail, and `key // L`
among the H ranks of a rail is owned as keys are among all (see `HostLayout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from gmeta_tf.distributed.collectives import allreduce_sum
from gmeta_tf.distributed.host_layout import HostLayout
from gmeta_tf.distributed.packed_alltoall import may_piggyback
from gmeta_tf.embedding import exchange
from gmeta_tf.embedding.exchange import Arrival, Departure, Route

__all__ = ["HostArrival", "HostRoute", "fetch", "host_route", "return_gradients", "send_keys"]


class HostArrival(NamedTuple):
    """Where a host's keys arrived at this rail of it, and where those arrived at their owners.

    Attributes:
        near_received: int32 `[L]`, how many from each rank of the host.
        near_owned: int64 `[N]`, the distinct ones: what the host wants of this rail's owners.
        near_owned_of: int32, the position in `near_owned` of each received key.
        received: int32 `[H]`, how many from each host.
        owned: int64 `[V]`, the distinct ones, all owned by this rank.
        owned_of: int32, the position in `owned` of each of those.
    """

    near_received: tf.Tensor
    near_owned: tf.Tensor
    near_owned_of: tf.Tensor
    received: tf.Tensor
    owned: tf.Tensor
    owned_of: tf.Tensor

    @staticmethod
    def dtypes() -> dict[str, tf.DType]:
        """Of the attributes, for those who keep an arrival."""
        of_stage = Arrival.dtypes()
        return {f"near_{name}": dtype for name, dtype in of_stage.items()} | of_stage

    @property
    def near(self) -> Arrival:
        """The host's keys at this rank."""
        return Arrival(self.near_received, self.near_owned, self.near_owned_of)

    @property
    def far(self) -> Arrival:
        """All hosts' keys at this rank."""
        return Arrival(self.received, self.owned, self.owned_of)


class HostRoute(NamedTuple):
    """The way of a step's keys, in two stages.

    Attributes:
        near: from this rank to the rails of its host.
        far: from this rail of the host to the owners.
        owned: this rank's own keys among those of all ranks, int64 `[V]`, distinct.
    """

    near: Route
    far: Route
    owned: tf.Tensor


def host_route(departure: Departure, arrival: HostArrival, layout: HostLayout) -> HostRoute:
    """The whole way, from where the keys arrived. No collective."""
    far = Route(_far_departure(arrival.near, departure, layout), arrival.far)
    return HostRoute(Route(departure, arrival.near), far, arrival.owned)


def send_keys(
    departures: Sequence[Departure], layout: HostLayout, *, name: str
) -> list[HostArrival]:
    """Sends this rank's distinct keys to their owners, those of a host once.

    Two hosts of two ranks; ranks 0 and 1 both want the keys 7 and 2 of host 1:

        rank 0 wants [7 2 4]  sends 2 4 | 7  rail 0 of host 0 wants [2 4]  sends 4 | 2
        rank 1 wants [2 7]    sends 2 | 7    rail 1 of host 0 wants [7]    sends   | 7
        rank 2 wants [7]      sends   | 7    rail 0 of host 1 wants []     owns [2]
        rank 3 wants []                      rail 1 of host 1 wants [7]    owns [7]

    Args:
        departures: one for each group of tables, by rail: `departure_of` of `layout.host`.
        layout: of the ranks.
        name: of the collectives; fixed over steps.
    """
    near = exchange.send_keys(departures, layout.host, name=f"{name}_of_host")
    arrived = _whole(near, departures)
    onward = _far_departures(arrived, departures, layout)
    far = exchange.send_keys(onward, layout.rail, name=name)
    return _joined(arrived, _whole(far, onward), layout)


def fetch(
    routes: Sequence[HostRoute],
    owned: Sequence[tf.Tensor],
    layout: HostLayout,
    *,
    name: str,
    wire: tf.DType = tf.float32,
) -> list[tf.Tensor]:
    """Sends the owners' rows to the ranks that read them: see `exchange.fetch`.

    Args:
        routes: one for each group of tables.
        owned: float `[V, D]`, the rows of each group's `HostRoute.owned` as they are now.
        layout: of the ranks.
        name: of the collectives; fixed over steps.
        wire: the type in which rows travel in both stages; they are rounded once.

    Returns:
        The rows `[U, D]` of each group, in the order of its keys.
    """
    rows = exchange.fetch([route.far for route in routes], owned, layout.rail, name=name, wire=wire)
    return exchange.fetch(
        [route.near for route in routes], rows, layout.host, name=f"{name}_of_host", wire=wire
    )


def return_gradients(
    gradients: Sequence[tf.Tensor],
    routes: Sequence[HostRoute],
    layout: HostLayout,
    *,
    name: str,
    wire: tf.DType = tf.float32,
    following: Sequence[Departure] = (),
    totals: Sequence[tf.Tensor] = (),
) -> tuple[list[tf.Tensor], list[HostArrival], list[tf.Tensor]]:
    """Sends gradients of fetched rows to their owners, summed in each host before they cross.

    A sum is made of the hosts' sums, where `exchange.return_gradients` adds up rank by rank: equal
    but for the rounding of float32. It is the same from run to run, and totals on every rank.

    Args:
        gradients: float32 `[U, D]` of each group, in the order of the keys that were fetched.
        routes: the ways that their keys took.
        layout: of the ranks.
        name: of the collectives; fixed over steps.
        wire: the type in which the hosts' sums cross. Within a host of several they stay float32,
            so that a gradient is rounded once, as in `exchange.return_gradients`.
        following: the next step's keys, in the same messages.
        totals: float32, to be summed over the ranks, in the same messages where that is cheap.

    Returns:
        As `exchange.return_gradients`.
    """
    host, rail = layout.host, layout.rail
    rides = _ride(totals, layout)
    sums, near, partial = exchange.return_gradients(
        gradients,
        [route.near for route in routes],
        host,
        name=f"{name}_of_host",
        wire=tf.float32 if rail.is_distributed else wire,
        following=following,
        totals=totals if rides else (),
    )
    arrived = _whole(near, following)
    onward = _far_departures(arrived, following, layout)
    sums, far, summed = exchange.return_gradients(
        sums,
        [route.far for route in routes],
        rail,
        name=name,
        wire=wire,
        following=onward,
        totals=partial,
    )
    if totals and not rides:
        # A ring in the order of the ranks leaves each host once: two stages would not save bytes.
        summed = allreduce_sum(totals, layout.world, name=f"{name}_totals")
    return sums, _joined(arrived, _whole(far, onward), layout), summed


def _ride(totals: Sequence[tf.Tensor], layout: HostLayout) -> bool:
    """Whether totals travel with the gradients in both stages."""
    numbers = sum(int(total.shape.num_elements()) for total in totals)
    are_words = all(total.dtype == tf.float32 for total in totals)
    return are_words and all(
        may_piggyback(numbers, part.size) for part in (layout.host, layout.rail)
    )


def _whole(arrivals: Sequence[Arrival | None], departures: Sequence[Departure]) -> list[Arrival]:
    """The arrivals, also those at a rank that is alone in its part of the run."""
    return [
        Arrival(departure.sent, departure.keys, tf.range(tf.size(departure.keys)))
        if arrival is None
        else arrival
        for arrival, departure in zip(arrivals, departures, strict=True)
    ]


def _far_departures(
    arrived: Sequence[Arrival], departures: Sequence[Departure], layout: HostLayout
) -> list[Departure]:
    return [_far_departure(*both, layout) for both in zip(arrived, departures, strict=True)]


def _far_departure(near: Arrival, departure: Departure, layout: HostLayout) -> Departure:
    """What a host wants of this rail's owners, as keys among the ranks of the rail."""
    keys = near.owned // layout.ranks_per_host
    return exchange.departure_of(keys, None, layout.rail, departure.key_type)


def _joined(
    near: Sequence[Arrival], far: Sequence[Arrival], layout: HostLayout
) -> list[HostArrival]:
    return [
        HostArrival(
            *here,
            there.received,
            there.owned * layout.ranks_per_host + layout.host.rank,
            there.owned_of,
        )
        for here, there in zip(near, far, strict=True)
    ]
