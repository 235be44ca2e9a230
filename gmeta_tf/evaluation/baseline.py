"""A baseline that a spreadsheet could compute, and a meta-learner has to beat."""

from __future__ import annotations

import dataclasses

import numpy as np

from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import Field, Schema

__all__ = ["RateAndOffset", "baseline_auc"]


@dataclasses.dataclass(frozen=True)
class RateAndOffset:
    """A row's score: its item's mean label in the training tasks + the task's offset.

    The offset is the mean, over the task's support rows, of the label less the item's rate. Both
    are shrunk as if s more rows had been seen, which held the mean of all labels (rates), or no
    offset: `(sum + s mean) / (count + s)` and `sum / (count + s)`. Few rows make poor means, and a
    yardstick should not be beaten for that.

    Attributes:
        rates: float64 `[num_rows]`, one for each key of the item's table; keys that no training
            task has read get the mean of all labels.
        smoothing: s, in rows.
    """

    rates: np.ndarray
    smoothing: float = 5.0

    @classmethod
    def fit(cls, records: Records, split: str, item: str, smoothing: float = 5.0) -> RateAndOffset:
        """Counts one pass over a split.

        Args:
            records: the data.
            split: the training tasks.
            item: the categorical field whose keys are the items.
            smoothing: s, in rows.

        Raises:
            ValueError: no categorical field of that name.
        """
        plane = _item_plane(records.schema, item)
        num_rows = records.schema.table(_field(records.schema, item).table_name).num_rows or 0
        sums, counts = np.zeros(num_rows), np.zeros(num_rows)
        for _, words in records.read(split):
            labels = _labels(words, records.schema)
            sums += np.bincount(words[plane], labels, num_rows)
            counts += np.bincount(words[plane], minlength=num_rows)
        mean = sums.sum() / max(counts.sum(), 1)
        return cls((sums + smoothing * mean) / (counts + smoothing), smoothing)

    def scores(
        self, support_keys: np.ndarray, support_labels: np.ndarray, query_keys: np.ndarray
    ) -> np.ndarray:
        """The scores of one task's query rows, float64 `[Q]`; an empty support has no offset."""
        offsets = support_labels - self.rates[support_keys]
        return self.rates[query_keys] + offsets.sum() / (len(offsets) + self.smoothing)


def baseline_auc(batches: TaskBatches, train_split: str, item: str) -> float:
    """Pooled AUC of `RateAndOffset` on the rows that `evaluate(batches)` evaluates.

    Args:
        batches: of one rank, with `every_query=True`: the draws of support rows depend on seed and
            task only, so they are those of any number of ranks.
        train_split: the tasks to count rates on.
        item: the field whose keys are the items.
    """
    schema = batches.schema
    baseline = RateAndOffset.fit(batches.records, train_split, item)
    plane = _item_plane(schema, item)
    tasks, labels, scores = [], [], []
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        for task, words, num_support, num_query in zip(
            step["task"], step["words"], step["num_support"], step["num_query"], strict=True
        ):
            support = words[:num_support].T
            query = words[batches.support : batches.support + num_query].T
            labels.append(_labels(query, schema))
            scores.append(baseline.scores(support[plane], _labels(support, schema), query[plane]))
            tasks.append(np.full(num_query, task))
    return metric("auc").value(
        np.concatenate(tasks),
        np.concatenate(labels).astype(np.float32),
        np.concatenate(scores).astype(np.float32),
    )


def _field(schema: Schema, item: str) -> Field:
    for field in schema.fields:
        if field.name == item and field.kind == "categorical":
            return field
    raise ValueError(
        f"the baseline needs a categorical field of the items, there is none named {item!r}; "
        f"fields are {', '.join(field.name for field in schema.fields)}."
    )


def _item_plane(schema: Schema, item: str) -> int:
    return slot_ranges(schema)[schema.fields.index(_field(schema, item))][0]


def _labels(words: np.ndarray, schema: Schema) -> np.ndarray:
    labels = words[0].view(np.float32).astype(np.float64)
    return labels if schema.positive_from is None else (labels >= schema.positive_from) * 1.0
