"""The adaptation of a batch of tasks by gradient steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows
from gmeta_tf.meta.adapter import Adapter, QueryPass
from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_layers import TaskRows, Watch
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.meta.features import features_of, rows_of_pairs
from gmeta_tf.meta.inner_loop import InnerLoop, adapt, descend_values
from gmeta_tf.meta.losses import task_losses
from gmeta_tf.meta.task_encoder import TaskEncoder, with_task
from gmeta_tf.schema import Schema

__all__ = ["AdaptedTasks", "OwnValues", "SupportForward", "TaskAdapter"]


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
        encoding: the task embeddings, `[T, M]`; None without a task encoder.
    """

    dense: list[Any]
    rows: Rows
    encoding: tf.Tensor | None = None


class TaskAdapter(Adapter):
    """Adapts every task of a batch by gradient steps on its support rows: see `InnerLoop`.

        adapted = adapter.adapt(rows, batch, training=True)
        outputs = adapter.query_outputs(adapted, batch, training=True)   # [T, Q]

    Attributes:
        tasks: the learner, with fast weights.
        inner: how a task adapts.
        encoder: what reads the support rows before the inner loop, if anything does.
        groups: the groups of tables whose rows adapt.
        rates: alpha of each step and value, `[K, values]`: the adapted dense variables, then
            `groups`.
    """

    def __init__(
        self,
        tasks: TaskLearner,
        inner: InnerLoop,
        schema: Schema,
        groups: tuple[str, ...],
        *,
        lanes: int,
        encoder: TaskEncoder | None = None,
    ) -> None:
        """Puts a learner and an inner loop together.

        Args:
            tasks: the learner, with fast weights.
            inner: how a task adapts.
            schema: what a row is.
            groups: all groups of tables.
            lanes: see the class.
            encoder: see the class.
        """
        super().__init__(schema, lanes)
        self.tasks, self.inner, self.encoder = tasks, inner, encoder
        self.fallback_reason = tasks.fallback_reason
        self.adapted_paths = [variable.path for variable in tasks.adapted]
        self.groups = groups if inner.adapt_embeddings else ()
        self.rates: np.ndarray | keras.Variable = self._first_rates()

    def make_weights(self, add_weight: Callable[..., Any]) -> None:
        if self.inner.learn_rates:
            first = self.rates
            self.rates = add_weight(
                shape=first.shape,
                initializer=lambda shape, dtype: tf.constant(first, dtype),
                name="inner_rates",
            )

    def advance_seeds(self) -> None:
        self.tasks.advance_seeds()

    def query_pass_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> QueryPass:
        adapted = self.adapt(rows, batch, training=training)
        outputs = self.query_outputs(adapted, batch, training=training)
        return QueryPass(outputs, self.losses(batch["query"], outputs))

    def unadapted_outputs(self, rows: Rows, batch: Batch) -> tf.Tensor:
        own_rows = rows_of_pairs(rows, batch)
        encoding = self._encoding(own_rows, batch["support"], training=False, blind=True)
        features = self._features(own_rows, batch["query"], encoding)
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
        encoding = self._encoding(own_rows, support, training=training)

        def forward(own: OwnValues, watch: Watch) -> SupportForward:
            watch(own.rows)
            features = self._features({**own_rows, **own.rows}, support, encoding)
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
        return AdaptedTasks(own.dense, read, encoding)

    def query_outputs(self, adapted: AdaptedTasks, batch: Batch, *, training: bool) -> tf.Tensor:
        """The learner's outputs on the query rows, `[T, Q]`."""
        features = self._features(adapted.rows, batch["query"], adapted.encoding)
        return self.tasks(adapted.dense, features, training=training)

    def losses(self, part: LabelledRows, outputs: tf.Tensor) -> tf.Tensor:
        """Each task's mean loss over its present rows, `[T]`."""
        return task_losses(self.row_loss, self.row_loss.labels_of(part), outputs, part["weight"])

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

    def _encoding(
        self, own_rows: Rows, support: LabelledRows, *, training: bool, blind: bool = False
    ) -> tf.Tensor | None:
        if self.encoder is None:
            return None
        labels = self.row_loss.labels_of(support)
        return self.encoder.encode(
            own_rows, support, labels, self.schema, training=training, blind=blind
        )

    def _features(
        self, own_rows: Rows, part: LabelledRows, encoding: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        features = features_of(own_rows, part, self.schema)
        return features if encoding is None else with_task(features, encoding)

    def _first_rates(self) -> np.ndarray:
        dense = [self.inner.learning_rate] * len(self.tasks.adapted)
        rows = [self.inner.rate_of_embeddings] * len(self.groups)
        return np.repeat(np.array([dense + rows], np.float32), self.inner.num_steps, axis=0)

    def _loop_shape(self, batch: Batch) -> LoopShape:
        num_support = batch["support"]["label"].shape[1] or self.expected.support
        num_query = batch["query"]["label"].shape[1] or self.expected.query
        return LoopShape(self.inner.num_steps, num_support, num_query)
