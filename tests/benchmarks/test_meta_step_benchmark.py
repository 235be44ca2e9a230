"""The meta-step benchmark: its problem, its count of operations, and that all solve one problem."""

import dataclasses
import importlib
import importlib.util
import itertools

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from benchmarks import our_step
from benchmarks.meta_problem import SHAPES, Shape, layers_of, make_problem
from benchmarks.meta_step import largest_difference
from benchmarks.peers import parameter_server, tf_task_loop
from benchmarks.useful_flops import useful_flops

MLP = Shape(
    tasks=5, support=3, query=2, fields=3, width=2, hidden=(4,), num_steps=2, rate=0.3, row_rate=0.5
)
DLRM = dataclasses.replace(MLP, learner="dlrm", bottom=(3,), dense_features=2, num_steps=1)
FIRST_ORDER = dataclasses.replace(MLP, order=1)
TINY = pytest.mark.parametrize(
    "shape", [MLP, DLRM, FIRST_ORDER], ids=["mlp", "dlrm", "first_order"]
)

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(
    not HAS_TORCH, reason="PyTorch is not installed: pip install -c constraints.txt '.[bench]'"
)


def _answer(step):
    loss, gradients, row_gradients = step()
    return float(loss), [np.asarray(value) for value in gradients], np.asarray(row_gradients)


# The problem.


@pytest.mark.parametrize("name", SHAPES)
def test_a_problem_is_the_same_every_time_and_of_its_shape(name):
    shape = dataclasses.replace(SHAPES[name], tasks=16)
    problem, again = make_problem(shape), make_problem(shape)
    tf.nest.map_structure(
        np.testing.assert_array_equal, dataclasses.asdict(problem), dataclasses.asdict(again)
    )
    assert problem.support.keys.shape == (16, shape.support, shape.fields)
    assert problem.query.dense.shape == (16, shape.query, shape.dense_features)
    for layer, kernel, bias in zip(
        layers_of(shape), problem.dense[::2], problem.dense[1::2], strict=True
    ):
        assert kernel.shape == (layer.inputs, layer.outputs)
        assert bias.shape == (layer.outputs,)
    assert not np.array_equal(problem.rows, make_problem(shape, seed=1).rows)


def test_a_problem_shares_keys_and_lacks_rows():
    problem = make_problem(SHAPES["main"])
    support, query = problem.support, problem.query
    there = [part.keys[part.weight > 0] for part in (support, query)]
    assert set(np.concatenate(there).ravel()) == set(range(len(problem.rows)))
    tasks_of_key = [set(np.unique(keys)) for keys in support.keys]
    assert any(a & b for a, b in itertools.pairwise(tasks_of_key)), "no key in two tasks"
    both = [len(keys & set(np.unique(query.keys[t]))) for t, keys in enumerate(tasks_of_key)]
    assert np.median(both) > 1, "support and query share no keys"
    assert support.weight[-1].sum() == 0
    assert 0 < support.weight[1].sum() <= 20
    assert {part.label.max() for part in (support, query)} == {1.0}
    assert problem.samples == support.weight.sum() + query.weight.sum()


def test_own_rows_lead_back_to_the_keys():
    problem = make_problem(SHAPES["few"])
    own = problem.own_rows()
    for task, (keys, count) in enumerate(zip(own.keys, own.count, strict=True)):
        assert len(set(keys[:count])) == count
        for part, places in ((problem.support, own.support), (problem.query, own.query)):
            there = part.weight[task] > 0
            np.testing.assert_array_equal(keys[places[task, there]], part.keys[task, there])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "cnn"}, "expected learner 'mlp' or 'dlrm', got 'cnn'"),
        ({"order": 3}, "expected order 1 or 2, got 3"),
        ({"learner": "dlrm"}, "a DLRM has dense features"),
    ],
)
def test_a_shape_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Shape(**changes)


# The count of operations.


def test_operations_of_a_tiny_shape_by_hand():
    # One layer 6 -> 1, one task of 3 support and 2 query rows: a product costs 12 a row.
    shape = Shape(tasks=1, support=3, query=2, fields=3, width=2, hidden=())
    passes = 12 * 3 * 6 + 12 * 2 * 3
    low_rank = 6 * 2 * 3 * (6 + 1)
    own_weights = 3 * 12 * 3
    assert own_weights < low_rank
    assert useful_flops(shape, [3], [2]) == passes + own_weights
    # One row of each: 6 * (6 + 1) is more than 3 * 12 too; of 6 -> 4, 60 is less than 144.
    wide = dataclasses.replace(shape, hidden=(4,))
    by_hand = (48 + 8) * (6 + 3) + 6 * 1 * 1 * (6 + 4) + min(6 * (4 + 1), 3 * 8)
    assert useful_flops(wide, [1], [1]) == by_hand
    first = dataclasses.replace(wide, order=1)
    by_hand = (48 + 8) * (2 + 3) + 4 * (6 + 4) + min(4 * (4 + 1), 8)
    assert useful_flops(first, [1], [1]) == by_hand


def test_operations_add_up_over_tasks_and_steps():
    assert useful_flops(MLP, [3, 0], [2, 1]) == pytest.approx(
        useful_flops(MLP, [3], [2]) + useful_flops(MLP, [0], [1])
    )
    one = dataclasses.replace(SHAPES["main"], num_steps=1)
    two = dataclasses.replace(one, num_steps=2)
    without = useful_flops(one, [0], [10])
    assert useful_flops(two, [20], [10]) > 2 * useful_flops(one, [20], [10]) - without


def test_operations_of_the_main_shape():
    shape = SHAPES["main"]
    flops = useful_flops(shape, [20] * shape.tasks, [10] * shape.tasks)
    assert flops == pytest.approx(0.86e9, rel=0.01)


# All contestants solve the same problem.


def _softplus(value):
    return np.logaddexp(0, value)


def _oracle_forward(shape, dense, vectors, features):
    layers = list(zip(dense[::2], dense[1::2]))

    def stack(layers, hidden):
        for index, (kernel, bias) in enumerate(layers):
            hidden = hidden @ kernel + bias
            if index < len(layers) - 1:
                hidden = np.maximum(hidden, 0)
        return hidden

    if shape.learner == "mlp":
        return stack(layers, vectors.reshape(-1))[0]
    num_bottom = len(shape.bottom) + 1
    hidden = np.maximum(stack(layers[:num_bottom], features), 0)
    vectors = np.concatenate([hidden[np.newaxis], vectors])
    count = len(vectors)
    products = [vectors[a] @ vectors[b] for a in range(count) for b in range(a + 1, count)]
    return stack(layers[num_bottom:], np.concatenate([hidden, products]))[0]


def _oracle_loss(problem, values, part, task):
    """One task's mean loss, row by row; `values` is the dense weights and then all rows."""
    losses = []
    for row in np.flatnonzero(part.weight[task]):
        vectors = values[-1][part.keys[task, row]]
        logit = _oracle_forward(problem.shape, values[:-1], vectors, part.dense[task, row])
        losses.append(_softplus(logit) - part.label[task, row] * logit)
    return np.mean(losses) if losses else 0.0


def _slopes(function, values, step):
    """The gradient of a function of arrays by central differences, number by number."""
    values = [value.copy() for value in values]
    slopes = [np.zeros_like(value) for value in values]
    for value, slope in zip(values, slopes, strict=True):
        for place in np.ndindex(value.shape):
            kept = value[place]
            value[place] = kept + step
            above = function(values)
            value[place] = kept - step
            slope[place] = (above - function(values)) / (2 * step)
            value[place] = kept
    return slopes


def _oracle_step(problem, values):
    """The query loss of all tasks after their inner steps, without any derivative of a library.

    Each task moves all rows: those that its support does not read have no slope.
    """
    shape, total = problem.shape, 0.0
    for task in range(shape.tasks):
        own = values
        for _ in range(shape.num_steps):
            slopes = _slopes(lambda v: _oracle_loss(problem, v, problem.support, task), own, 1e-5)  # noqa: B023
            rates = [shape.rate] * (len(own) - 1) + [shape.row_rate]
            own = [v - rate * slope for v, rate, slope in zip(own, rates, slopes, strict=True)]
        total += _oracle_loss(problem, own, problem.query, task)
    return total


@pytest.mark.parametrize("shape", [MLP, DLRM], ids=["mlp", "dlrm"])
def test_our_gradients_are_the_slopes_of_the_loss(shape):
    shape = dataclasses.replace(shape, tasks=2, support=2, num_steps=1, fields=2)
    problem = make_problem(shape, seed=2)
    values = [value.astype(np.float64) for value in (*problem.dense, problem.rows)]
    loss, gradients, row_gradients = _answer(our_step.make_step(problem))
    assert loss == pytest.approx(_oracle_step(problem, values), rel=1e-5)
    rng = np.random.default_rng(0)
    for index, gradient in enumerate([*gradients, row_gradients]):
        for place in rng.permutation(list(np.ndindex(gradient.shape)))[:3]:
            around = []
            for sign in (1, -1):
                moved = [value.copy() for value in values]
                moved[index][tuple(place)] += sign * 1e-4
                around.append(_oracle_step(problem, moved))
            slope = (around[0] - around[1]) / 2e-4
            assert gradient[tuple(place)] == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@TINY
@pytest.mark.parametrize("form", ["python", "while", "map", "unrolled"])
def test_the_tensorflow_loop_has_our_gradients(shape, form):
    problem = make_problem(shape)
    ours = _answer(our_step.make_step(problem))
    assert all(np.abs(gradient).max() > 1e-3 for gradient in [*ours[1], ours[2]])
    if form == "python":
        step = tf_task_loop.make_step(problem)
    else:
        step = tf_task_loop.make_graph_step(problem, form=form)
    assert largest_difference(_answer(step), ours) < 1e-5


@needs_torch
@TINY
@pytest.mark.parametrize("peer", ["torch_func", "torch_task_loop"])
def test_pytorch_has_our_gradients(shape, peer):
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    problem = make_problem(shape)
    ours = _answer(our_step.make_step(problem))
    assert largest_difference(_answer(module.make_step(problem)), ours) < 1e-5


def test_orders_differ():
    first, second = (_answer(our_step.make_step(make_problem(s))) for s in (FIRST_ORDER, MLP))
    assert first[0] == pytest.approx(second[0])
    assert largest_difference(first, second) > 1e-2


# The parameter server.


def _model():
    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 4, scale=0.5, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(2, 0.3))
    model.compile(keras.optimizers.SGD(0.2), gm.Adagrad(0.3))
    return model


def test_a_step_of_the_parameter_server_is_ours():
    # In one process: the same ops on variables that lie here.
    batch = made_batches.batch(made_batches.made_tasks(seed=1))
    ours, theirs = _model(), _model()
    found = ours.train_step(batch)
    loss, *gradients = parameter_server.task_gradients(theirs, batch)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    parameter_server.apply_gradients(theirs, *gradients, (0.2, 0.3))
    before, moved = _model(), 0
    for start, a, b in zip(*(model.trainable_variables for model in (before, ours, theirs))):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
        moved += not np.allclose(start.numpy(), a.numpy())
    assert moved == len(ours.trainable_variables)
    for group, shard in ours.embedding.shards.items():
        other = theirs.embedding.shards[group]
        np.testing.assert_allclose(shard.rows, other.rows, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            shard.slots["accumulator"], other.slots["accumulator"], rtol=1e-5, atol=1e-6
        )
        assert not np.allclose(shard.rows, before.embedding.shards[group].rows)
