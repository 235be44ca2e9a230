"""Predictions of query rows → how good they are task by task, and whether they are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.evaluation.ranking import task_auc
from gmeta_tf.evaluation.rows import Rows, checked_columns, task_starts

__all__ = ["activity_segments", "calibration", "size_curve", "task_aucs"]


def task_aucs(rows: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """The AUC within each task that has both classes.

    Args:
        rows: `task`, `label`, `adapted` and `unadapted`, each `[n]`, a task's rows side by side.

    Returns:
        `adapted` and `unadapted`, a list with a number for each such task; `tasks`, how many; and
        `better` and `worse`, the shares of them that adapting made better and worse.

    Example:
        >>> task_aucs({"task": [7, 7, 9], "label": [1, 0, 1],
        ...            "adapted": [0.9, 0.1, 0.5], "unadapted": [0.1, 0.9, 0.5]})
        {'adapted': [1.0], 'unadapted': [0.0], 'tasks': 1, 'better': 1.0, 'worse': 0.0}
    """
    task, columns = _columns(rows)
    if not task.size:
        return {"adapted": [], "unadapted": [], "tasks": 0, "better": None, "worse": None}
    start = task_starts(task)
    adapted, unadapted = (task_auc(Rows(start, columns[0], one)) for one in columns[1:])
    both = ~np.isnan(adapted)
    adapted, unadapted = adapted[both], unadapted[both]
    return {
        "adapted": adapted.tolist(),
        "unadapted": unadapted.tolist(),
        "tasks": len(adapted),
        "better": float((adapted > unadapted).mean()) if len(adapted) else None,
        "worse": float((adapted < unadapted).mean()) if len(adapted) else None,
    }


def calibration(rows: Mapping[str, ArrayLike], bins: int = 10) -> dict[str, Any]:
    """What share of the rows with such a probability are positive: bins of equal width.

    Args:
        rows: as of `task_aucs`; predictions are probabilities.
        bins: how many.

    Returns:
        Of `adapted` and `unadapted` each: `predicted` and `observed`, the means of the rows of each
        bin that has any, `rows`, how many those are, and `error`, the mean distance between the
        two, weighted by rows (the expected calibration error).

    Raises:
        ValueError: a prediction that is no probability.
    """
    _, (label, *predictions) = _columns(rows)
    found = {}
    for name, prediction in zip(("adapted", "unadapted"), predictions, strict=True):
        outside = (prediction < 0) | (prediction > 1)
        if outside.any():
            raise ValueError(
                f"calibration: expected probabilities, got {prediction[outside][0]:g}. Train with "
                "binary_crossentropy for them."
            )
        index = np.minimum((prediction * bins).astype(int), bins - 1)
        count = np.bincount(index, minlength=bins)
        there = count > 0
        predicted, observed = (
            np.bincount(index, one, bins)[there] / count[there] for one in (prediction, label > 0.5)
        )
        error = (np.abs(predicted - observed) * count[there]).sum() / max(len(label), 1)
        found[name] = {
            "predicted": predicted.tolist(),
            "observed": observed.tolist(),
            "rows": count[there].tolist(),
            "error": float(error),
        }
    return found


def size_curve(rows_of_sizes: Mapping[int, Mapping[str, ArrayLike]], name: str) -> dict[str, Any]:
    """A metric over the number of support rows.

    Args:
        rows_of_sizes: support rows -> the predictions of the same query rows.
        name: of the metric.

    Returns:
        `metric`, `sizes` and `values`.
    """
    values = [
        metric(name).value(rows["task"], rows["label"], rows["adapted"])
        for rows in rows_of_sizes.values()
    ]
    return {"metric": name, "sizes": list(rows_of_sizes), "values": values}


def activity_segments(rows: Mapping[str, ArrayLike], name: str, groups: int = 10) -> dict[str, Any]:
    """A metric by how many rows a task has: tasks in groups of about as many tasks.

    Args:
        rows: as of `task_aucs`.
        name: of the metric.
        groups: at most so many; tasks of as many rows are in one group.

    Returns:
        `field`, `metric`, and of each group, from the least active tasks on: `values`, its name,
        `rows`, how many it has, and the metric `adapted` and `unadapted`.

    Example:
        >>> rows = {"task": [1, 1, 2, 2, 2], "label": [1, 0, 1, 0, 0],
        ...         "adapted": [.9, .1, .9, .2, .1], "unadapted": [.1, .9, .5, .6, .1]}
        >>> found = activity_segments(rows, "auc", groups=2)
        >>> found["values"], found["adapted"], found["unadapted"]
        (['2 rows', '3 rows'], [1.0, 1.0], [0.0, 0.5])
    """
    task, (label, *sides) = _columns(rows)
    tasks, of_row = np.unique(task, return_inverse=True)
    count = np.bincount(of_row, minlength=len(tasks))
    # Where each tenth of the tasks ends, by their rows.
    ends = np.quantile(count, np.arange(1, groups + 1) / groups, method="inverted_cdf")
    ends = np.unique(ends) if len(count) else np.zeros(0, int)
    group = np.searchsorted(ends, count)[of_row] if len(count) else of_row
    found: dict[str, Any] = {"field": "query rows of a task", "metric": name, "values": []}
    found |= {"rows": [], "adapted": [], "unadapted": []}
    for place, end in enumerate(ends):
        there = group == place
        least = count[np.unique(of_row[there])].min()
        found["values"].append(f"{least:,} to {end:,} rows" if least < end else f"{end:,} rows")
        found["rows"].append(int(there.sum()))
        for side, values in zip(("adapted", "unadapted"), sides, strict=True):
            value = metric(name).value(task[there], label[there], values[there])
            found[side].append(None if np.isnan(value) else float(value))
    return found


def _columns(rows: Mapping[str, ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    names = ("label", "adapted", "unadapted")
    return checked_columns(rows["task"], **{name: rows[name] for name in names})
