"""A batch in parts that are computed in parallel."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

from gmeta_tf.batch import Batch, tasks_of

__all__ = ["lanes_of"]

# Fewer tasks do not fill a core's matrix products.
_FEWEST_TASKS = 8


def lanes_of(batch: Batch, most: int, fewest_tasks: int | None = None) -> list[Batch]:
    """Cuts a batch between its tasks into up to `most` batches of about equal size.

    Each lane keeps the step's distinct keys and has its own pairs: pairs are numbered task by task,
    so those of consecutive tasks are one run.

    Args:
        batch: see `TaskBatches`.
        most: the most lanes; a lane has at least 8 tasks.
        fewest_tasks: where T is not known before the step, the least that it can be; None leaves
            the batch uncut.

    Returns:
        Batches whose `task`, `support`, `query` and `pair_to_key` are their own.
    """
    num_tasks = batch["task"].shape[0]
    count = min(most, (num_tasks or fewest_tasks or 0) // _FEWEST_TASKS)
    if count <= 1:
        return [batch]
    size = tf.shape(batch["task"])[0] if num_tasks is None else num_tasks
    bounds = [size * number // count for number in range(count + 1)]
    # The last pair of the earlier lanes: the largest number among their tasks.
    last_pair: dict[str, Any] = {group: tf.constant(0) for group in batch["keys"]}
    lanes = []
    for first, last in itertools.pairwise(bounds):
        tasks = slice(first, last)
        support, query = tasks_of(batch["support"], tasks), tasks_of(batch["query"], tasks)
        pair_to_key = {}
        for group, begin in last_pair.items():
            largest = [tf.reduce_max(part["pairs"][group]) for part in (support, query)]
            last_pair[group] = tf.maximum(begin, tf.maximum(*largest))
            own = batch["pair_to_key"][group][begin + 1 : last_pair[group] + 1]
            pair_to_key[group] = tf.pad(own, [[1, 0]])
            for part in (support, query):
                part["pairs"][group] = tf.maximum(part["pairs"][group] - begin, 0)
        lane: Batch = {
            **batch,
            "task": batch["task"][tasks],
            "pair_to_key": pair_to_key,
            "support": support,
            "query": query,
        }
        lanes.append(lane)
    return lanes
