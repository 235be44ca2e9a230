"""Which tables a step's gradients are not finite for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

__all__ = ["tables_not_finite"]


def tables_not_finite(
    gradients: tf.Tensor, keys: tf.Tensor, num_rows: Sequence[int | None]
) -> tf.Tensor:
    """1 for each table of a group in which a row's gradient is NaN or infinite, and else 0.

    The sum of all tells whether to look closer, so a step without any pays for one pass.

    Args:
        gradients: float32 `[U, D]`.
        keys: int64 `[U]`, counted over the group's tables.
        num_rows: of each of the tables, one after the other; None of a dynamic one, which is alone.

    Returns:
        float32 `[tables]`.
    """
    first_rows = np.cumsum([-(2**63) if num_rows[0] is None else 0, *num_rows[:-1]])

    def look_closer() -> tf.Tensor:
        is_bad = ~tf.reduce_all(tf.math.is_finite(gradients), axis=1)
        bad_keys = tf.boolean_mask(keys, is_bad)
        tables = tf.searchsorted(tf.constant(first_rows, tf.int64), bad_keys, side="right") - 1
        found = tf.math.unsorted_segment_sum(tf.ones_like(tables), tables, len(num_rows))
        return tf.cast(found > 0, tf.float32)

    return tf.cond(
        tf.math.is_finite(tf.reduce_sum(gradients)),
        lambda: tf.zeros([len(num_rows)]),
        look_closer,
    )
