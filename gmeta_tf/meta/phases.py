"""Which outer steps are of first order, and which weigh the losses of several inner steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from gmeta_tf.meta.inner_loop import InnerLoop

__all__ = ["Phase", "in_phase", "phases_of"]

_Choice = TypeVar("_Choice")


class Phase(NamedTuple):
    """How the outer steps of a time are computed.

    Attributes:
        order: of the derivatives, 1 or 2.
        multi_step: whether the loss after each inner step counts.
    """

    order: int
    multi_step: bool


def phases_of(inner: InnerLoop) -> list[tuple[int | None, Phase]]:
    """Each phase of training, with the number of the first outer step behind it; None is the last.

    Example:
        >>> inner = InnerLoop(2, second_order_after=5, multi_step_loss=9)
        >>> [(until, tuple(phase)) for until, phase in phases_of(inner)]
        [(5, (1, True)), (9, (2, True)), (None, (2, False))]
    """
    ends = sorted({inner.second_order_after, inner.multi_step_loss} - {0})
    return [
        (
            end,
            Phase(
                order=1 if start < inner.second_order_after else inner.order,
                multi_step=start < inner.multi_step_loss,
            ),
        )
        for start, end in zip([0, *ends], [*ends, None])
    ]


def in_phase(
    step: tf.Tensor,
    choices: Sequence[tuple[int | None, _Choice]],
    compute: Callable[[_Choice], Any],
) -> Any:
    """What `compute` gives for the choice of a step, chosen in the graph: nothing is traced anew.

    No gradient is taken through the choice: what is differentiated is so within `compute`.

    Args:
        step: an integer scalar.
        choices: each with the first step behind it; the last one's is not looked at.
        compute: a choice -> tensors, of the same structure, shapes and types for all.

    Example:
        >>> [int(in_phase(tf.constant(n), [(2, 10), (None, 20)], tf.constant)) for n in (1, 2)]
        [10, 20]
    """
    (until, choice), *later = choices
    if not later:
        return compute(choice)
    return tf.cond(step < until, lambda: compute(choice), lambda: in_phase(step, later, compute))
