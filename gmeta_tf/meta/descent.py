"""One inner step of a plain tensor."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["clipped", "descended", "rate_in"]


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
    return value - rate_in(value.dtype, rate) * clipped(gradient, clip)


def rate_in(dtype: tf.DType, rate: tf.Tensor | float) -> tf.Tensor:
    """alpha in the dtype of what it multiplies.

    Args:
        dtype: of the values.
        rate: alpha: a Python number, or a tensor of any shape and dtype.

    Example:
        >>> float(rate_in(tf.float64, 0.1))
        0.1
    """
    # tf.cast would make float32 of a Python number first.
    return tf.cast(rate, dtype) if tf.is_tensor(rate) else tf.convert_to_tensor(rate, dtype)


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
