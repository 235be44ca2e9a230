"""DLRM (Naumov et al., 2019), and MAML over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
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
    """The dot products of all pairs of N vectors, `[R, N (N - 1) / 2]`.

    With gradients of its own, of first and second order, that use the symmetry: the gradient of
    `v_i` is the sum over the others of `g_ij v_j`, one product of matrices where TensorFlow's own
    makes two and adds them, and its gradient two instead of four.
    """

    @tf.custom_gradient
    def products(vectors: tf.Tensor) -> Any:
        square = tf.matmul(vectors, vectors, transpose_b=True)
        return _above_diagonal(square), lambda upstream: weighed(upstream, vectors)

    @tf.custom_gradient
    def weighed(weights: tf.Tensor, vectors: tf.Tensor) -> Any:
        square = _symmetric(weights, vectors.shape[-2])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            both = tf.matmul(upstream, vectors, transpose_b=True)
            both += tf.linalg.matrix_transpose(both)
            return _above_diagonal(both), tf.matmul(square, upstream)

        return tf.matmul(square, vectors), gradient

    return products(tf.convert_to_tensor(vectors))


def _above_diagonal(square: tf.Tensor) -> tf.Tensor:
    """The numbers above the diagonal of `[R, N, N]`, row by row: `[R, N (N - 1) / 2]`."""
    count = square.shape[-1]
    above = [row * count + column for row in range(count) for column in range(row + 1, count)]
    # Looked up as rows of R numbers, since single numbers are copied one at a time.
    flat = tf.transpose(tf.reshape(square, [-1, count * count]))
    return tf.transpose(tf.gather(flat, above))


def _symmetric(numbers: tf.Tensor, count: int) -> tf.Tensor:
    """`[R, N (N - 1) / 2]` on both sides of a diagonal of zeros: `[R, N, N]`."""
    widths = list(range(count - 1, 0, -1))
    nothing = tf.zeros([tf.shape(numbers)[0], count * (count + 1) // 2], numbers.dtype)
    zeros = tf.split(nothing, [count - width for width in widths] + [count], axis=1)
    rows = [one for pair in zip(zeros, tf.split(numbers, widths, axis=1)) for one in pair]
    above = tf.reshape(tf.concat([*rows, zeros[-1]], axis=1), [-1, count, count])
    return above + tf.linalg.matrix_transpose(above)
