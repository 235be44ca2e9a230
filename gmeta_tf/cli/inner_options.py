"""The options of the inner loop: how tasks adapt by gradient steps."""

from __future__ import annotations

import dataclasses

from gmeta_tf import allowed
from gmeta_tf.cli.option_fields import (
    ABOVE_0,
    AT_LEAST_0,
    ORDER,
    RATE,
    Options,
    number,
    word,
)

__all__ = ["InnerOptions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerOptions(Options):
    """How tasks adapt by gradient steps, and what the outer loop learns from it.

    docs/models.md tells which paper is which of these options.

    Attributes:
        inner_steps: K, the steps a task adapts on its support rows.
        inner_learning_rate: alpha, of the dense weights.
        embedding_inner_learning_rate: alpha of a task's embedding rows; None is the one above.
        order: 2 differentiates through the inner steps, 1 is first-order MAML.
        second_order_after: so many outer steps are of first order, those after them of second.
        adapt_dense: which dense weights adapt: "all", "none", "last_layer" (ANIL), or names of
            layers, such as decision_1 score; None is as the model's paper has it (all).
        adapt_embeddings: whether a task's embedding rows adapt; None is as the model's paper has
            it (melu: no, maml_dlrm: yes).
        adapt_fields: the fields whose embedding rows adapt, and no others; None is all, where
            embeddings adapt.
        overlap: how the query reads a row that the support moved: "adapted" or "stale".
        learn_rates: train the rates of the inner steps; they start at those above.
        rates_of: with learn_rates, what has a rate of its own: "variables", each variable in each
            step (MAML++), or "parameters", each number (Meta-SGD).
        clip_gradients: the largest absolute value of a number in the inner steps' gradients; None
            does not clip.
        multi_step_loss: the query losses after all inner steps count, less and less over so many
            outer steps, until the last one's counts alone (MAML++); 0 is that from the start on.
        outer_gradient: "query_loss", or "reptile": the weights before the inner steps less those
            after them, which are on support and query rows together.
        inner_loss: what the inner steps go down, as loss; None is loss. "ratings" takes an output
            of 0 for the rating label_centre, and an output of 1 for label_scale more.
    """

    inner_steps: int = number(1, of=AT_LEAST_0)
    inner_learning_rate: float = number(0.5, of=RATE)
    embedding_inner_learning_rate: float | None = number(None, of=RATE)
    order: int = number(2, of=ORDER)
    second_order_after: int = number(0, of=AT_LEAST_0)
    adapt_dense: list[str] | None = None
    adapt_embeddings: bool | None = None
    adapt_fields: list[str] | None = None
    overlap: str = word("adapted", of=allowed.OVERLAPS)
    learn_rates: bool = False
    rates_of: str = word("variables", of=allowed.LEARNED_RATES)
    clip_gradients: float | None = number(None, of=ABOVE_0)
    multi_step_loss: int = number(0, of=AT_LEAST_0)
    outer_gradient: str = word("query_loss", of=allowed.OUTER_GRADIENTS)
    inner_loss: str | None = word(None, of=allowed.LOSSES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rates_of != "variables" and not self.learn_rates:
            raise ValueError(
                f"train: expected --learn-rates with --rates-of {self.rates_of}, which says what "
                "has a trained rate. Add --learn-rates, or leave --rates-of out."
            )
        if self.adapt_fields is not None and self.adapt_embeddings is False:
            raise ValueError(
                "train: expected embeddings that adapt with --adapt-fields, got "
                "--adapt-embeddings false. Leave one of them out."
            )
