"""The rank that owns a key, `key % W`, and the index of its row there, `key // W`.

Only this module knows the rule. All functions take TensorFlow tensors and NumPy arrays, and keys of
any sign.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.world import World

__all__ = [
    "OwnerOrder",
    "counts_of_owners",
    "is_own",
    "local_row",
    "num_own_rows",
    "order_by_owner",
    "own_keys",
    "owner_of",
]

# Either a TensorFlow tensor (which has no types) or a NumPy array.
Keys = TypeVar("Keys", bound=Any)


def owner_of(keys: Keys, world_size: int) -> Keys:
    """The rank that owns each key, in the type and shape of `keys`.

    >>> owner_of(np.array([0, 1, 5, -1]), 3).tolist()
    [0, 1, 2, 2]
    """
    return keys % world_size


def is_own(keys: Keys, world: World) -> Keys:
    """Which of the keys this rank owns, bool in the shape of `keys`."""
    return owner_of(keys, world.size) == world.rank


def local_row(keys: Keys, world_size: int) -> Keys:
    """The row of each key in its owner's shard of tables of known size.

    Two ranks and the keys 0 to 4: rank 0 holds the rows of [0 2 4], rank 1 those of [1 3].

    >>> local_row(np.array([0, 1, 2, 3, 4]), 2).tolist()
    [0, 0, 1, 1, 2]
    """
    return keys // world_size


def own_keys(first_row: Any, last_row: Any, world: World) -> tf.Tensor:
    """The keys of this rank's local rows `first_row <= row < last_row`, int64.

    >>> own_keys(1, 3, World(1, 2)).numpy().tolist()
    [3, 5]
    """
    return tf.range(first_row, last_row, dtype=tf.int64) * world.size + world.rank


def num_own_rows(first_key: int, num_keys: int, world: World) -> int:
    """How many of the keys `first_key <= key < first_key + num_keys` this rank owns.

    >>> [num_own_rows(1, 5, World(rank, 2)) for rank in range(2)]
    [2, 3]
    """
    first_own = first_key + (world.rank - first_key) % world.size
    return len(range(first_own, first_key + num_keys, world.size))


def counts_of_owners(keys: np.ndarray, world_size: int) -> np.ndarray:
    """How many of the keys each rank owns, int64 `[W]`."""
    return np.bincount(owner_of(keys, world_size), minlength=world_size)


class OwnerOrder(NamedTuple):
    """Keys put in the order of their owners.

    Attributes:
        keys: those of rank 0 first, then those of rank 1, and so on; in their order otherwise.
        order: int32 `[U]`, where each of them stood before.
        counts: int32 `[W]`, how many each rank owns.
    """

    keys: tf.Tensor
    order: tf.Tensor
    counts: tf.Tensor


def order_by_owner(keys: tf.Tensor, world_size: int) -> OwnerOrder:
    """Puts keys `[U]` in the order of their owners.

    Two ranks: `[3 4 2]` becomes keys `[4 2 3]`, order `[1 2 0]`, counts `[2 1]`.
    """
    owners = tf.cast(owner_of(keys, world_size), tf.int32)
    by_owner = tf.dynamic_partition(tf.range(tf.size(keys)), owners, world_size)
    order = tf.concat(by_owner, axis=0)
    counts = tf.stack([tf.size(own) for own in by_owner])
    return OwnerOrder(tf.gather(keys, order), order, counts)
