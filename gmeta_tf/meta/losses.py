"""Losses of single rows, and the mean of a task's rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from gmeta_tf.allowed import LOSSES, check_word
from gmeta_tf.batch import LabelledRows, values_of

__all__ = ["RowLoss", "rating_loss", "row_loss", "task_losses"]

RowFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _click_loss(label: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=output)


def _rating_loss(label: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    return tf.square(label - output)


@dataclasses.dataclass(frozen=True)
class RowLoss:
    """The loss and the prediction of a learner's raw output.

    Attributes:
        name: for messages and configurations.
        loss: `(label, output) -> loss`, each `[..., R]`, twice differentiable in the output.
        predict: `output -> prediction`, `[..., R]`.
        metrics: what `compile` evaluates by default.
        labels: the smallest and the largest label that the loss is right for; None takes any.
        takes_logits: whether the output is a logit, so that the learner must not end in a sigmoid.
        predicts_probabilities: whether predictions are in [0, 1], as log_loss needs them; None is
            unknown, and then evaluation looks.
        takes_values: whether it takes labels as they stand in the data, where the schema's
            `positive_from` makes 0 or 1 of them.
        settings: the numbers that make another loss of that name; all ranks must have the same.

    Example:
        >>> def absolute(label, output):
        ...     return tf.sqrt(tf.square(label - output) + 1e-6)
        >>> loss = RowLoss("absolute", absolute, tf.identity, metrics=("rmse", "mae"))
        >>> loss.loss(tf.constant([1.0, 1.0]), tf.constant([0.5, 4.0])).numpy().round(3).tolist()
        [0.5, 3.0]
    """

    name: str
    loss: RowFunction
    predict: Callable[[tf.Tensor], tf.Tensor]
    metrics: tuple[str, ...] = ("auc", "task_auc")
    labels: tuple[float, float] | None = None
    takes_logits: bool = False
    predicts_probabilities: bool | None = None
    takes_values: bool = False
    settings: tuple[float, ...] = ()

    def labels_of(self, rows: LabelledRows) -> tf.Tensor:
        """The labels that the loss takes, `[T, R]`."""
        return values_of(rows) if self.takes_values else rows["label"]


def rating_loss(centre: float = 0.0, scale: float = 1.0) -> RowLoss:
    """The squared error of ratings, where `positive_from` makes clicks of them for the metrics.

    A support rating of 1 says more of a task than that it is no click, and so does one of a query
    row that is learned from. The prediction is a rating, and ranks as one.

    Args:
        centre: the rating of an output of 0, such as the mean rating.
        scale: what an output of 1 adds to it, such as the ratings' standard deviation. The error is
            in units of it.

    Raises:
        ValueError: a centre that is not finite, or a scale that is not above 0.

    Example:
        >>> float(rating_loss(3.5, 0.5).predict(tf.constant(1.0)))
        4.0
    """
    if not math.isfinite(centre) or not 0 < scale < math.inf:
        raise ValueError(
            f"rating_loss: expected a finite centre and a finite scale above 0, got {centre} and "
            f"{scale}."
        )
    return RowLoss(
        "ratings",
        lambda label, output: tf.square((label - centre) / scale - output),
        lambda output: centre + scale * output,
        predicts_probabilities=False,
        takes_values=True,
        settings=(centre, scale),
    )


_BY_NAME = {
    "binary_crossentropy": RowLoss(
        "binary_crossentropy",
        _click_loss,
        tf.sigmoid,
        metrics=("auc", "task_auc", "log_loss"),
        labels=(0.0, 1.0),
        takes_logits=True,
        predicts_probabilities=True,
    ),
    "mean_squared_error": RowLoss(
        "mean_squared_error",
        _rating_loss,
        tf.identity,
        metrics=("rmse", "mae"),
        predicts_probabilities=False,
    ),
    "ratings": rating_loss(),
}


def row_loss(loss: str | RowLoss) -> RowLoss:
    """The loss of that name: `"binary_crossentropy"` (the learner's output is a logit, the
    prediction its sigmoid), `"mean_squared_error"` (the output is the prediction) or `"ratings"`
    (`rating_loss`, in its units).

    `"bce"`, `"mse"` and the names of Keras's classes mean the same.

    Args:
        loss: a name, or a `RowLoss`, which is returned unchanged.

    Raises:
        ValueError: no loss has that name.
    """
    if isinstance(loss, RowLoss):
        return loss
    check_word(
        "loss",
        loss,
        LOSSES,
        "It may also be a RowLoss. A Keras loss averages over rows, which would mix tasks.",
    )
    return _BY_NAME[LOSSES[loss]]


def task_losses(loss: RowLoss, label: tf.Tensor, output: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Each task's weighted mean over its rows, `[T]`; 0 for a task without rows, or of weight 0.

    Args:
        loss: of a row.
        label: float `[T, R]`.
        output: float `[T, R]`, the learner's; or `[T, R, H]` of several heads, whose losses are
            averaged.
        weight: float `[T, R]`, 0 where a row is missing; a row of weight 2 counts as two rows.
    """
    if output.shape.rank == 3:
        labels = tf.broadcast_to(label[:, :, tf.newaxis], tf.shape(output))
        of_rows = tf.reduce_mean(loss.loss(labels, output), axis=2)
    else:
        of_rows = loss.loss(label, output)
    summed = tf.reduce_sum(weight * of_rows, axis=1)
    return tf.math.divide_no_nan(summed, tf.reduce_sum(weight, axis=1))
