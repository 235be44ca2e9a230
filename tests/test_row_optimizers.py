"""Row optimizers against Keras' optimizers of dense variables, and on touched rows of a shard."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.embedding.row_optimizers import SGD, Adagrad, LazyAdam, row_optimizer
from gmeta_tf.embedding.table import StaticShard, TableRange
from gmeta_tf.world import World

ROWS, WIDTH, STEPS = 5, 3, 8

OPTIMIZERS = [
    (SGD(0.3), lambda: keras.optimizers.SGD(0.3)),
    (Adagrad(0.3), lambda: keras.optimizers.Adagrad(0.3, initial_accumulator_value=0.1)),
    (
        Adagrad(0.3, initial_accumulator=0.5, epsilon=1e-3),
        lambda: keras.optimizers.Adagrad(0.3, initial_accumulator_value=0.5, epsilon=1e-3),
    ),
    (LazyAdam(0.01), lambda: keras.optimizers.Adam(0.01)),
    (
        LazyAdam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        lambda: keras.optimizers.Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3),
    ),
]


def gradients_of_steps():
    """Gradients of very different sizes, some of them zero."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=[STEPS, ROWS, WIDTH]) * 10.0 ** rng.integers(-3, 2, [ROWS, 1])
    gradients[:, 1, 0] = 0
    return gradients.astype(np.float32)


def start_rows():
    return np.random.default_rng(1).normal(size=[ROWS, WIDTH]).astype(np.float32)


def made_shard(optimizer, num_rows=ROWS):
    table = TableRange("item", 0, num_rows, seed=5)
    shard = StaticShard((table,), WIDTH, World(), scale=0.5, name="embedded")
    shard.make_slots(optimizer)
    return shard


def values_of(shard):
    """The rows and every slot, as NumPy."""
    slots = {name: variable.numpy() for name, variable in shard.slots.items()}
    return {"rows": shard.rows.numpy(), **slots}


@pytest.mark.parametrize(
    ("optimizer", "make_keras"), OPTIMIZERS, ids=[repr(optimizer) for optimizer, _ in OPTIMIZERS]
)
def test_equal_to_keras_on_a_dense_variable(optimizer, make_keras):
    rows, slots = tf.constant(start_rows()), {}
    for name, value in optimizer.slot_values().items():
        slots[name] = tf.fill(rows.shape, value)
    keras_optimizer, variable = make_keras(), keras.Variable(start_rows())
    for step, gradients in enumerate(gradients_of_steps()):
        rows, slots = optimizer.update(
            rows, tf.constant(gradients), slots, tf.constant(step, tf.int64)
        )
        keras_optimizer.apply([tf.constant(gradients)], [variable])
        np.testing.assert_allclose(rows, variable.numpy(), rtol=2e-6, atol=2e-7)
        assert set(slots) == set(optimizer.slot_values())
    assert np.abs(rows - start_rows()).max() > 0.01


@pytest.mark.parametrize(
    ("optimizer", "make_keras"), OPTIMIZERS, ids=[repr(optimizer) for optimizer, _ in OPTIMIZERS]
)
def test_a_shard_whose_rows_are_all_touched_is_a_dense_variable(optimizer, make_keras):
    shard = made_shard(optimizer)
    keras_optimizer, variable = make_keras(), keras.Variable(shard.rows.numpy())
    order = np.array([3, 0, 4, 1, 2])
    for step, gradients in enumerate(gradients_of_steps()):
        shard.update(
            tf.constant(order, tf.int64),
            tf.constant(gradients[order]),
            optimizer,
            tf.constant(step, tf.int64),
        )
        keras_optimizer.apply([tf.constant(gradients)], [variable])
    np.testing.assert_allclose(shard.rows.numpy(), variable.numpy(), rtol=5e-6, atol=5e-7)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adagrad(0.1), LazyAdam(0.1)], ids=repr)
def test_untouched_rows_and_what_is_kept_of_them_stay(optimizer):
    shard = made_shard(optimizer)
    gradients = gradients_of_steps()
    # A first step touches every row, so that every moment has something to lose.
    everything = tf.range(ROWS, dtype=tf.int64)
    shard.update(everything, tf.constant(gradients[0]), optimizer, tf.constant(0, tf.int64))
    before = values_of(shard)
    touched, untouched = [4, 2], [0, 1, 3]
    for step in (1, 2, 3):
        shard.update(
            tf.constant(touched, tf.int64),
            tf.constant(gradients[step][touched]),
            optimizer,
            tf.constant(step, tf.int64),
        )
    for name, after in values_of(shard).items():
        np.testing.assert_array_equal(after[untouched], before[name][untouched])
        assert (after[touched] != before[name][touched]).all(), name


def slow_lazy_adam(gradients_and_steps, start, rate, beta_1, beta_2, epsilon):
    """One number through Kingma and Ba's Algorithm 1, at the steps in which it is seen only."""
    row, mean, variance = start, 0.0, 0.0
    for gradient, step in gradients_and_steps:
        mean = beta_1 * mean + (1 - beta_1) * gradient
        variance = beta_2 * variance + (1 - beta_2) * gradient**2
        rate_of_step = rate * (1 - beta_2 ** (step + 1)) ** 0.5 / (1 - beta_1 ** (step + 1))
        row -= rate_of_step * mean / (variance**0.5 + epsilon)
    return row


def test_lazy_adam_of_a_row_that_is_seen_now_and_then():
    optimizer = LazyAdam(0.05, beta_1=0.8, beta_2=0.9)
    shard = made_shard(optimizer)
    start = float(shard.rows[2, 0])
    seen = [(0.5, 1), (-0.25, 2), (0.125, 6)]
    for gradient, step in seen:
        shard.update(
            tf.constant([2], tf.int64),
            tf.fill([1, WIDTH], gradient),
            optimizer,
            tf.constant(step, tf.int64),
        )
    expected = slow_lazy_adam(seen, start, 0.05, 0.8, 0.9, 1e-7)
    assert float(shard.rows[2, 0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [SGD, Adagrad, LazyAdam])
def test_a_schedule_is_asked_for_the_rate_of_each_step(make):
    rates = [0.5, 0.25, 0.125]
    scheduled = make(lambda step: tf.gather(tf.constant(rates), step))
    one, other = made_shard(scheduled), made_shard(scheduled)
    keys = tf.constant([0, 3], tf.int64)
    for step, rate in enumerate(rates):
        gradients = tf.constant(gradients_of_steps()[step][:2])
        one.update(keys, gradients, scheduled, tf.constant(step, tf.int64))
        other.update(keys, gradients, make(rate), tf.constant(step, tf.int64))
        for name, value in values_of(one).items():
            np.testing.assert_allclose(value, values_of(other)[name], rtol=1e-6)


def test_a_keras_schedule_is_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.125])
    rates = [SGD(schedule).rate(tf.constant(step, tf.int64)) for step in range(3)]
    assert [float(rate) for rate in rates] == [0.5, 0.5, 0.125]
    assert rates[0].dtype == tf.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sgd", SGD(0.2)), ("adagrad", Adagrad(0.2)), ("lazy_adam", LazyAdam(0.2))],
)
def test_row_optimizers_by_name(name, expected):
    assert row_optimizer(name, learning_rate=0.2) == expected
    assert row_optimizer(expected) is expected


def test_an_unknown_name():
    with pytest.raises(ValueError, match="row optimizer of sgd, adagrad, lazy_adam, got 'adam'"):
        row_optimizer("adam")


@pytest.mark.parametrize("make", [SGD, Adagrad, LazyAdam])
@pytest.mark.parametrize("learning_rate", [0, -0.1])
def test_a_learning_rate_of_zero_or_less(make, learning_rate):
    message = f"{make.__name__}: expected a learning_rate above 0, got {learning_rate}"
    with pytest.raises(ValueError, match=message):
        make(learning_rate)


def test_no_touched_rows_change_nothing():
    optimizer = Adagrad()
    shard = made_shard(optimizer)
    before = values_of(shard)
    shard.update(tf.zeros([0], tf.int64), tf.zeros([0, WIDTH]), optimizer, tf.constant(0, tf.int64))
    for name, value in values_of(shard).items():
        np.testing.assert_array_equal(value, before[name])
