"""What learners with a task encoder read of a task's support rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gmeta_tf.models.inputs import flatten_fields

__all__ = ["SupportEncoder", "inputs_of_row", "parts_of_task"]


class SupportEncoder(keras.layers.Layer):
    """The mean over a task's support rows of an MLP on each row and its label.

    The rows are a set, so their order does not count, as that of Vuorio et al.'s recurrent encoder
    would (NeurIPS 2019, section 4).

    Example:
        >>> rows = {"embedded": keras.ops.zeros([4, 10, 3, 8])}
        >>> rows |= {"label": keras.ops.ones([4, 10]), "weight": keras.ops.ones([4, 10])}
        >>> SupportEncoder(40)(rows).shape
        TensorShape([4, 40])
    """

    def __init__(
        self, width: int = 40, *, centre: float = 0.0, scale: float = 1.0, name: str = "support"
    ) -> None:
        """Makes the layers.

        Args:
            width: of the hidden layer and of the output.
            centre: the label that counts as 0, such as the mean rating.
            scale: what counts as a difference of 1.
            name: of the layer.
        """
        super().__init__(name=name)
        self.centre, self.scale = centre, scale
        self.hidden = keras.layers.Dense(width, activation="relu", name="row_hidden")
        self.row = keras.layers.Dense(width, name="row")

    def call(self, inputs: dict[str, Any]) -> Any:
        """The mean over the rows that are there, `[T, width]`; zeros for a task without rows.

        Args:
            inputs: see `TaskEncoder`.
        """
        label, weight = inputs["label"], inputs["weight"]
        fields = {n: value for n, value in inputs.items() if n not in ("label", "weight")}
        flat = flatten_fields(
            {n: ops.reshape(value, (-1, *value.shape[2:])) for n, value in fields.items()}
        )
        label = (ops.reshape(label, (-1, 1)) - self.centre) / self.scale
        rows = self.row(self.hidden(ops.concatenate([flat, label], axis=-1)))
        rows = ops.reshape(rows, (*ops.shape(weight), rows.shape[-1]))
        summed = ops.sum(rows * weight[..., None], axis=1)
        total = ops.sum(weight, axis=1, keepdims=True)
        return summed / ops.where(total > 0, total, 1.0)


def inputs_of_row(inputs: dict[str, Any]) -> Any:
    """The vectors and dense values of each row, without the task embedding: `[R, ...]`."""
    return flatten_fields({name: value for name, value in inputs.items() if name != "task"})


def parts_of_task(inputs: dict[str, Any], widths: Sequence[int]) -> list[Any]:
    """The task embedding in parts, each of `[R, width]`."""
    return list(ops.split(inputs["task"], list(itertools.accumulate(widths))[:-1], axis=-1))
