"""The least arithmetic of a meta-learning step: what its useful FLOP/s are counted by."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.meta_problem import Layer, Shape, layers_of

__all__ = ["useful_flops"]


def useful_flops(shape: Shape, support_rows: Sequence[int], query_rows: Sequence[int]) -> float:
    """The floating-point operations in the matrix products of one step, forward and all gradients.

    A product `[n, i] x [i, o]` counts `2 n i o`. Missing rows count nothing, and neither do
    look-ups, activations, losses and sums. S and Q are one task's rows, Rs and Rq those of all
    tasks. For a Dense layer `x W + b` with I inputs and O outputs, one inner step and order 2:

        support, forward             x W                            2 Rs I O
        support, backward            d W^T                          2 Rs I O    *
        query, forward               x W                            2 Rq I O
        query, backward              d W^T                          2 Rq I O    *
                                     x^T d                          2 Rq I O
        back through "backward"      (adjoint of d W^T) W           2 Rs I O    *
                                     (adjoint of d W^T)^T d         2 Rs I O    *
        back through "forward"       (adjoint of z) W^T             2 Rs I O    *
                                     x^T (adjoint of z)             2 Rs I O

    The lines with * fall away where x does not move (a DLRM's dense features). No weight gradient
    of the support is ever needed as a matrix: the query's pre-activations are corrected by
    `-alpha (x_q x_s^T) d_s`, for each task

        forward                      x_q x_s^T, and that times d_s  2 Q S (I + O)
        backward, to x_q             d_q d_s^T, and that times x_s  2 Q S (I + O)   *
        backward, to d_s             (x_q x_s^T)^T d_q              2 Q S O
        backward, to x_s             (d_q d_s^T)^T x_q              2 Q S I     *

    or, where that is less, a task forms its own `W - alpha x_s^T d_s`, 2 S I O, and goes back
    through it with two products of that size (one, where x does not move). With K steps, step k
    corrects its support passes for the k steps before it: with S rows in the place of Q's, forward,
    backward, and back through each with two products for one, 12 S S (I + O); private weights are
    formed once a step. Order 1 has neither the lines "back through" nor "to d_s" and "to x_s",
    and its private weights cost one product.

    A DLRM's N (N - 1) / 2 pairwise products of D numbers cost, for each row, 2 D a pair forward and
    4 D backward; a support row in each inner step 12 D more, 8 D back through "backward" and 4 D
    back through "forward".

    Args:
        shape: of the problem.
        support_rows: the support rows that each task has, `[T]`.
        query_rows: the query rows that each task has, `[T]`.
    """
    second = shape.order == 2
    steps, num_support, num_query = shape.num_steps, sum(support_rows), sum(query_rows)
    total = 0.0
    for layer in layers_of(shape):
        product = 2.0 * layer.inputs * layer.outputs
        moves = layer.input_moves
        forward_and_backward = 1 + moves
        back_through = (1 + 3 * moves) if second else 0
        total += product * steps * num_support * (forward_and_backward + back_through)
        total += product * num_query * (forward_and_backward + 1)
        low_rank = _low_rank_flops(layer, shape, support_rows, query_rows)
        own_weights = product * steps * num_support * (1 + (1 + moves) * second)
        total += min(low_rank, own_weights)
    if shape.learner == "dlrm":
        vectors = shape.fields + 1
        pairs = shape.width * vectors * (vectors - 1) / 2
        total += pairs * (num_query * 6 + steps * num_support * (6 + 12 * second))
    return total


def _low_rank_flops(
    layer: Layer, shape: Shape, support_rows: Sequence[int], query_rows: Sequence[int]
) -> float:
    """The corrections of a layer in all passes."""
    second, moves, steps = shape.order == 2, layer.input_moves, shape.num_steps
    both = 2.0 * (layer.inputs + layer.outputs)
    of_query = both * (1 + moves)
    of_support = both * (1 + moves) * (1 + 2 * second)
    if second:
        of_query += 2.0 * (layer.outputs + layer.inputs * moves)
    earlier = steps * (steps - 1) / 2
    return sum(
        steps * query * support * of_query + earlier * support * support * of_support
        for support, query in zip(support_rows, query_rows)
    )
