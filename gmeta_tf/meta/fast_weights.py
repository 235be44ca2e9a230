"""Per-task parameters of a Keras model: values, never state hung on a layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = ["TaskLearner", "adapted_variables"]

Features = dict[str, tf.Tensor]
AdaptDense = str | Sequence[keras.layers.Layer] | Callable[[Any], bool]


def adapted_variables(learner: keras.Model, adapt: AdaptDense) -> list[bool]:
    """Which of the learner's trainable variables the inner loop moves.

    Args:
        learner: a built Keras model.
        adapt: `"all"`, `"none"`, a list of the learner's layers, or a predicate of a variable
            (`lambda variable: "decision" in variable.path`).

    Returns:
        One bool for each of `learner.trainable_variables`.

    Raises:
        ValueError: another word, a layer that is not of the learner, or a choice that picks
            nothing.
    """
    variables = learner.trainable_variables
    if isinstance(adapt, str):
        if adapt not in ("all", "none"):
            raise ValueError(
                f"adapt_dense: expected 'all', 'none', a list of layers or a predicate, "
                f"got {adapt!r}."
            )
        return [adapt == "all"] * len(variables)
    if callable(adapt):
        chosen = [bool(adapt(variable)) for variable in variables]
    else:
        layers: Sequence[Any] = adapt
        owned = {id(variable) for layer in layers for variable in layer.trainable_variables}
        chosen = [id(variable) in owned for variable in variables]
        foreign = len(owned) - sum(chosen)
        if foreign:
            raise ValueError(
                f"adapt_dense: {foreign} variable(s) of the layers "
                f"{[layer.name for layer in layers]} are not the learner's. "
                "Pass layers of the learner itself."
            )
    if not any(chosen):
        raise ValueError(
            "adapt_dense picks none of the learner's variables: "
            f"{[variable.path for variable in variables]}. Say 'none' if that is meant."
        )
    return chosen


class TaskLearner:
    """A Keras model applied to T tasks at once, each with its own values of the adapted variables.

    The stacked form: the adapted variables carry a leading axis of tasks, and `tf.vectorized_map`
    turns the model's own call into batched products. It holds for any Keras model.

    Attributes:
        learner: the model, built.
        adapted: the variables that the inner loop moves.
    """

    def __init__(self, learner: keras.Model, adapt: AdaptDense) -> None:
        """Splits the learner's variables into adapted and shared ones.

        Args:
            learner: a built model of features -> `[R]` or `[R, 1]`.
            adapt: see `adapted_variables`.

        Raises:
            ValueError: as `adapted_variables`; or a learner with state that training would change
                in place (BatchNormalization), which has no meaning for a task's own values.
        """
        stateful = [v.path for v in learner.non_trainable_variables if "seed" not in v.name]
        if stateful:
            raise ValueError(
                f"the learner keeps state outside its weights: {stateful}. Tasks are adapted side "
                "by side and can not share it: use LayerNormalization in place of "
                "BatchNormalization, and unfreeze or drop frozen variables."
            )
        self.learner = learner
        self._takes_training = "training" in inspect.signature(learner.call).parameters
        self._chosen = adapted_variables(learner, adapt)
        self.adapted = [
            variable
            for variable, chosen in zip(learner.trainable_variables, self._chosen, strict=True)
            if chosen
        ]

    def initial(self, num_tasks: int | tf.Tensor) -> list[tf.Tensor]:
        """The shared weights as each task's own: `[T, ...]` for each adapted variable."""
        return [
            tf.broadcast_to(value, tf.concat([[num_tasks], tf.shape(value)], axis=0))
            for value in (tf.convert_to_tensor(variable.value) for variable in self.adapted)
        ]

    def __call__(
        self, fast: Sequence[tf.Tensor] | None, features: Features, *, training: bool
    ) -> tf.Tensor:
        """The learner's output for each task's rows, `[T, R]`.

        Args:
            fast: `[T, ...]` for each adapted variable; None uses the shared weights.
            features: the learner's inputs with a leading axis of tasks, `[T, R, ...]`.
            training: passed to the learner, if its `call` takes it. Dropout draws one mask for all
                tasks of a step.
        """

        options = {"training": training} if self._takes_training else {}

        def one_task(values: tuple[list[tf.Tensor], Features]) -> tf.Tensor:
            own, inputs = values
            variables = self._merge(own) if fast is not None else self._shared()
            state = [variable.value for variable in self.learner.non_trainable_variables]
            output, _ = self.learner.stateless_call(variables, state, inputs, **options)
            return tf.reshape(output, [-1])

        own = [] if fast is None else list(fast)
        output = tf.vectorized_map(one_task, (own, features))
        rows = next(iter(features.values())).shape[:2]
        return tf.ensure_shape(output, rows)

    def advance_seeds(self) -> None:
        """Gives the next step other draws: a stateless call leaves the seeds as they are."""
        for seed in self.learner.non_trainable_variables:
            seed.assign(seed.value + tf.constant([0, 1], seed.dtype))

    def _shared(self) -> list[Any]:
        return [variable.value for variable in self.learner.trainable_variables]

    def _merge(self, own: Sequence[tf.Tensor]) -> list[Any]:
        remaining = iter(own)
        return [
            next(remaining) if chosen else value
            for value, chosen in zip(self._shared(), self._chosen, strict=True)
        ]
