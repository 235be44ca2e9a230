"""The adaptation of a batch of tasks, shared by training, evaluation and serving."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows
from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_layers import TaskRows, Watch
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.meta.features import features_of, rows_of_pairs
from gmeta_tf.meta.inner_loop import InnerLoop, adapt, descend_values
from gmeta_tf.meta.lanes import lanes_of
from gmeta_tf.meta.losses import RowLoss, task_losses
from gmeta_tf.schema import Schema

__all__ = ["AdaptedTasks", "OwnValues", "Sizes", "SupportForward", "TaskAdapter"]


class OwnValues(NamedTuple):
    """The own values of a batch of tasks in the inner loop.

    Attributes:
        dense: the fast weights of each unit of the learner (see `TaskLearner`).
        rows: group -> float `[P, D]`, the rows that move; empty where embeddings do not adapt.
    """

    dense: list[Any]
    rows: Rows


class SupportForward(NamedTuple):
    """A pass over the support rows.

    Attributes:
        losses: each task's support loss, `[T]`.
        values: the tensors whose gradient a step takes.
        inputs: what else the step on the dense weights needs of the pass.
    """

    losses: tf.Tensor
    values: OwnValues
    inputs: Any


class AdaptedTasks(NamedTuple):
    """A batch of tasks after the inner loop.

    Attributes:
        dense: the tasks' fast weights.
        rows: group -> float `[P, D]`, each (task, key) pair's row as the query reads it.
    """

    dense: list[Any]
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Sizes:
    """T, S and Q where shapes leave them open before the step; None where they are unknown.

    With buckets a step has at least T tasks, of at most S and Q rows.
    """

    tasks: int | None = None
    support: int | None = None
    query: int | None = None


class TaskAdapter:
    """Adapts every task of a batch on its support rows, all at once and without communication.

        adapted = adapter.adapt(rows, batch, training=True)
        outputs = adapter.query_outputs(adapted, batch, training=True)   # [T, Q]

    Attributes:
        tasks: the learner, with fast weights.
        inner: how a task adapts.
        schema: what a row is.
        groups: the groups of tables whose rows adapt.
        rates: alpha of each step and value, `[K, values]`: the adapted dense variables, then
            `groups`.
        row_loss: the loss of support rows; set when the model is compiled.
        lanes: in how many parts the tasks of a step are computed in parallel.
        expected: the sizes of the latest data.
    """

    row_loss: RowLoss
    expected = Sizes()

    def __init__(
        self,
        tasks: TaskLearner,
        inner: InnerLoop,
        schema: Schema,
        groups: tuple[str, ...],
        *,
        lanes: int,
    ) -> None:
        """Puts a learner and an inner loop together.

        Args:
            tasks: the learner, with fast weights.
            inner: how a task adapts.
            schema: what a row is.
            groups: all groups of tables.
            lanes: see the class.
        """
        self.tasks, self.inner, self.schema, self.lanes = tasks, inner, schema, lanes
        self.groups = groups if inner.adapt_embeddings else ()
        self.rates: np.ndarray | keras.Variable = self._first_rates()

    def outputs(self, rows: Rows, batch: Batch, *, training: bool) -> tf.Tensor:
        """The learner's outputs on the query rows after each task's inner loop, `[T, Q]`.

        Computed in lanes, side by side.

        Args:
            rows: group -> float `[U, D]`, the rows of the batch's distinct keys.
            batch: T tasks.
            training: passed to the learner.
        """
        outputs = [
            self.outputs_in_one_lane(rows, lane, training=training)
            for lane in lanes_of(batch, self.lanes, self.expected.tasks)
        ]
        return outputs[0] if len(outputs) == 1 else tf.concat(outputs, axis=0)

    def outputs_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> tf.Tensor:
        """As `outputs`, for all tasks in one graph, for export.

        Lanes suit the cores of the training machine, and a model may serve on any other.
        """
        adapted = self.adapt(rows, batch, training=training)
        return self.query_outputs(adapted, batch, training=training)

    def unadapted_outputs(self, rows: Rows, batch: Batch) -> tf.Tensor:
        """The learner's outputs on the query rows with the shared values, `[T, Q]`."""
        features = features_of(rows_of_pairs(rows, batch), batch["query"], self.schema)
        return self.tasks(None, features, training=False)

    def adapt(self, rows: Rows, batch: Batch, *, training: bool) -> AdaptedTasks:
        """Every task's own values after K steps on its support rows.

        Args:
            rows: group -> float `[U, D]`, the rows of the batch's distinct keys.
            batch: T tasks.
            training: passed to the learner.
        """
        own_rows = rows_of_pairs(rows, batch)
        support = batch["support"]

        def forward(own: OwnValues, watch: Watch) -> SupportForward:
            watch(own.rows)
            features = features_of({**own_rows, **own.rows}, support, self.schema)
            record = self.tasks.support_forward(own.dense, features, training=training, watch=watch)
            losses = self.losses(support, record.outputs)
            return SupportForward(losses, OwnValues(record.values, own.rows), record.inputs)

        def descend(own: OwnValues, inputs: Any, gradients: OwnValues, rates: OwnValues) -> Any:
            dense = self.tasks.descend(
                own.dense, inputs, gradients.dense, rates.dense, self._loop_shape(batch)
            )
            return OwnValues(dense, descend_values(own.rows, None, gradients.rows, rates.rows))

        start = OwnValues(
            self.tasks.start(TaskRows.of(support["label"]).num_tasks),
            {group: own_rows[group] for group in self.groups},
        )
        own = adapt(forward, descend, start, self.step_rates(), order=self.inner.order)
        read = own_rows if self.inner.overlap == "stale" else {**own_rows, **own.rows}
        return AdaptedTasks(own.dense, read)

    def query_outputs(self, adapted: AdaptedTasks, batch: Batch, *, training: bool) -> tf.Tensor:
        """The learner's outputs on the query rows, `[T, Q]`."""
        features = features_of(adapted.rows, batch["query"], self.schema)
        return self.tasks(adapted.dense, features, training=training)

    def losses(self, part: LabelledRows, outputs: tf.Tensor) -> tf.Tensor:
        """Each task's mean loss over its present rows, `[T]`."""
        return task_losses(self.row_loss, part["label"], outputs, part["weight"])

    def step_rates(self) -> list[OwnValues]:
        """alpha of each value, for each of the K steps."""
        rates = tf.convert_to_tensor(self.rates)
        count = len(self.tasks.adapted)
        return [
            OwnValues(
                [rates[step, index] for index in range(count)],
                {group: rates[step, count + index] for index, group in enumerate(self.groups)},
            )
            for step in range(self.inner.num_steps)
        ]

    def _first_rates(self) -> np.ndarray:
        dense = [self.inner.learning_rate] * len(self.tasks.adapted)
        rows = [self.inner.rate_of_embeddings] * len(self.groups)
        return np.repeat(np.array([dense + rows], np.float32), self.inner.num_steps, axis=0)

    def _loop_shape(self, batch: Batch) -> LoopShape:
        num_support = batch["support"]["label"].shape[1] or self.expected.support
        num_query = batch["query"]["label"].shape[1] or self.expected.query
        return LoopShape(self.inner.num_steps, num_support, num_query)
