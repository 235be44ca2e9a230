"""Dense values as records have them to what a learner sees, in TensorFlow ops.

Training, evaluation and the served model all come through here, so that what is served is what was
trained.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from gmeta_tf.schema import Field, Fitted, Schema

__all__ = ["dense_columns"]


def dense_columns(values: tf.Tensor, schema: Schema) -> tf.Tensor:
    """Fills missing values, transforms, and cuts into buckets (see `Field.transform`).

    The fields `year` (standardize, mean 1990 and deviation 10) and `price` (missing: indicator):

        [[2000 4.5] [1985 nan]]  ->  [[1.0 4.5 0] [-0.5 0 1]]

    Args:
        values: float32 `[..., dense fields]`, NaN where a value is missing.
        schema: with what was fitted.

    Returns:
        float32 `[..., schema.num_dense_columns]`.

    Raises:
        ValueError: a transform has not been fitted.
    """
    fields = schema.dense_fields
    for field in fields:
        field.check_fitted()
    absent = tf.math.is_nan(values)
    if any(field.missing != "error" for field in fields):
        values = tf.where(absent, _row([_fill(field) for field in fields]), values)
    if any(field.transform == "log1p" for field in fields):
        is_log = np.array([field.transform == "log1p" for field in fields])
        values = tf.where(is_log, tf.sign(values) * tf.math.log1p(tf.abs(values)), values)
    if any(field.transform in ("standardize", "minmax") for field in fields):
        moved = [_moved(field) for field in fields]
        values = (values - _row([one.centre for one in moved])) / _row([one.scale for one in moved])
    if all(field.transform != "bucketize" and field.missing != "indicator" for field in fields):
        return values
    columns = [
        _columns_of(field, values[..., place : place + 1], absent[..., place : place + 1])
        for place, field in enumerate(fields)
    ]
    return tf.concat(columns, axis=-1)


def _columns_of(field: Field, value: tf.Tensor, absent: tf.Tensor) -> tf.Tensor:
    """What a learner sees of one field, `[..., num_columns]`."""
    columns = value
    if field.transform == "bucketize":
        one = tf.ones_like(value)
        # 1 1 0: the value passes two of three edges. Its bucket is where this falls from 1 to 0.
        passed = tf.cast(value >= _row(field.bucket_edges), value.dtype)
        columns = tf.concat([one, passed], axis=-1) - tf.concat([passed, one - one], axis=-1)
    if field.missing == "indicator":
        columns = tf.where(absent, tf.zeros_like(columns), columns)
        columns = tf.concat([columns, tf.cast(absent, columns.dtype)], axis=-1)
    return columns


def _fill(field: Field) -> float:
    """What stands for a missing value; where it may not be missing, NaN, so that it shows."""
    if not isinstance(field.missing, str):
        return float(field.missing)
    if field.missing == "mean" and field.fitted is not None:
        return field.fitted.mean
    return 0.0 if field.missing == "indicator" else math.nan


def _moved(field: Field) -> Fitted:
    is_moved = field.transform in ("standardize", "minmax") and field.fitted is not None
    return field.fitted if is_moved and field.fitted is not None else Fitted()


def _row(numbers: list[float] | tuple[float, ...]) -> tf.Tensor:
    return tf.constant(numbers, tf.float32, shape=[len(numbers)])
