"""Metrics of evaluated rows, as float64 sums that ranks add and then finish into numbers.

A rank adds up its own rows, one all-reduce adds the ranks, and :meth:`Metric.result` divides. A
mean of the ranks' means would weigh a rank with few rows as much as one with many; sums do not, and
a rank without rows is zeros.

Shapes: n rows, G tasks in them, B histogram bins. A label above 0.5 is *positive*.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from gmeta_tf.evaluation.ranking import task_auc, task_mrr, task_ndcg, task_recall
from gmeta_tf.evaluation.rows import (
    FloatArray,
    IntArray,
    Rows,
    checked_columns,
    divide_or_nan,
    task_starts,
)

__all__ = [
    "ERRORS",
    "Mean",
    "Metric",
    "PooledAuc",
    "histogram_auc",
    "metric",
    "score_bins",
    "task_mae",
]

_NUM_BINS = 2**17
_BIN_RANGE = 64.0  # `score_bins` cuts its map at -64 and 64: scores beyond -2.3e6 and 2.3e6 tie
_SMALLEST_STEP = 2.0**-24  # float32's step just below 1
_PROBABILITY_CLIP = 1e-7
_PROBABILITY_SLACK = 1e-6  # a float32 mixture of probabilities may pass 1 by rounding


def score_bins(prediction: FloatArray) -> IntArray:
    """Histogram bin of each score, by one increasing map for probabilities and unbounded scores.

    ``asinh(x / e) + asinh((x - 1) / e)`` with ``e = 2 ** -24`` is the logit inside (0, 1) and
    logarithmic outside, so nobody has to say which kind a score is. Bins are ``2 ** -10`` wide:
    two probabilities share one only if their logits differ by less than 0.001, two ratings near 4
    only if they differ by less than 0.002.

    Args:
        prediction: [n], finite.

    Returns:
        int64 [n] in [0, B).
    """
    mapped = np.arcsinh(prediction / _SMALLEST_STEP)
    mapped += np.arcsinh((prediction - 1) / _SMALLEST_STEP)
    bins: FloatArray = np.floor((mapped + _BIN_RANGE) * (_NUM_BINS / (2 * _BIN_RANGE)))
    return bins.clip(0, _NUM_BINS - 1).astype(np.int64)


def histogram_auc(negatives: FloatArray, positives: FloatArray) -> float:
    """Probability that a positive scores above a negative, a shared bin counting half.

    Args:
        negatives: [B] count of negative rows per bin, by ascending score.
        positives: [B] count of positive rows per bin.

    Returns:
        The area under the ROC curve; NaN when either class is empty.
    """
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float(positives @ (below + negatives / 2) / pairs) if pairs else float("nan")


def task_mae(rows: Rows) -> FloatArray:
    """Mean absolute error of each task, [G]."""
    return divide_or_nan(np.add.reduceat(_absolute_error(rows), rows.start), rows.task_size)


def _absolute_error(rows: Rows) -> FloatArray:
    error: FloatArray = np.abs(rows.label - rows.prediction)
    return error


def _squared_error(rows: Rows) -> FloatArray:
    return (rows.label - rows.prediction) ** 2


def _correct(rows: Rows) -> FloatArray:
    return np.equal(rows.label > 0.5, rows.prediction > 0.5).astype(np.float64)


def _log_loss(rows: Rows) -> FloatArray:
    outside = np.abs(rows.prediction - 0.5) > 0.5 + _PROBABILITY_SLACK
    if outside.any():
        raise ValueError(
            f"log_loss: expected probabilities in [0, 1], received {outside.sum()} of "
            f"{outside.size} outside, the first {rows.prediction[outside][0]:g}; train "
            "with binary_crossentropy, or leave log_loss out of the metrics"
        )
    probability = rows.prediction.clip(_PROBABILITY_CLIP, 1 - _PROBABILITY_CLIP)
    loss: FloatArray = -np.log(np.where(rows.label > 0.5, probability, 1 - probability))
    return loss


class Metric(abc.ABC):
    """What to add up over rows and how to finish it: a value without state, the sums are outside.

    `name` is what :func:`metric` calls it, `num_sums` the length of its sums; `needs_whole_tasks`
    says that :meth:`add` must be given all rows of a task in one call.
    """

    name: str
    num_sums: int = 2
    needs_whole_tasks: bool = False

    @property
    def is_weighted(self) -> bool:
        """Whether rows count by their weights."""
        return self.name.startswith(_WEIGHTED)

    @property
    def is_of_clicks(self) -> bool:
        """Whether it tells positive labels from negative ones, and so says nothing of ratings."""
        name = self.name.removeprefix(_WEIGHTED)
        return name in _OF_CLICKS or name.startswith("recall@")

    @property
    def is_of_probabilities(self) -> bool:
        """Whether predictions have to be in [0, 1]."""
        return self.name.removeprefix(_WEIGHTED) == "log_loss"

    @property
    def is_better_when_larger(self) -> bool:
        """Whether a larger value is the better one."""
        return self.name.removeprefix(_WEIGHTED) not in ERRORS

    @abc.abstractmethod
    def add(self, sums: FloatArray, rows: Rows) -> None:
        """Adds `rows` to `sums`, float64 [num_sums], in place."""

    @abc.abstractmethod
    def result(self, sums: FloatArray) -> float:
        """Finishes float64 [num_sums] into the number; NaN when no row counts."""

    @abc.abstractmethod
    def of_counted_tasks(self, rows: Rows, counts: FloatArray) -> FloatArray:
        """The metric where each task is there so many times, for each of B samples of tasks.

        Args:
            rows: G whole tasks.
            counts: float64 [B, G], whole numbers.

        Returns:
            float64 [B]; NaN when no row of a sample counts.
        """

    def value(
        self,
        task: ArrayLike,
        label: ArrayLike,
        prediction: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> float:
        """The metric of rows [n] that are all at hand, as for a baseline.

        >>> metric("task_auc").value([7, 7, 7, 9, 9], [1, 0, 1, 0, 1], [0.9, 0.2, 0.2, 0.4, 0.3])
        0.375
        """
        weights = {} if weight is None else {"weight": weight}
        task, columns = checked_columns(task, label=label, prediction=prediction, **weights)
        sums = np.zeros(self.num_sums)
        if task.size:
            self.add(sums, Rows(task_starts(task), *columns))
        return self.result(sums)


@dataclass(frozen=True)
class Mean(Metric):
    """Mean of ``values(rows)``, [n] or [G], leaving out NaN; `root` takes its square root.

    `weighted` has values of rows count by the rows' weights.
    """

    name: str
    values: Callable[[Rows], FloatArray]
    needs_whole_tasks: bool = False
    root: bool = False
    weighted: bool = False

    def add(self, sums: FloatArray, rows: Rows) -> None:
        values = self.values(rows)
        counts = ~np.isnan(values)
        if self.weighted:
            weights = rows.weights[counts]
            sums += (weights @ values[counts], weights.sum())
        else:
            sums += (values[counts].sum(), counts.sum())

    def of_counted_tasks(self, rows: Rows, counts: FloatArray) -> FloatArray:
        values = self.values(rows)
        counted = ~np.isnan(values)
        sums = np.stack([np.where(counted, values, 0.0), counted])
        if self.weighted:
            sums *= rows.weights
        if not self.needs_whole_tasks:
            sums = np.add.reduceat(sums, rows.start, axis=1)
        totals, num_values = counts @ sums[0], counts @ sums[1]
        means = divide_or_nan(totals, num_values)
        return np.sqrt(means) if self.root else means

    def result(self, sums: FloatArray) -> float:
        mean = float(sums[0] / sums[1]) if sums[1] else float("nan")
        return mean**0.5 if self.root else mean


@dataclass(frozen=True)
class PooledAuc(Metric):
    """ROC AUC over the rows of all tasks, from a histogram of :func:`score_bins` per class.

    Only a pair that shares a bin can be miscounted, by a half, so :meth:`error_bound` holds: below
    2e-4 for logits spread like a standard normal. In a bin those errors go both ways, so the error
    met is far smaller: 4e-7 on 200 000 such rows, 3e-4 if their spread is a hundredth of that.
    Exact when no bin holds two different scores. The sums take 2 MiB for any number of rows.
    `weighted` has a row of weight w count as w rows.
    """

    name: str = "auc"
    weighted: bool = False
    num_sums = 2 * _NUM_BINS  # counts of the negatives, then of the positives

    def add(self, sums: FloatArray, rows: Rows) -> None:
        counts = rows.weights if self.weighted else 1.0
        np.add.at(sums, score_bins(rows.prediction) + _NUM_BINS * (rows.label > 0.5), counts)

    def result(self, sums: FloatArray) -> float:
        return histogram_auc(sums[:_NUM_BINS], sums[_NUM_BINS:])

    def of_counted_tasks(self, rows: Rows, counts: FloatArray) -> FloatArray:
        # Of the bins only those that have a row: a sample costs what its rows do.
        bins, place = np.unique(score_bins(rows.prediction), return_inverse=True)
        place = place + len(bins) * (rows.label > 0.5)
        task, weights = rows.task_index, rows.weights if self.weighted else 1.0
        values = [
            histogram_auc(*np.bincount(place, own[task] * weights, 2 * len(bins)).reshape(2, -1))
            for own in counts
        ]
        return np.array(values)

    def error_bound(self, sums: FloatArray) -> float:
        """The most by which the result can be off: half the share of pairs that share a bin."""
        negatives, positives = sums[:_NUM_BINS], sums[_NUM_BINS:]
        pairs = positives.sum() * negatives.sum()
        return float(positives @ negatives / pairs / 2) if pairs else float("nan")


_WEIGHTED = "weighted_"
_OF_CLICKS = ("auc", "task_auc", "log_loss", "accuracy", "mrr")
_AT_K = {"ndcg": task_ndcg, "recall": task_recall}
ERRORS = ("log_loss", "mae", "rmse", "task_mae")
_UNWEIGHTED: tuple[Mean | PooledAuc, ...] = (
    PooledAuc(),
    Mean("task_auc", task_auc, needs_whole_tasks=True),
    Mean("log_loss", _log_loss),
    Mean("accuracy", _correct),
    Mean("mae", _absolute_error),
    Mean("rmse", _squared_error, root=True),
    Mean("task_mae", task_mae, needs_whole_tasks=True),
    Mean("mrr", task_mrr, needs_whole_tasks=True),
)
_METRICS: tuple[Metric, ...] = (
    *_UNWEIGHTED,
    *(
        replace(known, name=f"{_WEIGHTED}{known.name}", weighted=True)
        for known in _UNWEIGHTED
        if not known.needs_whole_tasks
    ),
)


def metric(name: str) -> Metric:
    """The metric called `name`.

    * ``auc``: ROC AUC over all rows pooled, see :class:`PooledAuc`.
    * ``task_auc``: mean of the exact AUC in a task, over the tasks that have both classes.
    * ``log_loss``: over all rows, in nats, probabilities clipped to [1e-7, 1 - 1e-7].
    * ``accuracy``: over all rows; a prediction above 0.5 says positive.
    * ``mae``, ``rmse``: over all rows.
    * ``task_mae``: mean over tasks of the task's mean absolute error, as MeLU averages over users.
    * ``ndcg@k``, k = 1, 2, ...: mean over the tasks that have a label above 0, see
      :func:`task_ndcg`.
    * ``recall@k``, k = 1, 2, ...: mean over the tasks that have a positive of the share of its
      positives among the first k rows, see :func:`task_recall`.
    * ``mrr``: mean over the same tasks of the reciprocal rank of the first positive.
    * ``weighted_auc``, ``weighted_log_loss``, ``weighted_accuracy``, ``weighted_mae`` and
      ``weighted_rmse``: over all rows, of which one of weight w counts as w rows.

    Raises:
        ValueError: No metric has that name.
    """
    for known in _METRICS:
        if known.name == name:
            return known
    cut_off = re.fullmatch(r"(ndcg|recall)@([1-9][0-9]*)", name)
    if cut_off:
        values = partial(_AT_K[cut_off[1]], k=int(cut_off[2]))
        return Mean(name, values, needs_whole_tasks=True)
    names = ", ".join(known.name for known in _UNWEIGHTED)
    weighted = ", ".join(known.name for known in _METRICS if known.is_weighted)
    raise ValueError(
        f"metric: expected one of {names}, ndcg@k or recall@k with k = 1, 2, ..., or {weighted}; "
        f"received {name!r}; correct the name"
    )
