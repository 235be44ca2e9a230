"""The inner loop in closed form: the Gaussian posterior of a task's own values given its support.

The labels of a task, in units of `scale` from `centre` on, are `y = m + B z + noise`, where m is
what the learner says of a row before it knows the task, B `[R, D]` the row's features, `z ~ N(0,
I)` the task's own values, and the noise is of one variance. A prior of another covariance is one of
other features: `B L` for `L L^T`.

The posterior mean is the ridge regression of Bertinetto et al. ("Meta-learning with differentiable
closed-form solvers", ICLR 2019); the likelihood of the query rows given the support rows, which is
the outer loss, is that of a Gaussian process (Rasmussen and Williams, 2006, equation 2.30). All are
exact, for all tasks at once, and differentiable as often as one likes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

__all__ = [
    "ClosedForm",
    "Posterior",
    "TaskRowsSeen",
    "posterior",
    "predictive",
    "query_loss",
]


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """How a task adapts: by the posterior mean of its own values, in place of gradient steps.

    The learner's output has `1 + D` numbers a row: the prediction before adaptation, and the
    features over which a task has D values of its own (`models.Factors` is such a learner). Labels
    are taken as they stand in the data, so that a rating tells more than whether it is a click.

    Attributes:
        noise: where the standard deviation of a label about its prediction starts, in units of
            `scale`; it is trained.
        centre: where the label of a prediction of 0 starts; trained. The mean label is a good one.
        scale: where the label's change for a prediction of 1 starts; trained. The labels' standard
            deviation is a good one.
        cut: with log loss, where the label starts from which on a row counts as a click; trained.
            None is the schema's `positive_from`, or 0.5 for labels of 0 and 1.
        heads: H, models side by side, each with its own part of the learner's output
            (`[R, H (1 + D)]`), whose predictions are averaged. They differ by their first weights.

    Raises:
        ValueError: a noise or scale that is no finite number above 0, a centre or cut that is not
            finite, or fewer than one head.

    Example:
        >>> ClosedForm(noise=0.9).heads
        1
    """

    noise: float = 0.8
    _: dataclasses.KW_ONLY
    centre: float = 0.0
    scale: float = 1.0
    cut: float | None = None
    heads: int = 1

    def __post_init__(self) -> None:
        for name in ("noise", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"ClosedForm: expected a finite {name} above 0, got {getattr(self, name)}."
                )
        for name in ("centre", "cut"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"ClosedForm: expected a finite {name}, got {value}.")
        if self.heads < 1:
            raise ValueError(f"ClosedForm: expected heads of at least 1, got {self.heads}.")


class TaskRowsSeen(NamedTuple):
    """Rows of T tasks, R of each, whose labels are known.

    Attributes:
        features: float `[T, R, D]`, times the root of the weight; 0 where a row is missing.
        residual: float `[T, R]`, the label less the prediction before adaptation, likewise.
        count: float `[T]`, how many rows are present, each with its weight.
    """

    features: tf.Tensor
    residual: tf.Tensor
    count: tf.Tensor

    @classmethod
    def of(cls, features: tf.Tensor, residual: tf.Tensor, weight: tf.Tensor) -> TaskRowsSeen:
        """Rows, of which those of weight 0 are missing; one of weight 2 counts as two rows.

        Of w equal rows all sums over rows, `B^T B` and `B^T y`, have w times the row's term.

        Args:
            features: float `[T, R, D]`.
            residual: float `[T, R]`.
            weight: float `[T, R]`, at least 0.
        """
        root = tf.sqrt(weight)
        return cls(features * root[..., tf.newaxis], residual * root, tf.reduce_sum(weight, axis=1))


class Posterior(NamedTuple):
    """The Gaussian of a task's own values after some rows, `A = B / noise` of R rows.

    In whichever form is smaller: its inverse covariance, `I + A^T A`, is D x D; with fewer rows
    than that, those of the rows' labels, `I + A A^T`, R x R, tells the same.

    Attributes:
        mean: float `[T, D]`.
        root: float, the lower Cholesky factor: `[T, D, D]`, or `[T, R, R]`. The determinants of the
            two are equal.
        rows: None, or A `[T, R, D]` where the root is that of labels.
        explained: float `[T]`, `residual^T A mean / noise`: the squares, in units of the noise,
            that the rows' labels have less of than before.
    """

    mean: tf.Tensor
    root: tf.Tensor
    rows: tf.Tensor | None
    explained: tf.Tensor

    @property
    def half_log_determinant(self) -> tf.Tensor:
        """Half the log determinant of what `root` is of, `[T]`."""
        return tf.reduce_sum(tf.math.log(tf.linalg.diag_part(self.root)), axis=1)


def posterior(parts: Sequence[TaskRowsSeen], noise: tf.Tensor) -> Posterior:
    """A task's own values after some sets of rows; without rows the prior, `N(0, I)`.

    Args:
        parts: the sets, each of T tasks.
        noise: the standard deviation of a label about its prediction, a scalar.
    """
    scaled = [(part.features / noise, part.residual / noise) for part in parts]
    pull = tf.add_n([tf.linalg.matvec(rows, ys, transpose_a=True) for rows, ys in scaled])
    counts = [part.features.shape[1] for part in parts]
    width = pull.shape[-1]
    if None not in counts and sum(counts) < width:
        rows = tf.concat([rows for rows, _ in scaled], axis=1)
        residual = tf.concat([ys for _, ys in scaled], axis=1)
        root = _root(tf.matmul(rows, rows, transpose_b=True))
        solved = tf.linalg.cholesky_solve(root, residual[..., tf.newaxis])[..., 0]
        mean = tf.linalg.matvec(rows, solved, transpose_a=True)
    else:
        rows = None
        root = _root(tf.add_n([tf.matmul(one, one, transpose_a=True) for one, _ in scaled]))
        mean = tf.linalg.cholesky_solve(root, pull[..., tf.newaxis])[..., 0]
    return Posterior(mean, root, rows, tf.reduce_sum(pull * mean, axis=1))


def predictive(own: Posterior, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What the own values add to each row, and its variance (that of the noise not included).

    Args:
        own: of T tasks.
        features: float `[T, R, D]`.

    Returns:
        The posterior mean of `B z` and its variance, each `[T, R]`.
    """
    columns = tf.linalg.matrix_transpose(features)
    seen = columns if own.rows is None else tf.matmul(own.rows, columns)
    squares = tf.reduce_sum(tf.square(tf.linalg.triangular_solve(own.root, seen)), axis=1)
    if own.rows is not None:
        # Rounding may not make a variance of a difference negative.
        squares = tf.nn.relu(tf.reduce_sum(tf.square(features), axis=-1) - squares)
    return tf.linalg.matvec(features, own.mean), squares


def query_loss(
    before: Posterior, support: TaskRowsSeen, query: TaskRowsSeen, noise: tf.Tensor
) -> tf.Tensor:
    """`-log p(query labels | support labels)` of each task, in nats, `[T]`.

    The joint likelihood: query rows share the task's own values, of which the support says only so
    much, so they are not independent. It is the likelihood of all rows over that of the support.

    Args:
        before: the posterior after the support rows.
        support: the rows that are known.
        query: the rows to be judged.
        noise: the standard deviation of a label about its prediction, a scalar.
    """
    after = posterior([support, query], noise)
    squares = tf.reduce_sum(tf.square(query.residual / noise), axis=1)
    return (
        0.5 * (squares - after.explained + before.explained)
        + after.half_log_determinant
        - before.half_log_determinant
        + query.count * (tf.math.log(noise) + 0.5 * math.log(2 * math.pi))
    )


def _root(square: tf.Tensor) -> tf.Tensor:
    """The lower Cholesky factor of `I + square`."""
    identity = tf.eye(tf.shape(square)[-1], dtype=square.dtype)
    return tf.linalg.cholesky(identity + square)
