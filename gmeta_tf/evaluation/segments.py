"""Figures by the value of a field: the most common values, and all other rows together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gmeta_tf.evaluation.evaluated_rows import SIDES, EvaluatedRows
from gmeta_tf.evaluation.metrics import Metric
from gmeta_tf.evaluation.rows import IntArray
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.schema import PADDING_KEY, Schema

__all__ = ["Segment", "keys_of_query_rows", "segment_field", "segments"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """The rows that have one value of a field.

    Attributes:
        key: the value's key, 0 for a missing or unknown one; None for all rows without any of the
            keys of the other segments.
        rows: how many, the mean over the draws.
        figures: `<metric>_adapted` and `<metric>_unadapted`, the mean over the draws; NaN where the
            rows have no value for it, such as an AUC of labels that are all positive.
    """

    key: int | None
    rows: float
    figures: dict[str, float]

    def to_json(self, value: str | None) -> dict[str, Any]:
        """As JSON values, but for NaN."""
        return {"value": value, "rows": self.rows, **self.figures}


def segment_field(schema: Schema, name: str) -> int:
    """The position of a field that has values to tell rows apart by.

    Raises:
        ValueError: no such field, or a dense one.
    """
    known = [field.name for field in schema.key_fields]
    if name not in known:
        kind = "a dense field" if name in [field.name for field in schema.fields] else "none"
        raise ValueError(
            f"expected --by to be a field with values, {', '.join(known)}, got {name!r}, "
            f"which is {kind}. Give one of those, or prepare ranges of its numbers as a field."
        )
    return [field.name for field in schema.fields].index(name)


def keys_of_query_rows(batches: TaskBatches, name: str) -> IntArray:
    """A field's keys in this rank's query rows, in the order that `evaluate(batches)` has them.

    Args:
        batches: with `every_query=True`.
        name: of a field with keys.

    Returns:
        int64 `[n, slots]`; one slot for a field of one value. An empty slot is `PADDING_KEY`.
    """
    schema = batches.schema
    first, last = slot_ranges(schema)[segment_field(schema, name)]
    field = schema.fields[segment_field(schema, name)]
    found = [np.zeros((0, field.num_slots), np.int64)]
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        for words, num_query in zip(step["words"], step["num_query"], strict=True):
            rows = words[batches.support : batches.support + num_query, first:last]
            keys = rows[:, : field.num_slots].astype(np.int64)
            if last - first == 2 * field.num_slots:  # the low words, then the high ones
                high = rows[:, field.num_slots :].astype(np.int64)
                keys = (high << 32) | (keys & 0xFFFFFFFF)
            found.append(keys)
    return np.concatenate(found)


def segments(
    draws: Sequence[tuple[EvaluatedRows, IntArray]],
    metrics: Sequence[Metric],
    *,
    most: int = 10,
) -> list[Segment]:
    """The figures of the most common values, the most common first, and of the other rows.

    A row with several values is in the segment of each of them, once.

    Args:
        draws: of each draw of the support the evaluated rows and their keys, `[n, slots]`.
        metrics: the figures.
        most: how many values have a segment of their own.

    Returns:
        At most `most + 1` segments; the last one, of key None, only where other rows are left.
    """
    counts: dict[int, int] = {}
    for _, keys in draws:
        for key, count in zip(*np.unique(_once(keys), return_counts=True), strict=True):
            counts[int(key)] = counts.get(int(key), 0) + int(count)
    counts.pop(PADDING_KEY, None)
    common = sorted(counts, key=lambda key: (-counts[key], key))[:most]
    masks = {key: [_has_one_of(keys, [key]) for _, keys in draws] for key in common}
    others = [~_has_one_of(keys, common) for _, keys in draws]
    found = [_segment(key, draws, masks[key], metrics) for key in common]
    rest = [_segment(None, draws, others, metrics)] if any(one.any() for one in others) else []
    return found + rest


def _has_one_of(keys: IntArray, wanted: list[int]) -> np.ndarray:
    """Which rows have one of the wanted keys, bool `[n]`."""
    return np.logical_or.reduce(np.isin(keys, wanted), axis=1)


def _once(keys: IntArray) -> IntArray:
    """Each row's distinct keys; repeated ones become padding."""
    ordered = np.sort(keys, axis=1)
    repeats = np.diff(ordered, axis=1, prepend=ordered[:, :1] - 1) == 0
    return np.where(repeats, PADDING_KEY, ordered)


def _segment(
    key: int | None,
    draws: Sequence[tuple[EvaluatedRows, IntArray]],
    masks: Sequence[np.ndarray],
    metrics: Sequence[Metric],
) -> Segment:
    parts = [rows.take(mask) for (rows, _), mask in zip(draws, masks, strict=True)]
    figures = {
        f"{metric.name}_{side}": float(np.mean([part.value(metric, side) for part in parts]))
        for metric in metrics
        for side in SIDES
    }
    return Segment(key, float(np.mean([len(part) for part in parts])), figures)
