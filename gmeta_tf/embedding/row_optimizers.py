"""Optimizers of embedding rows: pure updates of the rows that a step touched, and of no other."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gmeta_tf.allowed import ROW_OPTIMIZERS, check_word

__all__ = [
    "SGD",
    "Adagrad",
    "Ftrl",
    "LazyAdam",
    "RowOptimizer",
    "RowWiseAdagrad",
    "Slot",
    "row_optimizer",
]

Slots = dict[str, tf.Tensor]


class Slot(NamedTuple):
    """What an optimizer keeps for each row beside the row itself.

    Attributes:
        start: what each number of it is before the first step.
        width: how many numbers it is: D, or 1 of the whole row.
    """

    start: float
    width: int

    def values(self, num_rows: int | tf.Tensor) -> tf.Tensor:
        """What is kept of so many rows before their first step, float32 `[num_rows, width]`."""
        return tf.fill([num_rows, self.width], tf.constant(self.start, tf.float32))


@dataclasses.dataclass(frozen=True)
class RowOptimizer(abc.ABC):
    """One pure update, of rows that have been gathered or of a dense variable alike.

    Attributes:
        learning_rate: a number, or a schedule: a function of the step (a Keras
            LearningRateSchedule is one), counted from 0.

    Raises:
        ValueError: a setting out of its range.
    """

    learning_rate: float | Callable[[tf.Tensor], tf.Tensor] = 0.1

    def __post_init__(self) -> None:
        if not callable(self.learning_rate):
            self._expect("learning_rate", "above 0", 0 < self.learning_rate < math.inf)

    def slots(self, width: int) -> dict[str, Slot]:
        """What the optimizer keeps for each row of so many numbers, by name."""
        return {}

    @abc.abstractmethod
    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        """The rows and slots after one step.

        Args:
            rows: float `[N, D]`.
            gradients: float `[N, D]`, duplicates summed.
            slots: name -> float `[N, D]` or `[N, 1]`, as `slots` says.
            step: int64 scalar, the steps done before this one.

        Returns:
            The new rows and the new slots, of the shapes that came.
        """

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the step, a float32 scalar."""
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        return tf.cast(rate, tf.float32)

    def _expect(self, name: str, expected: str, is_so: bool) -> None:
        if not is_so:
            raise ValueError(
                f"{type(self).__name__}: expected {name} {expected}, got {getattr(self, name)}."
            )


@dataclasses.dataclass(frozen=True)
class SGD(RowOptimizer):
    """`v <- momentum v - rate g; row <- row + v`; without momentum, `row <- row - rate g`.

    Equal to `keras.optimizers.SGD` for rows that every step touches. The velocity v of a row rests
    while the row is not seen, and so does the row.

    Attributes:
        momentum: how much of the velocity stays.
        nesterov: move the row by `momentum v - rate g` instead of v (Sutskever et al., ICML 2013).
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("momentum", "of at least 0 and below 1", 0 <= self.momentum < 1)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov looks ahead along the momentum, and momentum is 0.")

    def slots(self, width: int) -> dict[str, Slot]:
        return {"velocity": Slot(0.0, width)} if self.momentum else {}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        change = self.rate(step) * gradients
        if not self.momentum:
            return rows - change, {}
        velocity = self.momentum * slots["velocity"] - change
        move = self.momentum * velocity - change if self.nesterov else velocity
        return rows + move, {"velocity": velocity}


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_accumulator", "epsilon"):
            self._expect(name, "of at least 0", 0 <= getattr(self, name) < math.inf)
        # Else a gradient of 0 divides 0 by 0, and the row is lost.
        if self.initial_accumulator + self.epsilon == 0:
            raise ValueError(
                f"{type(self).__name__}: expected an initial_accumulator or an epsilon above 0, "
                "got 0 for both."
            )

    def slots(self, width: int) -> dict[str, Slot]:
        return {"accumulator": Slot(self.initial_accumulator, width)}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        accumulator = slots["accumulator"] + tf.square(gradients)
        change = self.rate(step) * gradients * tf.math.rsqrt(accumulator + self.epsilon)
        return rows - change, {"accumulator": accumulator}


@dataclasses.dataclass(frozen=True)
class RowWiseAdagrad(Adagrad):
    """`a <- a + mean(g^2); row <- row - rate g / sqrt(a + epsilon)`, one number a for a whole row.

    Adagrad with one step size for a row. It keeps 1 number where Adagrad keeps D, so that a table
    of width D takes about half the memory. Of rows of one number it is Adagrad.

    The mean over the row is that of DLRM's `RWSAdagrad` and of FBGEMM's exact row-wise Adagrad,
    which add epsilon to the root; here it is within, as in MXNet's `GroupAdaGrad` and `Adagrad`.
    """

    def slots(self, width: int) -> dict[str, Slot]:
        return {"row_accumulator": Slot(self.initial_accumulator, 1)}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        squares = tf.reduce_mean(tf.square(gradients), axis=1, keepdims=True)
        accumulator = slots["row_accumulator"] + squares
        factor = self.rate(step) * tf.math.rsqrt(accumulator + self.epsilon)
        return rows - factor * gradients, {"row_accumulator": accumulator}


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("beta_1", "of at least 0 and below 1", 0 <= self.beta_1 < 1)
        self._expect("beta_2", "of at least 0 and below 1", 0 <= self.beta_2 < 1)
        # Else a gradient of 0 divides 0 by 0, and the row is lost.
        self._expect("epsilon", "above 0", 0 < self.epsilon < math.inf)

    def slots(self, width: int) -> dict[str, Slot]:
        return {"mean": Slot(0.0, width), "variance": Slot(0.0, width)}

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


@dataclasses.dataclass(frozen=True)
class Ftrl(RowOptimizer):
    """Follow the regularized leader: a row is read anew out of sums over all of its gradients.

        n' <- n + g^2
        z <- z + g + 2 l2_shrinkage row - (n'^p - n^p) / rate row,  p = -learning_rate_power
        row <- 0 where |z| <= l1, else (sign(z) l1 - z) / ((n'^p + beta) / rate + 2 l2)

    Equal to `keras.optimizers.Ftrl` (McMahan et al., KDD 2013, Algorithm 1; the shrinkage is
    TensorFlow's). With l1 above 0, numbers that are of no use become 0.

    Attributes:
        learning_rate_power: 0 or less; the rate of a number falls with its n to this power.
        initial_accumulator: where n starts. z starts at 0, so that the larger this is, the less
            counts what a row held at first.
        l1: pulls numbers to 0, and to exactly 0.
        l2: pulls numbers towards 0.
        l2_shrinkage: adds `2 l2_shrinkage row` to the gradient, and not to n.
        beta: of the paper, lowers the rate while n is small.
    """

    learning_rate_power: float = -0.5
    initial_accumulator: float = 0.1
    l1: float = 0.0
    l2: float = 0.0
    l2_shrinkage: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        power = self.learning_rate_power
        self._expect("learning_rate_power", "of at most 0", -math.inf < power <= 0)
        for name in ("initial_accumulator", "l1", "l2", "l2_shrinkage", "beta"):
            self._expect(name, "of at least 0", 0 <= getattr(self, name) < math.inf)
        # Else a gradient of 0 divides 0 by 0, and the row is lost.
        if self.initial_accumulator + self.beta + self.l2 == 0:
            raise ValueError(
                "Ftrl: expected an initial_accumulator, a beta or an l2 above 0, got 0 for all."
            )

    def slots(self, width: int) -> dict[str, Slot]:
        return {"accumulator": Slot(self.initial_accumulator, width), "linear": Slot(0.0, width)}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        rate = self.rate(step)
        accumulator = slots["accumulator"] + tf.square(gradients)
        powered = self._powered(accumulator)
        pull = (powered - self._powered(slots["accumulator"])) / rate - 2 * self.l2_shrinkage
        linear = slots["linear"] + gradients - pull * rows
        curvature = (powered + self.beta) / rate + 2 * self.l2
        rows = (tf.clip_by_value(linear, -self.l1, self.l1) - linear) / curvature
        return rows, {"accumulator": accumulator, "linear": linear}

    def _powered(self, accumulator: tf.Tensor) -> tf.Tensor:
        if self.learning_rate_power == -0.5:
            return tf.sqrt(accumulator)  # many times quicker than a power
        return tf.pow(accumulator, -self.learning_rate_power)


_BY_NAME: dict[str, type[RowOptimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "row_wise_adagrad": RowWiseAdagrad,
    "lazy_adam": LazyAdam,
    "ftrl": Ftrl,
}


def row_optimizer(name: str | RowOptimizer, **settings: Any) -> RowOptimizer:
    """The row optimizer of that name.

    Args:
        name: `"sgd"`, `"adagrad"`, `"row_wise_adagrad"`, `"lazy_adam"` or `"ftrl"`; or a row
            optimizer, which is returned as it is.
        settings: its arguments.

    Raises:
        ValueError: no row optimizer has that name, or a setting is out of its range.
    """
    if isinstance(name, RowOptimizer):
        return name
    check_word("row_optimizer", name, ROW_OPTIMIZERS, "Keras optimizers update dense weights only.")
    return _BY_NAME[name](**settings)
