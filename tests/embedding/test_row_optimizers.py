"""Row optimizers against Keras' optimizers of dense variables, and on touched rows of a shard."""

import dataclasses
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.row_optimizers import (
    SGD,
    Adagrad,
    Ftrl,
    LazyAdam,
    RowWiseAdagrad,
    row_optimizer,
)
from gmeta_tf.embedding.static_shard import StaticShard, TableRange

ROWS, WIDTH, STEPS = 5, 3, 8

# Ours, and the Keras optimizer that it is equal to, of the same rate.
PAIRS = [
    (SGD(0.3), keras.optimizers.SGD),
    (SGD(0.3, momentum=0.8), lambda rate: keras.optimizers.SGD(rate, momentum=0.8)),
    (
        SGD(0.3, momentum=0.8, nesterov=True),
        lambda rate: keras.optimizers.SGD(rate, momentum=0.8, nesterov=True),
    ),
    (Adagrad(0.3), keras.optimizers.Adagrad),
    (
        Adagrad(0.3, initial_accumulator=0.5, epsilon=1e-3),
        lambda rate: keras.optimizers.Adagrad(rate, initial_accumulator_value=0.5, epsilon=1e-3),
    ),
    (LazyAdam(0.01), keras.optimizers.Adam),
    (
        LazyAdam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        lambda rate: keras.optimizers.Adam(rate, beta_1=0.8, beta_2=0.95, epsilon=1e-3),
    ),
    (Ftrl(0.3), keras.optimizers.Ftrl),
    (Ftrl(0.3, learning_rate_power=0), lambda rate: keras.optimizers.Ftrl(rate, 0)),
    (
        Ftrl(0.3, l1=0.5, l2=0.25),
        lambda rate: keras.optimizers.Ftrl(
            rate, l1_regularization_strength=0.5, l2_regularization_strength=0.25
        ),
    ),
    (
        Ftrl(0.3, learning_rate_power=-0.75, initial_accumulator=0, l2_shrinkage=0.125, beta=1.0),
        lambda rate: keras.optimizers.Ftrl(
            rate, -0.75, 0.0, l2_shrinkage_regularization_strength=0.125, beta=1.0
        ),
    ),
]
IDS = [repr(optimizer) for optimizer, _ in PAIRS]

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.8, nesterov=True),
    Adagrad(0.1),
    RowWiseAdagrad(0.1),
    LazyAdam(0.1),
    Ftrl(0.1, l2=0.1),
]
CLASSES = [SGD, Adagrad, RowWiseAdagrad, LazyAdam, Ftrl]


def gradients_of_steps():
    """Gradients of very different sizes, some of them zero."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=[STEPS, ROWS, WIDTH]) * 10.0 ** rng.integers(-3, 2, [ROWS, 1])
    gradients[:, 1, 0] = 0
    return gradients.astype(np.float32)


def start_rows():
    return np.random.default_rng(1).normal(size=[ROWS, WIDTH]).astype(np.float32)


def start_slots(optimizer, width=WIDTH):
    return {name: slot.values(ROWS) for name, slot in optimizer.slots(width).items()}


def made_shard(optimizer, num_rows=ROWS):
    table = TableRange("item", 0, num_rows, seed=5)
    shard = StaticShard((table,), WIDTH, World(), scale=0.5, name="embedded")
    shard.make_slots(optimizer)
    return shard


def values_of(shard):
    """The rows and every slot, as NumPy."""
    slots = {name: variable.numpy() for name, variable in shard.slots.items()}
    return {"rows": shard.rows.numpy(), **slots}


def number(step):
    return tf.constant(step, tf.int64)


def after_dense_steps(optimizer, rows):
    """A whole variable after the steps: its rows after each of them."""
    rows, slots = tf.constant(rows), start_slots(optimizer)
    for step, gradients in enumerate(gradients_of_steps()):
        rows, slots = optimizer.update(rows, tf.constant(gradients), slots, number(step))
        assert {name: value.shape for name, value in slots.items()} == {
            name: (ROWS, slot.width) for name, slot in optimizer.slots(WIDTH).items()
        }
        yield rows.numpy()


def after_keras_steps(keras_optimizer, rows):
    variable = keras.Variable(rows)
    for gradients in gradients_of_steps():
        keras_optimizer.apply([tf.constant(gradients)], [variable])
        yield variable.numpy()


# Equal to Keras ------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "make_keras"), PAIRS, ids=IDS)
def test_equal_to_keras_on_a_dense_variable(optimizer, make_keras):
    found = list(after_dense_steps(optimizer, start_rows()))
    expected = list(after_keras_steps(make_keras(optimizer.learning_rate), start_rows()))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=3e-7)
    assert np.abs(found[-1] - start_rows()).max() > 0.01


@pytest.mark.parametrize(("optimizer", "make_keras"), PAIRS, ids=IDS)
def test_equal_to_keras_with_a_schedule(optimizer, make_keras):
    schedule = keras.optimizers.schedules.ExponentialDecay(optimizer.learning_rate, 2, 0.5)
    scheduled = dataclasses.replace(optimizer, learning_rate=schedule)
    found = list(after_dense_steps(scheduled, start_rows()))
    expected = list(after_keras_steps(make_keras(schedule), start_rows()))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=3e-7)
    constant = list(after_dense_steps(optimizer, start_rows()))
    assert np.abs(found[-1] - constant[-1]).max() > 1e-3


@pytest.mark.parametrize(("optimizer", "make_keras"), PAIRS, ids=IDS)
def test_a_shard_whose_rows_are_all_touched_is_a_dense_variable(optimizer, make_keras):
    shard = made_shard(optimizer)
    expected = list(after_keras_steps(make_keras(optimizer.learning_rate), shard.rows.numpy()))
    order = np.array([3, 0, 4, 1, 2])
    for step, gradients in enumerate(gradients_of_steps()):
        keys, of_keys = tf.constant(order, tf.int64), tf.constant(gradients[order])
        shard.update(keys, of_keys, optimizer, number(step))
    np.testing.assert_allclose(shard.rows.numpy(), expected[-1], rtol=5e-6, atol=5e-7)


# What has no twin in Keras -------------------------------------------------------------------


def slow_row_wise_adagrad(row, gradients, rate, accumulator, epsilon):
    """One row through all steps, number after number."""
    row = [float(number) for number in row]
    for gradient in gradients:
        accumulator += sum(float(g) ** 2 for g in gradient) / len(gradient)
        for column, g in enumerate(gradient):
            row[column] -= rate * float(g) / math.sqrt(accumulator + epsilon)
    return row


@pytest.mark.parametrize(("accumulator", "epsilon"), [(0.1, 1e-7), (0.0, 1e-3)])
def test_row_wise_adagrad_against_a_loop(accumulator, epsilon):
    optimizer = RowWiseAdagrad(0.3, initial_accumulator=accumulator, epsilon=epsilon)
    *_, found = after_dense_steps(optimizer, start_rows())
    for place, row in enumerate(start_rows()):
        gradients = gradients_of_steps()[:, place]
        expected = slow_row_wise_adagrad(row, gradients, 0.3, accumulator, epsilon)
        np.testing.assert_allclose(found[place], expected, rtol=1e-5, atol=1e-6)


def test_row_wise_adagrad_of_rows_of_one_number_is_adagrad():
    gradients = tf.constant(gradients_of_steps()[0][:, :1])
    rows = tf.constant(start_rows()[:, :1])
    of_rows, of_numbers = RowWiseAdagrad(0.3), Adagrad(0.3)
    found, kept = of_rows.update(rows, gradients, start_slots(of_rows, 1), number(0))
    expected, slots = of_numbers.update(rows, gradients, start_slots(of_numbers, 1), number(0))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(kept["row_accumulator"], slots["accumulator"])


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
            tf.constant([2], tf.int64), tf.fill([1, WIDTH], gradient), optimizer, number(step)
        )
    expected = slow_lazy_adam(seen, start, 0.05, 0.8, 0.9, 1e-7)
    assert float(shard.rows[2, 0]) == pytest.approx(expected, rel=1e-5)


def test_ftrl_makes_numbers_of_no_use_exactly_zero():
    optimizer = Ftrl(0.3, l1=0.5)
    gradients = np.zeros([ROWS, WIDTH], np.float32)
    gradients[:, 0] = 2.0
    rows, slots = tf.constant(start_rows()), start_slots(optimizer)
    for step in range(3):
        rows, slots = optimizer.update(rows, tf.constant(gradients), slots, number(step))
    assert (rows.numpy()[:, 0] < 0).all()
    np.testing.assert_array_equal(rows.numpy()[:, 1:], 0)


# Touched rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_untouched_rows_and_what_is_kept_of_them_stay(optimizer):
    shard = made_shard(optimizer)
    gradients = gradients_of_steps()
    # A first step touches every row, so that every moment has something to lose.
    everything = tf.range(ROWS, dtype=tf.int64)
    shard.update(everything, tf.constant(gradients[0]), optimizer, number(0))
    before = values_of(shard)
    touched, untouched = [4, 2], [0, 1, 3]
    for step in (1, 2, 3):
        of_keys = tf.constant(gradients[step][touched])
        shard.update(tf.constant(touched, tf.int64), of_keys, optimizer, number(step))
    for name, after in values_of(shard).items():
        np.testing.assert_array_equal(after[untouched], before[name][untouched])
        assert (after[touched] != before[name][touched]).all(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_touched_row_moves_alike_in_a_whole_variable_and_gathered(optimizer):
    """The rows of each step's keys are picked out of an update of every row."""
    shard = made_shard(optimizer)
    rows = shard.rows.numpy()
    slots = {name: value.numpy() for name, value in start_slots(optimizer).items()}
    for step, (gradients, touched) in enumerate(
        zip(gradients_of_steps(), ([4, 2], [2], [0, 1, 2, 3, 4], [3, 4]))
    ):
        moved, new = optimizer.update(
            tf.constant(rows), tf.constant(gradients), _tensors(slots), number(step)
        )
        rows[touched] = moved.numpy()[touched]
        for name, value in new.items():
            slots[name][touched] = value.numpy()[touched]
        shard.update(
            tf.constant(touched, tf.int64), tf.constant(gradients[touched]), optimizer, number(step)
        )
        for name, value in values_of(shard).items():
            expected = rows if name == "rows" else slots[name]
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def _tensors(slots):
    return {name: tf.constant(value) for name, value in slots.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_no_touched_rows_change_nothing(optimizer):
    shard = made_shard(optimizer)
    before = values_of(shard)
    shard.update(tf.zeros([0], tf.int64), tf.zeros([0, WIDTH]), optimizer, number(0))
    for name, value in values_of(shard).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    "optimizer", [*OPTIMIZERS, Adagrad(initial_accumulator=0), Ftrl(0.1, beta=1)], ids=repr
)
def test_gradients_of_zero_leave_finite_rows(optimizer):
    shard = made_shard(optimizer)
    shard.update(tf.constant([1], tf.int64), tf.zeros([1, WIDTH]), optimizer, number(0))
    for name, value in values_of(shard).items():
        assert np.isfinite(value).all(), name


# Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", CLASSES)
def test_a_schedule_is_asked_for_the_rate_of_each_step(make):
    rates = [0.5, 0.25, 0.125]
    scheduled = make(lambda step: tf.gather(tf.constant(rates), step))
    one, other = made_shard(scheduled), made_shard(scheduled)
    keys = tf.constant([0, 3], tf.int64)
    for step, rate in enumerate(rates):
        gradients = tf.constant(gradients_of_steps()[step][:2])
        one.update(keys, gradients, scheduled, number(step))
        other.update(keys, gradients, make(rate), number(step))
        for name, value in values_of(one).items():
            np.testing.assert_allclose(value, values_of(other)[name], rtol=1e-6)


def test_a_keras_schedule_is_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.125])
    rates = [SGD(schedule).rate(number(step)) for step in range(3)]
    assert [float(rate) for rate in rates] == [0.5, 0.5, 0.125]
    assert rates[0].dtype == tf.float32


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", SGD(0.2)),
        ("adagrad", Adagrad(0.2)),
        ("row_wise_adagrad", RowWiseAdagrad(0.2)),
        ("lazy_adam", LazyAdam(0.2)),
        ("ftrl", Ftrl(0.2)),
    ],
)
def test_row_optimizers_by_name(name, expected):
    assert row_optimizer(name, learning_rate=0.2) == expected
    assert row_optimizer(expected) is expected


def test_an_unknown_name():
    names = "sgd, adagrad, row_wise_adagrad, lazy_adam, ftrl"
    with pytest.raises(ValueError, match=f"row_optimizer to be one of {names}, got 'adam'"):
        row_optimizer("adam")


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("learning_rate", [0, -0.1, math.nan, math.inf])
def test_a_learning_rate_out_of_range(make, learning_rate):
    message = f"{make.__name__}: expected learning_rate above 0, got {learning_rate}"
    with pytest.raises(ValueError, match=message):
        make(learning_rate)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (SGD, {"momentum": 1}, "SGD: expected momentum of at least 0 and below 1, got 1."),
        (SGD, {"momentum": -0.1}, "SGD: expected momentum of at least 0 and below 1, got -0.1."),
        (SGD, {"nesterov": True}, "SGD: nesterov looks ahead along the momentum, and momentum is"),
        (Adagrad, {"epsilon": -1.0}, "Adagrad: expected epsilon of at least 0, got -1.0."),
        (
            RowWiseAdagrad,
            {"initial_accumulator": -0.5},
            "RowWiseAdagrad: expected initial_accumulator of at least 0, got -0.5.",
        ),
        (
            RowWiseAdagrad,
            {"initial_accumulator": 0, "epsilon": 0},
            "RowWiseAdagrad: expected an initial_accumulator or an epsilon above 0, got 0 for both",
        ),
        (LazyAdam, {"beta_1": 1.0}, "LazyAdam: expected beta_1 of at least 0 and below 1, got 1.0"),
        (LazyAdam, {"beta_2": -1}, "LazyAdam: expected beta_2 of at least 0 and below 1, got -1."),
        (LazyAdam, {"epsilon": 0}, "LazyAdam: expected epsilon above 0, got 0."),
        (
            Ftrl,
            {"learning_rate_power": 0.5},
            "Ftrl: expected learning_rate_power of at most 0, got 0.5.",
        ),
        (Ftrl, {"l1": -1.0}, "Ftrl: expected l1 of at least 0, got -1.0."),
        (Ftrl, {"l2": -1.0}, "Ftrl: expected l2 of at least 0, got -1.0."),
        (Ftrl, {"l2_shrinkage": -1.0}, "Ftrl: expected l2_shrinkage of at least 0, got -1.0."),
        (Ftrl, {"beta": math.nan}, "Ftrl: expected beta of at least 0, got nan."),
        (
            Ftrl,
            {"initial_accumulator": 0},
            "Ftrl: expected an initial_accumulator, a beta or an l2 above 0, got 0 for all.",
        ),
    ],
    ids=str,
)
def test_settings_out_of_range(make, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**settings)
