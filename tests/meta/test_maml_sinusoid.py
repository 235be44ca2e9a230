"""MAML learns sinusoids (Finn et al., ICML 2017, section 5.1) with the library's inner loop."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.meta.inner_loop import adapt

SHOTS, QUERY = 10, 10
INNER_RATE = 0.01
ONE_POINT = {"x": tf.zeros([1, 1])}


def sinusoids(rng, num_tasks, num_query=QUERY):
    """Points of sine waves, amplitude U[0.1, 5], phase U[0, pi], x U[-5, 5]: `[T, SHOTS + Q]`."""
    amplitude = rng.uniform(0.1, 5.0, [num_tasks, 1])
    phase = rng.uniform(0.0, np.pi, [num_tasks, 1])
    x = rng.uniform(-5.0, 5.0, [num_tasks, SHOTS + num_query])
    y = amplitude * np.sin(x - phase)
    return tf.constant(x, tf.float32), tf.constant(y, tf.float32)


def net():
    """1-40-40-1, ReLU."""
    keras.utils.set_random_seed(11)
    x = keras.Input([1], name="x")
    hidden = keras.layers.Dense(40, activation="relu")(x)
    hidden = keras.layers.Dense(40, activation="relu")(hidden)
    return keras.Model({"x": x}, keras.layers.Dense(1)(hidden))


def query_losses(tasks, x, y, num_steps, order=2):
    """Each task's mean squared error on its query points after the inner steps, `[T]`."""

    def features(points):
        return {"x": x[:, points, tf.newaxis]}

    def errors(outputs, points):
        return tf.reduce_mean(tf.square(outputs - y[:, points]), axis=1)

    def support_pass(fast, watch):
        shots = slice(SHOTS)
        outputs, values, inputs = tasks.support_forward(
            fast, features(shots), training=True, watch=watch
        )
        return errors(outputs, shots), values, inputs

    loop = LoopShape(num_steps, SHOTS, x.shape[1] - SHOTS)
    rates = [[INNER_RATE] * len(tasks.adapted)] * num_steps
    descend = functools.partial(tasks.descend, loop=loop)
    fast = adapt(support_pass, descend, tasks.start(x.shape[0]), rates, order=order)
    query = slice(SHOTS, None)
    return errors(tasks(fast, features(query), training=True), query)


def train(learner, *, num_inner_steps, num_outer_steps, order=2):
    """Adam on the query loss after the inner steps; 0 of them is no meta-learning."""
    tasks = TaskLearner(learner, "all", ONE_POINT)
    variables = learner.trainable_variables
    optimizer = keras.optimizers.Adam(0.003)
    optimizer.build(variables)
    rng = np.random.default_rng(0)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(query_losses(tasks, x, y, num_inner_steps, order))
        optimizer.apply(tape.gradient(loss, variables), variables)

    for _ in range(num_outer_steps):
        step(*sinusoids(rng, num_tasks=25))
    return learner


def held_out_error(learner, num_steps):
    """The mean over 200 tasks that were not trained on, of 100 points each."""
    x, y = sinusoids(np.random.default_rng(1), num_tasks=200, num_query=100)
    tasks = TaskLearner(learner, "all", ONE_POINT)
    return float(tf.reduce_mean(query_losses(tasks, x, y, num_steps)))


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_one_step_fits_a_sinusoid_after_meta_training(order):
    """Seen: 6.4 to 0.96 (order 1) and 3.1 to 0.58 (order 2)."""
    learner = train(net(), num_inner_steps=1, num_outer_steps=1500, order=order)
    unadapted, adapted = held_out_error(learner, 0), held_out_error(learner, 1)
    assert adapted < unadapted / 3
    assert adapted < 1.3


@pytest.mark.parametrize("num_outer_steps", [0, 1500], ids=["untrained", "trained on all tasks"])
def test_one_step_does_not_without_meta_training(num_outer_steps):
    """Seen: 5.1 to 4.4 untrained, 3.1 to 2.2 trained on the mixture of all tasks."""
    learner = train(net(), num_inner_steps=0, num_outer_steps=num_outer_steps)
    unadapted, adapted = held_out_error(learner, 0), held_out_error(learner, 1)
    assert adapted > unadapted / 2
    assert adapted > 1.7
