"""What a step is given: the one form of a batch in training, evaluation and serving."""

from __future__ import annotations

import tensorflow as tf
from typing_extensions import NotRequired, TypedDict

__all__ = [
    "Batch",
    "LabelledRows",
    "NextKeys",
    "Rows",
    "columns_of",
    "present_of",
    "tasks_of",
    "values_of",
]

Rows = dict[str, tf.Tensor]
"""Group of tables -> float32 `[U, D]`: the rows of a step's distinct keys."""


class LabelledRows(TypedDict):
    """The support rows of T tasks, or their query rows; R stands for S or Q.

    Attributes:
        pairs: group -> int32 `[T, R, slots]`, each slot's (task, key) pair; 0 is padding.
        dense: float32 `[T, R, num_dense]`.
        label: float32 `[T, R]`.
        weight: float32 `[T, R]`, 0 where a row is missing; otherwise 1, or the row's weight.
        present: bool `[T, R]`, which rows there are; only where the schema has a `weight`, which
            may be 0 of a row that is there.
        value: float32 `[T, R]`, the label as it stands in the data; only where the schema's
            `positive_from` makes `label` 0 or 1 of it.
    """

    pairs: dict[str, tf.Tensor]
    dense: tf.Tensor
    label: tf.Tensor
    weight: tf.Tensor
    present: NotRequired[tf.Tensor]
    value: NotRequired[tf.Tensor]


class NextKeys(TypedDict):
    """What is known of the batch that follows: see `with_next_keys`.

    Attributes:
        keys: as in `Batch`.
        keys_of_rank: as in `Batch`.
        known: bool, whether a batch follows; the keys after the last batch are nobody's.
    """

    keys: dict[str, tf.Tensor]
    keys_of_rank: NotRequired[dict[str, tf.Tensor]]
    known: tf.Tensor


class Batch(TypedDict):
    """One step of a rank: T tasks, each with its support and its query rows.

    Attributes:
        task: int64 `[T]`, the tasks' numbers, -1 where the step has no task left.
        keys: group -> int64 `[U]`, the distinct keys of all rows. A table's keys start where the
            rows of the tables before it in the group end. On several ranks those that rank 0 owns
            come first, then those of rank 1, and so on.
        keys_of_rank: on several ranks: group -> int32 `[W]`, how many of the keys each rank owns.
        pair_to_key: group -> int32 `[P]`. Entry 0 is the padding's; entry p > 0 says that the
            (task, key) pair p reads `keys[pair_to_key[p] - 1]`. Pairs are numbered task by task.
        support: the rows to adapt on.
        query: the rows to evaluate.
        out_of_range: int64 `[tables]`, the largest key of each table that it has no row for, or -1.
        next: the next batch's keys, where they travel ahead (`look_ahead`).
        waited: float64, the seconds for which the step waited for this batch, where that is timed.
    """

    task: tf.Tensor
    keys: dict[str, tf.Tensor]
    keys_of_rank: NotRequired[dict[str, tf.Tensor]]
    pair_to_key: dict[str, tf.Tensor]
    support: LabelledRows
    query: LabelledRows
    out_of_range: tf.Tensor
    next: NotRequired[NextKeys]
    waited: NotRequired[tf.Tensor]


def values_of(rows: LabelledRows) -> tf.Tensor:
    """The labels as they stand in the data, `[T, R]`."""
    return rows.get("value", rows["label"])


def present_of(rows: LabelledRows) -> tf.Tensor:
    """Which rows there are, whatever they weigh, bool `[T, R]`."""
    return rows["present"] if "present" in rows else rows["weight"] > 0


def columns_of(rows: LabelledRows, columns: slice) -> LabelledRows:
    """Some of the R rows of every task."""
    return _part_of(rows, (slice(None), columns))


def tasks_of(rows: LabelledRows, tasks: slice) -> LabelledRows:
    """The rows of some of the T tasks."""
    return _part_of(rows, (tasks,))


def _part_of(rows: LabelledRows, part: tuple[slice, ...]) -> LabelledRows:
    cut: LabelledRows = {
        "pairs": {group: pairs[part] for group, pairs in rows["pairs"].items()},
        "dense": rows["dense"][part],
        "label": rows["label"][part],
        "weight": rows["weight"][part],
    }
    if "value" in rows:
        cut["value"] = rows["value"][part]
    if "present" in rows:
        cut["present"] = rows["present"][part]
    return cut
