"""A Dense layer's own weights of T tasks in both forms, against NumPy's."""

import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.meta.fast_dense import (
    DenseMove,
    FastDense,
    LoopShape,
    apply_dense,
    is_low_rank_cheaper,
)

T, S, R, I, O = 3, 4, 5, 6, 2  # noqa: E741

# Sums of at most a few dozen products of size 1, in another order.
TOLERANCES = {"float32": {"rtol": 1e-5, "atol": 2e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def made(*shape, seed, dtype):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


def steps(count, rates, dtype):
    """The inputs and slopes of so many inner steps; a row that is missing has slope 0."""
    there = np.ones([T, S, 1])
    there[1, 2:] = 0
    return [
        DenseMove(
            made(T, S, I, seed=2 * step, dtype=dtype),
            made(T, S, O, seed=2 * step + 1, dtype=dtype) * there,
            *(None if rate is None else tf.constant(rate * (step + 1), dtype) for rate in rates),
        )
        for step in range(count)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("with_bias", "rates"),
    [(True, (0.1, 0.2)), (True, (0.1, None)), (True, (None, 0.2)), (False, (0.1, None))],
    ids=str,
)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_both_forms_are_each_tasks_own_weights(num_steps, with_bias, rates, dtype):
    kernel, inputs = made(I, O, seed=90, dtype=dtype), made(T, R, I, seed=91, dtype=dtype)
    bias = made(O, seed=92, dtype=dtype) if with_bias else None
    expected = []
    moves = steps(num_steps, rates, dtype)
    for task in range(T):
        own_kernel = kernel.numpy()
        own_bias = bias.numpy() if with_bias else np.zeros(O)
        for move in moves:
            x, d = move.inputs.numpy()[task], move.slopes.numpy()[task]
            if move.kernel_rate is not None:
                own_kernel = own_kernel - move.kernel_rate.numpy() * (x.T @ d)
            if move.bias_rate is not None:
                own_bias = own_bias - move.bias_rate.numpy() * d.sum(axis=0)
        expected.append(inputs.numpy()[task] @ own_kernel + own_bias)
    low_rank = stacked = mixed = FastDense()
    for number, move in enumerate(moves):
        low_rank = low_rank.moved(move)
        stacked = stacked.stacked(move, kernel, bias)
        mixed = mixed.stacked(move, kernel, bias) if number % 2 else mixed.moved(move)
    for fast in (low_rank, stacked, mixed):
        found = apply_dense(fast, inputs, kernel, bias)
        assert found.shape == (T, R, O)
        np.testing.assert_allclose(found, expected, **TOLERANCES[dtype])
    if num_steps:
        shared = apply_dense(FastDense(), inputs, kernel, bias)
        assert np.abs(shared - expected).max() > 1e-2


@pytest.mark.parametrize(
    ("loop", "sizes", "low_rank"),
    [
        (LoopShape(1, 20, 10), (256, 64), True),
        (LoopShape(1, 5, 10), (256, 64), True),
        (LoopShape(1, 100, 100), (256, 64), False),  # R S (I + O) outgrows S I O
        (LoopShape(1, 20, 10), (64, 1), False),  # 65 S Q products to spare 64 S
        (LoopShape(5, 20, 10), (256, 64), False),  # moves add up
        (LoopShape(1, None, 10), (256, 64), False),
        (LoopShape(1, 20, None), (256, 64), False),
    ],
    ids=str,
)
def test_the_cheaper_form(loop, sizes, low_rank):
    assert is_low_rank_cheaper(loop, 1, *sizes) == low_rank


def test_rows_within_a_row_count():
    """A layer that is applied to 20 places of each row has 20 times the rows."""
    assert is_low_rank_cheaper(LoopShape(1, 20, 10), 1, 256, 64)
    assert not is_low_rank_cheaper(LoopShape(1, 20, 10), 20, 256, 64)
