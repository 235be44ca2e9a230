"""Keys to their owners, rows back, gradients to the owners.

A step's exchange of all groups of tables is one message each way, and the keys of the next step
may travel with the gradients of this one (see `look_ahead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from gmeta_tf.distributed.ownership import order_by_owner
from gmeta_tf.distributed.packed_alltoall import Payload, Received, exchange_payloads
from gmeta_tf.distributed.world import World

__all__ = [
    "Arrival",
    "Departure",
    "Route",
    "departure_of",
    "fetch",
    "return_gradients",
    "send_keys",
]


class Departure(NamedTuple):
    """A step's distinct keys, made ready for their owners.

    Attributes:
        keys: int64 `[U]`, those of rank 0 first.
        order: int32 `[U]`, the earlier position of each; None where they kept theirs.
        sent: int32 `[W]`, how many go to each rank.
        key_type: the narrowest type that they fit in, in which they travel.
    """

    keys: tf.Tensor
    order: tf.Tensor | None
    sent: tf.Tensor
    key_type: tf.DType = tf.int64


class Arrival(NamedTuple):
    """The keys that reached this rank.

    It holds no rows, so it may be kept until they are up to date.

    Attributes:
        received: int32 `[W]`, how many from each rank.
        owned: int64 `[V]`, the distinct ones, all owned by this rank.
        owned_of: int32 `[R]`, the position in `owned` of each received key.
    """

    received: tf.Tensor
    owned: tf.Tensor
    owned_of: tf.Tensor

    @staticmethod
    def dtypes() -> dict[str, tf.DType]:
        """Of the attributes, for those who keep an arrival."""
        return {"received": tf.int32, "owned": tf.int64, "owned_of": tf.int32}


class Route(NamedTuple):
    """The way of a step's keys, which its rows and gradients take too.

    Attributes:
        departure: of this rank's keys.
        arrival: of all ranks' keys at this one; None on one rank alone.
    """

    departure: Departure
    arrival: Arrival | None

    @property
    def owned(self) -> tf.Tensor:
        """This rank's own keys among those of all ranks, int64 `[V]`, distinct."""
        return self.departure.keys if self.arrival is None else self.arrival.owned


def departure_of(
    keys: tf.Tensor, counts: tf.Tensor | None, world: World, key_type: tf.DType = tf.int64
) -> Departure:
    """Sorts a step's keys by their owner (see `ownership`).

    Args:
        keys: int64 `[U]`, distinct; may be empty.
        counts: int32 `[W]`, how many keys each rank owns, where they are in the order of their
            owners already.
        world: the world.
        key_type: see `Departure`.
    """
    if not world.is_distributed:
        return Departure(keys, None, tf.reshape(tf.size(keys), [1]), key_type)
    if counts is not None:
        return Departure(keys, None, counts, key_type)
    by_owner = order_by_owner(keys, world.size)
    return Departure(by_owner.keys, by_owner.order, by_owner.counts, key_type)


def send_keys(departures: Sequence[Departure], world: World, *, name: str) -> list[Arrival | None]:
    """Sends this rank's distinct keys to their owners.

    Two ranks, the owner of a key is `key % 2`:

        rank 0 wants [3 4]   sends 4 | 3   gets 4 | 4 2  owns [4 2]  owned_of [0 0 1]
        rank 1 wants [4 2 3] sends 4 2 | 3 gets 3 | 3    owns [3]    owned_of [0 0]

    Args:
        departures: one for each group of tables.
        world: the world.
        name: of the collective; fixed over steps.
    """
    arrived, _ = exchange_payloads(key_payloads(departures), world, name=name)
    return [arrival_of(payload, world) for payload in arrived]


def key_payloads(departures: Sequence[Departure]) -> list[Payload]:
    """The keys as payloads of a message."""
    return [Payload(tf.cast(each.keys, each.key_type), each.sent) for each in departures]


def arrival_of(received: Received, world: World) -> Arrival | None:
    """Where a group's keys arrived."""
    if not world.is_distributed:
        return None
    owned, owned_of = tf.unique(received.values)
    return Arrival(received.counts, tf.cast(owned, tf.int64), owned_of)


def fetch(
    routes: Sequence[Route],
    owned: Sequence[tf.Tensor],
    world: World,
    *,
    name: str,
    wire: tf.DType = tf.float32,
) -> list[tf.Tensor]:
    """Sends the owners' rows to the ranks that read them.

    The two ranks of `send_keys`; key 4 is wanted by both and gathered once:

        rank 0 gathers [4 2]  answers 4 | 4 2  has rows of [3 4]
        rank 1 gathers [3]    answers 3 | 3    has rows of [4 2 3]

    Args:
        routes: one for each group of tables.
        owned: float `[V, D]`, the rows of each group's `Route.owned` as they are now.
        world: the world.
        name: of the collective; fixed over steps.
        wire: the type in which rows travel. A rank's own rows are rounded too, so that a task reads
            the same rows on every rank.

    Returns:
        The rows `[U, D]` of each group, in the order of its keys.
    """
    if not world.is_distributed:
        return list(owned)
    answers = [
        Payload(
            tf.gather(tf.cast(rows, wire), route.arrival.owned_of),
            route.arrival.received,
            route.departure.sent,
        )
        for rows, route in zip(owned, routes, strict=True)
        if route.arrival is not None
    ]
    arrived, _ = exchange_payloads(answers, world, name=name)
    return [
        tf.cast(
            received.values
            if route.departure.order is None
            else tf.gather(received.values, tf.math.invert_permutation(route.departure.order)),
            rows.dtype,
        )
        for received, route, rows in zip(arrived, routes, owned, strict=True)
    ]


def return_gradients(
    gradients: Sequence[tf.Tensor],
    routes: Sequence[Route],
    world: World,
    *,
    name: str,
    wire: tf.DType = tf.float32,
    following: Sequence[Departure] = (),
    totals: Sequence[tf.Tensor] = (),
) -> tuple[list[tf.Tensor], list[Arrival | None], list[tf.Tensor]]:
    """Sends the gradients of fetched rows to their owners, who sum those of each key.

    Args:
        gradients: float32 `[U, D]` of each group, in the order of the keys that were fetched.
        routes: the ways that their keys took.
        world: the world.
        name: of the collective; fixed over steps.
        wire: the type in which gradients travel; they are summed in their own type.
        following: the next step's keys, in the same message.
        totals: float32, to be summed over the ranks, in the same message where that is cheap.

    Returns:
        The *sums* over the ranks of the gradients, float32 `[V, D]` of each group's `Route.owned`;
        the arrivals of the next step's keys; and the sums of the totals.
    """
    if not world.is_distributed:
        return list(gradients), [None for _ in following], list(totals)
    payloads = [
        Payload(
            tf.cast(
                gradient
                if route.departure.order is None
                else tf.gather(gradient, route.departure.order),
                wire,
            ),
            route.departure.sent,
            route.arrival.received,
        )
        for gradient, route in zip(gradients, routes, strict=True)
        if route.arrival is not None
    ]
    received, totals = exchange_payloads(
        [*payloads, *key_payloads(following)], world, name=name, totals=totals
    )
    sums = [
        tf.math.unsorted_segment_sum(
            tf.cast(payload.values, gradient.dtype),
            route.arrival.owned_of,
            tf.size(route.arrival.owned),
        )
        for payload, route, gradient in zip(received, routes, gradients)
        if route.arrival is not None
    ]
    return sums, [arrival_of(keys, world) for keys in received[len(payloads) :]], totals
