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
from typing import NamedTuple

import tensorflow as tf

__all__ = [
    "ClosedForm",
    "Evidence",
    "Posterior",
    "TaskRowsSeen",
    "evidence",
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
        features: float `[T, R, D]`, 0 where a row is missing.
        residual: float `[T, R]`, the label less the prediction before adaptation, 0 likewise.
        count: float `[T]`, how many rows are present.
    """

    features: tf.Tensor
    residual: tf.Tensor
    count: tf.Tensor

    @classmethod
    def of(cls, features: tf.Tensor, residual: tf.Tensor, weight: tf.Tensor) -> TaskRowsSeen:
        """Rows, of which those of weight 0 are missing."""
        return cls(
            features * weight[..., tf.newaxis], residual * weight, tf.reduce_sum(weight, axis=1)
        )


class Evidence(NamedTuple):
    """What rows say of a task's own values z: all that a posterior needs of them.

    Attributes:
        precision: float `[T, D, D]`, `B^T B / noise^2`.
        pull: float `[T, D]`, `B^T residual / noise^2`.
    """

    precision: tf.Tensor
    pull: tf.Tensor


class Posterior(NamedTuple):
    """The Gaussian of a task's own values after some rows.

    Attributes:
        mean: float `[T, D]`.
        root: float `[T, D, D]`, the lower Cholesky factor of its inverse covariance.
    """

    mean: tf.Tensor
    root: tf.Tensor


def evidence(rows: TaskRowsSeen, noise: tf.Tensor) -> Evidence:
    """The evidence of rows; that of two sets of rows adds up."""
    scaled = rows.features / tf.square(noise)
    return Evidence(
        tf.matmul(rows.features, scaled, transpose_a=True),
        tf.linalg.matvec(scaled, rows.residual, transpose_a=True),
    )


def posterior(seen: Evidence) -> Posterior:
    """`N((I + precision)^-1 pull, (I + precision)^-1)`; without rows it is the prior, `N(0, I)`."""
    identity = tf.eye(seen.pull.shape[-1], dtype=seen.pull.dtype)
    root = tf.linalg.cholesky(identity + seen.precision)
    mean = tf.linalg.cholesky_solve(root, seen.pull[..., tf.newaxis])
    return Posterior(mean[..., 0], root)


def predictive(own: Posterior, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What the own values add to each row, and its variance (that of the noise not included).

    Args:
        own: of T tasks.
        features: float `[T, R, D]`.

    Returns:
        The posterior mean of `B z` and its variance, each `[T, R]`.
    """
    spread = tf.linalg.triangular_solve(own.root, tf.linalg.matrix_transpose(features))
    return tf.linalg.matvec(features, own.mean), tf.reduce_sum(tf.square(spread), axis=1)


def query_loss(
    before: Evidence, own: Posterior, query: TaskRowsSeen, noise: tf.Tensor
) -> tf.Tensor:
    """`-log p(query labels | support labels)` of each task, in nats, `[T]`.

    The joint likelihood: query rows share the task's own values, of which the support says only so
    much, so they are not independent. It is the likelihood of all rows over that of the support.

    Args:
        before: the evidence of the support rows.
        own: the posterior after them.
        query: the rows to be judged.
        noise: the standard deviation of a label about its prediction, a scalar.
    """
    added = evidence(query, noise)
    after = Evidence(before.precision + added.precision, before.pull + added.pull)
    all_rows = posterior(after)
    squares = tf.reduce_sum(tf.square(query.residual / noise), axis=1)
    return (
        0.5 * (squares - _explained(all_rows, after) + _explained(own, before))
        + _log_root(all_rows)
        - _log_root(own)
        + query.count * (tf.math.log(noise) + 0.5 * math.log(2 * math.pi))
    )


def _explained(own: Posterior, seen: Evidence) -> tf.Tensor:
    return tf.reduce_sum(own.mean * seen.pull, axis=1)


def _log_root(own: Posterior) -> tf.Tensor:
    """Half the log determinant of the inverse covariance, `[T]`."""
    return tf.reduce_sum(tf.math.log(tf.linalg.diag_part(own.root)), axis=1)
