"""`MetaModel`: the outer loop, as a Keras model whose `train_step` reads like Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf import _moved
from gmeta_tf.allowed import NON_FINITE, check_word
from gmeta_tf.batch import Batch, Rows, present_of
from gmeta_tf.distributed.collectives import agree, broadcast
from gmeta_tf.distributed.threads import num_lanes
from gmeta_tf.embedding import row_optimizers
from gmeta_tf.embedding.exchange_strategy import Located, Routes
from gmeta_tf.embedding.look_ahead import LookAhead
from gmeta_tf.embedding.pooling import one_row
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.evaluation.metric_accumulator import MetricAccumulator
from gmeta_tf.meta.adapter import Adapter
from gmeta_tf.meta.adapters import adapter_of
from gmeta_tf.meta.closed_form import ClosedForm
from gmeta_tf.meta.inner_loop import InnerLoop
from gmeta_tf.meta.learner_checks import (
    check_call,
    check_inner_loss,
    check_learner,
    check_metrics,
    check_optimizer,
    check_options,
    check_output,
    check_precision,
)
from gmeta_tf.meta.losses import RowLoss, row_loss
from gmeta_tf.meta.phases import in_phase
from gmeta_tf.meta.ranked_model import RankedModel
from gmeta_tf.meta.task_encoder import TASK_INPUT, TaskEncoder
from gmeta_tf.meta.validation import (
    check,
    key_findings,
    key_problems,
    label_finding,
    label_problem,
    nonfinite_findings,
    nonfinite_tables,
)
from gmeta_tf.planner.report import size_lines
from gmeta_tf.planner.table_sizes import table_sizes

__all__ = ["MetaModel"]


class MetaModel(RankedModel):
    """Meta-trains a learner over sharded embeddings: `compile`, `fit`, `evaluate`, `predict`.

    Algorithm 1 of G-Meta (Xiao et al., CIKM 2023) as reconstructed in docs/architecture.md: fetch
    the rows of all tasks at once, adapt every task on its support rows without communication,
    evaluate the adapted values on the query rows, reduce the gradients over the ranks.

    Attributes:
        learner: the Keras model that tasks adapt. Its input is a dict: `"embedded"` float
            `[R, F, D]`, one vector for each key field in the schema's order (`"embedded_16"` those
            of tables that state width 16), `"dense"` float `[R, num_dense]` where the schema has
            dense fields, and `"task"` float `[R, M]` where there is a task encoder. Its output is
            one number a row, `[R]` or `[R, 1]`; in closed form `[R, H (1 + D)]`, see `ClosedForm`.
        embedding: the tables.
        inner: how a task adapts.
        task_encoder: the Keras model that reads the support rows before the inner loop, or None.
    """

    def __init__(
        self,
        learner: keras.Model,
        embedding: ShardedEmbedding,
        inner: InnerLoop | ClosedForm | None = None,
        *,
        task_encoder: keras.Model | None = None,
        lanes: int | None = None,
        name: str = "meta_model",
    ) -> None:
        """Builds the learner and gives every rank rank 0's dense weights.

        Args:
            learner: any Keras model over the embedded fields; see the class.
            embedding: the tables.
            inner: how a task adapts, by gradient steps (`InnerLoop`) or in closed form
                (`ClosedForm`); None is `InnerLoop()`.
            task_encoder: a Keras model of a task's support rows, whose output is one more input of
                the learner; see `TaskEncoder`.
            lanes: in how many parts the tasks of a step are computed side by side; None is what
                suits the rank's cores (`threads.num_lanes`). Results are equal but for rounding.
            name: of the model.

        Raises:
            ValueError: the learner is no Keras model, does not take the rows or gives another
                output than `inner` needs, keeps state outside its weights or computes in
                float16; `inner` names layers that the learner does not have; fewer than one lane.
        """
        check_learner(learner)
        check_precision(learner)
        super().__init__(name=name)
        self.learner = learner
        self.embedding = embedding
        self.inner = InnerLoop() if inner is None else inner
        self.world = embedding.world
        if lanes is not None and lanes < 1:
            raise ValueError(f"MetaModel: expected lanes of at least 1, got {lanes}.")
        self.lanes = num_lanes(self.world) if lanes is None else lanes
        self.task_encoder, encoder = task_encoder, None
        if task_encoder is not None:
            encoder = TaskEncoder(task_encoder, one_row(embedding.schema, embedding.width))
        self._task_size = None if encoder is None else encoder.size
        example = self._one_row()
        check_call(learner, example)
        if encoder is not None:
            encoder.check_read(learner, example)
        self.adapter = adapter_of(
            learner, embedding, self.inner, example, lanes=self.lanes, encoder=encoder
        )
        self.adapter.make_weights(self.add_weight)
        for index, variable in enumerate(self.trainable_variables):
            value = tf.convert_to_tensor(variable.value)
            variable.assign(broadcast(value, self.world, name=f"dense_{index}"))
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.input_seconds = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        row_optimizer: str | RowOptimizer = "adagrad",
        loss: str | RowLoss = "binary_crossentropy",
        metrics: Sequence[str] | None = None,
        *,
        weighted_metrics: Sequence[str] | None = None,
        inner_loss: str | RowLoss | None = None,
        look_ahead: bool = True,
        non_finite: str = "raise",
        **options: Any,
    ) -> None:
        """Chooses the update rules, the losses and the metrics.

        Args:
            optimizer: a Keras optimizer; the one update rule of every dense weight.
            row_optimizer: `"sgd"`, `"adagrad"`, `"row_wise_adagrad"`, `"lazy_adam"`, `"ftrl"` or a
                `RowOptimizer`; the one update rule of every embedding row.
            loss: `"binary_crossentropy"` (the learner gives logits), `"mean_squared_error"`, their
                names in Keras, or a `RowLoss`; of the query rows in the outer loop, and of the
                support rows in the inner one unless `inner_loss` is another.
            metrics: names that `gmeta_tf.evaluation.metrics` knows; `evaluate` gives each for
                adapted and unadapted predictions. None takes the loss's (`RowLoss.metrics`).
            weighted_metrics: names of metrics of rows (`auc`, `log_loss`, `accuracy`, `mae` or
                `rmse`) to be evaluated by the rows' weights, beside `metrics`, of which
                `weighted_auc`, ... are names, too.
            inner_loss: of the support rows, as `loss`; None is `loss`. It reads the same output:
                under log loss `gm.rating_loss(centre, scale)` takes the logit for the rating less
                `centre`, in units of `scale`, so `centre` should be a rating that is as likely as
                not a click.
            look_ahead: send the keys of the next step with the gradients of this one. Rows are
                fetched after the step, so results are the same, and each step waits for one
                collective less. Takes effect where `fit` reads `TaskBatches` or a tf.data.Dataset.
            non_finite: what happens to a step with non-finite gradients (NaN or Inf) on any rank:
                `"raise"` names the tables; `"skip"` updates nothing and counts `skipped_steps`.
            options: `run_eagerly`, `steps_per_execution`.

        Raises:
            ValueError: an unknown name, an `inner_loss` that has no effect or lacks its units, a
                metric of Keras', an option of Keras' that has no effect here, another `non_finite`,
                a trainable variable without an update rule, a learner that ends in a sigmoid where
                a loss takes logits, a metric that the loss's predictions do not suit, an optimizer
                that would update dense weights otherwise than rows, or ranks with different
                configurations (on every rank).
        """
        check_options(options)
        optimizer = keras.optimizers.get(optimizer)
        check_optimizer(optimizer)
        chosen_loss = row_loss(loss)
        metrics = chosen_loss.metrics if metrics is None else metrics
        if weighted_metrics is not None:
            metrics = [*metrics, *(f"weighted_{name}" for name in weighted_metrics)]
        check_metrics(chosen_loss, metrics, self.embedding.schema.weight)
        chosen_inner = chosen_loss if inner_loss is None else row_loss(inner_loss)
        check_inner_loss(inner_loss, chosen_inner, chosen_loss, takes=self.adapter.takes_inner_loss)
        for one in (chosen_loss, chosen_inner):
            check_output(self.learner, self._one_row(), one)
        check_word("MetaModel.compile: non_finite", non_finite, NON_FINITE)
        if options.get("steps_per_execution", 1) == "auto":
            raise ValueError(
                "MetaModel.compile: expected a number of steps_per_execution, got 'auto', which "
                "would differ from rank to rank. Leave it out, or state a number."
            )
        super().compile(optimizer=optimizer, jit_compile=False, **options)
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")
        self.non_finite = non_finite
        self.row_optimizer = row_optimizers.row_optimizer(row_optimizer)
        self.adapter.row_loss, self.adapter.inner_loss = chosen_loss, chosen_inner
        self.adapter.steps_done = self._steps_done
        self.accumulator = MetricAccumulator(metrics)
        self._check_update_rules()
        ahead = look_ahead and self.embedding.sends_keys
        self.look_ahead = LookAhead(self.embedding) if ahead else None
        agree(self._configuration(), self.world, name="the model")
        self.optimizer.build(self.trainable_variables)
        self.embedding.make_slots(self.row_optimizer)

    # The two loops.

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step of Algorithm 1 on this rank's tasks. Every rank must call it."""
        routes = self._routes(batch)
        located = self.embedding.locate(routes, self._steps_done(), training=True)
        rows = self.embedding.fetch(routes, located)
        loss, gradients, row_gradients = in_phase(
            self._steps_done(),
            self.adapter.phases,
            lambda adapter: self._differentiated(adapter, rows, batch),
        )
        # A learner may leave a group of tables unread; its exchange still takes part.
        row_gradients = {
            group: tf.zeros_like(rows[group]) if gradient is None else gradient
            for group, gradient in row_gradients.items()
        }
        self._outer_update(gradients, row_gradients, routes, located, loss, batch)
        self.adapter.advance_seeds()
        self.input_seconds.assign_add(batch.get("waited", 0.0))
        return self.get_metrics_result()

    def _differentiated(
        self, adapter: Adapter, rows: Rows, batch: Batch
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], dict[str, tf.Tensor | None]]:
        """The sum of the losses of this rank's tasks, and its gradients."""
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = tf.reduce_sum(adapter.query_pass(rows, batch, training=True).losses)
        gradients, row_gradients = tape.gradient(loss, (self.trainable_variables, rows))
        return loss, gradients, row_gradients

    def _outer_update(
        self,
        gradients: list[tf.Tensor | None],
        row_gradients: Rows,
        routes: Routes,
        located: Located,
        loss: tf.Tensor,
        batch: Batch,
    ) -> None:
        """The outer rule; only here a step is scaled.

        The loss of a step is the mean over the tasks of *all* ranks. One exchange sums the row
        gradients (by their owners), the dense gradients and the number of tasks over the ranks;
        both kinds of gradients are then divided by that number.
        """
        reached = [(g, v) for g, v in zip(gradients, self.trainable_variables) if g is not None]
        following = None if self.look_ahead is None else self.look_ahead.following(batch)
        labels = self._checked_labels
        returned = self.embedding.return_gradients(
            row_gradients,
            routes,
            located,
            following=following,
            totals=[
                *(tf.convert_to_tensor(gradient) for gradient, _ in reached),
                loss,
                _num_tasks(batch),
                key_problems(batch, located),
                nonfinite_tables(row_gradients, batch, self.embedding),
                *([label_problem(batch, labels)] if labels else ()),
            ],
        )
        totals = list(returned.totals)
        label_found = totals.pop() if labels else None
        *sums, loss_sum, num_tasks, problems, nonfinite = totals
        scale = 1.0 / tf.maximum(num_tasks, 1.0)

        def update() -> None:
            row_means = {
                group: (row_indices, summed * scale)
                for group, (row_indices, summed) in returned.updates.items()
            }
            self.embedding.apply_gradients(row_means, self.row_optimizer, self._steps_done())
            self.optimizer.apply(
                [summed * scale for summed in sums], [variable for _, variable in reached]
            )
            self.loss_metric.update_state(loss_sum * scale, sample_weight=num_tasks)

        kept = []
        if self.look_ahead is not None:
            # Even a rejected step has sent the next keys, and the step behind it needs them.
            kept = self.look_ahead.keep(following, returned.following, batch)
        with tf.control_dependencies(kept):
            findings = key_findings(problems, batch, located, self.embedding)
            if labels and label_found is not None:
                findings.append(label_finding(label_found, batch, labels, self._loss_of_labels))
            is_finite = _are_finite([*sums, loss_sum])
            if self.non_finite == "raise":
                findings += nonfinite_findings(is_finite, nonfinite, self.embedding)
            checked = check(findings, trains=True)
        with tf.control_dependencies([checked]):
            if self.non_finite == "raise":
                update()
            else:
                may_update = is_finite & tf.reduce_all(nonfinite <= 0)
                tf.cond(may_update, update, lambda: None)
                self.skipped_steps.update_state(tf.cast(~may_update, tf.float32))

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Evaluates the query rows of this rank's tasks. Every rank must call it."""
        rows = self.fetch(batch)
        adapted = self.adapter.query_pass(rows, batch, training=False)
        unadapted = self.adapter.unadapted_outputs(rows, batch)
        query = batch["query"]
        present = present_of(query)
        task = tf.broadcast_to(batch["task"][:, tf.newaxis], tf.shape(present))
        deviation = adapted.deviation
        told = {} if deviation is None else {"deviation": tf.boolean_mask(deviation, present)}
        if self.embedding.schema.weight is not None:
            told["weight"] = tf.boolean_mask(query["weight"], present)
        return {
            **told,
            "task": tf.boolean_mask(task, present),
            "label": tf.boolean_mask(query["label"], present),
            "adapted": tf.boolean_mask(self.row_loss.predict(adapted.outputs), present),
            "unadapted": tf.boolean_mask(self.row_loss.predict(unadapted), present),
            "loss": tf.reduce_sum(adapted.losses),
            "num_tasks": _num_tasks(batch),
        }

    def predict_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The query rows of this rank's tasks: task, label, adapted and unadapted prediction.

        In closed form `deviation` too, see `QueryPass`.
        """
        evaluated = self.test_step(batch)
        names = ("task", "label", "adapted", "unadapted", "deviation")
        return {name: evaluated[name] for name in names if name in evaluated}

    def call(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """The adapted predictions of the query rows, `[T, Q]`."""
        rows = self.fetch(batch)
        return self.row_loss.predict(self.adapter.outputs(rows, batch, training=training))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What Keras resets at the start of an epoch."""
        skips = getattr(self, "non_finite", "raise") == "skip"
        return [self.loss_metric, self.skipped_steps] if skips else [self.loss_metric]

    def summary(self, *arguments: Any, **options: Any) -> None:
        """Keras' summary, how a step is computed, and the tables."""
        super().summary(*arguments, **options)
        show = options.get("print_fn") or print
        reason = self.adapter.fallback_reason
        fallback = f"takes the vectorized fallback: {reason}"
        show(f" the learner {fallback if reason else 'runs once for all tasks of a lane'}")
        show(f" lanes: {self.lanes}")
        optimizer = getattr(self, "row_optimizer", None)
        sizes = table_sizes(
            self.embedding.schema,
            self.embedding.width,
            lambda width: (
                {n: s.width for n, s in optimizer.slots(width).items()} if optimizer else {}
            ),
            self.world.size,
            replicated=self.embedding.replicated,
        )
        for line in size_lines(sizes):
            show(f" {line}")

    adapted_outputs = _moved.renamed("MetaModel", "adapted_outputs", "adapter.outputs")
    adapted_lane = _moved.renamed("MetaModel", "adapted_lane", "adapter.outputs_in_one_lane")
    unadapted_outputs = _moved.renamed(
        "MetaModel", "unadapted_outputs", "adapter.unadapted_outputs"
    )

    # What the steps are made of.

    @property
    def row_loss(self) -> RowLoss:
        """The loss of rows that the model was compiled with."""
        return self.adapter.row_loss

    def _one_row(self) -> dict[str, tf.Tensor]:
        """The learner's inputs for one row, zeros."""
        row = one_row(self.embedding.schema, self.embedding.width)
        if self._task_size is not None:
            row[TASK_INPUT] = tf.zeros([1, self._task_size])
        return row

    def _routes(self, batch: Batch) -> Routes:
        """The ways of a training step's keys to their owners."""
        if self.look_ahead is not None:
            return self.look_ahead.routes(batch)
        return self.embedding.routes(batch["keys"], batch.get("keys_of_rank"))

    def fetch(self, batch: Batch) -> Rows:
        """The rows of a step that does not train, once its keys and labels are checked."""
        routes = self.embedding.routes(batch["keys"], batch.get("keys_of_rank"))
        located = self.embedding.locate(routes)
        rows = self.embedding.fetch(routes, located)
        problems = key_problems(batch, located)
        findings = key_findings(problems, batch, located, self.embedding)
        labels = self._checked_labels
        if labels:
            found = label_problem(batch, labels)
            findings.append(label_finding(found, batch, labels, self._loss_of_labels))
        checked = check(findings)
        with tf.control_dependencies([checked]):
            return {group: tf.identity(values) for group, values in rows.items()}

    @property
    def _checked_labels(self) -> tuple[float, float] | None:
        """The labels that a step may have; None where they are right whatever the data are."""
        made_here = self.embedding.schema.positive_from is not None  # 0 or 1, in the pipeline
        ranges = [one.labels for one in self._row_losses if one.labels is not None]
        if made_here or not ranges:
            return None
        return max(lowest for lowest, _ in ranges), min(highest for _, highest in ranges)

    @property
    def _row_losses(self) -> tuple[RowLoss, RowLoss]:
        return self.adapter.row_loss, self.adapter.inner_loss

    @property
    def _loss_of_labels(self) -> str:
        """What the loss is called that is not right for all labels."""
        return next(one.name for one in self._row_losses if one.labels is not None)

    def _steps_done(self) -> tf.Tensor:
        return tf.cast(self.optimizer.iterations.value, tf.int64)

    def _check_update_rules(self) -> None:
        """Raises, and names the variable, where a trainable one has no update rule."""
        ruled = {id(variable.value) for variable in self.trainable_variables}
        for layer in self._flatten_layers():
            members = vars(layer).items()
            for name, value in ((n, leaf) for n, held in members for leaf in _leaves(held)):
                loose = isinstance(value, tf.Variable) and value.trainable
                if loose and id(value) not in ruled:
                    raise ValueError(
                        f"the variable {layer.name}.{name} is trainable and has no update rule: "
                        "Keras does not see a plain tf.Variable. Make it with layer.add_weight, "
                        "or with trainable=False."
                    )

    def _configuration(self) -> dict[str, Any]:
        return {
            "inner": {k: v for k, v in vars(self.inner).items() if k != "adapt_dense"},
            "adapted": self.adapter.adapted_paths,
            "weights": {v.path: list(v.shape) for v in self.trainable_variables},
            "optimizer": str(self.optimizer.get_config()),
            "row_optimizer": str(self.row_optimizer),
            "loss": (self.row_loss.name, *self.row_loss.settings),
            "inner_loss": (self.adapter.inner_loss.name, *self.adapter.inner_loss.settings),
            "look_ahead": self.look_ahead is not None,
            "non_finite": self.non_finite,
            "tables": self.embedding.describe(),
        }


def _leaves(value: Any) -> list[Any]:
    """The leaves of nested lists, tuples and dicts; any other value alone."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.math.is_finite(tf.reduce_sum(tensor)) for tensor in tensors])


def _num_tasks(batch: Batch) -> tf.Tensor:
    """The tasks that have a query row of a weight above 0, a float32 scalar."""
    has_query = tf.reduce_any(batch["query"]["weight"] > 0, axis=1)
    return tf.reduce_sum(tf.cast(has_query, tf.float32))
