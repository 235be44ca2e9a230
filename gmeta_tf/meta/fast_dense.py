"""A Dense layer's own weights of T tasks, in two exact forms.

An inner step on `z = x W + b` gives `W' = W - alpha x_s^T d_s` and `b' = b - alpha 1^T d_s`, where
`d_s = dL_support/dz` (rows that are missing have weight 0, and so `d_s = 0`). On other rows of the
task, therefore,

    x W' + b' = x W + b - (alpha x x_s^T + alpha) d_s

The *low-rank* form keeps `x_s` and `d_s` of each step: `W` stays shared, so one matrix product
serves all tasks, and a task's R other rows cost R S (I + O) products more. The *stacked* form keeps
`W'`, `[T, I, O]`: it costs S I O products a step and task to make, and a product of its own for
each task to apply. Gradients come out the same to rounding, of second order too, since both forms
are `x W' + b'`, differently bracketed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from gmeta_tf.meta.descent import descended

__all__ = ["DenseMove", "FastDense", "LoopShape", "apply_dense", "is_low_rank_cheaper"]

# Time of a product (one multiplication and addition) in units of one in the product that all tasks
# share: of the batched ones in the low-rank form, and of those that make and apply stacked weights.
# Measured at the shapes of benchmarks/meta_step.py.
_LOW_RANK_COST = 3.5
_STACKED_COST = 1.6


class LoopShape(NamedTuple):
    """How large an inner loop is; None where a size is not known before the step.

    Attributes:
        num_steps: K.
        support: S.
        query: Q.
    """

    num_steps: int
    support: int | None
    query: int | None


class DenseMove(NamedTuple):
    """One inner step of a Dense layer, low-rank.

    Attributes:
        inputs: x_s, float `[T, M, I]`.
        slopes: d_s, float `[T, M, O]`.
        kernel_rate: alpha of the kernel, or None where the kernel stays; a scalar, or `[I, O]` in
            `FastDense.descended`.
        bias_rate: alpha of the bias, or None where the bias stays; a scalar, or `[O]` likewise.
    """

    inputs: tf.Tensor
    slopes: tf.Tensor
    kernel_rate: tf.Tensor | None
    bias_rate: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class FastDense:
    """What T tasks have made of a layer's shared `W` and `b` so far.

    Attributes:
        moves: the steps in the low-rank form.
        kernel: `[T, I, O]` in the stacked form; None is the shared one.
        bias: `[T, 1, O]` in the stacked form; None is the shared one.
    """

    moves: tuple[DenseMove, ...] = ()
    kernel: tf.Tensor | None = None
    bias: tf.Tensor | None = None

    def moved(self, move: DenseMove) -> FastDense:
        """After one more step, in the low-rank form."""
        return dataclasses.replace(self, moves=(*self.moves, move))

    def stacked(self, move: DenseMove, kernel: tf.Tensor, bias: tf.Tensor | None) -> FastDense:
        """After one more step, in the stacked form.

        Args:
            move: the step.
            kernel: W, `[I, O]`, the shared one.
            bias: b, `[O]`, the shared one, or None.
        """
        own_kernel, own_bias = self.kernel, self.bias
        if move.kernel_rate is not None:
            change = tf.matmul(move.inputs, move.kernel_rate * move.slopes, transpose_a=True)
            own_kernel = (kernel if own_kernel is None else own_kernel) - change
        if move.bias_rate is not None:
            change = move.bias_rate * tf.reduce_sum(move.slopes, axis=1, keepdims=True)
            own_bias = (bias if own_bias is None else own_bias) - change
        return dataclasses.replace(self, kernel=own_kernel, bias=own_bias)

    def descended(
        self,
        moves: Sequence[DenseMove],
        clip: float | None,
        kernel: tf.Tensor,
        bias: tf.Tensor | None,
    ) -> FastDense:
        """After one more step that treats each parameter apart, in the stacked form.

        Rates of single parameters and clipped gradients need the gradient `x_s^T d_s` itself, which
        the low-rank form never has; a clipped sum is not the sum of clipped parts, so the calls of
        a layer that is called several times are added up first.

        Args:
            moves: the step of each call of the layer; at least one.
            clip: see `clipped`.
            kernel: W, `[I, O]`, the shared one.
            bias: b, `[O]`, the shared one, or None.
        """
        own_kernel, own_bias = self.kernel, self.bias
        rate = moves[0].kernel_rate
        if rate is not None:
            gradient = tf.add_n([tf.matmul(m.inputs, m.slopes, transpose_a=True) for m in moves])
            own_kernel = descended(
                kernel if own_kernel is None else own_kernel, gradient, rate, clip
            )
        rate = moves[0].bias_rate
        if rate is not None:
            gradient = tf.add_n([tf.reduce_sum(m.slopes, axis=1, keepdims=True) for m in moves])
            own_bias = descended(bias if own_bias is None else own_bias, gradient, rate, clip)
        return dataclasses.replace(self, kernel=own_kernel, bias=own_bias)

    def displacement(
        self, kernel: tf.Tensor, bias: tf.Tensor | None
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """`W - W'` and `b - b'`, summed over the tasks; None where none moved.

        Args:
            kernel: W, `[I, O]`, the shared one.
            bias: b, `[O]`, the shared one, or None.
        """
        of_kernel = [] if self.kernel is None else [tf.reduce_sum(kernel - self.kernel, axis=0)]
        of_bias = [] if self.bias is None else [tf.reduce_sum(bias - self.bias, axis=[0, 1])]
        for move in self.moves:
            if move.kernel_rate is not None:
                change = tf.einsum("tmi,tmo->io", move.inputs, move.slopes)
                of_kernel.append(move.kernel_rate * change)
            if move.bias_rate is not None:
                of_bias.append(move.bias_rate * tf.reduce_sum(move.slopes, axis=[0, 1]))
        return (
            tf.add_n(of_kernel) if of_kernel else None,
            tf.add_n(of_bias) if of_bias else None,
        )


def apply_dense(
    fast: FastDense, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None
) -> tf.Tensor:
    """`x W' + b'` of each task, float `[T, M, O]`.

    Args:
        fast: the tasks' own weights.
        inputs: x, float `[T, M, I]`.
        kernel: W, `[I, O]`.
        bias: b, `[O]`, or None.
    """
    if fast.kernel is None:
        outputs = tf.matmul(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernel)
        if bias is not None and fast.bias is None:
            outputs = tf.nn.bias_add(outputs, bias)
        shape = tf.shape(inputs)
        outputs = tf.reshape(outputs, [shape[0], shape[1], kernel.shape[-1]])
        outputs = tf.ensure_shape(outputs, [*inputs.shape[:2], kernel.shape[-1]])
    else:
        outputs = tf.matmul(inputs, fast.kernel)
        if bias is not None and fast.bias is None:
            outputs = outputs + bias
    if fast.bias is not None:
        outputs = outputs + fast.bias
    for move in fast.moves:
        outputs = outputs - _change(move, inputs)
    return outputs


def _change(move: DenseMove, inputs: tf.Tensor) -> tf.Tensor:
    """`(alpha_W x x_s^T + alpha_b) d_s`, float `[T, M, O]`."""
    if move.kernel_rate is None:
        return move.bias_rate * tf.reduce_sum(move.slopes, axis=1, keepdims=True)
    weights = move.kernel_rate * tf.matmul(inputs, move.inputs, transpose_b=True)
    if move.bias_rate is not None:
        weights = weights + move.bias_rate
    return tf.matmul(weights, move.slopes)


def is_low_rank_cheaper(loop: LoopShape, rows_a_sample: int, size_in: int, size_out: int) -> bool:
    """Whether the low-rank form of a layer takes less time than the stacked one.

    Counts, for one task, the products that each form needs beside the first pass over the support,
    which is the same in both. Step k of K passes S rows through k earlier steps, the query's Q rows
    through all K.

    Args:
        loop: K, S and Q. Where S or Q is not known the stacked form is taken, whose cost does not
            grow with their product.
        rows_a_sample: how many rows of the layer's input a row of the task is (1, or the length of
            what a layer that is applied along an axis goes through).
        size_in: I.
        size_out: O.
    """
    if loop.support is None or loop.query is None:
        return False
    steps = loop.num_steps
    support, query = loop.support * rows_a_sample, loop.query * rows_a_sample
    later_rows = support * (steps - 1) + query
    products = support * support * steps * (steps - 1) // 2 + query * support * steps
    low_rank = later_rows * size_in * size_out + _LOW_RANK_COST * products * (size_in + size_out)
    stacked = _STACKED_COST * (steps * support + later_rows) * size_in * size_out
    return low_rank <= stacked
