"""Evaluated rows, each task's side by side: what metrics add up.

Shapes: n rows, G tasks in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FloatArray",
    "IntArray",
    "Rows",
    "checked_columns",
    "divide_or_nan",
    "run_starts",
    "task_starts",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Evaluated rows (n > 0), each task's side by side.

    `start` int64 [G] is the index of each task's first row, ascending from 0; `label`,
    `prediction` and `weight` are float64 [n], and without weights each row weighs 1.
    """

    start: IntArray
    label: FloatArray
    prediction: FloatArray
    weight: FloatArray | None = None

    @property
    def weights(self) -> FloatArray:
        """[n] the weight of each row."""
        return np.ones(self.label.size) if self.weight is None else self.weight

    @property
    def task_size(self) -> IntArray:
        """[G] number of rows."""
        return np.diff(self.start, append=self.label.size)

    @property
    def task_index(self) -> IntArray:
        """[n] index in [0, G) of each row's task."""
        return np.repeat(np.arange(self.start.size), self.task_size)


def run_starts(*columns: NDArray[np.generic]) -> IntArray:
    """First index of each run of rows that are equal in all columns, each [n] with n > 0."""
    changed = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.concatenate(([0], np.flatnonzero(changed) + 1))


def divide_or_nan(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


def checked_columns(task: ArrayLike, **columns: ArrayLike) -> tuple[IntArray, FloatArray]:
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


def task_starts(task: IntArray, last_task: int | None = None) -> IntArray:
    """First row [G] of each task in [n]; raises for one that comes back, `last_task` included."""
    start = run_starts(task)
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
