"""Task samples to a batch: pad, make keys distinct, order them by owner."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, columns_of
from gmeta_tf.distributed.ownership import order_by_owner
from gmeta_tf.meta_io.batches.dense_values import dense_columns
from gmeta_tf.meta_io.records.codec import WEIGHT_PLANE, slot_ranges
from gmeta_tf.schema import PADDING_KEY, Schema
from gmeta_tf.table_groups import key_groups, num_keys_of, num_rows_of

__all__ = ["assemble_batch", "assemble_keys", "distinct_keys"]

_LARGEST_STRIDE = 1 << 40
_MOST_SMALL = (1 << 31) - 1


def assemble_batch(
    episodes: dict[str, tf.Tensor],
    schema: Schema,
    num_support: int | tf.Tensor,
    num_ranks: int = 1,
) -> Batch:
    """T task samples to one batch (see `TaskBatches`).

    Args:
        episodes: words int32 `[T, S + Q, C]`, -1 where rows are missing; num_support and num_query
            int32 `[T]`; task int64 `[T]`.
        schema: what the words of a row mean.
        num_support: S; where `words` has room for fewer than S + 1 rows, one less than that.
        num_ranks: W; with more than one the keys come in the order of their owners.
    """
    words = episodes["words"]
    most_rows = words.shape[1] if words.shape[1] is not None else tf.shape(words)[1]
    if isinstance(most_rows, tf.Tensor):
        num_support = tf.minimum(num_support, most_rows - 1)
    present = _is_present(episodes, num_support, most_rows)
    label = tf.bitcast(words[:, :, 0], tf.float32)
    weight = None
    if schema.weight is not None:
        weight = tf.bitcast(words[:, :, WEIGHT_PLANE], tf.float32)
    dense = tf.bitcast(words[:, :, words.shape[2] - len(schema.dense_fields) :], tf.float32)
    of_groups = {
        group: _group_keys(words, schema, tables) for group, tables in key_groups(schema).items()
    }
    batch = _batch_of(
        episodes["task"],
        {group: (keys, there) for group, (keys, there, _) in of_groups.items()},
        _labelled(present, label, weight, dense, schema),
        schema,
        num_support,
        num_ranks,
    )
    batch["out_of_range"] = tf.concat([largest for _, _, largest in of_groups.values()], axis=0)
    return batch


def assemble_keys(
    keys: Mapping[str, tf.Tensor],
    present: tf.Tensor,
    label: tf.Tensor,
    dense: tf.Tensor,
    schema: Schema,
    num_support: int | tf.Tensor,
    weight: tf.Tensor | None = None,
) -> Batch:
    """The batch that `assemble_batch` makes of the same rows as records, in fewer ops.

    Serving has keys and no records: it need not make int32 words of them and keys of those again.

    Args:
        keys: group -> int64 `[T, S + Q, slots]`, the slots in the schema's order of fields, -1
            where a slot is empty; each below its table's size.
        present: which rows there are, bool `[T, S + Q]`.
        label: float `[T, S + Q]`, any number where a row is missing.
        dense: float `[T, S + Q, dense fields]`, likewise.
        schema: what a row is.
        num_support: S.
        weight: float `[T, S + Q]`, as the label, where the schema has one; None weighs each row 1.
    """
    of_groups = {}
    for group, tables in key_groups(schema).items():
        there = (keys[group] > PADDING_KEY) & present[:, :, tf.newaxis]
        numbered = keys[group]
        if len(tables) > 1:
            numbered += _first_rows(schema, tables, _tables_of_slots(schema, tables))
        of_groups[group] = (numbered, there)
    task = tf.range(tf.shape(label)[0], dtype=tf.int64)
    rows = _labelled(present, label, weight, dense, schema)
    batch = _batch_of(task, of_groups, rows, schema, num_support, 1)
    batch["out_of_range"] = tf.fill([len(schema.tables)], tf.constant(-1, tf.int64))
    return batch


def _labelled(
    present: tf.Tensor,
    label: tf.Tensor,
    weight: tf.Tensor | None,
    dense: tf.Tensor,
    schema: Schema,
) -> LabelledRows:
    """All rows of the tasks, still without keys; those that are missing hold zeros."""
    label = tf.where(present, label, 0.0)
    rows: LabelledRows = {
        "pairs": {},
        "label": label,
        "weight": tf.cast(present, tf.float32),
        "dense": tf.where(present[:, :, tf.newaxis], dense_columns(dense, schema), 0.0),
    }
    if weight is not None:
        rows |= {"weight": tf.where(present, weight, 0.0), "present": present}
    if schema.positive_from is not None:
        is_positive = present & (label >= schema.positive_from)
        rows |= {"label": tf.cast(is_positive, tf.float32), "value": label}
    return rows


def _batch_of(
    task: tf.Tensor,
    of_groups: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
    rows: LabelledRows,
    schema: Schema,
    num_support: int | tf.Tensor,
    num_ranks: int,
) -> Batch:
    """A batch but for `out_of_range`, of the groups' keys and of where they have a row."""
    tables_of = key_groups(schema)
    keys_of, pair_to_keys, counts_of = {}, {}, {}
    for group, (keys, there) in of_groups.items():
        distinct = distinct_keys(keys, there, num_keys_of(schema, tables_of[group]))
        keys, pair_to_key, rows["pairs"][group] = distinct
        if num_ranks > 1:
            keys, pair_to_key, counts_of[group] = _by_owner(keys, pair_to_key, num_ranks)
        keys_of[group], pair_to_keys[group] = keys, pair_to_key
    batch: Batch = {
        "task": task,
        "keys": keys_of,
        "pair_to_key": pair_to_keys,
        "support": columns_of(rows, slice(num_support)),
        "query": columns_of(rows, slice(num_support, None)),
        "out_of_range": tf.zeros([0], tf.int64),
    }
    if num_ranks > 1:
        batch["keys_of_rank"] = counts_of
    return batch


def distinct_keys(
    keys: tf.Tensor, there: tf.Tensor, num_keys: int | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The distinct keys of a step, its distinct (task, key) pairs, and each position's pair.

    Two tasks, the first reads the keys 7 and 9 and one padding, the second 9 twice and 4:

        keys [[7 9 -1] [9 9 4]], there [[1 1 0] [1 1 1]]  ->  distinct [7 9 4]
        pairs: 0 padding, 1 (task 0, 7), 2 (task 0, 9), 3 (task 1, 9), 4 (task 1, 4)
        pair_to_key [0 1 2 2 3], positions [[1 2 0] [3 3 4]]

    Args:
        keys: int32 or int64 `[T, ...]`.
        there: bool in the shape of `keys`; False is padding, whatever the key.
        num_keys: all keys are below this; None allows any key, and takes twice the time.

    Returns:
        The keys, int64 `[U]`; each pair's key, counted from 1, int32 `[P]`, where entry 0 is the
        padding's and is 0; and the pairs of the positions, int32 in the shape of `keys`.
    """
    shape, static_shape = tf.shape(keys), keys.shape
    values = None
    if num_keys is None or num_keys > _LARGEST_STRIDE:
        # Such keys leave no room for the task beside them, so smaller numbers stand in for them.
        values, keys = tf.unique(tf.reshape(keys, [-1]), out_idx=tf.int64)
        num_keys = tf.size(values, out_type=tf.int64)
    elif static_shape[0] is not None and static_shape[0] * num_keys <= _MOST_SMALL:
        keys = tf.cast(keys, tf.int32)
    else:
        keys = tf.cast(keys, tf.int64)
    # One integer names a pair, and 0 the padding. The padding comes first, so that it is pair 0.
    num_keys = tf.cast(num_keys, keys.dtype)
    first_codes = tf.range(tf.cast(shape[0], keys.dtype)) * num_keys + 1
    codes = tf.reshape(keys, [shape[0], tf.reduce_prod(shape[1:])]) + first_codes[:, tf.newaxis]
    # Not tf.where, which takes five times as long on a CPU.
    codes = tf.reshape(codes, [-1]) * tf.cast(tf.reshape(there, [-1]), keys.dtype)
    codes, positions = tf.unique(tf.concat([tf.zeros([1], keys.dtype), codes], axis=0))
    distinct, key_of = tf.unique((codes[1:] - 1) % num_keys)
    distinct = tf.cast(distinct, tf.int64) if values is None else tf.gather(values, distinct)
    positions = tf.ensure_shape(tf.reshape(positions[1:], shape), static_shape)
    return distinct, tf.concat([[0], key_of + 1], axis=0), positions


def _by_owner(
    keys: tf.Tensor, pair_to_key: tf.Tensor, num_ranks: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The keys in the order of their owners, and how many each rank owns.

    Done ahead of time, this spares the step sorting its keys, their rows and their gradients.

    Args:
        keys: int64 `[U]`.
        pair_to_key: int32 `[P]`, counted from 1.
        num_ranks: W.

    Returns:
        The keys and `pair_to_key` of the new order; and int32 `[W]`.
    """
    by_owner = order_by_owner(keys, num_ranks)
    position_of = tf.concat([[0], tf.math.invert_permutation(by_owner.order) + 1], axis=0)
    return by_owner.keys, tf.gather(position_of, pair_to_key), by_owner.counts


def _is_present(
    episodes: dict[str, tf.Tensor], num_support: int | tf.Tensor, most_rows: int | tf.Tensor
) -> tf.Tensor:
    """Which rows are present, bool `[T, S + Q]`."""
    counts = (("num_support", num_support), ("num_query", most_rows - num_support))
    return tf.concat(
        [tf.range(columns) < episodes[name][:, tf.newaxis] for name, columns in counts], axis=1
    )


def _group_keys(
    words: tf.Tensor, schema: Schema, tables: tuple[str, ...]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The keys of a group of tables.

    Returns:
        The keys, `[T, R, slots]`, int32 where they fit; which of them have a row, bool; and each
        table's largest key without a row, int64 `[tables]`.
    """
    num_keys = num_keys_of(schema, tables)
    ranges = zip(schema.fields, slot_ranges(schema), strict=True)
    slots = np.array(
        [
            (first + slot, first + slot + (last - first) // 2, tables.index(field.table_name))
            for field, (first, last) in ranges
            if field.kind != "dense" and field.table_name in tables
            for slot in range(field.num_slots)
        ]
    )
    low_planes, high_planes, table_of_slot = slots.T
    is_wide = np.array([schema.table(name).words_per_key == 2 for name in tables])[table_of_slot]
    keys = _planes(words, low_planes)
    if is_wide.any() or (num_keys or 0) > _MOST_SMALL:
        keys = tf.cast(keys, tf.int64)
    if is_wide.any():
        high = tf.cast(_planes(words, high_planes), tf.int64)
        both = tf.bitwise.left_shift(high, tf.constant(32, tf.int64)) | (keys & 0xFFFFFFFF)
        keys = tf.where(is_wide, both, keys)
    if num_keys is None:
        least = tf.cast(tf.reduce_min(keys), tf.int64)
        # The smallest int64 has no positive one.
        wrong = tf.where(least < PADDING_KEY, tf.maximum(tf.abs(least), 0), -1)
        return keys, keys > PADDING_KEY, tf.reshape(wrong, [1])
    sizes = [num_rows_of(schema, name) for name in tables]
    limits = np.array(sizes, keys.dtype.as_numpy_dtype)[table_of_slot]
    first_rows = _first_rows(schema, tables, table_of_slot).astype(limits.dtype)
    by_slot = tf.reshape(keys, [-1, len(slots)])
    least, most = (
        tf.cast(bound(by_slot, axis=0), tf.int64) for bound in (tf.reduce_min, tf.reduce_max)
    )
    largest = tf.maximum(
        tf.where(least < PADDING_KEY, tf.maximum(tf.abs(least), 0), -1),
        tf.where(most >= limits, most, -1),
    )
    if words.shape[1] is not None:
        # In the full length of the keys: broadcasting short ones is slow.
        limits, first_rows = (np.tile(one, [words.shape[1], 1]) for one in (limits, first_rows))
    return (
        keys + first_rows,
        (keys > PADDING_KEY) & (keys < limits),
        tf.math.unsorted_segment_max(largest, table_of_slot, len(tables)),
    )


def _tables_of_slots(schema: Schema, tables: tuple[str, ...]) -> np.ndarray:
    """The index among a group's tables of what each of its slots reads, `[slots]`."""
    return np.array(
        [
            tables.index(field.table_name)
            for field in schema.key_fields
            if field.table_name in tables
            for _ in range(field.num_slots)
        ]
    )


def _first_rows(schema: Schema, tables: tuple[str, ...], table_of_slot: np.ndarray) -> np.ndarray:
    """Where the rows of each slot's table start in those of the group, int64 `[slots]`."""
    sizes = [num_rows_of(schema, name) for name in tables]
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)[table_of_slot]


def _planes(words: tf.Tensor, planes: np.ndarray) -> tf.Tensor:
    """Some of the words of each row, `[T, R, planes]`."""
    first, last = planes[0], planes[-1] + 1
    if np.array_equal(planes, np.arange(first, last)):
        return words[:, :, first:last]
    return tf.gather(words, planes, axis=2)
