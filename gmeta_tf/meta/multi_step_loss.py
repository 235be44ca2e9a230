"""How much the query loss after each inner step counts (MAML++)."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["step_weights"]


def step_weights(
    num_steps: int, outer_step: tf.Tensor, annealed_over: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The weight of each but the last inner step's query loss, and that of the last one's.

    `v = max(0, 1 - n / N) / K` and `1 - (K - 1) v`: all equal before the first outer step, the last
    alone from step N on (Antoniou et al., "How to train your MAML", ICLR 2019, "multi-step loss
    optimization"; their code anneals linearly too, but keeps `0.03 / K` for the earlier steps).

    Args:
        num_steps: K, at least 1.
        outer_step: n, a scalar, how many outer steps are done.
        annealed_over: N, at least 1.

    Returns:
        Two float64 scalars.

    Example:
        >>> [float(one) for one in step_weights(4, tf.constant(5), 10)]
        [0.125, 0.625]
    """
    left = tf.maximum(
        tf.constant(0.0, tf.float64), 1.0 - tf.cast(outer_step, tf.float64) / annealed_over
    )
    earlier = left / num_steps
    return earlier, 1.0 - (num_steps - 1) * earlier
