"""Keras' entry points for a model that several ranks train together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.collectives import agree, allreduce_sum, stop
from gmeta_tf.distributed.lost_ranks import LostRankError, is_of_lost_rank
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.look_ahead import LookAhead
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.evaluation.metric_accumulator import MetricAccumulator
from gmeta_tf.meta.adapter import Adapter, Sizes
from gmeta_tf.meta.callback_checks import checked_callbacks
from gmeta_tf.meta.data_checks import (
    check_labels,
    check_whole_tasks,
    warn_of_dense_scale,
)
from gmeta_tf.meta.validation import rejection_text
from gmeta_tf.meta_io.batches.dataset_ops import timed, with_next_keys
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.verification import describe_damage

__all__ = ["RankedModel"]


class RankedModel(keras.Model):
    """`fit`, `evaluate` and `predict` that every rank calls, in step and with the same data.

    A subclass adds the steps. Its `test_step` returns the evaluated rows (`task`, `label`,
    `adapted`, `unadapted`, and `weight` where the schema has one, each `[n]`), the sum of the
    tasks' losses `loss`, and their number `num_tasks`.

    Attributes:
        world: the ranks.
        embedding: the tables.
        accumulator: the sums of the current evaluation.
        loss_metric: the mean loss of the current epoch.
        look_ahead: keeps the next step's keys; None where steps exchange their own.
        input_seconds: how long this rank's training steps have waited for `TaskBatches`.
        adapter: how tasks adapt; it knows T, S and Q of the latest data.
    """

    world: World
    embedding: ShardedEmbedding
    accumulator: MetricAccumulator
    loss_metric: keras.metrics.Mean
    look_ahead: LookAhead | None = None
    input_seconds: tf.Variable
    adapter: Adapter
    steps_per_execution: int
    train_function: Any
    test_function: Any
    predict_function: Any

    def fit(self, x: Any = None, *, validation_data: Any = None, **options: Any) -> Any:
        """`keras.Model.fit`; every rank must call it.

        Args:
            x: `TaskBatches`, or a tf.data.Dataset of such batches with as many steps on every rank.
                `TaskBatches` that begin where an earlier run stopped (`begin`) have a shorter first
                epoch, and `initial_epoch` is then theirs.
            validation_data: the same, evaluated after each epoch.
            options: `epochs`, `initial_epoch`, `callbacks`, `verbose` and the rest of Keras'.

        Returns:
            Keras' History. Losses and metrics are those of all ranks together.

        Raises:
            ValueError: a step was rejected (see `validation`); on every rank.
            RuntimeError: another rank failed; its own error says why.
        """
        options.setdefault("shuffle", False)  # Keras would warn that it cannot shuffle a dataset
        options["callbacks"] = checked_callbacks(options.get("callbacks"), self.world)
        self._expect(x)
        self.check_data(x, validation_data)
        if isinstance(validation_data, TaskBatches):
            agree(_data_of(validation_data), self.world, name="the validation data")
            validation_data = _one_epoch(validation_data)
        options = self._quiet_but_for_chief({**options, "validation_data": validation_data})
        with self._failing_together(x):
            if not isinstance(x, TaskBatches):
                with self._executing_parts_of(
                    options.get("steps_per_epoch"), options.get("validation_steps"), of="train"
                ):
                    return super().fit(self._looking_ahead(x), **options)
            agree(_data_of(x), self.world, name="the training data")
            history = None
            if x.begin.done:
                options["initial_epoch"] = x.begin.epoch + 1
                if x.steps_at_begin and x.begin.epoch < options.get("epochs", 1):
                    history = self._fit_rest(x, options)
                    if self.stop_training or options["initial_epoch"] >= options.get("epochs", 1):
                        return history
            first_epoch = options.setdefault("initial_epoch", x.begin.epoch)
            steps = options.setdefault("steps_per_epoch", x.steps_per_epoch)
            batches = timed(self._looking_ahead(x.dataset(first_epoch)))
            with self._executing_parts_of(steps, options.get("validation_steps"), of="train"):
                return _joined(history, super().fit(batches, **options))

    def check_data(self, training: Any, evaluation: Any = None) -> None:
        """Checks that data suit the loss and the metrics; `fit` and `evaluate` do it first.

        Args:
            training: `TaskBatches`; other data are not looked at.
            evaluation: the same, to evaluate.

        Raises:
            ValueError: labels or tasks that do not suit; on every rank.
        """
        if isinstance(evaluation, TaskBatches):
            check_whole_tasks(evaluation)
        if isinstance(training, TaskBatches) and self.embedding.world.is_chief:
            warn_of_dense_scale(training)
        for batches in (training, evaluation):
            if isinstance(batches, TaskBatches):
                check_labels(batches, self.adapter.row_loss, self.accumulator.names)
                if self.adapter.inner_loss is not self.adapter.row_loss:
                    check_labels(batches, self.adapter.inner_loss, ())

    def _expect(self, data: Any) -> None:
        """Notes T, S and Q, which shapes leave open where they differ from step to step."""
        known = isinstance(data, TaskBatches)
        self.adapter.expected = Sizes(data.tasks, data.support, data.query) if known else Sizes()

    def _fit_rest(self, batches: TaskBatches, options: dict[str, Any]) -> Any:
        """The rest of a stopped epoch, apart: in one `fit` of Keras all epochs have one length."""
        rest = {
            "initial_epoch": batches.begin.epoch,
            "epochs": batches.begin.epoch + 1,
            "steps_per_epoch": batches.steps_at_begin,
        }
        rest_of_epoch = timed(self._looking_ahead(batches.dataset()))
        with self._executing_parts_of(
            batches.steps_at_begin, options.get("validation_steps"), of="train"
        ):
            return super().fit(rest_of_epoch, **{**options, **rest})

    @contextlib.contextmanager
    def _executing_parts_of(self, *steps: int | None, of: str) -> Iterator[None]:
        """Lets so many steps come out even, whatever `steps_per_execution` is.

        Keras makes whole executions, and 10 steps would be 12 where an execution is 4: then it is
        2 while this lasts.

        Args:
            steps: of an epoch, and of the validation behind it; None where data end by themselves.
            of: what takes the steps: "train", "test" or "predict".
        """
        compiled = self.steps_per_execution
        self._set_execution(math.gcd(compiled, *(one for one in steps if one is not None)), of)
        try:
            yield
        finally:
            self._set_execution(compiled, of)

    def _set_execution(self, steps: int, of: str) -> None:
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            setattr(self, f"{of}_function", None)  # Keras has put the number into it

    def _looking_ahead(self, dataset: Any) -> Any:
        """The data for a `fit` of Keras, whose first step exchanges its own keys."""
        if self.look_ahead is None:
            return dataset
        self.look_ahead.forget()
        return with_next_keys(dataset) if isinstance(dataset, tf.data.Dataset) else dataset

    def evaluate(self, x: Any = None, **options: Any) -> Any:
        """`keras.Model.evaluate`; every rank must call it.

        Args:
            x: `TaskBatches` (use `every_query=True` to evaluate every row) or a dataset.
            options: `return_dict`, `verbose`, `callbacks` and the rest of Keras'.

        Returns:
            With `return_dict=True` a dict, else the list of its values: `loss`, each metric as
            `<metric>_adapted` and `<metric>_unadapted`, `tasks` and `samples`, of all ranks
            together.
        """
        as_dict = options.pop("return_dict", False)
        self._expect(x)
        batches = x
        if isinstance(x, TaskBatches):
            self.check_data(None, x)
            agree(_data_of(x), self.world, name="the evaluation data")
            x = _one_epoch(x)
        # Within a `fit` Keras has made the data's iterator before, for the steps of that time.
        steps = None if options.get("_use_cached_eval_dataset") else options.get("steps")
        self.accumulator.reset()
        self._loss_sums = np.zeros(2)
        with (
            self._failing_together(batches),
            self._executing_parts_of(steps, of="test"),
        ):
            super().evaluate(x, return_dict=True, **self._quiet_but_for_chief(options))
            logs = self._results_of_all_ranks()
        return logs if as_dict else list(logs.values())

    def predict(self, x: Any = None, **options: Any) -> Any:
        """`keras.Model.predict`; every rank must call it.

        Returns:
            A dict of arrays `[rows]`, of this rank's tasks: `task`, `label`, `adapted`,
            `unadapted`; and of tasks that adapt in closed form `deviation`, the standard deviation
            of the label about its prediction, in units of the label.
        """
        batches = x
        if isinstance(x, TaskBatches):
            agree(_data_of(x), self.world, name="the data to predict")
            x = _one_epoch(x)
        with (
            self._failing_together(batches),
            self._executing_parts_of(options.get("steps"), of="predict"),
        ):
            return super().predict(x, **self._quiet_but_for_chief(options))

    def make_test_function(self, force: bool = False) -> None:
        """Keras' test function, with the evaluated rows added up outside the graph."""
        if self.test_function is not None and not force:
            return

        def evaluate_step(iterator: Any) -> dict[str, tf.Tensor]:
            return self.test_step(iterator.get_next())

        if not self.run_eagerly:
            evaluate_step = tf.function(evaluate_step, reduce_retracing=True, autograph=False)

        def evaluate_steps(iterator: Any) -> dict[str, Any]:
            # Not Keras' own function: with steps_per_execution it gives the last step alone.
            for step in range(self.steps_per_execution):
                try:
                    outputs = evaluate_step(iterator)
                except tf.errors.OutOfRangeError:
                    if step == 0:
                        raise StopIteration from None
                    break
                count(outputs)
            return self.get_metrics_result()

        def count(outputs: dict[str, tf.Tensor]) -> None:
            values = {name: value.numpy() for name, value in outputs.items()}
            self.accumulator.update(
                values["task"],
                values["label"],
                values["adapted"],
                values["unadapted"],
                values.get("weight"),
            )
            self._loss_sums += (values["loss"], values["num_tasks"])
            mean = values["loss"] / max(values["num_tasks"], 1.0)
            self.loss_metric.update_state(mean, sample_weight=values["num_tasks"])

        self.test_function = evaluate_steps

    def save(self, *arguments: Any, **options: Any) -> None:
        """Raises: Keras' format would leave the embedding tables out."""
        raise ValueError(
            "MetaModel.save would leave the embedding tables out. Use "
            "gmeta_tf.export_saved_model(model, path) to serve, or gmeta_tf.save_checkpoint to "
            "go on training."
        )

    save_weights = export = save

    def load_weights(self, *arguments: Any, **options: Any) -> None:
        """Raises: Keras' format has no embedding tables."""
        raise ValueError(
            "MetaModel.load_weights would leave the embedding tables as they are. Use "
            "gmeta_tf.load_checkpoint(model, path)."
        )

    def _results_of_all_ranks(self) -> dict[str, float]:
        sums = np.concatenate([self._loss_sums, self.accumulator.sums()])
        (total,) = allreduce_sum([tf.constant(sums)], self.world, name="evaluated")
        loss, num_tasks = total[:2].numpy()
        return {
            "loss": float(loss / max(num_tasks, 1.0)),
            **self.accumulator.results(total[2:].numpy()),
        }

    def _quiet_but_for_chief(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if self.world.is_chief else {**options, "verbose": 0}

    @contextlib.contextmanager
    def _failing_together(self, data: Any) -> Iterator[None]:
        """A rank that fails leaves the world, so that the others fail at once and do not hang.

        A step that validation rejected becomes a ValueError with its text alone.
        """
        try:
            yield
        except Exception as error:
            stop(self.world)
            rejected = rejection_text(error)
            if rejected is not None:
                raise ValueError(rejected) from error
            if is_of_lost_rank(error):
                raise LostRankError(self.world) from error
            damage = None
            if isinstance(data, TaskBatches):
                told = (describe_damage(data.records, split, error) for split in data.splits_read)
                damage = next((text for text in told if text is not None), None)
            if damage is not None:
                raise ValueError(damage) from error
            raise


def _joined(first: Any, second: Any) -> Any:
    """Two Histories as one."""
    if first is not None:
        second.epoch = first.epoch + second.epoch
        for name, values in first.history.items():
            second.history[name] = values + second.history.get(name, [])
    return second


def _one_epoch(batches: TaskBatches) -> tf.data.Dataset:
    steps = batches.steps_per_epoch
    batches_once = batches.dataset(batches.begin.epoch).take(steps)
    return batches_once.apply(tf.data.experimental.assert_cardinality(steps))


def _data_of(batches: TaskBatches) -> dict[str, Any]:
    return {
        "records": batches.records.describe(),
        "split": batches.split,
        "tasks": batches.tasks,
        "support": batches.support,
        "query": batches.query,
        "every_row": batches.every_row,
        "every_query": batches.every_query,
        "in_time_order": batches.in_time_order,
        "buckets": batches.buckets,
        "shuffle": batches.shuffle,
        "seed": batches.seed,
        "window_rows": batches.window_rows,
        "begin": batches.begin.to_json(),
        "steps_per_epoch": batches.steps_per_epoch,
    }
