"""The adaptation of a batch of tasks by gradient steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows
from gmeta_tf.meta.adapter import Adapter, QueryPass
from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_layers import TaskRows, Watch
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.meta.features import features_of, rows_of_pairs
from gmeta_tf.meta.inner_loop import InnerLoop, descend_values, trajectory
from gmeta_tf.meta.inner_rates import InnerRates, StepRates
from gmeta_tf.meta.losses import task_losses
from gmeta_tf.meta.multi_step_loss import step_weights
from gmeta_tf.meta.phases import Phase, phases_of
from gmeta_tf.meta.reptile import joined_rows, with_gradient
from gmeta_tf.meta.task_encoder import TaskEncoder, with_task
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

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
    """A batch of tasks after some steps of the inner loop.

    Attributes:
        dense: the tasks' fast weights.
        rows: group -> float `[P, D]`, each (task, key) pair's row as the query reads it.
        before: group -> float `[P, D]`, the same as it was, for fields that do not adapt.
        encoding: the task embeddings, `[T, M]`; None without a task encoder.
    """

    dense: list[Any]
    rows: Rows
    before: Rows
    encoding: tf.Tensor | None = None


class TaskAdapter(Adapter):
    """Adapts every task of a batch by gradient steps on its support rows: see `InnerLoop`.

        passed = adapter.query_pass(rows, batch, training=True)   # outputs [T, Q], losses [T]

    Attributes:
        tasks: the learner, with fast weights.
        inner: how a task adapts.
        encoder: what reads the support rows before the inner loop, if anything does.
        groups: the groups of tables whose rows adapt.
        rates: alpha of each step and value.
        phase: how its outer steps are computed; that of the last ones, see `phases`.
    """

    takes_inner_loss = True

    def __init__(
        self,
        tasks: TaskLearner,
        inner: InnerLoop,
        schema: Schema,
        width: int,
        *,
        lanes: int,
        encoder: TaskEncoder | None = None,
    ) -> None:
        """Puts a learner and an inner loop together.

        Args:
            tasks: the learner, with fast weights.
            inner: how a task adapts.
            schema: what a row is.
            width: D of the tables that state none.
            lanes: see the class.
            encoder: see the class.

        Raises:
            ValueError: `inner.adapt_embeddings` names a field that is no key field, or Reptile is
                to train an encoder.
        """
        super().__init__(schema, lanes)
        if encoder is not None and inner.is_reptile:
            raise ValueError(
                "InnerLoop: outer_gradient='reptile' trains what adapts and nothing else, and a "
                "task encoder does not adapt. Use outer_gradient='query_loss', or leave "
                "task_encoder out."
            )
        self.tasks, self.inner, self.encoder = tasks, inner, encoder
        self.fallback_reason = tasks.fallback_reason
        self.adapted_paths = [variable.path for variable in tasks.adapted]
        tables_of, tables = key_groups(schema), _adapted_tables(inner, schema)
        self.groups = tuple(group for group in tables_of if tables & set(tables_of[group]))
        widths = {group: schema.table(tables_of[group][0]).width or width for group in self.groups}
        self.rates = InnerRates(inner, tasks.adapted, widths)
        _, self.phase = phases_of(inner)[-1]

    @property
    def phases(self) -> list[tuple[int | None, Adapter]]:
        return [(until, self._in(phase)) for until, phase in phases_of(self.inner)]

    def _in(self, phase: Phase) -> TaskAdapter:
        other = copy.copy(self)
        other.phase = phase
        return other

    def make_weights(self, add_weight: Callable[..., Any]) -> None:
        self.rates.make_weights(add_weight)

    def advance_seeds(self) -> None:
        self.tasks.advance_seeds()

    def query_pass_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> QueryPass:
        if training and self.inner.is_reptile:
            return self._reptile_pass(rows, batch)
        before = rows_of_pairs(rows, batch)
        encoding = self._encoding(before, batch["support"], training=training)
        order = self.phase.order
        steps = [
            self._as_read(before, own, encoding)
            for own in self._own_values(before, batch, encoding, training=training, order=order)
        ]
        outputs = self.query_outputs(steps[-1], batch, training=training)
        losses = self.losses(batch["query"], outputs)
        if training and self.phase.multi_step:
            losses = self._multi_step_losses(losses, steps[1:-1], batch)
        return QueryPass(self._mean_of_heads(outputs), losses)

    def unadapted_outputs(self, rows: Rows, batch: Batch) -> tf.Tensor:
        before = rows_of_pairs(rows, batch)
        encoding = self._encoding(before, batch["support"], training=False, blind=True)
        features = self._features(before, before, batch["query"], encoding)
        return self._mean_of_heads(self.tasks(None, features, training=False))

    def query_outputs(self, adapted: AdaptedTasks, batch: Batch, *, training: bool) -> tf.Tensor:
        """The learner's outputs on the query rows, `[T, Q]`, or `[T, Q, H]` of several heads."""
        features = self._features(adapted.rows, adapted.before, batch["query"], adapted.encoding)
        return self.tasks(adapted.dense, features, training=training)

    def losses(self, part: LabelledRows, outputs: tf.Tensor) -> tf.Tensor:
        """Each task's mean outer loss over its present rows, `[T]`."""
        return task_losses(self.row_loss, self.row_loss.labels_of(part), outputs, part["weight"])

    def support_losses(self, part: LabelledRows, outputs: tf.Tensor) -> tf.Tensor:
        """Each task's mean inner loss over its present rows, `[T]`, summed over the heads.

        Heads share no values that adapt, so that by the sum each steps as if it were alone.
        """
        loss = self.inner_loss
        mean = task_losses(loss, loss.labels_of(part), outputs, part["weight"])
        return mean if self.inner.heads == 1 else self.inner.heads * mean

    def _mean_of_heads(self, outputs: tf.Tensor) -> tf.Tensor:
        """What predictions are made of, `[T, Q]`."""
        return outputs if self.inner.heads == 1 else tf.reduce_mean(outputs, axis=2)

    def _multi_step_losses(
        self, last: tf.Tensor, earlier: list[AdaptedTasks], batch: Batch
    ) -> tf.Tensor:
        """The weighted sum of the query losses after each inner step, `[T]`: see `step_weights`."""
        weight, of_last = step_weights(
            self.inner.num_steps, self.steps_done(), self.inner.multi_step_loss
        )
        passes = [self.query_outputs(one, batch, training=True) for one in earlier]
        summed = tf.add_n([self.losses(batch["query"], outputs) for outputs in passes])
        return tf.cast(weight, last.dtype) * summed + tf.cast(of_last, last.dtype) * last

    def _reptile_pass(self, rows: Rows, batch: Batch) -> QueryPass:
        """Steps on all rows of each task; see `InnerLoop.outer_gradient`.

        The loss is that of the query rows after the steps, which have seen them.
        """
        before = rows_of_pairs(rows, batch)
        seen: Batch = {**batch, "support": joined_rows(batch["support"], batch["query"])}
        own = self._own_values(before, seen, None, training=True, order=1)[-1]
        outputs = self.query_outputs(self._as_read(before, own, None), batch, training=True)
        displacements = [
            *((variable.value, one) for variable, one in self.tasks.displacement(own.dense)),
            *((before[group], before[group] - own.rows[group]) for group in self.groups),
        ]
        losses = with_gradient(self.losses(batch["query"], outputs), displacements)
        return QueryPass(self._mean_of_heads(outputs), losses)

    def _encoding(
        self, before: Rows, support: LabelledRows, *, training: bool, blind: bool = False
    ) -> tf.Tensor | None:
        if self.encoder is None:
            return None
        labels = self.inner_loss.labels_of(support)
        return self.encoder.encode(
            before, support, labels, self.schema, training=training, blind=blind
        )

    def _own_values(
        self,
        before: Rows,
        batch: Batch,
        encoding: tf.Tensor | None,
        *,
        training: bool,
        order: int,
    ) -> list[OwnValues]:
        """Every task's own values before the first inner step, and after each."""
        support, clip = batch["support"], self.inner.clip_gradients

        def forward(own: OwnValues, watch: Watch) -> SupportForward:
            watch(own.rows)
            features = self._features({**before, **own.rows}, before, support, encoding)
            record = self.tasks.support_forward(own.dense, features, training=training, watch=watch)
            losses = self.support_losses(support, record.outputs)
            return SupportForward(losses, OwnValues(record.values, own.rows), record.inputs)

        def descend(own: OwnValues, inputs: Any, gradients: OwnValues, rates: StepRates) -> Any:
            dense = self.tasks.descend(
                own.dense, inputs, gradients.dense, rates.dense, self._loop_shape(batch), clip
            )
            rows = descend_values(own.rows, None, gradients.rows, rates.rows, clip)
            return OwnValues(dense, rows)

        start = OwnValues(
            self.tasks.start(TaskRows.of(support["label"]).num_tasks),
            {group: before[group] for group in self.groups},
        )
        return [start, *trajectory(forward, descend, start, self.rates.of_steps(), order=order)]

    def _as_read(self, before: Rows, own: OwnValues, encoding: tf.Tensor | None) -> AdaptedTasks:
        """A task's own values as its query reads them."""
        read = before if self.inner.overlap == "stale" else {**before, **own.rows}
        return AdaptedTasks(own.dense, read, before, encoding)

    def _features(
        self, rows: Rows, before: Rows, part: LabelledRows, encoding: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """The learner's inputs, of adapted rows where a field adapts."""
        fields = self.inner.adapted_fields
        features = features_of(rows, part, self.schema, fields=fields, others=before)
        return features if encoding is None else with_task(features, encoding)

    def _loop_shape(self, batch: Batch) -> LoopShape:
        num_support = batch["support"]["label"].shape[1] or self.expected.support
        num_query = batch["query"]["label"].shape[1] or self.expected.query
        return LoopShape(self.inner.num_steps, num_support, num_query)


def _adapted_tables(inner: InnerLoop, schema: Schema) -> set[str]:
    """The tables of which tasks have rows of their own.

    Raises:
        ValueError: `adapt_embeddings` names a field that the schema does not have.
    """
    chosen = inner.adapted_fields
    if chosen is None:
        adapts = bool(inner.adapt_embeddings)
        return {field.table_name for field in schema.key_fields} if adapts else set()
    known = [field.name for field in schema.key_fields]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"InnerLoop: expected adapt_embeddings to be among the key fields {', '.join(known)}, "
            f"got {unknown[0]!r}."
        )
    return {field.table_name for field in schema.key_fields if field.name in chosen}
