"""The inner loop: each task's own values after K steps on its support rows."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from gmeta_tf.allowed import FAST_WEIGHTS, OVERLAPS, check_word
from gmeta_tf.meta.fast_weights import AdaptDense

__all__ = ["InnerLoop", "adapt", "descend_values"]


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
        fast_weights: how a task's own weights of a Dense layer are kept: `"low_rank"` or
            `"stacked"` (see `fast_dense`), or `"auto"`, whichever takes less time. The results are
            equal. `"vectorized"` asks for the learner's own call for each task, which `"auto"`
            falls back to where the other forms are not possible. (`"whole"`, its former name, is
            deprecated.)

    Raises:
        ValueError: a value outside what is said here, or nothing adapts.
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
    fast_weights: str = "auto"

    def __post_init__(self) -> None:
        if self.fast_weights == "whole":
            warnings.warn(
                "InnerLoop: fast_weights='whole' is deprecated and goes in the next release. "
                "Use fast_weights='vectorized'.",
                DeprecationWarning,
                stacklevel=3,
            )
            object.__setattr__(self, "fast_weights", "vectorized")
        check_word("InnerLoop: overlap", self.overlap, OVERLAPS)
        check_word("InnerLoop: fast_weights", self.fast_weights, FAST_WEIGHTS)
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


SupportPass = Callable[[Any, Callable[[Any], None]], tuple[tf.Tensor, Any, Any]]
Descend = Callable[[Any, Any, Any, Any], Any]


def adapt(
    support_pass: SupportPass, descend: Descend, fast: Any, rates: Sequence[Any], *, order: int
) -> Any:
    """Moves every task's own values down its support loss: `fast <- fast - alpha grad L_support`.

    Algorithm 1, lines 5 to 7, of Finn et al. (ICML 2017), for all tasks at once. Pure: nothing is
    written, and there is no communication. A value is one task's own (a weight's change, a row
    `[P, D]` of one (task, key) pair), so the gradient of the sum of the tasks' losses is each
    task's own gradient.

    Args:
        support_pass: `(fast, watch) -> (losses, values, inputs)`: each task's loss, `[T]`; the
            tensors whose gradient the step takes, each given to `watch` before its use; and what
            else `descend` needs of the pass.
        descend: `(fast, inputs, gradients, rates) -> fast`, one step down the gradients of
            `values`. `descend_values` is that of own values that are plain tensors.
        fast: the own values before the first step.
        rates: what `descend` gets in each of the K steps.
        order: 1 or 2, see `InnerLoop`.

    Returns:
        The own values after the last step.
    """
    for step_rates in rates:
        with tf.GradientTape() as tape:
            losses, values, inputs = support_pass(fast, tape.watch)
            loss = tf.reduce_sum(losses)
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = tf.nest.map_structure(tf.convert_to_tensor, gradients)
        if order == 1:
            inputs, gradients = tf.nest.map_structure(tf.stop_gradient, (inputs, gradients))
        fast = descend(fast, inputs, gradients, step_rates)
    return fast


def descend_values(fast: Any, inputs: Any, gradients: Any, rates: Any) -> Any:
    """`value - rate gradient` for each tensor of a structure.

    Args:
        fast: the tensors, in any structure; they are the support pass's `values` too.
        inputs: not used.
        gradients: in the structure of `fast`.
        rates: scalars in the structure of `fast`.
    """
    return tf.nest.map_structure(
        lambda value, gradient, rate: value - rate * gradient, fast, gradients, rates
    )
