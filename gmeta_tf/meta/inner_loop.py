"""The inner loop: each task's own values after K steps on its support rows."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from gmeta_tf.allowed import (
    FAST_WEIGHTS,
    LEARNED_RATES,
    OUTER_GRADIENTS,
    OVERLAPS,
    check_word,
)
from gmeta_tf.meta.descent import descended
from gmeta_tf.meta.fast_weights import AdaptDense

__all__ = ["InnerLoop", "adapt", "descend_values", "trajectory"]


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How a task adapts, and what the outer loop learns from it.

    The options compose; docs/models.md tells which paper is which of them.

    Attributes:
        num_steps: K, the steps on the support rows.
        learning_rate: alpha, of the dense weights.
        embedding_learning_rate: alpha of the task's embedding rows; None takes `learning_rate`.
        order: 2 differentiates the outer loss through the inner steps (MAML); 1 drops the second
            derivatives and still evaluates at the adapted values (first-order MAML).
        adapt_dense: which dense weights move: `"all"`, `"none"`, `"last_layer"` (ANIL, Raghu et
            al., ICLR 2020; with `adapt_embeddings=False`), a list of the learner's layers or of
            their names, or a predicate of a variable.
        adapt_embeddings: whether the task's embedding rows move; or the names of the key fields
            that read moved rows, while the others read rows as they were, of a shared table too.
        overlap: how the query reads a row that the support has moved: `"adapted"`, or `"stale"`, as
            it was before. G-Meta (Xiao et al., CIKM 2023) does not say which it means.
        learn_rates: rates that the outer loop trains; the numbers above are then where they start.
            `"variables"` (or True): one for each adapted variable, group of tables and step
            (Antoniou et al., "How to train your MAML", ICLR 2019). `"parameters"`: one for each
            adapted parameter, the same in all steps (Meta-SGD, Li et al., 2017); a table's rows
            come and go, and share one for each of the D numbers of a row [ours].
        fast_weights: how a task's own weights of a Dense layer are kept: `"low_rank"` or
            `"stacked"` (see `fast_dense`), or `"auto"`, whichever takes less time. The results are
            equal. `"vectorized"` asks for the learner's own call for each task, which `"auto"`
            falls back to where the other forms are not possible. (`"whole"`, its former name, is
            deprecated.)
        clip_gradients: clips each number of the inner loop's gradients, of dense weights and rows,
            to so far from 0 (10 in MMAML, Vuorio et al., NeurIPS 2019); None does not.
        multi_step_loss: the outer loss is a weighted sum of the query losses after each inner step,
            whose weights go from equal ones to the last step alone in so many outer steps
            (MAML++, Antoniou et al., section 4); 0 takes the last step alone.
        second_order_after: so many outer steps are of first order, and those after them of second
            (MAML++'s derivative-order annealing).
        outer_gradient: `"query_loss"`, or `"reptile"` (Nichol et al., 2018): a task gives
            `theta - theta_K`, not divided by alpha, where the K steps are on its support and query
            rows together, as the paper splits none. With plain SGD at rate epsilon outside, this is
            the paper's Algorithm 2. Evaluation and served models adapt on the support alone.
        heads: H, the learners side by side of a learner that gives `[R, H]` (`models.Heads`): each
            adapts by its own loss, the outer loss is the mean over them, and predictions are made
            of the mean of their outputs.

    Raises:
        ValueError: a value outside what is said here, options that do not go together, or nothing
            adapts.

    Example:
        >>> anil = InnerLoop(5, 0.1, adapt_dense="last_layer", adapt_embeddings=False)
        >>> meta_sgd = InnerLoop(1, 0.05, learn_rates="parameters")
        >>> reptile = InnerLoop(5, 0.02, order=1, outer_gradient="reptile")
    """

    num_steps: int = 1
    learning_rate: float = 0.1
    _: dataclasses.KW_ONLY
    embedding_learning_rate: float | None = None
    order: int = 2
    adapt_dense: AdaptDense = "all"
    adapt_embeddings: bool | Sequence[str] = True
    overlap: str = "adapted"
    learn_rates: bool | str = False
    fast_weights: str = "auto"
    clip_gradients: float | None = None
    multi_step_loss: int = 0
    second_order_after: int = 0
    outer_gradient: str = "query_loss"
    heads: int = 1

    def __post_init__(self) -> None:
        if self.fast_weights == "whole":
            warnings.warn(
                "InnerLoop: fast_weights='whole' is deprecated and goes in the next release. "
                "Use fast_weights='vectorized'.",
                DeprecationWarning,
                stacklevel=3,
            )
            object.__setattr__(self, "fast_weights", "vectorized")
        if self.learn_rates is True:
            object.__setattr__(self, "learn_rates", "variables")
        self._check_values()
        self._check_fields()
        for given, problem in (*_not_together(self), *_not_with_reptile(self)):
            if given:
                raise ValueError(f"InnerLoop: {problem}")

    @property
    def rate_of_embeddings(self) -> float:
        """alpha of the task's embedding rows."""
        rate = self.embedding_learning_rate
        return self.learning_rate if rate is None else rate

    @property
    def adapted_fields(self) -> Sequence[str] | None:
        """The key fields that read moved rows, where not all or none do."""
        return None if isinstance(self.adapt_embeddings, bool) else self.adapt_embeddings

    @property
    def is_reptile(self) -> bool:
        """Whether the outer gradient is Reptile's."""
        return self.outer_gradient == "reptile"

    def _check_values(self) -> None:
        check_word("InnerLoop: overlap", self.overlap, OVERLAPS)
        check_word("InnerLoop: fast_weights", self.fast_weights, FAST_WEIGHTS)
        check_word("InnerLoop: outer_gradient", self.outer_gradient, OUTER_GRADIENTS)
        if self.learn_rates is not False:
            check_word("InnerLoop: learn_rates", self.learn_rates, LEARNED_RATES)
        clip = self.clip_gradients
        for name, expected, good in (
            ("num_steps", "at least 0", self.num_steps >= 0),
            ("learning_rate", "0 or more", self.learning_rate >= 0),
            ("embedding_learning_rate", "0 or more", self.rate_of_embeddings >= 0),
            ("order", "1 or 2", self.order in (1, 2)),
            ("clip_gradients", "a finite number above 0", clip is None or 0 < clip < math.inf),
            ("multi_step_loss", "at least 0", self.multi_step_loss >= 0),
            ("second_order_after", "at least 0", self.second_order_after >= 0),
            ("heads", "at least 1", self.heads >= 1),
        ):
            if not good:
                value = getattr(self, name)
                raise ValueError(f"InnerLoop: expected {name} to be {expected}, got {value!r}.")

    def _check_fields(self) -> None:
        """Checks the form of `adapt_embeddings`; the schema's names are known to the adapter."""
        fields = self.adapt_embeddings
        if isinstance(fields, bool):
            return
        is_list = isinstance(fields, list | tuple)
        if not is_list or not fields or not all(isinstance(name, str) for name in fields):
            raise ValueError(
                "InnerLoop: expected adapt_embeddings to be True, False or a list of names of key "
                f"fields, got {fields!r}. One field is a list of one name; none is False."
            )
        object.__setattr__(self, "adapt_embeddings", tuple(fields))


def _not_together(inner: InnerLoop) -> Iterator[tuple[bool, str]]:
    """Whether options that exclude each other were given, and why they do."""
    yield (
        inner.adapt_embeddings is False and inner.adapt_dense == "none",
        "nothing adapts: adapt_dense is 'none' and adapt_embeddings is False. Set one of them.",
    )
    by_parameter = inner.learn_rates == "parameters"
    yield (
        inner.fast_weights == "low_rank" and (by_parameter or inner.clip_gradients is not None),
        "expected fast_weights to be 'auto', 'stacked' or 'vectorized' with "
        f"{'learn_rates=parameters' if by_parameter else 'clip_gradients'}, got 'low_rank': a step "
        "that treats each parameter apart is not of low rank. 'auto' takes the stacked form.",
    )
    yield (
        inner.multi_step_loss > 0 and inner.num_steps < 2,
        "expected num_steps of at least 2 with multi_step_loss, which weighs the losses after "
        f"several steps, got {inner.num_steps}. Leave multi_step_loss out, or take more steps.",
    )
    yield (
        inner.second_order_after > 0 and inner.order == 1,
        f"expected order 2 with second_order_after, which comes to it after "
        f"{inner.second_order_after} outer steps, got 1. Leave one of them out.",
    )


def _not_with_reptile(inner: InnerLoop) -> Iterator[tuple[bool, str]]:
    """The same, of what has no meaning where the outer gradient is `theta - theta_K`."""
    if not inner.is_reptile:
        return
    with_it = "with outer_gradient='reptile'"
    yield (
        inner.order == 2,
        f"expected order 1 {with_it}, which differentiates no outer loss, got 2.",
    )
    yield (
        inner.learn_rates is not False,
        f"expected no learn_rates {with_it}: theta - theta_K has no gradient for rates. "
        "Leave learn_rates out.",
    )
    yield (
        inner.multi_step_loss > 0,
        f"expected no multi_step_loss {with_it}, which has no outer loss to weigh. "
        "Leave multi_step_loss out.",
    )
    yield (
        inner.num_steps < 1,
        f"expected num_steps of at least 1 {with_it}: after no step theta - theta_K is 0. "
        "Take at least one.",
    )
    yield (
        inner.adapt_dense != "all",
        f"expected adapt_dense to be 'all' {with_it}, got {inner.adapt_dense!r}: it trains what "
        "adapts and nothing else, so other weights would stay as they were made.",
    )
    yield (
        inner.adapt_embeddings is not True,
        f"expected adapt_embeddings to be True {with_it}, got {inner.adapt_embeddings!r}: it "
        "trains what adapts and nothing else, so other rows would stay as they were made.",
    )


SupportPass = Callable[[Any, Callable[[Any], None]], tuple[tf.Tensor, Any, Any]]
Descend = Callable[[Any, Any, Any, Any], Any]


def adapt(
    support_pass: SupportPass, descend: Descend, fast: Any, rates: Sequence[Any], *, order: int
) -> Any:
    """The own values after the last step of a `trajectory`, which has the arguments."""
    for step in trajectory(support_pass, descend, fast, rates, order=order):
        fast = step
    return fast


def trajectory(
    support_pass: SupportPass, descend: Descend, fast: Any, rates: Sequence[Any], *, order: int
) -> Iterator[Any]:
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

    Yields:
        The own values after each step.
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
        yield fast


def descend_values(
    fast: Any, inputs: Any, gradients: Any, rates: Any, clip: float | None = None
) -> Any:
    """`value - rate gradient` for each tensor of a structure.

    Args:
        fast: the tensors, in any structure; they are the support pass's `values` too.
        inputs: not used.
        gradients: in the structure of `fast`.
        rates: in the structure of `fast`: scalars, or of a shape that is broadcast to the value's.
        clip: see `descended`.
    """
    return tf.nest.map_structure(
        lambda value, gradient, rate: descended(value, gradient, rate, clip),
        fast,
        gradients,
        rates,
    )
