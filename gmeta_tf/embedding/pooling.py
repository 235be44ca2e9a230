"""Fetched rows to what a learner sees: one vector a field, the mean of a multi-valued one."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from gmeta_tf.meta_io.pipeline import key_groups
from gmeta_tf.schema import Schema

__all__ = ["field_slots", "pool_fields"]


def field_slots(schema: Schema) -> dict[str, tuple[int, ...]]:
    """The slots of each field of each group of tables, in the schema's order of fields."""
    return {
        group: tuple(f.num_slots for f in schema.key_fields if f.table_name in tables)
        for group, tables in key_groups(schema).items()
    }


def pool_fields(values: tf.Tensor, pairs: tf.Tensor, slots: Sequence[int]) -> tf.Tensor:
    """Averages the slots of each field over the values that are there.

    Args:
        values: float `[..., slots, D]`, what each position read; anything where it is padding.
        pairs: int32 `[..., slots]`, 0 where a position is padding.
        slots: the slots of each of the F fields.

    Returns:
        float `[..., F, D]`; zeros where a field has no value.
    """
    # Masked, and not left to the padding's zeros: a gradient would move them, and the tasks of a
    # step share that row.
    counts = tf.cast(pairs > 0, values.dtype)
    values = values * counts[..., tf.newaxis]
    if all(size == 1 for size in slots):
        return values
    fields, start = [], 0
    for size in slots:
        part = values[..., start : start + size, :]
        if size > 1:
            there = counts[..., start : start + size, tf.newaxis]
            count = tf.reduce_sum(there, axis=-2, keepdims=True)
            part = tf.reduce_sum(part, axis=-2, keepdims=True) / tf.maximum(count, 1.0)
        fields.append(part)
        start += size
    return tf.concat(fields, axis=-2)
