"""A baseline that a spreadsheet could compute, and a meta-learner has to beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from gmeta_tf.evaluation.metrics import Metric, metric
from gmeta_tf.evaluation.rows import FloatArray, IntArray
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.codec import WEIGHT_PLANE, slot_ranges
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import Field, Schema

__all__ = ["Baseline", "RateAndOffset", "baseline_auc", "best_baseline"]

_ROWS_COUNTED_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class RateAndOffset:
    """A row's score: its item's mean label in the training tasks + the task's offset.

    The offset is the mean, over the task's support rows, of the label less the item's rate. Both
    are shrunk as if s more rows had been seen, which held the mean of all labels (rates), or no
    offset: `(sum + s mean) / (count + s)` and `sum / (count + s)`. Few rows make poor means, and a
    yardstick should not be beaten for that.

    Attributes:
        keys: int64 `[N]`, ascending: the items that the training tasks have read.
        rates: float64 `[N]`, one for each of them.
        mean: of all labels, which other items get.
        smoothing: s, in rows.
    """

    keys: IntArray
    rates: FloatArray
    mean: float
    smoothing: float = 5.0

    @classmethod
    def fit(
        cls, records: Records, split: str, items: Sequence[str], smoothing: float = 5.0
    ) -> dict[str, RateAndOffset]:
        """Counts one pass over a split.

        Args:
            records: the data.
            split: the training tasks.
            items: the categorical fields whose keys are taken for items, each alone.
            smoothing: s, in rows.

        Returns:
            Field -> its baseline.

        Raises:
            ValueError: no categorical field of that name.
        """
        schema = records.schema
        counts = {item: _Counts() for item in items}
        total, num_rows = 0.0, 0
        for words, labels in _joined(records, split):
            for item in items:
                counts[item].add(_keys(words, schema, item), labels)
            total += labels.sum()
            num_rows += len(labels)
        mean = total / max(num_rows, 1)
        return {
            item: cls(
                one.keys,
                (one.sums + smoothing * mean) / (one.rows + smoothing),
                mean,
                smoothing,
            )
            for item, one in counts.items()
        }

    def rates_of(self, keys: IntArray) -> FloatArray:
        """The rate of each key, float64 `[n]`; the mean for those not seen in training."""
        if not len(self.keys):  # an empty split
            return np.full(len(keys), self.mean)
        found = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[found] == keys, self.rates[found], self.mean)

    def scores(
        self, support_keys: IntArray, support_labels: FloatArray, query_keys: IntArray
    ) -> FloatArray:
        """The scores of one task's query rows, float64 `[Q]`; an empty support has no offset."""
        offsets = support_labels - self.rates_of(support_keys)
        scores: FloatArray = self.rates_of(query_keys) + offsets.sum() / (
            len(offsets) + self.smoothing
        )
        return scores


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What the best of the baselines reaches.

    Attributes:
        field: the one whose keys it counts; None where there is no categorical field, and it knows
            the mean of all labels and the task's offset alone.
        values: metric -> its value.
    """

    field: str | None
    values: dict[str, float]


def best_baseline(
    batches: TaskBatches, train_split: str, items: Sequence[str], metrics: Sequence[str]
) -> Baseline:
    """The best `RateAndOffset`, by the first metric, on the rows that `evaluate(batches)` judges.

    Args:
        batches: of one rank, with `every_query=True`: the draws of support rows depend on seed and
            task only, so they are those of any number of ranks.
        train_split: the tasks to count rates on.
        items: the categorical fields to try, of any kind of key.
        metrics: their names, at least one.

    Raises:
        ValueError: no categorical field of that name.
    """
    # Without a field all rows are of one item.
    fitted = RateAndOffset.fit(batches.records, train_split, items or [""])
    tasks, labels, weights, scores = _scored(batches, fitted)
    known = [metric(name) for name in metrics]
    values = {
        item: {one.name: _value(one, tasks, labels, own, weights) for one in known}
        for item, own in scores.items()
    }
    first = known[0]
    best = max(values, key=lambda item: _rank(first, values[item][first.name]))
    return Baseline(best or None, values[best])


def baseline_auc(batches: TaskBatches, train_split: str, item: str) -> float:
    """The pooled AUC of one field's baseline: see `best_baseline`."""
    return best_baseline(batches, train_split, [item], ["auc"]).values["auc"]


def _scored(
    batches: TaskBatches, fitted: dict[str, RateAndOffset]
) -> tuple[IntArray, FloatArray, FloatArray, dict[str, FloatArray]]:
    """Task, label and weight of every query row, and each baseline's score of it, `[n]`."""
    schema = batches.schema
    tasks: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {item: [] for item in fitted}
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        for task, words, num_support, num_query in zip(
            step["task"], step["words"], step["num_support"], step["num_query"], strict=True
        ):
            support = words[:num_support].T
            query = words[batches.support : batches.support + num_query].T
            support_labels = _labels(support, schema)
            labels.append(_labels(query, schema))
            weights.append(_weights(query, schema))
            tasks.append(np.full(num_query, task))
            for item, one in fitted.items():
                keys = [_keys(part, schema, item) for part in (support, query)]
                scores[item].append(one.scores(keys[0], support_labels, keys[1]))
    return (
        np.concatenate(tasks),
        np.concatenate(labels),
        np.concatenate(weights),
        {item: np.concatenate(own) for item, own in scores.items()},
    )


def _value(
    one: Metric, tasks: IntArray, labels: FloatArray, scores: FloatArray, weights: FloatArray
) -> float:
    if one.is_of_probabilities:
        scores = scores.clip(0.0, 1.0)  # a rate and an offset may add up to more
    return one.value(tasks, labels.astype(np.float32), scores.astype(np.float32), weights)


def _rank(one: Metric, value: float) -> float:
    if np.isnan(value):
        return -np.inf
    return value if one.is_better_when_larger else -value


class _Counts:
    """Rows and sums of labels by key, of keys that nobody numbered."""

    def __init__(self) -> None:
        self.keys: IntArray = np.zeros(0, np.int64)
        self.sums: FloatArray = np.zeros(0)
        self.rows: FloatArray = np.zeros(0)

    def add(self, keys: IntArray, labels: FloatArray) -> None:
        """Adds rows `[n]`."""
        every = np.concatenate([self.keys, keys])
        sums = np.concatenate([self.sums, labels])
        rows = np.concatenate([self.rows, np.ones(len(keys))])
        self.keys, place = np.unique(every, return_inverse=True)
        self.sums = np.bincount(place, sums, len(self.keys)).astype(np.float64)
        self.rows = np.bincount(place, rows, len(self.keys)).astype(np.float64)


def _joined(records: Records, split: str) -> Iterator[tuple[np.ndarray, FloatArray]]:
    """The words `[C, n]` and the labels `[n]` of a split, many episodes at a time."""
    held: list[np.ndarray] = []
    num_rows = 0
    for _, words in records.read(split):
        held.append(words)
        num_rows += words.shape[1]
        if num_rows >= _ROWS_COUNTED_AT_ONCE:
            joined = np.concatenate(held, axis=1)
            yield joined, _labels(joined, records.schema)
            held, num_rows = [], 0
    if held:
        joined = np.concatenate(held, axis=1)
        yield joined, _labels(joined, records.schema)


def _field(schema: Schema, item: str) -> Field:
    for field in schema.fields:
        if field.name == item and field.kind == "categorical":
            return field
    raise ValueError(
        f"the baseline needs a categorical field of the items, there is none named {item!r}; "
        f"fields are {', '.join(field.name for field in schema.fields)}."
    )


def _keys(words: np.ndarray, schema: Schema, item: str) -> IntArray:
    """A field's keys in rows of words `[C, n]`, int64 `[n]`; 0 for the name ""."""
    if not item:
        return np.zeros(words.shape[1], np.int64)
    first, last = slot_ranges(schema)[schema.fields.index(_field(schema, item))]
    keys = words[first].astype(np.int64)
    if last - first == 2:  # the low word, then the high one
        keys = (words[first + 1].astype(np.int64) << 32) | (keys & 0xFFFFFFFF)
    return keys


def _labels(words: np.ndarray, schema: Schema) -> FloatArray:
    labels = words[0].view(np.float32).astype(np.float64)
    return labels if schema.positive_from is None else (labels >= schema.positive_from) * 1.0


def _weights(words: np.ndarray, schema: Schema) -> FloatArray:
    if schema.weight is None:
        return np.ones(words.shape[1])
    return words[WEIGHT_PLANE].view(np.float32).astype(np.float64)
