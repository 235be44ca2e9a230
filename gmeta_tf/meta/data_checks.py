"""Data that a model was not compiled for, told before the first step, on every rank alike."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import numpy as np

from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta.losses import RowLoss
from gmeta_tf.meta.validation import LABEL_REMEDY
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.dense_scale import unscaled_fields
from gmeta_tf.meta_io.records.index_checks import index_chunks

__all__ = ["check_labels", "check_whole_tasks", "warn_of_dense_scale"]

_LOG = logging.getLogger(__name__)

# All ranks read the same rows, and soon. Steps check the others.
_ROWS_READ = 1 << 14


def check_labels(batches: TaskBatches, loss: RowLoss, metrics: Sequence[str]) -> None:
    """Raises for labels that the loss or a metric says nothing of, such as ratings in log loss.

    Only the first rows of the split are read, and none where `positive_from` makes labels 0 or 1.

    Args:
        batches: the data.
        loss: what the model was compiled with.
        metrics: the names of its metrics.

    Raises:
        ValueError: a label out of range.
    """
    of_clicks = [name for name in metrics if metric(name).is_of_clicks]
    of_errors = [name for name in metrics if not metric(name).is_better_when_larger]
    if loss.takes_values and batches.schema.positive_from is not None and of_errors:
        raise ValueError(
            f"metrics: expected those that rank, such as auc and task_auc, with the loss "
            f"{loss.name} over a schema with positive_from, got {', '.join(of_errors)}: "
            "predictions are ratings there, and the labels of metrics 0 and 1. Leave it out."
        )
    if batches.schema.positive_from is not None or not (loss.labels or of_clicks):
        return
    labels = _first_labels(batches)
    where = f"the split {batches.split!r} of {batches.records.path}"
    got = f"labels from {labels.min():g} to {labels.max():g} in {where}"
    if loss.labels is not None and _is_outside(labels, loss.labels):
        lowest, highest = loss.labels
        raise ValueError(
            f"{loss.name}: expected labels from {lowest:g} to {highest:g}, got {got}. "
            f"{LABEL_REMEDY}"
        )
    if of_clicks and _is_outside(labels, (0.0, 1.0)):
        raise ValueError(
            f"metrics: expected those of numbers, such as rmse and mae, got "
            f"{', '.join(of_clicks)}, which need labels of 0 and 1, and {got}. Give other "
            "metrics, or state positive_from in the schema and prepare the data again."
        )


def check_whole_tasks(batches: TaskBatches) -> None:
    """Raises for an evaluation that would take a task's episodes for tasks of their own.

    Args:
        batches: the data.

    Raises:
        ValueError: a task has several episodes, and the batches do not put them together.
    """
    if batches.every_query:
        return
    if any((part["part"] > 0).any() for part in index_chunks(batches.records.index(batches.split))):
        raise ValueError(
            f"evaluation: expected TaskBatches with every_query=True, since tasks of the split "
            f"{batches.split!r} have several episodes, got every_query=False, which makes a task "
            "of each. Set every_query=True."
        )


def warn_of_dense_scale(batches: TaskBatches) -> None:
    """Warns of dense values that are too large to be learned from as they are; once a folder.

    Args:
        batches: the data to train on.
    """
    records = batches.records
    _warn_once(records.path, records.generation, tuple(unscaled_fields(records)))


@functools.lru_cache(maxsize=256)
def _warn_once(path: str, generation: int, warnings: tuple[str, ...]) -> None:
    for text in warnings:
        _LOG.warning("%s: %s", path, text)


def _first_labels(batches: TaskBatches) -> np.ndarray:
    """The labels of a split's first rows, at least one."""
    labels, num_rows = [], 0
    for _, words in batches.records.read(batches.split):
        labels.append(words[0].view(np.float32))
        num_rows += words.shape[1]
        if num_rows >= _ROWS_READ:
            break
    return np.concatenate(labels)


def _is_outside(labels: np.ndarray, of: tuple[float, float]) -> bool:
    return not bool(((labels >= of[0]) & (labels <= of[1])).all())
