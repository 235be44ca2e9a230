"""Keys to their owners, rows back, gradients to the owners: two AlltoAlls forward, one back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from gmeta_tf.collectives import alltoall
from gmeta_tf.world import World

__all__ = ["Route", "fetch_rows", "return_gradients"]


@dataclasses.dataclass(frozen=True)
class Route:
    """The way that a step's keys took, which its gradients take too.

    Attributes:
        order: int32 `[U]`, this rank's keys sorted by their owner; None of one rank alone.
        sent: int32 `[W]`, how many went to each rank.
        received: int32 `[W]`, how many came from each.
        owned: int64 `[V]`, the distinct keys that came, all this rank's own.
        owned_of: int32 `[R]`, which of them each key that came was.
    """

    order: tf.Tensor | None
    sent: tf.Tensor
    received: tf.Tensor
    owned: tf.Tensor
    owned_of: tf.Tensor | None


def fetch_rows(
    keys: tf.Tensor, gather: Callable[[tf.Tensor], tf.Tensor], world: World, *, name: str
) -> tuple[tf.Tensor, Route]:
    """The rows of this rank's distinct keys, from whichever ranks own them.

    Two ranks, the owner of a key is `key % 2`:

        rank 0 wants [3 4]   sends 4 | 3   owns [4 2]   answers 4 | 4 2    has rows of [3 4]
        rank 1 wants [4 2 3] sends 4 2 | 3 owns [3]     answers 3 | 3      has rows of [4 2 3]

    Key 4 is wanted by both and gathered once.

    Args:
        keys: int64 `[U]`, distinct; may be empty.
        gather: keys `[V]` of this rank -> their rows `[V, D]`.
        world: the world.
        name: of the collectives; fixed over steps.

    Returns:
        The rows `[U, D]`, in the order of `keys`, and the route for `return_gradients`.
    """
    if not world.is_distributed:
        count = tf.reshape(tf.size(keys), [1])
        return gather(keys), Route(None, count, count, keys, None)
    owner = tf.cast(keys % world.size, tf.int32)
    by_owner = tf.dynamic_partition(tf.range(tf.size(keys)), owner, world.size)
    order = tf.concat(by_owner, axis=0)
    sent = tf.stack([tf.size(part) for part in by_owner])
    arrived, received = alltoall(tf.gather(keys, order), sent, world, name=f"{name}_keys")
    owned, owned_of = tf.unique(arrived)
    answers = tf.gather(gather(owned), owned_of)
    sorted_rows, _ = alltoall(answers, received, world, name=f"{name}_rows")
    rows = tf.gather(sorted_rows, tf.math.invert_permutation(order))
    return rows, Route(order, sent, received, owned, owned_of)


def return_gradients(
    gradients: tf.Tensor, route: Route, world: World, *, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sends the gradients of fetched rows to their owners, who add those of one key up.

    Args:
        gradients: float32 `[U, D]`, in the order of the keys that were fetched.
        route: what `fetch_rows` gave.
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
