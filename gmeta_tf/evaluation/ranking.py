"""How well each task's rows are ranked, one number a task.

Equal predictions get the expectation over their random orders: a constant predictor is neither
lucky nor unlucky in the order that its rows came in. A label above 0.5 is *positive*.

Shapes: n rows, G tasks in them.
"""

from __future__ import annotations

import numpy as np

from gmeta_tf.evaluation.rows import FloatArray, IntArray, Rows, divide_or_nan, run_starts

__all__ = ["task_auc", "task_mrr", "task_ndcg", "task_recall"]

_MAX_RELEVANCE = 512.0  # 2 ** relevance, and sums of it, stay far inside float64


def task_auc(rows: Rows) -> FloatArray:
    """Exact ROC AUC within each task, ties counting half: [G], NaN without both classes."""
    task = rows.task_index
    order = np.lexsort((rows.prediction, task))
    positive = (rows.label[order] > 0.5).astype(np.float64)
    tie_start = run_starts(task, rows.prediction[order])
    positives = np.add.reduceat(positive, tie_start)
    negatives = np.add.reduceat(1 - positive, tie_start)

    first_tie = np.searchsorted(tie_start, rows.start)
    below = np.cumsum(negatives) - negatives
    below -= below[first_tie][task[tie_start]]  # leaves out the tasks before
    won = np.add.reduceat(positives * (below + negatives / 2), first_tie)
    pairs = np.add.reduceat(positives, first_tie) * np.add.reduceat(negatives, first_tie)
    return divide_or_nan(won, pairs)


def task_ndcg(rows: Rows, *, k: int) -> FloatArray:
    """Normalized discounted cumulative gain of each task's first `k` positions.

    ``DCG@k = sum over positions i = 1..k of (2 ** label_i - 1) / log2(1 + i)``, over that of the
    best order. Equal predictions get the expectation over their random orders: each position of a
    tie has the tie's mean gain. So a constant predictor is neither lucky nor unlucky in the order
    its rows came in.

    Returns:
        [G], NaN for a task whose best order gains nothing (all labels 0).

    Raises:
        ValueError: A label is negative, or so large that the gain overflows.

    Reference:
        Järvelin and Kekäläinen, TOIS 2002, with the exponential gain of Burges et al., ICML 2005;
        ties as McSherry and Najork, ECIR 2008. MeLU reports @1 and @3 (Lee et al., KDD 2019).
    """
    lowest, highest = rows.label.min(), rows.label.max()
    if lowest < 0 or highest > _MAX_RELEVANCE:
        raise ValueError(
            f"ndcg: expected labels in [0, {_MAX_RELEVANCE:g}], received {lowest:g} to "
            f"{highest:g}; shift or scale the labels, or leave ndcg out of the metrics"
        )
    task, size = rows.task_index, rows.label.size
    position = np.arange(size) - rows.start[task]
    discount = np.where(position < k, 1 / np.log2(position + 2), 0)
    gain = np.exp2(rows.label) - 1
    order = np.lexsort((-rows.prediction, task))
    best_order = np.lexsort((-rows.label, task))

    tie_start = run_starts(task, rows.prediction[order])
    mean_gain = np.add.reduceat(gain[order], tie_start) / np.diff(tie_start, append=size)
    expected = mean_gain * np.add.reduceat(discount, tie_start)
    gained = np.add.reduceat(expected, np.searchsorted(tie_start, rows.start))
    return divide_or_nan(gained, np.add.reduceat(gain[best_order] * discount, rows.start))


def task_recall(rows: Rows, *, k: int) -> FloatArray:
    """The share of each task's positives among its first `k` positions.

    Returns:
        [G], NaN for a task without a positive.
    """
    ties = _Ties(rows)
    found = ties.positives / ties.size * np.clip(k - ties.position, 0, ties.size)
    return divide_or_nan(
        np.add.reduceat(found, ties.of_task), np.add.reduceat(ties.positives, ties.of_task)
    )


def task_mrr(rows: Rows) -> FloatArray:
    """The reciprocal of the rank of each task's first positive; 1 where it comes first.

    Returns:
        [G], NaN for a task without a positive.
    """
    ties = _Ties(rows)
    found = np.full(len(rows.start), np.nan)
    has = np.flatnonzero(ties.positives)
    tasks, first = np.unique(ties.task[has], return_index=True)
    for task, tie in zip(tasks, has[first], strict=True):
        found[task] = _expected_reciprocal(
            int(ties.position[tie]), int(ties.size[tie]), int(ties.positives[tie])
        )
    return found


def _expected_reciprocal(before: int, size: int, positives: int) -> float:
    """E[1 / rank] of the first of some positives among `size` equal rows, `before` rows ahead."""
    expected, probability = 0.0, positives / size
    for place in range(size - positives + 1):
        expected += probability / (before + place + 1)
        if place < size - positives:
            probability *= (size - positives - place) / (size - 1 - place)
    return expected


class _Ties:
    """The runs of equal predictions, each task's from the highest on.

    Attributes:
        of_task: the first tie of each task, int64 `[G]`.
        task: each tie's task in `[0, G)`, int64 `[ties]`.
        position: the position of its first row in its task, from 0, int64 `[ties]`.
        size: its rows, int64 `[ties]`.
        positives: how many of them are positive, float64 `[ties]`.
    """

    def __init__(self, rows: Rows) -> None:
        task = rows.task_index
        order = np.lexsort((-rows.prediction, task))
        start: IntArray = run_starts(task, rows.prediction[order])
        self.of_task = np.searchsorted(start, rows.start)
        self.task = task[start]
        self.position = start - rows.start[self.task]
        self.size = np.diff(start, append=len(task))
        self.positives = np.add.reduceat((rows.label[order] > 0.5).astype(np.float64), start)
