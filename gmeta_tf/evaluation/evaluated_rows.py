"""The evaluated rows of all ranks, for what sums alone cannot tell: intervals, segments, bins."""

from __future__ import annotations

import dataclasses

import numpy as np

from gmeta_tf.evaluation.metrics import Metric
from gmeta_tf.evaluation.rows import FloatArray, IntArray, Rows

__all__ = ["SIDES", "EvaluatedRows"]

SIDES = ("adapted", "unadapted")


@dataclasses.dataclass(frozen=True)
class EvaluatedRows:
    """Query rows with their predictions, by task in ascending order: the same at any W.

    Attributes:
        task: int64 `[n]`.
        label: float64 `[n]`.
        adapted: float64 `[n]`, the prediction after the inner loop.
        unadapted: float64 `[n]`, the one before it.
        weight: float64 `[n]`; None where no metric asks for it.
    """

    task: IntArray
    label: FloatArray
    adapted: FloatArray
    unadapted: FloatArray
    weight: FloatArray | None = None

    @classmethod
    def sorted(cls, columns: FloatArray, task: IntArray) -> tuple[EvaluatedRows, IntArray]:
        """Rows in any order of tasks, in the order of tasks; of a task they keep their order.

        Args:
            columns: label, adapted and unadapted, `[n, 3]`, and the weight in a fourth if any.
            task: int64 `[n]`.

        Returns:
            The rows, and the order that they were put in, for other columns of theirs.
        """
        order = np.argsort(task, kind="stable")
        label, adapted, unadapted, *weight = columns[order].astype(np.float64).T
        return cls(task[order], label, adapted, unadapted, *weight), order

    def __len__(self) -> int:
        return len(self.task)

    @property
    def num_tasks(self) -> int:
        """The number of distinct tasks, G."""
        return len(np.unique(self.task))

    def take(self, which: np.ndarray) -> EvaluatedRows:
        """The rows of a mask `[n]`."""
        weight = None if self.weight is None else self.weight[which]
        return EvaluatedRows(
            self.task[which], self.label[which], self.adapted[which], self.unadapted[which], weight
        )

    def side(self, name: str) -> Rows:
        """The rows as a metric takes them, with the predictions of one of `SIDES`."""
        start = np.flatnonzero(np.diff(self.task, prepend=self.task[0] - 1))
        return Rows(start, self.label, getattr(self, name), self.weight)

    def value(self, metric: Metric, side: str) -> float:
        """A metric of the rows; NaN where no row counts."""
        if not len(self):
            return float("nan")
        return metric.value(self.task, self.label, getattr(self, side), self.weight)
