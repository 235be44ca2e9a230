"""DLRM (Naumov et al., 2019), and MAML over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from gmeta_tf.meta.inner_loop import InnerLoop

__all__ = ["DLRM", "MamlDLRM"]


class DLRM(keras.Model):
    """Bottom MLP on the dense values, pairwise dot products of all vectors, top MLP.

    Example:
        >>> learner = DLRM(bottom=(16,), top=(32,))
        >>> rows = {"embedded": keras.ops.zeros([5, 3, 8]), "dense": keras.ops.zeros([5, 2])}
        >>> learner(rows).shape
        TensorShape([5, 1])
    """

    def __init__(
        self,
        bottom: Sequence[int] = (64,),
        top: Sequence[int] = (64, 64),
        *,
        name: str = "dlrm",
    ) -> None:
        """Makes the layers; the bottom's last layer takes the embeddings' width.

        Args:
            bottom: the widths of the MLP on the dense values, without its last layer.
            top: the widths of the MLP on the dot products, without its output.
            name: of the model.
        """
        super().__init__(name=name)
        self._bottom_widths = tuple(bottom)
        self.bottom: list[keras.layers.Layer] = []
        self.top = [
            keras.layers.Dense(width, activation="relu", name=f"top_{index}")
            for index, width in enumerate(top)
        ]
        self.score = keras.layers.Dense(1, name="score")

    def build(self, input_shape: dict[str, Any]) -> None:
        """Makes the bottom MLP, whose last width is the embeddings'.

        Raises:
            ValueError: inputs of several embedding widths, whose dot products do not exist.
        """
        if set(input_shape) - {"embedded", "dense"}:
            raise ValueError(
                "DLRM: expected the inputs 'embedded' and 'dense', got "
                f"{', '.join(input_shape)}: dot products need embeddings of one width. Give every "
                "table the same width."
            )
        if "dense" in input_shape:
            widths = (*self._bottom_widths, input_shape["embedded"][-1])
            self.bottom = [
                keras.layers.Dense(width, activation="relu", name=f"bottom_{index}")
                for index, width in enumerate(widths)
            ]
        super().build(input_shape)

    def call(self, inputs: dict[str, Any]) -> Any:
        """The score (a logit, or a rating) of each row, `[R, 1]`.

        Args:
            inputs: `"embedded"` float `[R, F, D]`, and `"dense"` float `[R, num_dense]` if any.
        """
        vectors = inputs["embedded"]
        hidden = None
        if "dense" in inputs:
            hidden = inputs["dense"]
            for layer in self.bottom:
                hidden = layer(hidden)
            vectors = ops.concatenate([ops.expand_dims(hidden, -2), vectors], axis=-2)
        products = _pairwise_products(vectors)
        hidden = products if hidden is None else ops.concatenate([hidden, products], axis=-1)
        for layer in self.top:
            hidden = layer(hidden)
        return self.score(hidden)


class MamlDLRM(DLRM):
    """DLRM under MAML (Finn et al., ICML 2017): dense weights and the task's rows both adapt."""

    @staticmethod
    def inner_loop(num_steps: int = 1, learning_rate: float = 0.1, **options: Any) -> InnerLoop:
        """How MAML adapts: everything moves."""
        return InnerLoop(num_steps, learning_rate, **options)


def _pairwise_products(vectors: Any) -> Any:
    """The dot products of all pairs of N vectors, `[R, N (N - 1) / 2]`."""
    count = vectors.shape[-2]
    products = ops.matmul(vectors, ops.swapaxes(vectors, -1, -2))
    above = [row * count + column for row in range(count) for column in range(row + 1, count)]
    return _columns(ops.reshape(products, (-1, count * count)), above)


def _columns(values: Any, columns: Sequence[int]) -> Any:
    """Some columns of `[R, C]`, each at most once, in any order.

    Since a column is taken once, the gradient is a look-up too: column c's is what came for the
    place at which c was put, or the zero that stands before them. TensorFlow's own gradient would
    transpose, add up segments and transpose back.
    """
    width = values.shape[-1]
    back = np.zeros(width, np.int32)
    back[np.asarray(columns)] = 1 + np.arange(len(columns))

    @tf.custom_gradient
    def take(wide: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.gather(wide, columns, axis=-1), put

    @tf.custom_gradient
    def put(narrow: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.gather(tf.pad(narrow, [[0, 0], [1, 0]]), back, axis=-1), take

    return take(values)
