"""Fetched rows to the learner's inputs: one vector a field, the mean of a multi-valued one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import input_groups, key_groups

__all__ = ["field_slots", "join_groups", "one_row", "pool_fields", "take_rows"]


def field_slots(schema: Schema) -> dict[str, tuple[int, ...]]:
    """The slots of each field of each group of tables, in the schema's order of fields."""
    return {
        group: tuple(f.num_slots for f in schema.key_fields if f.table_name in tables)
        for group, tables in key_groups(schema).items()
    }


def join_groups(pooled: dict[str, tf.Tensor], schema: Schema) -> dict[str, tf.Tensor]:
    """The groups' fields as the learner's inputs, each in the schema's order of fields.

    Args:
        pooled: group -> float `[..., fields, D]`, what `pool_fields` gives.
        schema: whose groups.

    Returns:
        input -> float `[..., F, D]`.
    """
    tables_of = key_groups(schema)
    inputs = {}
    for name, groups in input_groups(schema).items():
        if len(groups) == 1:
            inputs[name] = pooled[groups[0]]
            continue
        names = [
            field.name
            for group in groups
            for field in schema.key_fields
            if field.table_name in tables_of[group]
        ]
        order = [names.index(field.name) for field in schema.key_fields if field.name in names]
        joined = tf.concat([pooled[group] for group in groups], axis=-2)
        inputs[name] = tf.gather(joined, order, axis=-2)
    return inputs


def one_row(schema: Schema, width: int) -> dict[str, tf.Tensor]:
    """A learner's inputs for one row, all zeros, to build it with.

    Args:
        schema: what a row is.
        width: D of the tables that state none.

    Returns:
        input -> float32 `[1, F, D]`, and `"dense"` -> float32 `[1, num_dense]` where there are any.
    """
    tables_of = key_groups(schema)
    pooled = {
        group: tf.zeros([1, len(slots), schema.table(tables_of[group][0]).width or width])
        for group, slots in field_slots(schema).items()
    }
    features = join_groups(pooled, schema)
    if schema.dense_fields:
        features["dense"] = tf.zeros([1, schema.num_dense_columns])
    return features


@tf.custom_gradient
def take_rows(
    rows: tf.Tensor, positions: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """`rows[positions]`, whose gradient never reaches row 0.

    Row 0 is the padding's and holds zeros. All tasks of a step share it, so a gradient that moved
    it in the inner loop would mix them.

    The gradient is one segment sum, and the gradient of that is this look-up again. TensorFlow's
    own would guard the second look-up against negative positions, at the cost of both.

    Args:
        rows: float `[N, D]`.
        positions: int32, of any shape.

    Returns:
        float `[*positions.shape, D]`.
    """
    taken = tf.gather(rows, positions)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return _add_rows(upstream, positions, tf.shape(rows)[0]), None

    return taken, gradient


@tf.custom_gradient
def _add_rows(
    values: tf.Tensor, positions: tf.Tensor, num_rows: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None, None]]]:
    """The sum of the values at each position, 0 for position 0: `[num_rows, D]`."""
    # A segment below 0 is dropped.
    segments = tf.where(positions > 0, positions, -1)
    summed = tf.math.unsorted_segment_sum(values, segments, num_rows)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        # The values at position 0 were dropped, whatever the upstream gradient.
        nothing = tf.zeros_like(upstream[:1])
        return (
            take_rows(tf.tensor_scatter_nd_update(upstream, [[0]], nothing), positions),
            None,
            None,
        )

    return summed, gradient


def pool_fields(values: tf.Tensor, positions: tf.Tensor, slots: Sequence[int]) -> tf.Tensor:
    """Averages each field over the slots that are not padding.

    Args:
        values: float `[..., slots, D]`, each slot's row; zeros for padding.
        positions: int32 `[..., slots]`, 0 is padding.
        slots: the slots of each of the F fields.

    Returns:
        float `[..., F, D]`; zeros where a field has no value.
    """
    if all(size == 1 for size in slots):
        return values
    fields = []
    # Split: the gradient of a slice would be as large as all slots, once for each field.
    parts = zip(tf.split(values, slots, axis=-2), tf.split(positions, slots, axis=-1))
    for size, (part, at) in zip(slots, parts, strict=True):
        if size > 1:
            there = tf.cast(at[..., tf.newaxis] > 0, values.dtype)
            count = tf.reduce_sum(there, axis=-2, keepdims=True)
            part = tf.reduce_sum(part, axis=-2, keepdims=True) / tf.maximum(count, 1.0)
        fields.append(part)
    return tf.concat(fields, axis=-2)
