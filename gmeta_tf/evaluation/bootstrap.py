"""How far a figure of an evaluation would move with other tasks: percentile intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmeta_tf.evaluation.evaluated_rows import SIDES, EvaluatedRows
from gmeta_tf.evaluation.metrics import Metric
from gmeta_tf.evaluation.rows import FloatArray

__all__ = ["bootstrap_intervals", "task_counts"]

_PERCENTILES = (2.5, 97.5)


def task_counts(num_tasks: int, num_samples: int, seed: int) -> FloatArray:
    """How often each of G tasks is in each of B samples of G tasks, drawn with replacement.

    Returns:
        float64 `[B, G]`; each row adds up to G.
    """
    draw = np.random.default_rng(seed)
    return np.stack(
        [
            np.bincount(draw.integers(num_tasks, size=num_tasks), minlength=num_tasks)
            for _ in range(num_samples)
        ]
    ).astype(np.float64)


def bootstrap_intervals(
    draws: Sequence[EvaluatedRows], metrics: Sequence[Metric], *, num_samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each figure, from tasks drawn again.

    Tasks and not rows are drawn, since the rows of a task depend on each other. A sample has the
    same tasks in all draws of the support and for both predictions; a figure is the mean over the
    draws. So the interval of a difference is a paired one: the tasks' own difficulty cancels out.

    Args:
        draws: the evaluated rows of each draw of the support, of the same tasks.
        metrics: the figures.
        num_samples: B.
        seed: of the samples.

    Returns:
        `<metric>_adapted`, `<metric>_unadapted` and `<metric>_adapted_less_unadapted` -> the 2.5th
        and the 97.5th percentile of B values; samples without a value, such as an AUC of one class,
        are left out, and of none at all it is NaN.

    Raises:
        ValueError: draws of different tasks, or no row.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    tasks = [np.unique(rows.task) for rows in draws]
    if not len(tasks[0]) or any(not np.array_equal(tasks[0], other) for other in tasks[1:]):
        raise ValueError(
            "bootstrap_intervals: expected draws of the same tasks, at least one, got "
            f"{', '.join(str(len(one)) for one in tasks)} tasks. Give each draw the same split."
        )
    counts = task_counts(len(tasks[0]), num_samples, seed)
    intervals = {}
    for metric in metrics:
        adapted, unadapted = (
            np.mean([metric.of_counted_tasks(rows.side(side), counts) for rows in draws], axis=0)
            for side in SIDES
        )
        intervals[f"{metric.name}_adapted"] = _interval(adapted)
        intervals[f"{metric.name}_unadapted"] = _interval(unadapted)
        intervals[f"{metric.name}_adapted_less_unadapted"] = _interval(adapted - unadapted)
    return intervals


def _interval(values: FloatArray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
