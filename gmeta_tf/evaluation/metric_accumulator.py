"""One rank's share of an evaluation: evaluated rows come in batches, sums go out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from gmeta_tf.evaluation.metrics import Metric, metric
from gmeta_tf.evaluation.rows import FloatArray, IntArray, Rows, checked_columns, task_starts

__all__ = ["MetricAccumulator"]


class MetricAccumulator:
    """One rank's sums of one evaluation: each metric of the adapted and the unadapted prediction.

    Rows of a task arrive together, possibly over several updates. Only the last task's rows are
    kept, and only if a metric needs whole tasks. So a task that returns after another update has
    ended in a different one counts as a new task. As long as no task is split over two ranks, the
    results of the ranks' added sums are those of one rank that saw everything.

    Attributes:
        keeps_rows: Keep all rows, too, for `kept_rows`; off unless it is set before an update.

    Args:
        names: Metric names as :func:`metric` knows them.

    Raises:
        ValueError: A name is unknown or occurs twice.

    Example: two ranks, the first gets task 7 in two chunks. A rank's sums are the number
    of tasks, of samples, then each metric's sums, adapted before unadapted:

    >>> ranks = [MetricAccumulator(["mae", "ndcg@1"]) for _ in range(2)]
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
        self.keeps_rows = False
        self._weighs_rows = any(known.is_weighted for known in self._metrics)
        self._keeps_open_task = any(known.needs_whole_tasks for known in self._metrics)
        self._sums = np.zeros(2 + 2 * sum(known.num_sums for known in self._metrics))
        self.reset()

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics' names."""
        return tuple(known.name for known in self._metrics)

    def reset(self) -> None:
        """Forgets all rows."""
        self._sums[:] = 0
        self._kept: list[tuple[IntArray, FloatArray]] = []
        self._last_task: int | None = None
        self._open_chunks: list[FloatArray] = []  # of the last task: [c, rows], as in `_add`

    def update(
        self,
        task: ArrayLike,
        label: ArrayLike,
        adapted: ArrayLike,
        unadapted: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> None:
        """Adds evaluated rows.

        Args:
            task: int64 [n], equal ones side by side; the first may continue the last update's last.
            label: [n]; for ndcg the relevance.
            adapted: [n] prediction after the inner loop: a probability, a rating or another score.
            unadapted: [n] prediction before it.
            weight: [n], at least 0, for weighted metrics; None weighs each row 1.

        Raises:
            ValueError: The shapes differ or are not [n], `task` is not of integers, a value is NaN
                or infinite, a task's rows are apart, or log_loss or ndcg cannot take the values.
        """
        weights = {}
        if self._weighs_rows:
            weights = {"weight": np.ones(np.shape(task)) if weight is None else weight}
        task, columns = checked_columns(
            task, label=label, adapted=adapted, unadapted=unadapted, **weights
        )
        if not task.size:
            return
        if self.keeps_rows:
            self._kept.append((task, columns.copy()))
        start = task_starts(task, self._last_task)
        continues = bool(task[0] == self._last_task)
        self._add(self._sums, start, columns, whole_tasks=False)
        if self._keeps_open_task:
            self._close_tasks(start, columns, continues)
        self._sums[:2] += (start.size - continues, task.size)
        self._last_task = int(task[-1])

    def kept_rows(self) -> tuple[IntArray, FloatArray]:
        """The rows since `reset`, while `keeps_rows` is set.

        Returns:
            Task, int64 [n]; label, adapted and unadapted, float64 [n, 3]; and the weight as a
            fourth column, where a metric is weighted.
        """
        tasks = [task for task, _ in self._kept]
        columns = [own.T for _, own in self._kept]
        return (
            np.concatenate([np.zeros(0, np.int64), *tasks]),
            np.concatenate([np.zeros((0, 4 if self._weighs_rows else 3)), *columns]),
        )

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
                "MetricAccumulator with the same metric names on every rank"
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
        """Adds label, adapted, unadapted and the weight if any, [c, n], to metrics of a kind."""
        label, adapted, unadapted, *weight = columns
        for known, adapted_sums, unadapted_sums in self._split(sums):
            if known.needs_whole_tasks == whole_tasks:
                known.add(adapted_sums, Rows(start, label, adapted, *weight))
                known.add(unadapted_sums, Rows(start, label, unadapted, *weight))

    def _split(self, sums: FloatArray) -> Iterator[tuple[Metric, FloatArray, FloatArray]]:
        """Each metric with its views of `sums` for the adapted and the unadapted prediction."""
        end = 2
        for known in self._metrics:
            begin, middle, end = end, end + known.num_sums, end + 2 * known.num_sums
            yield known, sums[begin:middle], sums[middle:end]
