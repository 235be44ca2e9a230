"""Embedding rows to the inputs of a learner."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows
from gmeta_tf.embedding.pooling import field_slots, join_groups, pool_fields, take_rows
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["features_of", "rows_of_pairs"]


def rows_of_pairs(rows: Rows, batch: Batch) -> Rows:
    """Each (task, key) pair's own row, which no other task's inner loop changes.

    Args:
        rows: group -> float `[U, D]`, the rows of the batch's distinct keys.
        batch: uses its `pair_to_key`.

    Returns:
        group -> float `[P, D]`; row 0 is the padding's, zeros.
    """
    return {
        group: take_rows(tf.pad(values, [[1, 0], [0, 0]]), batch["pair_to_key"][group])
        for group, values in rows.items()
    }


def features_of(
    own_rows: Mapping[str, tf.Tensor],
    part: LabelledRows,
    schema: Schema,
    *,
    fields: Collection[str] | None = None,
    others: Mapping[str, tf.Tensor] | None = None,
) -> dict[str, tf.Tensor]:
    """The learner's inputs for the support or the query rows of T tasks.

    Args:
        own_rows: group -> float `[P, D]`, from `rows_of_pairs`, adapted or not.
        part: `support` or `query` of a batch.
        schema: what a row is.
        fields: the key fields that read `own_rows`; None is all.
        others: the rows that the other fields read, in the form of `own_rows`.

    Returns:
        input -> float `[T, R, F, D]`, and `"dense"` -> float `[T, R, num_dense]` where there are
        dense fields.
    """
    pooled = {}
    for group, slots in field_slots(schema).items():
        pairs = part["pairs"][group]
        if fields is None or others is None:
            vectors = take_rows(own_rows[group], pairs)
        else:
            tables = key_groups(schema)[group]
            names = [field.name for field in schema.key_fields if field.table_name in tables]
            vectors = tf.concat(
                [
                    take_rows((own_rows if name in fields else others)[group], of_field)
                    for name, of_field in zip(names, tf.split(pairs, slots, axis=2), strict=True)
                ],
                axis=2,
            )
        pooled[group] = pool_fields(vectors, pairs, slots)
    features = join_groups(pooled, schema)
    if schema.dense_fields:
        features["dense"] = part["dense"]
    return features
