"""Optimizers of embedding rows: pure updates of the rows that a step touched, and of no other."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["SGD", "Adagrad", "LazyAdam", "RowOptimizer", "row_optimizer"]

Slots = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class RowOptimizer(abc.ABC):
    """One pure update, of rows that have been gathered or of a dense variable alike.

    Attributes:
        learning_rate: a number, or a schedule: a function of the step (a Keras
            LearningRateSchedule is one), counted from 0.

    Raises:
        ValueError: a learning rate of 0 or less.
    """

    learning_rate: float | Callable[[tf.Tensor], tf.Tensor] = 0.1

    def __post_init__(self) -> None:
        if not callable(self.learning_rate) and self.learning_rate <= 0:
            raise ValueError(
                f"{type(self).__name__}: expected a learning_rate above 0, "
                f"got {self.learning_rate}."
            )

    def slot_values(self) -> dict[str, float]:
        """The numbers that the optimizer keeps for each number of a row, and where they start."""
        return {}

    @abc.abstractmethod
    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        """The rows and slots after one step.

        Args:
            rows: float `[N, D]`.
            gradients: float `[N, D]`, duplicates summed.
            slots: name -> float `[N, D]`, as `slot_values` names them.
            step: int64 scalar, the steps done before this one.

        Returns:
            The new rows and the new slots, of the shapes that came.
        """

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the step, a float32 scalar."""
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        return tf.cast(rate, tf.float32)


@dataclasses.dataclass(frozen=True)
class SGD(RowOptimizer):
    """`row <- row - rate g`."""

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        return rows - self.rate(step) * gradients, {}


@dataclasses.dataclass(frozen=True)
class Adagrad(RowOptimizer):
    """`a <- a + g^2; row <- row - rate g / sqrt(a + epsilon)` (Duchi et al., JMLR 2011).

    Equal to `keras.optimizers.Adagrad`. A row that is seldom seen keeps large steps, which is why
    it suits embeddings.

    Attributes:
        initial_accumulator: where a starts.
        epsilon: keeps the quotient finite.
    """

    initial_accumulator: float = 0.1
    epsilon: float = 1e-7

    def slot_values(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        accumulator = slots["accumulator"] + tf.square(gradients)
        change = self.rate(step) * gradients * tf.math.rsqrt(accumulator + self.epsilon)
        return rows - change, {"accumulator": accumulator}


@dataclasses.dataclass(frozen=True)
class LazyAdam(RowOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) that moves a row, and lets its moments fade, only when seen.

    Equal to `keras.optimizers.Adam` for rows that every step touches. Adam itself would move every
    row of the table in every step; the bias correction counts the steps of the run, as there.

    Attributes:
        learning_rate: as for every row optimizer.
        beta_1: how much of the mean of the gradients stays.
        beta_2: how much of the mean of their squares stays.
        epsilon: keeps the quotient finite.
    """

    learning_rate: float | Callable[[tf.Tensor], tf.Tensor] = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def slot_values(self) -> dict[str, float]:
        return {"mean": 0.0, "variance": 0.0}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        count = tf.cast(step + 1, tf.float32)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, count)) / (1 - tf.pow(self.beta_1, count))
        mean = slots["mean"] + (gradients - slots["mean"]) * (1 - self.beta_1)
        variance = slots["variance"] + (tf.square(gradients) - slots["variance"]) * (
            1 - self.beta_2
        )
        change = self.rate(step) * correction * mean / (tf.sqrt(variance) + self.epsilon)
        return rows - change, {"mean": mean, "variance": variance}


def row_optimizer(name: str | RowOptimizer, **settings: Any) -> RowOptimizer:
    """The row optimizer of that name: `"sgd"`, `"adagrad"` or `"lazy_adam"`.

    Args:
        name: a name, or a row optimizer, which is returned as it is.
        settings: its arguments.

    Raises:
        ValueError: no row optimizer has that name.
    """
    if isinstance(name, RowOptimizer):
        return name
    known = {"sgd": SGD, "adagrad": Adagrad, "lazy_adam": LazyAdam}
    if name not in known:
        raise ValueError(
            f"expected a row optimizer of {', '.join(known)}, got {name!r}. "
            "Keras optimizers update dense weights only."
        )
    return known[name](**settings)
