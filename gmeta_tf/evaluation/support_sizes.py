"""Fewer support rows for the same query rows: the points of a curve over support sizes."""

from __future__ import annotations

from typing import Any, cast

import tensorflow as tf

from gmeta_tf.batch import Batch

__all__ = ["with_support"]


def with_support(batch: Batch, size: int) -> Batch:
    """The batch with the first `size` support rows of each task, and all its query rows.

    A larger size has the rows of a smaller one and some more, since rows are taken in the order in
    which the batch has them. A row that is left out is like a missing one: of weight 0, its keys
    padding.

    Args:
        batch: of S support rows, see `TaskBatches`.
        size: of 0 to S; a task that has fewer support rows keeps those it has.

    Example: a support of weights `[[1 1 1] [1 0 0]]` with size 2 is `[[1 1 0] [1 0 0]]`.
    """

    def cut(values: tf.Tensor) -> tf.Tensor:
        kept = tf.range(tf.shape(values)[1]) < size
        kept = tf.reshape(kept, [1, -1] + [1] * (len(values.shape) - 2))
        return tf.where(kept, values, tf.zeros([], values.dtype))

    support = tf.nest.map_structure(cut, cast(dict[str, Any], batch["support"]))
    return cast(Batch, {**batch, "support": support})
