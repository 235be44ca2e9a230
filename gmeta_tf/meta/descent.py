"""One inner step of a plain tensor."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["clipped", "descended"]


def descended(
    value: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor | float, clip: float | None = None
) -> tf.Tensor:
    """`value - rate clip(gradient)`.

    Args:
        value: of all tasks.
        gradient: of each task's own support loss, in the shape of `value`.
        rate: alpha: a scalar, or one for each parameter, in a shape that is broadcast to the
            value's.
        clip: see `clipped`.
    """
    if tf.is_tensor(rate):
        rate = tf.cast(rate, value.dtype)
    else:  # tf.cast would make float32 of a Python number first
        rate = tf.convert_to_tensor(rate, value.dtype)
    return value - rate * clipped(gradient, clip)


def clipped(gradient: tf.Tensor, clip: float | None) -> tf.Tensor:
    """Each number of a gradient at most `clip` from 0 (MMAML, Vuorio et al., NeurIPS 2019).

    Its own derivative is 1 within the limits and 0 beyond, so the second order is exact.

    Args:
        gradient: of any shape.
        clip: the limit; None leaves the gradient as it is.

    Example:
        >>> clipped(tf.constant([-30.0, 2.0, 10.5]), 10.0).numpy().tolist()
        [-10.0, 2.0, 10.0]
    """
    return gradient if clip is None else tf.clip_by_value(gradient, -clip, clip)
