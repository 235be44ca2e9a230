"""Layers that adapt: each overrides its own calls with every task's own weights."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from gmeta_tf.meta.descent import descended, rate_in
from gmeta_tf.meta.fast_dense import (
    DenseMove,
    FastDense,
    LoopShape,
    apply_dense,
    is_low_rank_cheaper,
)
from gmeta_tf.meta.layer_calls import own_call

__all__ = ["DenseUnit", "ForwardRecord", "LayerUnit", "TaskRows", "Unit", "Watch", "units_of"]

Watch = Callable[[Any], None]
Summed = list[tuple[int, tf.Tensor]]


class TaskRows(NamedTuple):
    """T tasks of R rows each, beside one another or flat: `[T, R, ...]` and `[T R, ...]`.

    Attributes:
        num_tasks: T, a number where it is known before the step.
        num_rows: R, likewise.
    """

    num_tasks: int | tf.Tensor
    num_rows: int | tf.Tensor

    @classmethod
    def of(cls, value: tf.Tensor) -> TaskRows:
        """Of a tensor `[T, R, ...]`."""
        num_tasks, num_rows = _sizes(value)[:2]
        return cls(num_tasks, num_rows)

    def flat(self, value: tf.Tensor) -> tf.Tensor:
        """`[T, R, ...]` to `[T R, ...]`."""
        return tf.reshape(value, [self.num_tasks * self.num_rows, *_sizes(value)[2:]])

    def by_task(self, value: tf.Tensor) -> tf.Tensor:
        """`[T R, ...]` to `[T, R, ...]`."""
        return tf.reshape(value, [self.num_tasks, self.num_rows, *_sizes(value)[1:]])


class ForwardRecord(NamedTuple):
    """What an inner step needs of the calls of a unit in the pass over the support rows.

    Attributes:
        values: what to take the gradient of the support loss of.
        inputs: what `Unit.descend` has to know beside that gradient.
    """

    values: list[tf.Tensor]
    inputs: list[tf.Tensor]


class Unit(abc.ABC):
    """A layer whose variables adapt.

    Attributes:
        layer: the layer.
    """

    layer: keras.layers.Layer

    @abc.abstractmethod
    def start(self, num_tasks: int | tf.Tensor) -> Any:
        """The fast weights before the first inner step: the shared ones."""

    @abc.abstractmethod
    def override(
        self, fast: Any, rows: TaskRows, record: ForwardRecord, watch: Watch
    ) -> Callable[..., Any]:
        """What stands in for the layer's `call` on the flat rows of all tasks.

        Args:
            fast: what `start` or `descend` gave.
            rows: how many.
            record: where the calls put what an inner step needs of them.
            watch: `tape.watch` of the tape that takes the step's gradient.
        """

    @abc.abstractmethod
    def descend(
        self,
        fast: Any,
        inputs: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        rates: Sequence[tf.Tensor],
        loop: LoopShape,
        clip: float | None = None,
    ) -> Any:
        """The fast weights after `value <- value - rate gradient`: see `TaskLearner.descend`."""

    @abc.abstractmethod
    def displacement(self, fast: Any) -> Summed:
        """The index of each adapted variable, and `value - fast` summed over the tasks."""

    @abc.abstractmethod
    def summed(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> Summed:
        """The index of each adapted variable, and its gradient summed over the tasks."""

    @abc.abstractmethod
    def squares(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """The sum of the squares of each task's gradient, over all adapted variables, `[T]`."""


class DenseUnit(Unit):
    """A plain Dense layer: see `fast_dense`."""

    def __init__(self, layer: keras.layers.Dense, positions: Mapping[int, int], form: str) -> None:
        """Of a layer that is built.

        Args:
            layer: the layer.
            positions: the id of each adapted variable -> its index among them.
            form: `"low_rank"`, `"stacked"` or `"auto"`.
        """
        self.layer = layer
        self._form = form
        self._kernel_index = positions.get(id(layer.kernel))
        self._bias_index = positions.get(id(layer.bias))

    def start(self, num_tasks: int | tf.Tensor) -> FastDense:
        return FastDense()

    def override(
        self, fast: FastDense, rows: TaskRows, record: ForwardRecord, watch: Watch
    ) -> Callable[..., tf.Tensor]:
        def call(inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
            kernel, bias = self._shared(inputs.dtype)
            # A Dense layer may be applied along further axes, [T R, ..., I]: they are rows to it.
            *leading, size_in = _sizes(inputs)
            num_rows = rows.num_rows
            for size in leading[1:]:
                num_rows = num_rows * size
            inputs = tf.reshape(inputs, [rows.num_tasks, num_rows, size_in])
            outputs = apply_dense(fast, inputs, kernel, bias)
            watch(outputs)
            record.values.append(outputs)
            record.inputs.append(inputs)
            outputs = tf.reshape(outputs, [*leading, kernel.shape[-1]])
            activation = self.layer.activation
            return outputs if activation is None else activation(outputs)

        return call

    def descend(
        self,
        fast: FastDense,
        inputs: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        rates: Sequence[tf.Tensor],
        loop: LoopShape,
        clip: float | None = None,
    ) -> FastDense:
        moves = []
        for rows, slopes in zip(inputs, gradients, strict=True):
            kernel_rate, bias_rate = (
                None if index is None else rate_in(slopes.dtype, rates[index])
                for index in (self._kernel_index, self._bias_index)
            )
            moves.append(DenseMove(rows, slopes, kernel_rate, bias_rate))
        if moves and (clip is not None or any(_is_by_parameter(move) for move in moves)):
            return fast.descended(moves, clip, *self._shared(moves[0].slopes.dtype))
        for move in moves:
            if self._is_low_rank(move.inputs, move.slopes, loop):
                fast = fast.moved(move)
            else:
                fast = fast.stacked(move, *self._shared(move.slopes.dtype))
        return fast

    def displacement(self, fast: FastDense) -> Summed:
        moved = fast.kernel if fast.kernel is not None else fast.bias
        dtype = fast.moves[0].slopes.dtype if fast.moves else None
        if moved is None and dtype is None:
            return []
        shared = self._shared(dtype if moved is None else moved.dtype)
        pairs = zip((self._kernel_index, self._bias_index), fast.displacement(*shared))
        return [(i, change) for i, change in pairs if i is not None and change is not None]

    def summed(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> Summed:
        calls = list(zip(inputs, gradients, strict=True))
        found = []
        if self._kernel_index is not None:
            of_calls = [tf.einsum("tmi,tmo->io", rows, slopes) for rows, slopes in calls]
            found.append((self._kernel_index, _total(of_calls, self.layer.kernel)))
        if self._bias_index is not None:
            of_calls = [tf.reduce_sum(slopes, axis=[0, 1]) for _, slopes in calls]
            found.append((self._bias_index, _total(of_calls, self.layer.bias)))
        return found

    def squares(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        calls = list(zip(inputs, gradients, strict=True))
        found = []
        if self._bias_index is not None:
            of_calls = [tf.reduce_sum(slopes, axis=1) for _, slopes in calls]
            found.append(tf.reduce_sum(tf.square(tf.add_n(of_calls)), axis=-1))
        if self._kernel_index is not None:
            if len(calls) == 1 and calls[0][0].shape[1] == 1:  # x^T g of one row, of rank one
                of_both = [tf.reduce_sum(tf.square(one), axis=[1, 2]) for one in calls[0]]
                found.append(of_both[0] * of_both[1])
            else:
                of_calls = [tf.einsum("tmi,tmo->tio", rows, slopes) for rows, slopes in calls]
                found.append(tf.reduce_sum(tf.square(tf.add_n(of_calls)), axis=[1, 2]))
        return tf.add_n(found)

    def _shared(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor | None]:
        """W and b, in the type that the layer computes in."""
        kernel, bias = self.layer.kernel, self.layer.bias
        cast_bias = None if bias is None else tf.cast(bias.value, dtype)
        return tf.cast(kernel.value, dtype), cast_bias

    def _is_low_rank(self, rows: tf.Tensor, slopes: tf.Tensor, loop: LoopShape) -> bool:
        if self._form != "auto":
            return self._form == "low_rank"
        # A layer that is applied along an axis sees several rows for each of the task's.
        rows_a_sample = max(1, (rows.shape[1] or 0) // (loop.support or 1))
        return is_low_rank_cheaper(loop, rows_a_sample, rows.shape[-1], slopes.shape[-1])


class LayerUnit(Unit):
    """A layer of another kind, or a whole learner: its own call on stacked values."""

    def __init__(self, layer: keras.layers.Layer, positions: Mapping[int, int]) -> None:
        """Of a layer that is built.

        Args:
            layer: the layer.
            positions: the id of each adapted variable -> its index among them.
        """
        self.layer = layer
        found = [(v, positions.get(id(v))) for v in layer.trainable_variables]
        self._adapted = [(v, index) for v, index in found if index is not None]
        self._chosen = [index is not None for _, index in found]

    def start(self, num_tasks: int | tf.Tensor) -> list[tf.Tensor]:
        """`[T, ...]` for each adapted variable."""
        values = [tf.convert_to_tensor(variable.value) for variable, _ in self._adapted]
        return [
            tf.broadcast_to(value, tf.concat([[num_tasks], tf.shape(value)], axis=0))
            for value in values
        ]

    def override(
        self, fast: Sequence[tf.Tensor], rows: TaskRows, record: ForwardRecord, watch: Watch
    ) -> Callable[..., Any]:
        watch(fast)
        record.values.extend(fast)

        def call(*arguments: Any, **options: Any) -> Any:
            def by_task(value: Any) -> Any:
                return rows.by_task(value) if tf.is_tensor(value) else value

            with own_call(self.layer):
                outputs = self.each_task(
                    fast, *tf.nest.map_structure(by_task, (list(arguments), options))
                )
            return tf.nest.map_structure(rows.flat, outputs)

        return call

    def each_task(
        self, fast: Sequence[tf.Tensor] | None, arguments: list[Any], options: dict[str, Any]
    ) -> Any:
        """The layer's own call for each task, side by side.

        Args:
            fast: `[T, ...]` for each adapted variable; None uses the shared values.
            arguments: of the call; tensors have a leading axis of tasks.
            options: likewise.
        """
        given = tf.nest.flatten((arguments, options))
        is_tensor = [tf.is_tensor(value) for value in given]

        def one_task(values: tuple[list[tf.Tensor], list[tf.Tensor]]) -> Any:
            own, tensors = iter(values[0]), iter(values[1])
            filled = [next(tensors) if is_one else v for v, is_one in zip(given, is_tensor)]
            arguments_, options_ = tf.nest.pack_sequence_as((arguments, options), filled)
            variables = [
                next(own) if chosen and fast is not None else variable.value
                for variable, chosen in zip(self.layer.trainable_variables, self._chosen)
            ]
            state = [variable.value for variable in self.layer.non_trainable_variables]
            outputs, _ = self.layer.stateless_call(variables, state, *arguments_, **options_)
            return outputs

        tensors = [value for value, is_one in zip(given, is_tensor) if is_one]
        return tf.vectorized_map(one_task, (list(fast or []), tensors))

    def descend(
        self,
        fast: Sequence[tf.Tensor],
        inputs: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        rates: Sequence[tf.Tensor],
        loop: LoopShape,
        clip: float | None = None,
    ) -> list[tf.Tensor]:
        return [
            descended(value, gradient, rates[index], clip)
            for value, gradient, (_, index) in zip(fast, gradients, self._adapted, strict=True)
        ]

    def squares(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        flat = [tf.reshape(one, [tf.shape(one)[0], -1]) for one in gradients]
        return tf.add_n([tf.reduce_sum(tf.square(one), axis=1) for one in flat])

    def displacement(self, fast: Sequence[tf.Tensor]) -> Summed:
        return [
            (index, tf.reduce_sum(variable.value - own, axis=0))
            for own, (variable, index) in zip(fast, self._adapted, strict=True)
        ]

    def summed(self, inputs: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> Summed:
        return [
            (index, tf.reduce_sum(gradient, axis=0))
            for gradient, (_, index) in zip(gradients, self._adapted, strict=True)
        ]


def units_of(learner: keras.Model, positions: Mapping[int, int], form: str) -> list[Unit]:
    """The layers of a learner that have adapted variables, each variable in one of them.

    Models, and layers of the user's own that hold other layers, are gone into; the layers that
    Keras brings (attention, recurrent ones) use the weights of those they hold in ways of their own
    and are one unit each.

    Args:
        learner: the model, built.
        positions: the id of each adapted variable -> its index among them.
        form: of Dense layers.
    """
    units: dict[int, Unit] = {}

    def visit(layer: keras.layers.Layer) -> None:
        if id(layer) in units or not any(id(v) in positions for v in layer.trainable_variables):
            return
        inner = layer._flatten_layers(include_self=False, recursive=False)
        inner = [one for one in inner if one.trainable_variables]
        held = {id(variable) for one in inner for variable in one.trainable_variables}
        owns = any(id(v) in positions and id(v) not in held for v in layer.trainable_variables)
        is_kerass = type(layer).__module__.startswith("keras.")
        if _is_plain_dense(layer):
            units[id(layer)] = DenseUnit(layer, positions, form)
        elif owns or (is_kerass and not isinstance(layer, keras.Model)):
            units[id(layer)] = LayerUnit(layer, positions)
        else:
            for one in inner:
                visit(one)

    visit(learner)
    return list(units.values())


def _is_plain_dense(layer: keras.layers.Layer) -> bool:
    """Whether a layer does what `keras.layers.Dense` does, and nothing else."""
    return (
        type(layer).call is keras.layers.Dense.call
        and not getattr(layer, "lora_enabled", False)
        and layer.dtype_policy.quantization_mode is None
    )


def _is_by_parameter(move: DenseMove) -> bool:
    """Whether a rate is one for each parameter."""
    rates = (move.kernel_rate, move.bias_rate)
    return any(rate is not None and rate.shape.rank != 0 for rate in rates)


def _total(of_calls: list[tf.Tensor], variable: Any) -> tf.Tensor:
    return tf.add_n(of_calls) if of_calls else tf.zeros_like(variable.value)


def _sizes(value: tf.Tensor) -> list[int | tf.Tensor]:
    """The sizes of a tensor's axes: numbers where they are known, else scalars of the graph."""
    if value.shape.is_fully_defined():
        return value.shape.as_list()
    shape = tf.shape(value)
    return [shape[axis] if size is None else size for axis, size in enumerate(value.shape)]
