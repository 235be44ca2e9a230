"""Reptile's outer gradient (Nichol, Achiam and Schulman, "On first-order meta-learning", 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from gmeta_tf.batch import LabelledRows

__all__ = ["joined_rows", "with_gradient"]


def joined_rows(support: LabelledRows, query: LabelledRows) -> LabelledRows:
    """A task's support and query rows together, `[T, S + Q]`: Reptile does not split them.

    A task without query rows is no task of the outer loss's mean, and none here.

    Args:
        support: `[T, S]`.
        query: `[T, Q]`.
    """
    joined: LabelledRows = tf.nest.map_structure(
        lambda *parts: tf.concat(parts, axis=1), dict(support), dict(query)
    )
    has_query = tf.reduce_any(query["weight"] > 0, axis=1, keepdims=True)
    joined["weight"] *= tf.cast(has_query, joined["weight"].dtype)
    return joined


def with_gradient(
    losses: tf.Tensor, displacements: Sequence[tuple[tf.Tensor, tf.Tensor]]
) -> tf.Tensor:
    """The losses of T tasks, whose sum has the displacements for a gradient.

    So `theta - theta_K` takes the way of every other gradient: through the look-up of rows, over
    the ranks, to the optimizers.

    Args:
        losses: `[T]`, for the log alone.
        displacements: values theta, and `theta - theta_K` summed over the tasks, of one shape.
    """
    products = [
        tf.reduce_sum(tf.stop_gradient(tf.cast(change, value.dtype)) * value)
        for value, change in displacements
    ]
    nothing = tf.cast(tf.add_n(products), losses.dtype)
    nothing -= tf.stop_gradient(nothing)
    return (
        tf.stop_gradient(losses) + tf.one_hot(0, tf.shape(losses)[0], dtype=losses.dtype) * nothing
    )
