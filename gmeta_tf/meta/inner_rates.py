"""The rates of the inner steps: numbers, or weights that the outer loop trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from gmeta_tf.meta.inner_loop import InnerLoop

__all__ = ["InnerRates", "StepRates"]


class StepRates(NamedTuple):
    """alpha of each value in one inner step.

    Attributes:
        dense: of each adapted variable, a scalar or in the variable's shape.
        rows: group of tables -> a scalar, or `[D]`.
    """

    dense: list[tf.Tensor]
    rows: dict[str, tf.Tensor]


class InnerRates:
    """alpha of each inner step and value, as `InnerLoop.learn_rates` says.

    One number for each variable, group and step; or, of Meta-SGD (Li et al., 2017), one for each
    parameter, for all steps. A table's rows come and go, so they share a rate for each of their D
    numbers.
    """

    def __init__(self, inner: InnerLoop, adapted: Sequence[Any], widths: Mapping[str, int]) -> None:
        """Gives every rate its first value.

        Args:
            inner: how a task adapts.
            adapted: the dense variables that the inner loop moves.
            widths: of each group of tables whose rows move, D.
        """
        self._inner, self._num_dense, self._groups = inner, len(adapted), tuple(widths)
        firsts = [inner.learning_rate] * len(adapted) + [inner.rate_of_embeddings] * len(widths)
        if inner.learn_rates == "parameters":
            shapes = [*(tuple(v.shape) for v in adapted), *((width,) for width in widths.values())]
            self._rates: Any = [np.full(shape, first) for shape, first in zip(shapes, firsts)]
        else:
            self._rates = np.repeat(np.array([firsts], np.float64), inner.num_steps, axis=0)

    def make_weights(self, add_weight: Callable[..., Any]) -> None:
        """Makes weights of the rates where they are trained.

        Args:
            add_weight: `keras.Model.add_weight` of the model that trains them.
        """

        def made(first: np.ndarray, name: str) -> keras.Variable:
            return add_weight(
                shape=first.shape,
                initializer=lambda shape, dtype: tf.constant(first, dtype),
                name=name,
            )

        if self._inner.learn_rates == "variables":
            self._rates = made(self._rates, "inner_rates")
        elif self._inner.learn_rates == "parameters":
            self._rates = [made(f, f"inner_rates_{i}") for i, f in enumerate(self._rates)]

    def of_steps(self) -> list[StepRates]:
        """alpha of each value, for each of the K steps."""
        num_steps = self._inner.num_steps
        if self._inner.learn_rates == "parameters":
            return [self._named([tf.convert_to_tensor(rate) for rate in self._rates])] * num_steps
        rates = tf.convert_to_tensor(self._rates)
        count = self._num_dense + len(self._groups)
        return [self._named([rates[s, i] for i in range(count)]) for s in range(num_steps)]

    def _named(self, rates: list[tf.Tensor]) -> StepRates:
        dense, rows = rates[: self._num_dense], rates[self._num_dense :]
        return StepRates(dense, dict(zip(self._groups, rows, strict=True)))
