"""What training, evaluation and export ask of a way to adapt, whatever it is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from gmeta_tf.batch import Batch, Rows
from gmeta_tf.meta.lanes import lanes_of
from gmeta_tf.meta.losses import RowLoss
from gmeta_tf.schema import Schema

__all__ = ["Adapter", "QueryPass", "Sizes"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """T, S and Q where shapes leave them open before the step; None where they are unknown.

    With buckets a step has at least T tasks, of at most S and Q rows.
    """

    tasks: int | None = None
    support: int | None = None
    query: int | None = None


class QueryPass(NamedTuple):
    """A pass over the query rows of adapted tasks.

    Attributes:
        outputs: `[T, Q]`, what `RowLoss.predict` takes.
        losses: `[T]`, each task's term of the outer loss.
        deviation: `[T, Q]`, the standard deviation of the label about its prediction, in units of
            the label; None where the way to adapt does not tell one.
    """

    outputs: tf.Tensor
    losses: tf.Tensor
    deviation: tf.Tensor | None = None


class Adapter(abc.ABC):
    """Adapts every task of a batch on its support rows, all at once and without communication.

        passed = adapter.query_pass(rows, batch, training=True)
        loss = tf.reduce_sum(passed.losses)

    Attributes:
        schema: what a row is.
        row_loss: the loss of a row; set when the model is compiled.
        inner_loss: the loss of a support row that a task adapts by; likewise.
        steps_done: how many outer steps are done, an int64 scalar of the graph; likewise.
        takes_inner_loss: whether there is a choice of `inner_loss`.
        lanes: in how many parts the tasks of a step are computed in parallel.
        expected: the sizes of the latest data.
        fallback_reason: why the learner does not run once for all tasks of a lane, or None where it
            does.
        adapted_paths: the paths of the dense variables of which tasks have their own.
    """

    row_loss: RowLoss
    inner_loss: RowLoss
    steps_done: Callable[[], tf.Tensor]
    takes_inner_loss: bool = False
    expected = Sizes()
    fallback_reason: str | None = None
    adapted_paths: Sequence[str] = ()

    def __init__(self, schema: Schema, lanes: int) -> None:
        """Notes what a row is and in how many lanes to compute."""
        self.schema, self.lanes = schema, lanes

    @property
    def phases(self) -> list[tuple[int | None, Adapter]]:
        """What adapts in which outer steps of training, for `in_phase`."""
        return [(None, self)]  # most do the same in all

    @abc.abstractmethod
    def query_pass_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> QueryPass:
        """As `query_pass`, for all tasks in one graph."""

    @abc.abstractmethod
    def unadapted_outputs(self, rows: Rows, batch: Batch) -> tf.Tensor:
        """The outputs on the query rows with the shared values, `[T, Q]`."""

    def make_weights(self, add_weight: Callable[..., Any]) -> None:
        """Makes what the outer loop trains beside the learner and the rows, if anything.

        Args:
            add_weight: `keras.Model.add_weight` of the model that trains it.
        """
        return  # most have nothing

    def advance_seeds(self) -> None:
        """Gives the next step other random draws."""
        return  # most draw nothing

    def query_pass(self, rows: Rows, batch: Batch, *, training: bool) -> QueryPass:
        """The outputs and losses of the query rows after each task's adaptation.

        Computed in lanes, side by side.

        Args:
            rows: group -> float `[U, D]`, the rows of the batch's distinct keys.
            batch: T tasks.
            training: passed to the learner.
        """
        passed = [
            self.query_pass_in_one_lane(rows, lane, training=training)
            for lane in lanes_of(batch, self.lanes, self.expected.tasks)
        ]
        if len(passed) == 1:
            return passed[0]
        return QueryPass(
            *(None if parts[0] is None else tf.concat(parts, axis=0) for parts in zip(*passed))
        )

    def outputs(self, rows: Rows, batch: Batch, *, training: bool) -> tf.Tensor:
        """The outputs of `query_pass`, `[T, Q]`."""
        return self.query_pass(rows, batch, training=training).outputs

    def outputs_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> tf.Tensor:
        """As `outputs`, for all tasks in one graph, for export.

        Lanes suit the cores of the training machine, and a model may serve on any other.
        """
        return self.query_pass_in_one_lane(rows, batch, training=training).outputs
