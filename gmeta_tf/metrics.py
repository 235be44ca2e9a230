"""Metrics of judged rows, as float64 sums that ranks add and then finish into numbers.

A rank adds up its own rows, one all-reduce adds the ranks, and :meth:`JudgementSums.results`
divides. A mean of the ranks' means would weigh a rank with few rows as much as one with many; sums
do not, and a rank without rows is zeros.

Shapes: n rows, G tasks in them, B histogram bins. A label above 0.5 is *positive*.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "JudgementSums",
    "Mean",
    "Metric",
    "PooledAuc",
    "Rows",
    "histogram_auc",
    "metric",
    "score_bins",
    "task_auc",
    "task_mae",
    "task_ndcg",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_NUM_BINS = 2**17
_BIN_RANGE = 64.0  # `score_bins` cuts its map at -64 and 64: scores beyond -2.3e6 and 2.3e6 tie
_SMALLEST_STEP = 2.0**-24  # float32's step just below 1
_MAX_RELEVANCE = 512.0  # 2 ** relevance, and sums of it, stay far inside float64
_PROBABILITY_CLIP = 1e-7
_PROBABILITY_SLACK = 1e-6  # a float32 mixture of probabilities may pass 1 by rounding


@dataclass(frozen=True)
class Rows:
    """Judged rows (n > 0), each task's side by side.

    `start` int64 [G] is the index of each task's first row, ascending from 0; `label` and
    `prediction` are float64 [n].
    """

    start: IntArray
    label: FloatArray
    prediction: FloatArray

    @property
    def task_size(self) -> IntArray:
        """[G] number of rows."""
        return np.diff(self.start, append=self.label.size)

    @property
    def task_index(self) -> IntArray:
        """[n] index in [0, G) of each row's task."""
        return np.repeat(np.arange(self.start.size), self.task_size)


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


def task_auc(rows: Rows) -> FloatArray:
    """Exact ROC AUC within each task, ties counting half: [G], NaN without both classes."""
    task = rows.task_index
    order = np.lexsort((rows.prediction, task))
    positive = (rows.label[order] > 0.5).astype(np.float64)
    tie_start = _run_starts(task, rows.prediction[order])
    positives = np.add.reduceat(positive, tie_start)
    negatives = np.add.reduceat(1 - positive, tie_start)

    first_tie = np.searchsorted(tie_start, rows.start)
    below = np.cumsum(negatives) - negatives
    below -= below[first_tie][task[tie_start]]  # leaves out the tasks before
    won = np.add.reduceat(positives * (below + negatives / 2), first_tie)
    pairs = np.add.reduceat(positives, first_tie) * np.add.reduceat(negatives, first_tie)
    return _divide_or_nan(won, pairs)


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

    tie_start = _run_starts(task, rows.prediction[order])
    mean_gain = np.add.reduceat(gain[order], tie_start) / np.diff(tie_start, append=size)
    expected = mean_gain * np.add.reduceat(discount, tie_start)
    gained = np.add.reduceat(expected, np.searchsorted(tie_start, rows.start))
    return _divide_or_nan(gained, np.add.reduceat(gain[best_order] * discount, rows.start))


def task_mae(rows: Rows) -> FloatArray:
    """Mean absolute error of each task, [G]."""
    return _divide_or_nan(np.add.reduceat(_absolute_error(rows), rows.start), rows.task_size)


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
            f"{outside.size} outside, the first {rows.prediction[outside][0]:g}; end the model "
            "in a sigmoid, or leave log_loss out of the metrics"
        )
    probability = rows.prediction.clip(_PROBABILITY_CLIP, 1 - _PROBABILITY_CLIP)
    loss: FloatArray = -np.log(np.where(rows.label > 0.5, probability, 1 - probability))
    return loss


def _run_starts(*columns: NDArray[np.generic]) -> IntArray:
    """First index of each run of rows that are equal in all columns, each [n] with n > 0."""
    changed = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.concatenate(([0], np.flatnonzero(changed) + 1))


def _divide_or_nan(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


class Metric(abc.ABC):
    """What to add up over rows and how to finish it: a value without state, the sums are outside.

    `name` is what :func:`metric` calls it, `num_sums` the length of its sums; `needs_whole_tasks`
    says that :meth:`add` must be given all rows of a task in one call.
    """

    name: str
    num_sums: int = 2
    needs_whole_tasks: bool = False

    @abc.abstractmethod
    def add(self, sums: FloatArray, rows: Rows) -> None:
        """Adds `rows` to `sums`, float64 [num_sums], in place."""

    @abc.abstractmethod
    def result(self, sums: FloatArray) -> float:
        """Finishes float64 [num_sums] into the number; NaN when nothing could be judged."""

    def value(self, task: ArrayLike, label: ArrayLike, prediction: ArrayLike) -> float:
        """The metric of rows [n] that are all at hand, as for a baseline.

        >>> metric("task_auc").value([7, 7, 7, 9, 9], [1, 0, 1, 0, 1], [0.9, 0.2, 0.2, 0.4, 0.3])
        0.375
        """
        task, columns = _checked_columns(task, label=label, prediction=prediction)
        sums = np.zeros(self.num_sums)
        if task.size:
            self.add(sums, Rows(_task_starts(task), *columns))
        return self.result(sums)


@dataclass(frozen=True)
class Mean(Metric):
    """Mean of ``values(rows)``, [n] or [G], leaving out NaN; `root` takes its square root."""

    name: str
    values: Callable[[Rows], FloatArray]
    needs_whole_tasks: bool = False
    root: bool = False

    def add(self, sums: FloatArray, rows: Rows) -> None:
        values = self.values(rows)
        judged = ~np.isnan(values)
        sums += (values[judged].sum(), judged.sum())

    def result(self, sums: FloatArray) -> float:
        mean = float(sums[0] / sums[1]) if sums[1] else float("nan")
        return mean**0.5 if self.root else mean


@dataclass(frozen=True)
class PooledAuc(Metric):
    """ROC AUC over the rows of all tasks, from a histogram of :func:`score_bins` per class.

    Only a pair that shares a bin can be misjudged, by a half, so :meth:`error_bound` holds: below
    2e-4 for logits spread like a standard normal. In a bin those errors go both ways, so the error
    met is far smaller: 4e-7 on 200 000 such rows, 3e-4 if their spread is a hundredth of that.
    Exact when no bin holds two different scores. The sums take 2 MiB for any number of rows.
    """

    name: str = "auc"
    num_sums = 2 * _NUM_BINS  # counts of the negatives, then of the positives

    def add(self, sums: FloatArray, rows: Rows) -> None:
        np.add.at(sums, score_bins(rows.prediction) + _NUM_BINS * (rows.label > 0.5), 1.0)

    def result(self, sums: FloatArray) -> float:
        return histogram_auc(sums[:_NUM_BINS], sums[_NUM_BINS:])

    def error_bound(self, sums: FloatArray) -> float:
        """The most by which the result can be off: half the share of pairs that share a bin."""
        negatives, positives = sums[:_NUM_BINS], sums[_NUM_BINS:]
        pairs = positives.sum() * negatives.sum()
        return float(positives @ negatives / pairs / 2) if pairs else float("nan")


_METRICS: tuple[Metric, ...] = (
    PooledAuc(),
    Mean("task_auc", task_auc, needs_whole_tasks=True),
    Mean("log_loss", _log_loss),
    Mean("accuracy", _correct),
    Mean("mae", _absolute_error),
    Mean("rmse", _squared_error, root=True),
    Mean("task_mae", task_mae, needs_whole_tasks=True),
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

    Raises:
        ValueError: There is no metric of that name.
    """
    for known in _METRICS:
        if known.name == name:
            return known
    cut_off = re.fullmatch(r"ndcg@([1-9][0-9]*)", name)
    if cut_off:
        return Mean(name, partial(task_ndcg, k=int(cut_off[1])), needs_whole_tasks=True)
    names = ", ".join(known.name for known in _METRICS)
    raise ValueError(
        f"metric: expected one of {names}, ndcg@k with k = 1, 2, ...; received {name!r}; "
        "correct the name"
    )


class JudgementSums:
    """One rank's sums of one evaluation: each metric of the adapted and the unadapted prediction.

    Rows of a task arrive together, possibly cut over several updates. Only the last task's rows are
    kept, and only if a metric needs whole tasks; so a task that comes back after a later update has
    ended in another one is not noticed, and counts as a new task. As long as no task is split over
    two ranks, the results of the ranks' added sums are those of one rank that saw everything.

    Args:
        names: Metric names as :func:`metric` knows them.

    Raises:
        ValueError: A name is unknown or occurs twice.

    Example, two ranks, of which the first gets task 7 in two chunks. A rank's sums are the number
    of tasks, of samples, then each metric's sums, adapted before unadapted:

    >>> ranks = [JudgementSums(["mae", "ndcg@1"]) for _ in range(2)]
    >>> ranks[0].update([7, 7], [0, 1], adapted=[0.5, 0.75], unadapted=[0.5, 0.5])
    >>> ranks[0].update([7, 7], [0, 1], adapted=[0.5, 0.25], unadapted=[0.5, 0.5])
    >>> ranks[1].update([9, 9], [1, 0], adapted=[0.75, 0.0], unadapted=[0.5, 0.5])
    >>> ranks[0].sums().tolist()
    [1.0, 4.0, 2.0, 4.0, 2.0, 4.0, 1.0, 1.0, 0.5, 1.0]
    >>> ranks[1].sums().tolist()
    [1.0, 2.0, 0.25, 2.0, 1.0, 2.0, 1.0, 1.0, 0.5, 1.0]
    >>> ranks[0].results(ranks[0].sums() + ranks[1].sums())  # doctest: +NORMALIZE_WHITESPACE
    {'tasks': 2.0, 'samples': 6.0, 'mae_adapted': 0.375, 'mae_unadapted': 0.5,
     'ndcg@1_adapted': 1.0, 'ndcg@1_unadapted': 0.5}
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._metrics = tuple(metric(name) for name in names)
        received = [known.name for known in self._metrics]
        if len(set(received)) < len(received):
            raise ValueError(f"names: expected each metric once, received {received}; remove one")
        self._keeps_open_task = any(known.needs_whole_tasks for known in self._metrics)
        self._sums = np.zeros(2 + 2 * sum(known.num_sums for known in self._metrics))
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self._sums[:] = 0
        self._last_task: int | None = None
        self._open_chunks: list[FloatArray] = []  # of the last task: [3, rows], as in `_add`

    def update(
        self, task: ArrayLike, label: ArrayLike, adapted: ArrayLike, unadapted: ArrayLike
    ) -> None:
        """Adds judged rows.

        Args:
            task: int64 [n], equal ones side by side; the first may continue the last update's last.
            label: [n]; for ndcg the relevance.
            adapted: [n] prediction after the inner loop: a probability, a rating or another score.
            unadapted: [n] prediction before it.

        Raises:
            ValueError: The shapes differ or are not [n], `task` is not of integers, a value is NaN
                or infinite, a task's rows are apart, or log_loss or ndcg cannot take the values.
        """
        task, columns = _checked_columns(task, label=label, adapted=adapted, unadapted=unadapted)
        if not task.size:
            return
        start = _task_starts(task, self._last_task)
        continues = bool(task[0] == self._last_task)
        self._add(self._sums, start, columns, whole_tasks=False)
        if self._keeps_open_task:
            self._close_tasks(start, columns, continues)
        self._sums[:2] += (start.size - continues, task.size)
        self._last_task = int(task[-1])

    def sums(self) -> FloatArray:
        """This rank's sums so far, float64 [k] where k depends on the names alone.

        The last task is counted as if complete, yet stays open: a later update may go on with it.
        """
        sums = self._sums.copy()
        if self._open_chunks:
            self._add(sums, np.array([0]), np.hstack(self._open_chunks), whole_tasks=True)
        return sums

    def results(self, sums: FloatArray) -> dict[str, float]:
        """Finishes sums, one rank's or all ranks' added.

        Returns:
            ``tasks`` and ``samples``, then ``<name>_adapted`` and ``<name>_unadapted`` per metric.

        Raises:
            ValueError: `sums` is not as long as this object's own.
        """
        if np.shape(sums) != self._sums.shape:
            raise ValueError(
                f"sums: expected shape {self._sums.shape}, received {np.shape(sums)}; build "
                "JudgementSums with the same metric names on every rank"
            )
        results = {"tasks": float(sums[0]), "samples": float(sums[1])}
        for known, adapted, unadapted in self._split(sums):
            results[f"{known.name}_adapted"] = known.result(adapted)
            results[f"{known.name}_unadapted"] = known.result(unadapted)
        return results

    def _close_tasks(self, start: IntArray, columns: FloatArray, continues: bool) -> None:
        """Adds the tasks that are now known to be complete, and keeps the last one's rows."""
        last_start = start[-1]
        last_rows = columns[:, last_start:].copy()  # a view would keep the whole batch alive
        if continues and last_start == 0:
            self._open_chunks.append(last_rows)
            return
        complete = np.hstack([*self._open_chunks, columns[:, :last_start]])
        num_open = sum(chunk.shape[1] for chunk in self._open_chunks)
        self._open_chunks = [last_rows]
        if complete.size:
            opened_here = start[int(continues) : -1] + num_open
            complete_start = np.concatenate(([0], opened_here)) if num_open else opened_here
            self._add(self._sums, complete_start, complete, whole_tasks=True)

    def _add(
        self, sums: FloatArray, start: IntArray, columns: FloatArray, *, whole_tasks: bool
    ) -> None:
        """Adds label, adapted and unadapted, [3, n], to the metrics of one kind."""
        label, adapted, unadapted = columns
        for known, adapted_sums, unadapted_sums in self._split(sums):
            if known.needs_whole_tasks == whole_tasks:
                known.add(adapted_sums, Rows(start, label, adapted))
                known.add(unadapted_sums, Rows(start, label, unadapted))

    def _split(self, sums: FloatArray) -> Iterator[tuple[Metric, FloatArray, FloatArray]]:
        """Each metric with its views of `sums` for the adapted and the unadapted prediction."""
        end = 2
        for known in self._metrics:
            begin, middle, end = end, end + known.num_sums, end + 2 * known.num_sums
            yield known, sums[begin:middle], sums[middle:end]


def _checked_columns(task: ArrayLike, **columns: ArrayLike) -> tuple[IntArray, FloatArray]:
    """Task as int64 [n] and the columns as finite float64 [c, n]; an error names the bad one."""
    task = np.asarray(task)
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    if task.ndim != 1 or any(values.shape != task.shape for values in arrays.values()):
        received = ", ".join(
            f"{name} {np.shape(v)}" for name, v in {"task": task, **arrays}.items()
        )
        raise ValueError(f"expected one shape [n], received {received}; flatten with reshape(-1)")
    if task.size and task.dtype.kind not in "iu":
        raise ValueError(f"task: expected integers, received {task.dtype}; use an int64 key a task")
    for name, values in arrays.items():
        bad = ~np.isfinite(values)
        if bad.any():
            raise ValueError(
                f"{name}: expected finite values, received {bad.sum()} NaN or infinite of "
                f"{bad.size}, the first in task {task[bad][0]}; look for bad input or a model that "
                "diverged (lower its learning rates)"
            )
    return task.astype(np.int64), np.stack(list(arrays.values()))


def _task_starts(task: IntArray, last_task: int | None = None) -> IntArray:
    """First row [G] of each task in [n]; raises for one that comes back, `last_task` included."""
    start = _run_starts(task)
    runs = task[start]
    if last_task is not None and runs[0] != last_task:
        runs = np.insert(runs, 0, last_task)
    distinct, num_runs = np.unique(runs, return_counts=True)
    if distinct.size < runs.size:
        raise ValueError(
            f"task {distinct[num_runs > 1][0]}: expected its rows side by side, received another "
            "task's between them; sort the rows by task"
        )
    return start
