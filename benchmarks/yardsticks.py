"""What a meta-learned model has to beat: counting, and matrix factorization with folding-in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import Schema

__all__ = [
    "EvaluatedTask",
    "Ratings",
    "evaluated_tasks",
    "folded_in_als",
    "mean_and_offset",
    "ratings_of",
]


class Ratings(NamedTuple):
    """What a task's rows say of items.

    Attributes:
        items: int64 `[n]`.
        labels: float64 `[n]`, as they stand in the data.
    """

    items: np.ndarray
    labels: np.ndarray


class EvaluatedTask(NamedTuple):
    """A task to evaluate, with the rows that `evaluate` draws for it.

    Attributes:
        task: its number.
        support: what is known of it.
        query: what is to be predicted.
    """

    task: int
    support: Ratings
    query: Ratings


def ratings_of(records: Records, split: str, item: str) -> list[Ratings]:
    """Each task's ratings of one field's values."""
    rows: dict[int, list[np.ndarray]] = {}
    for task, words in records.read(split):
        rows.setdefault(task, []).append(words)
    return [
        _ratings(np.concatenate(parts, axis=1), records.schema, item)
        for _, parts in sorted(rows.items())
    ]


def evaluated_tasks(batches: TaskBatches, item: str) -> list[EvaluatedTask]:
    """The tasks of `evaluate(batches)`, in its order, with its support and query rows."""
    found = []
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        parts = zip(step["task"], step["words"], step["num_support"], step["num_query"])
        for task, words, num_support, num_query in parts:
            if task < 0:
                continue
            first = batches.support
            support, query = words[:num_support].T, words[first : first + num_query].T
            schema = batches.schema
            found.append(
                EvaluatedTask(
                    int(task), _ratings(support, schema, item), _ratings(query, schema, item)
                )
            )
    return found


def mean_and_offset(
    training: list[Ratings], tasks: list[EvaluatedTask], smoothing: float = 5.0
) -> list[np.ndarray]:
    """The item's mean label + the task's offset, each shrunk; see `RateAndOffset`."""
    items, labels = (np.concatenate(parts) for parts in zip(*training))
    size = 1 + max(items.max(), *(one.items.max(initial=0) for t in tasks for one in t[1:]))
    mean = labels.mean()
    sums, counts = np.bincount(items, labels, size), np.bincount(items, minlength=size)
    rates = (sums + smoothing * mean) / (counts + smoothing)
    return [
        rates[query.items]
        + (support.labels - rates[support.items]).sum() / (len(support.items) + smoothing)
        for _, support, query in tasks
    ]


def folded_in_als(
    training: list[Ratings],
    tasks: list[EvaluatedTask],
    *,
    rank: int = 10,
    factor_penalty: float = 15.0,
    bias_penalty: float = 3.0,
    sweeps: int = 15,
    seed: int = 0,
) -> list[np.ndarray]:
    """Matrix factorization with biases by alternating least squares, new tasks folded in.

    `label = mean + b_i + c_u + q_i . p_u`, each side in turn by ridge regression (Koren, Bell and
    Volinsky, IEEE Computer 2009); a task to evaluate gets p and c from its support rows, with the
    items' side fixed.

    Returns:
        The scores of each task's query rows.
    """
    rng = np.random.default_rng(seed)
    size = 1 + max(
        *(one.items.max(initial=0) for one in training),
        *(one.items.max(initial=0) for task in tasks for one in task[1:]),
    )
    mean = np.concatenate([one.labels for one in training]).mean()
    penalty = np.diag([factor_penalty] * rank + [bias_penalty])
    of_item = np.concatenate([rng.normal(0, 0.1, (size, rank)), np.zeros((size, 1))], axis=1)
    by_item: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for number, one in enumerate(training):
        for item, label in zip(one.items, one.labels):
            by_item[item].append((number, label))
    seen_by = [
        (np.array([number for number, _ in seen], int), np.array([label for _, label in seen]))
        for seen in by_item
    ]

    def solved(others: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The factors and bias that fit labels, given the other side's."""
        features = np.concatenate([others[:, :-1], np.ones((len(others), 1))], axis=1)
        target = features.T @ (labels - mean - others[:, -1])
        fitted: np.ndarray = np.linalg.solve(features.T @ features + penalty, target)
        return fitted

    for _ in range(sweeps):
        of_task = np.stack([solved(of_item[one.items], one.labels) for one in training])
        for item, (numbers, labels) in enumerate(seen_by):
            of_item[item] = solved(of_task[numbers], labels) if len(numbers) else 0.0
    scores = []
    for _, support, query in tasks:
        own = solved(of_item[support.items], support.labels)
        items = of_item[query.items]
        scores.append(mean + items[:, -1] + own[-1] + items[:, :-1] @ own[:-1])
    return scores


def _ratings(words: np.ndarray, schema: Schema, item: str) -> Ratings:
    """Rows of words `[C, n]`; the field's keys are those of a vocabulary."""
    position = [field.name for field in schema.fields].index(item)
    first, _ = slot_ranges(schema)[position]
    return Ratings(words[first].astype(np.int64), words[0].view(np.float32).astype(np.float64))
