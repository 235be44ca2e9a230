"""Keys to their owners, rows back, gradients to the owners: two AlltoAlls forward, one back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from gmeta_tf.collectives import alltoall
from gmeta_tf.world import World

__all__ = ["Route", "fetch", "return_gradients", "route_of"]


class Route(NamedTuple):
    """The way that a step's keys took, which its rows and gradients take too.

    It says nothing of what the rows hold, so it may be made before they are up to date.

    Attributes:
        keys: int64 `[U]`, this rank's distinct keys.
        order: int32 `[U]`, this rank's keys sorted by their owner; None of one rank alone.
        sent: int32 `[W]`, how many went to each rank.
        received: int32 `[W]`, how many came from each.
        owned: int64 `[V]`, the distinct keys that came, all this rank's own.
        owned_of: int32 `[R]`, which of them each key that came was.
    """

    keys: tf.Tensor
    order: tf.Tensor | None
    sent: tf.Tensor
    received: tf.Tensor
    owned: tf.Tensor
    owned_of: tf.Tensor | None


def route_of(keys: tf.Tensor, world: World, *, name: str) -> Route:
    """Sends this rank's distinct keys to their owners, who find out what they own of them.

    Two ranks, the owner of a key is `key % 2`:

        rank 0 wants [3 4]   sends 4 | 3   gets 4 | 4 2  owns [4 2]  owned_of [0 0 1]
        rank 1 wants [4 2 3] sends 4 2 | 3 gets 3 | 3    owns [3]    owned_of [0 0]

    Args:
        keys: int64 `[U]`, distinct; may be empty.
        world: the world.
        name: of the collective; fixed over steps.
    """
    if not world.is_distributed:
        count = tf.reshape(tf.size(keys), [1])
        return Route(keys, None, count, count, keys, None)
    owner = tf.cast(keys % world.size, tf.int32)
    by_owner = tf.dynamic_partition(tf.range(tf.size(keys)), owner, world.size)
    order = tf.concat(by_owner, axis=0)
    sent = tf.stack([tf.size(part) for part in by_owner])
    arrived, received = alltoall(tf.gather(keys, order), sent, world, name=name)
    owned, owned_of = tf.unique(arrived)
    return Route(keys, order, sent, received, owned, owned_of)


def fetch(
    route: Route, gather: Callable[[tf.Tensor], tf.Tensor], world: World, *, name: str
) -> tf.Tensor:
    """The rows that the owners hold now of the keys that took a route.

    The two ranks of `route_of`; key 4 is wanted by both and gathered once:

        rank 0 gathers [4 2]  answers 4 | 4 2  has rows of [3 4]
        rank 1 gathers [3]    answers 3 | 3    has rows of [4 2 3]

    Args:
        route: what `route_of` gave.
        gather: keys `[V]` of this rank -> their rows `[V, D]`.
        world: the world.
        name: of the collective; fixed over steps.

    Returns:
        The rows `[U, D]`, in the order of the keys.
    """
    if route.order is None or route.owned_of is None:
        return gather(route.owned)
    answers = tf.gather(gather(route.owned), route.owned_of)
    sorted_rows, _ = alltoall(answers, route.received, world, name=name)
    return tf.gather(sorted_rows, tf.math.invert_permutation(route.order))


def return_gradients(
    gradients: tf.Tensor, route: Route, world: World, *, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sends the gradients of fetched rows to their owners, who add those of one key up.

    Args:
        gradients: float32 `[U, D]`, in the order of the keys that were fetched.
        route: the way that their keys took.
        world: the world.
        name: of the collective; fixed over steps.

    Returns:
        This rank's own touched keys, int64 `[V]`, distinct; and the *sum* over the ranks of their
        gradients, float32 `[V, D]`.
    """
    if route.order is None or route.owned_of is None:
        return route.owned, gradients
    arrived, _ = alltoall(
        tf.gather(gradients, route.order), route.sent, world, name=f"{name}_gradients"
    )
    summed = tf.math.unsorted_segment_sum(arrived, route.owned_of, tf.size(route.owned))
    return route.owned, summed
