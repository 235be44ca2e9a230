"""The inner loop: each task's own values after K steps on its support rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from gmeta_tf.meta.fast_weights import AdaptDense

__all__ = ["InnerLoop", "adapt"]


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How a task adapts.

    Attributes:
        num_steps: K, the steps on the support rows.
        learning_rate: alpha, of the dense weights.
        embedding_learning_rate: alpha of the task's embedding rows; None takes `learning_rate`.
        order: 2 differentiates the outer loss through the inner steps (MAML); 1 drops the second
            derivatives and still evaluates at the adapted values (first-order MAML).
        adapt_dense: which dense weights move: `"all"`, `"none"`, a list of the learner's layers, or
            a predicate of a variable.
        adapt_embeddings: whether the task's embedding rows move.
        overlap: how the query reads a row that the support has moved: `"adapted"`, or `"stale"`, as
            it was before. G-Meta (Xiao et al., CIKM 2023) does not say which it means.
        learn_rates: one rate for each adapted variable, group of tables and step, trained by the
            outer loop (Antoniou et al., "How to train your MAML", ICLR 2019). The numbers above are
            then where they start.

    Raises:
        ValueError: a value outside what is said here, or nothing that adapts.
    """

    num_steps: int = 1
    learning_rate: float = 0.1
    _: dataclasses.KW_ONLY
    embedding_learning_rate: float | None = None
    order: int = 2
    adapt_dense: AdaptDense = "all"
    adapt_embeddings: bool = True
    overlap: str = "adapted"
    learn_rates: bool = False

    def __post_init__(self) -> None:
        for name, value, expected, good in (
            ("num_steps", self.num_steps, "at least 0", self.num_steps >= 0),
            ("learning_rate", self.learning_rate, "0 or more", self.learning_rate >= 0),
            (
                "embedding_learning_rate",
                self.embedding_learning_rate,
                "0 or more",
                self.rate_of_embeddings >= 0,
            ),
            ("order", self.order, "1 or 2", self.order in (1, 2)),
            ("overlap", self.overlap, "'adapted' or 'stale'", self.overlap in _OVERLAPS),
        ):
            if not good:
                raise ValueError(f"InnerLoop: expected {name} to be {expected}, got {value!r}.")
        if not self.adapt_embeddings and self.adapt_dense == "none":
            raise ValueError(
                "InnerLoop: nothing adapts: adapt_dense is 'none' and adapt_embeddings is False. "
                "Set one of them."
            )

    @property
    def rate_of_embeddings(self) -> float:
        """alpha of the task's embedding rows."""
        rate = self.embedding_learning_rate
        return self.learning_rate if rate is None else rate


_OVERLAPS = ("adapted", "stale")


def adapt(
    support_losses: Callable[[Any], tf.Tensor], fast: Any, rates: list[Any], *, order: int
) -> Any:
    """Moves every task's own values down its support loss: `fast <- fast - alpha grad L_support`.

    Algorithm 1, lines 5 to 7, of Finn et al. (ICML 2017), for all tasks at once. Pure: nothing is
    written, and there is no communication. A value is one task's own (a stacked weight `[T, ...]`,
    a row `[P, D]` of one (task, key) pair), so the gradient of the sum of the tasks' losses is each
    task's own gradient.

    Args:
        support_losses: own values -> each task's loss, `[T]`.
        fast: the own values before the first step, in any structure of tensors.
        rates: for each of the K steps, a scalar for each value, in the structure of `fast`.
        order: 1 or 2, see `InnerLoop`.

    Returns:
        The own values after the last step.
    """
    for step_rates in rates:
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = tf.reduce_sum(support_losses(fast))
        gradients = tape.gradient(loss, fast, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = tf.nest.map_structure(tf.convert_to_tensor, gradients)
        if order == 1:
            gradients = tf.nest.map_structure(tf.stop_gradient, gradients)
        fast = tf.nest.map_structure(_descend, fast, gradients, step_rates)
    return fast


def _descend(value: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    return value - rate * gradient
