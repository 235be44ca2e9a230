"""What a task's support rows say of it before the inner loop, as an input of the learner."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from gmeta_tf.batch import LabelledRows
from gmeta_tf.meta.features import features_of
from gmeta_tf.schema import Schema

__all__ = ["TASK_INPUT", "TaskEncoder", "with_task"]

TASK_INPUT = "task"
"""The learner's input that holds the task embedding."""

_TASKS, _ROWS = 2, 3


class TaskEncoder:
    """A Keras model that reads a task's support rows, and gives the learner one more input.

    MMAML (Vuorio et al., NeurIPS 2019) calls it a modulation network: it runs once for each task,
    before the inner loop, and what it gives is held fixed while the task adapts. The outer loop
    trains it, through the query rows' loss.

    Its inputs are those of the learner, with an axis of tasks, and the labels: `"embedded"` float
    `[T, S, F, D]` (and `"embedded_16"`, `"dense"` as the learner has them), `"label"` float
    `[T, S]` as the inner loss takes it, and `"weight"` float `[T, S]`, 0 where a row is missing
    (otherwise 1, or the row's weight).
    Its output, the task embedding, is `[T, M]`; each row of the task, support and query, has it as
    the learner's input `"task"`, `[R, M]`.

    Attributes:
        model: the Keras model, built.
        size: M.
    """

    def __init__(self, model: keras.Model, example: dict[str, tf.Tensor]) -> None:
        """Builds the model, and tries it on a few made rows.

        Args:
            model: see the class.
            example: the learner's inputs for one row, without `"task"`.

        Raises:
            ValueError: it is no Keras model, does not take these inputs or gives another output, is
                not finite for a task without rows, reads rows that are missing, or keeps state.
        """
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"task_encoder: expected a keras.Model, got {type(model).__name__}. "
                "models.MMAML(...).task_encoder() makes one."
            )
        self.model = model
        inputs = _made_inputs(example)
        try:
            output = model(inputs)
        except Exception as error:
            takes = ", ".join(f"{name!r} {list(value.shape)}" for name, value in inputs.items())
            raise ValueError(
                f"task_encoder: {model.name!r} failed on the inputs {takes}: {error}"
            ) from error
        if not tf.is_tensor(output) or len(output.shape) != 2 or output.shape[0] != _TASKS:
            found = tf.nest.map_structure(lambda one: tuple(one.shape), output)
            raise ValueError(
                f"task_encoder: expected {model.name!r} to give [T, M] for T tasks, here "
                f"({_TASKS}, M), got {found}. Take the mean over the support rows, by weight."
            )
        self.size = int(output.shape[1])
        self._check_missing_rows(inputs, output)
        stateful = [v.path for v in model.non_trainable_variables if "seed" not in v.name]
        if stateful:
            raise ValueError(
                f"task_encoder: {model.name!r} keeps state outside its weights: {stateful}. Use "
                "LayerNormalization in place of BatchNormalization."
            )

    def encode(
        self,
        own_rows: Mapping[str, tf.Tensor],
        support: LabelledRows,
        labels: tf.Tensor,
        schema: Schema,
        *,
        training: bool,
        blind: bool = False,
    ) -> tf.Tensor:
        """The task embeddings, `[T, M]`.

        Args:
            own_rows: group -> float `[P, D]`, before adaptation.
            support: of a batch.
            labels: `[T, S]`, as the inner loss takes them.
            schema: what a row is.
            training: passed to the model.
            blind: as if no support row were there, for the prediction without adaptation.
        """
        weight = tf.zeros_like(support["weight"]) if blind else support["weight"]
        features = features_of(own_rows, support, schema)
        return self.model({**features, "label": labels, "weight": weight}, training=training)

    def check_read(self, learner: keras.Model, example: dict[str, tf.Tensor]) -> None:
        """Checks that a learner reads the task embedding.

        Args:
            learner: the learner, built.
            example: its inputs for one row, with `"task"`.

        Raises:
            ValueError: it does not, so that the encoder would never be trained.
        """
        with tf.GradientTape() as tape:
            tape.watch(example[TASK_INPUT])
            output = learner(example)
        if tape.gradient(output, example[TASK_INPUT]) is None:
            raise ValueError(
                f"task_encoder: the learner {learner.name!r} does not read its input 'task', so "
                "nothing would train the encoder. Read inputs['task'], or leave task_encoder out."
            )

    def _check_missing_rows(self, inputs: dict[str, tf.Tensor], output: tf.Tensor) -> None:
        others = {
            name: value if name == "weight" else tf.concat([value[:, :-1], value[:, -1:] + 3], 1)
            for name, value in inputs.items()
        }
        if not bool(tf.reduce_all(tf.abs(self.model(others) - output) < 1e-4)):
            raise ValueError(
                f"task_encoder: the output of {self.model.name!r} depends on rows that are missing "
                "(weight 0). Multiply each row by inputs['weight']."
            )
        empty = self.model({**inputs, "weight": tf.zeros_like(inputs["weight"])})
        if not bool(tf.reduce_all(tf.math.is_finite(empty))):
            raise ValueError(
                f"task_encoder: the output of {self.model.name!r} is not finite for a task without "
                "support rows. Divide by max(the number of rows, 1)."
            )


def with_task(features: dict[str, tf.Tensor], task: tf.Tensor) -> dict[str, tf.Tensor]:
    """The learner's inputs, with each task's embedding in all its rows.

    Args:
        features: input -> `[T, R, ...]`.
        task: `[T, M]`.
    """
    first = next(iter(features.values()))
    of_rows = tf.repeat(task[:, tf.newaxis], tf.shape(first)[1], axis=1)
    of_rows.set_shape([*first.shape[:2], task.shape[1]])
    return {**features, TASK_INPUT: of_rows}


def _made_inputs(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Inputs of a few tasks; the last row of each is missing."""
    features = {
        name: tf.reshape(
            tf.sin(tf.range(_TASKS * _ROWS * value[0].shape.num_elements(), dtype=tf.float32)),
            [_TASKS, _ROWS, *value.shape[1:]],
        )
        for name, value in example.items()
    }
    weight = tf.constant([[1.0] * (_ROWS - 1) + [0.0]] * _TASKS)
    return {**features, "label": tf.ones([_TASKS, _ROWS]) * weight, "weight": weight}
