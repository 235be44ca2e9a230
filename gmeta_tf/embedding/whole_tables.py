"""Whole tables, gathered from the ranks' shards, for export and tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.collectives import allgather_rows, allreduce_sum
from gmeta_tf.distributed.ownership import num_own_rows, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.state import KeyedShard
from gmeta_tf.embedding.shards import IndexedShard

__all__ = ["KeyedRows", "all_keys", "all_rows", "counts_of_tables"]


class KeyedRows(NamedTuple):
    """All keys and rows of a dynamic table.

    Attributes:
        keys: int64 `[N]`, ascending.
        rows: float32 `[N, D]`.
        buckets: float32 `[W B, D]`, the shared rows of unknown keys, rank by rank.
    """

    keys: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray


def all_rows(shard: IndexedShard, *, name: str) -> tf.Tensor:
    """Every row of a group of tables, `[num_rows, D]`, on every rank; all must call it.

    A replicated group needs no communication.
    """
    world = shard.world
    stacked = allgather_rows(shard.rows, world, name=f"{name}_all_rows")
    keys = tf.concat(
        [
            own_keys(0, num_own_rows(0, shard.num_rows, rank), rank)
            for rank in (World(number, world.size) for number in range(world.size))
        ],
        axis=0,
    )
    return tf.gather(stacked, tf.math.invert_permutation(keys))


def all_keys(shard: KeyedShard, step: int, *, name: str) -> KeyedRows:
    """Every key and row of a dynamic table, on every rank; all must call it.

    Args:
        shard: this rank's.
        step: the training steps done.
        name: of the collectives.
    """
    states = list(shard.export_state(step))
    gathered = [
        allgather_rows(tf.concat(own, axis=0), shard.world, name=f"{name}_all_{what}").numpy()
        for what, own in (
            ("keys", [state.keys for state in states]),
            ("rows", [state.rows for state in states]),
            ("buckets", [states[0].bucket_rows]),
        )
    ]
    keys, rows, buckets = gathered
    order = np.argsort(keys)
    return KeyedRows(keys[order], rows[order], buckets)


def counts_of_tables(shards: dict[str, KeyedShard], world: World) -> dict[str, dict[str, int]]:
    """Dynamic table -> its counts over all ranks (see `DynamicShard.metrics`). A collective."""
    counts_of = {shard.table: shard.metrics() for shard in shards.values()}
    if not counts_of:
        return {}
    counts = tf.stack([tf.stack(list(counts.values())) for counts in counts_of.values()])
    (summed,) = allreduce_sum([counts], world, name="table_metrics")
    return {
        table: dict(zip(counts, map(int, row), strict=True))
        for (table, counts), row in zip(counts_of.items(), summed.numpy(), strict=True)
    }
