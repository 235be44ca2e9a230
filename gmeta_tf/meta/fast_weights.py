"""Per-task parameters of a Keras model: values, never state hung on a layer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from gmeta_tf.allowed import ADAPT_DENSE, FAST_WEIGHTS, check_word
from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_layers import ForwardRecord, LayerUnit, TaskRows, Unit, Watch, units_of
from gmeta_tf.meta.last_layer import last_layers
from gmeta_tf.meta.layer_calls import overridden_calls

__all__ = ["SupportRecord", "TaskLearner", "adapted_variables"]

Features = dict[str, tf.Tensor]
AdaptDense = str | Sequence[keras.layers.Layer | str] | Callable[[Any], bool]

_LOG = logging.getLogger(__name__)


def adapted_variables(
    learner: keras.Model, adapt: AdaptDense, example: Features | None = None, heads: int = 1
) -> list[bool]:
    """Which of the learner's trainable variables the inner loop moves.

    Args:
        learner: a built Keras model.
        adapt: `"all"`, `"none"`, `"last_layer"`, a list of the learner's layers or of their names,
            or a predicate of a variable (`lambda variable: "decision" in variable.path`).
        example: the learner's inputs for some rows, for `"last_layer"`.
        heads: of how many learners it consists, each of which has a last layer and layers of those
            names; see `InnerLoop`.

    Returns:
        One bool for each of `learner.trainable_variables`.

    Raises:
        ValueError: another word, a layer that is not of the learner, a learner without one last
            layer (see `last_layer`), or a choice that picks nothing.
    """
    variables = learner.trainable_variables
    if isinstance(adapt, str):
        if adapt not in ADAPT_DENSE or (adapt == "last_layer" and example is None):
            words = ", ".join(map(repr, ADAPT_DENSE))
            raise ValueError(
                f"adapt_dense: expected {words}, a list of layers or a predicate, got {adapt!r}."
            )
        if adapt != "last_layer":
            return [adapt == "all"] * len(variables)
        adapt = last_layers(learner, example or {}, heads)
    if callable(adapt):
        chosen = [bool(adapt(variable)) for variable in variables]
    else:
        layers = [
            layer
            for one in adapt
            for layer in (_layers_of(learner, one, heads) if isinstance(one, str) else [one])
        ]
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


def _layers_of(learner: keras.Model, name: str, heads: int) -> list[keras.layers.Layer]:
    """The learner's layer of a name, at any depth; one in each head."""
    weighted = [
        layer for layer in learner._flatten_layers(include_self=False) if layer.trainable_variables
    ]
    found = [layer for layer in weighted if layer.name == name]
    if len(found) != heads:
        known = ", ".join(layer.name for layer in weighted)
        raise ValueError(
            f"adapt_dense: expected names of the learner's layers with weights ({known}), each of "
            f"{'one layer' if heads == 1 else f'{heads} layers, one a head'}, got {name!r}, of "
            f"{len(found)}. Give the layers themselves, or a predicate."
        )
    return found


class SupportRecord(NamedTuple):
    """A pass over the support rows of T tasks, and what an inner step needs of it.

    Attributes:
        outputs: `[T, R]`, or `[T, R, H]` of several heads.
        values: of which tensors to take the gradient, a list for each unit.
        inputs: what `TaskLearner.descend` has to know beside it, likewise.
    """

    outputs: tf.Tensor
    values: list[Any]
    inputs: list[Any]


class TaskLearner:
    """A Keras model applied to T tasks at once, each with its own values of the adapted variables.

    The model runs once on the rows of all tasks, `[T R, ...]`, and only the calls of layers that
    adapt are overridden: a Dense layer takes one of two exact forms (see `fast_dense`), any other
    layer its own call on stacked values, `[T, ...]`. This needs a learner that computes each row's
    output from that row alone and reads adapted variables in the calls of their layers; a trial on
    a few made rows tells. Other learners take the *vectorized fallback*: the learner's own call on
    stacked values of all adapted variables, which `tf.vectorized_map` turns into batched ops. The
    fallback works for any Keras model.

    Attributes:
        learner: the model, built.
        adapted: the variables that the inner loop moves.
        fallback_reason: why the learner takes the vectorized fallback, or None where it does not.
    """

    def __init__(
        self,
        learner: keras.Model,
        adapt: AdaptDense,
        example: Features,
        *,
        form: str = "auto",
        heads: int = 1,
    ) -> None:
        """Splits the learner's variables into adapted and shared ones, and chooses how it runs.

        Args:
            learner: a built model of features -> `[R]` or `[R, H]`.
            adapt: see `adapted_variables`.
            example: the learner's inputs for some rows; only shapes and types matter.
            form: of Dense layers: `"low_rank"`, `"stacked"`, or `"auto"`, whichever takes less
                time; `"vectorized"` asks for the vectorized fallback.
            heads: H, see `InnerLoop`.

        Raises:
            ValueError: as `adapted_variables`; a learner with state that training would change in
                place (BatchNormalization), which has no meaning for a task's own values; an
                unknown form, or one that this learner cannot have.
        """
        stateful = [v.path for v in learner.non_trainable_variables if "seed" not in v.name]
        if stateful:
            raise ValueError(
                f"the learner keeps state outside its weights: {stateful}. Tasks are adapted side "
                "by side and cannot share it: use LayerNormalization in place of "
                "BatchNormalization, and unfreeze or drop frozen variables."
            )
        check_word("TaskLearner: form", form, FAST_WEIGHTS)
        self.learner, self._heads = learner, heads
        self._takes_training = "training" in inspect.signature(learner.call).parameters
        chosen = adapted_variables(learner, adapt, example, heads)
        self.adapted = [
            variable
            for variable, is_chosen in zip(learner.trainable_variables, chosen, strict=True)
            if is_chosen
        ]
        positions = {id(variable): index for index, variable in enumerate(self.adapted)}
        self._vectorized = LayerUnit(learner, positions)
        self._units: list[Unit] = []
        self.fallback_reason: str | None = None
        if form == "vectorized":
            self.fallback_reason = "fast_weights='vectorized' asks for it"
        else:
            self._units = units_of(learner, positions, form)
            if any(unit.layer is learner for unit in self._units):
                self.fallback_reason = "it owns adapted weights outside its layers"
            else:
                self.fallback_reason = self._difference(example)
            if self.fallback_reason and form != "auto":
                raise ValueError(
                    f"fast_weights={form!r}: the learner cannot run on the rows of all tasks at "
                    f"once: {self.fallback_reason}. Use fast_weights='auto' or 'vectorized'."
                )
        if self.fallback_reason:
            _LOG.info(
                "the learner %s takes the vectorized fallback: %s",
                learner.name,
                self.fallback_reason,
            )
            self._units = [self._vectorized]

    def start(self, num_tasks: int | tf.Tensor) -> list[Any]:
        """The fast weights before the first inner step, of each unit of the learner."""
        return [unit.start(num_tasks) for unit in self._units]

    def __call__(
        self, fast: Sequence[Any] | None, features: Features, *, training: bool
    ) -> tf.Tensor:
        """The learner's output for each task's rows, `[T, R]`, or `[T, R, H]` of several heads.

        Args:
            fast: what `start` or `descend` gave; None uses the shared weights.
            features: the learner's inputs with a leading axis of tasks, `[T, R, ...]`.
            training: passed to the learner, if its `call` takes it. In the vectorized fallback
                Dropout draws one mask for all tasks of a step.
        """
        return self.support_forward(fast, features, training=training, watch=_leave).outputs

    def support_forward(
        self, fast: Sequence[Any] | None, features: Features, *, training: bool, watch: Watch
    ) -> SupportRecord:
        """A pass over the support rows: the outputs, and what an inner step needs of it.

        Args:
            fast: as in a call.
            features: as in a call.
            training: as in a call.
            watch: `tape.watch` of the tape that takes the step's gradient.
        """
        options = {"training": training} if self._takes_training else {}
        rows = TaskRows.of(next(iter(features.values())))
        if self.fallback_reason:
            own = None if fast is None else list(fast[0])
            watch(own or [])
            outputs = self._vectorized.each_task(own, [features], options)
            return SupportRecord(self._of_rows(outputs, rows), [own or []], [[]])
        records = [ForwardRecord([], []) for _ in self._units]
        overrides = {
            unit.layer: unit.override(own, rows, of_unit, watch)
            for unit, own, of_unit in zip(self._units, fast or [], records)
        }
        flat = {name: rows.flat(value) for name, value in features.items()}
        with overridden_calls(overrides):
            shared = [variable.value for variable in self.learner.trainable_variables]
            state = [variable.value for variable in self.learner.non_trainable_variables]
            outputs, _ = self.learner.stateless_call(shared, state, flat, **options)
        values, inputs = ([one[member] for one in records] for member in range(2))
        return SupportRecord(self._of_rows(outputs, rows), values, inputs)

    def _of_rows(self, outputs: tf.Tensor, rows: TaskRows) -> tf.Tensor:
        shape = list(rows) if self._heads == 1 else [*rows, self._heads]
        return _full_precision(tf.reshape(outputs, shape))

    def descend(
        self,
        fast: Sequence[Any],
        inputs: Sequence[Sequence[tf.Tensor]],
        gradients: Sequence[Sequence[tf.Tensor]],
        rates: Sequence[tf.Tensor],
        loop: LoopShape,
        clip: float | None = None,
    ) -> list[Any]:
        """The fast weights after one inner step, `value <- value - rate gradient`.

        Args:
            fast: before it.
            inputs: what `support_forward` gave.
            gradients: of the values that `support_forward` gave.
            rates: alpha of each adapted variable: a scalar, or in the variable's shape.
            loop: how large the whole loop is, for the choice of a Dense layer's form.
            clip: see `clipped`.
        """
        return [
            unit.descend(own, inputs_, gradients_, rates, loop, clip)
            for unit, own, inputs_, gradients_ in zip(
                self._units, fast, inputs, gradients, strict=True
            )
        ]

    def output_norms(self, features: Features) -> tf.Tensor:
        """The norm of the gradient of each task's summed outputs in the adapted variables, `[T]`.

        Of several heads the mean output counts.

        Args:
            features: as in a call.
        """
        num_tasks = TaskRows.of(next(iter(features.values()))).num_tasks
        with tf.GradientTape() as tape:
            record = self.support_forward(
                self.start(num_tasks), features, training=False, watch=tape.watch
            )
            total = tf.reduce_sum(record.outputs) / self._heads
        gradients = tape.gradient(total, record.values, **_ZERO)
        squares = [
            unit.squares(inputs, slopes)
            for unit, inputs, slopes in zip(self._units, record.inputs, gradients, strict=True)
        ]
        return tf.sqrt(tf.cast(tf.add_n(squares), tf.float32))

    def displacement(self, fast: Sequence[Any]) -> list[tuple[Any, tf.Tensor]]:
        """The adapted variables that moved, each with `value - fast` summed over the tasks."""
        of_units = [unit.displacement(own) for unit, own in zip(self._units, fast, strict=True)]
        return [(self.adapted[i], change) for of_unit in of_units for i, change in of_unit]

    def advance_seeds(self) -> None:
        """Gives the next step other draws: a stateless call does not advance the seeds."""
        for seed in self.learner.non_trainable_variables:
            seed.assign(seed.value + tf.constant([0, 1], seed.dtype))

    def _difference(self, example: Features) -> str | None:
        """How one run for all tasks differs from the learner called for each task alone, or None.

        It compares two tasks' outputs, and each adapted variable's gradient as the units compute
        it. The weights are shaken: at an initial value of 0 a difference could hide.
        """
        rng = np.random.default_rng(0)

        def made(shape: Sequence[int], dtype: Any) -> tf.Tensor:
            return tf.cast(tf.constant(rng.normal(size=shape)), dtype)

        features = {
            name: made([_TASKS, _ROWS, *value.shape[1:]], value.dtype)
            for name, value in example.items()
        }
        variables = self.learner.trainable_variables
        shaken = {id(v): v.value + 0.1 * made(v.shape, v.value.dtype) for v in variables}
        own = [shaken[id(variable)] for variable in self.adapted]
        of_rows = [_ROWS] if self._heads == 1 else [_ROWS, self._heads]
        slopes = made([_TASKS, *of_rows], features[next(iter(features))].dtype)
        with keras.StatelessScope([(v, shaken[id(v)]) for v in variables]):
            with tf.GradientTape() as tape:
                outputs, values, inputs = self.support_forward(
                    self.start(_TASKS), features, training=False, watch=tape.watch
                )
                loss = tf.reduce_sum(slopes * tf.cast(outputs, slopes.dtype))
            gradients = tape.gradient(loss, values, **_ZERO)
            with tf.GradientTape() as tape:
                tape.watch(own)
                alone = tf.stack(
                    [
                        tf.reshape(self.learner({n: v[task] for n, v in features.items()}), of_rows)
                        for task in range(_TASKS)
                    ]
                )
                loss = tf.reduce_sum(slopes * tf.cast(alone, slopes.dtype))
            expected = tape.gradient(loss, own, **_ZERO)
        dtypes = {layer.compute_dtype for layer in self.learner._flatten_layers()}
        rounding = max(float(ml_dtypes.finfo(dtype).eps) for dtype in dtypes)
        if not _are_close(outputs, alone, 0.0, rounding):
            return "a row's output depends on other rows"
        largest = max((float(tf.reduce_max(tf.abs(one))) for one in expected), default=0.0)
        for unit, seen, gradient in zip(self._units, inputs, gradients, strict=True):
            for index, summed in unit.summed(seen, gradient):
                if not _are_close(summed, expected[index], largest, rounding):
                    return f"{self.adapted[index].path} is used outside its layer's own call"
        return None


_TASKS, _ROWS = 2, 3
_ZERO: Mapping[str, Any] = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}


def _leave(_: Any) -> None:
    """Watches nothing: no inner step follows this pass."""


def _full_precision(outputs: tf.Tensor) -> tf.Tensor:
    """Outputs of a learner that computes in 16 bits as float32: losses are summed over rows."""
    return tf.cast(outputs, tf.float32) if outputs.dtype.size < 4 else outputs


def _are_close(values: tf.Tensor, others: tf.Tensor, largest: float, rounding: float) -> bool:
    """Whether two tensors are equal but for rounding; False where a value is NaN or infinite.

    Args:
        values: computed one way.
        others: computed another way.
        largest: the size of the terms that may have cancelled out (a gradient that is 0 in exact
            arithmetic, as that of an attention's key bias is, is rounding alone).
        rounding: the relative error of one number.
    """
    values, others = (np.asarray(tf.cast(one, tf.float64)) for one in (values, others))
    allowed = np.sqrt(rounding) * np.abs(others).max(initial=0.0) + 100 * rounding * largest
    return bool((np.abs(values - others) <= allowed).all())
