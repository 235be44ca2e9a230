"""The posterior and the query loss are those of the Gaussian that they describe."""

import math

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.closed_form import TaskRowsSeen, posterior, predictive, query_loss

TASKS, SUPPORT, QUERY, WIDTH = 3, 5, 7, 4
# Narrower than either set of rows; wider than the support alone; wider than all rows.
WIDTHS = pytest.mark.parametrize("width", [WIDTH, 9, 15])


def made(seed=0, width=WIDTH):
    """Features, residuals and weights of support and query; task 1 has no support row."""
    rng = np.random.default_rng(seed)
    rows = SUPPORT + QUERY
    features = rng.normal(size=[TASKS, rows, width])
    residual = rng.normal(size=[TASKS, rows])
    weight = (rng.random([TASKS, rows]) < 0.8) * 1.0
    weight[1, :SUPPORT] = 0
    weight[:, SUPPORT] = 1
    return features, residual, weight


def covariance(features, noise):
    return features @ features.T + noise**2 * np.eye(len(features))


def log_density(residual, features, noise):
    """The Gaussian's, from its covariance matrix."""
    if not len(residual):
        return 0.0
    matrix = covariance(features, noise)
    _, log_determinant = np.linalg.slogdet(matrix)
    quadratic = residual @ np.linalg.solve(matrix, residual)
    return -0.5 * (quadratic + log_determinant + len(residual) * math.log(2 * math.pi))


def seen(made_rows, rows):
    features, residual, weight = (tf.constant(one[:, rows]) for one in made_rows)
    return TaskRowsSeen.of(features, residual, weight)


def present(made_rows, task, rows):
    features, residual, weight = (one[task, rows] for one in made_rows)
    return features[weight > 0], residual[weight > 0]


OF_SUPPORT, OF_QUERY = slice(SUPPORT), slice(SUPPORT, None)
NOISE = 0.7


@WIDTHS
def test_predictions_are_those_of_the_conditional_gaussian(width):
    """`K_qs K_ss^-1 r` and `K_qq - K_qs K_ss^-1 K_sq`, by the covariances of rows alone."""
    rows = made(width=width)
    own = posterior([seen(rows, OF_SUPPORT)], tf.constant(NOISE, tf.float64))
    assert own.root.shape[-1] == min(width, SUPPORT)
    mean, variance = predictive(own, tf.constant(rows[0][:, OF_QUERY]))
    for task in range(TASKS):
        features, residual = present(rows, task, OF_SUPPORT)
        asked = rows[0][task, OF_QUERY]
        weights = asked @ features.T @ np.linalg.inv(covariance(features, NOISE))
        np.testing.assert_allclose(mean[task], weights @ residual, rtol=1e-9, atol=1e-12)
        expected = (asked**2).sum(axis=1) - np.sum(weights * (asked @ features.T), axis=1)
        np.testing.assert_allclose(variance[task], expected, rtol=1e-9)


@WIDTHS
def test_without_support_the_prior_stands(width):
    rows = made(width=width)
    own = posterior([seen(rows, OF_SUPPORT)], tf.constant(NOISE, tf.float64))
    np.testing.assert_array_equal(own.mean[1], np.zeros(width))
    np.testing.assert_array_equal(own.root[1], np.eye(min(width, SUPPORT)))
    assert np.abs(own.mean[0]).min() > 1e-3


def loss_of(support, query, noise):
    return query_loss(posterior([support], noise), support, query, noise)


@WIDTHS
def test_query_loss_is_the_joint_likelihood_given_the_support(width):
    rows = made(width=width)
    found = loss_of(seen(rows, OF_SUPPORT), seen(rows, OF_QUERY), tf.constant(NOISE, tf.float64))
    for task in range(TASKS):
        every, support = present(rows, task, slice(None)), present(rows, task, OF_SUPPORT)
        expected = log_density(*support[::-1], NOISE) - log_density(*every[::-1], NOISE)
        np.testing.assert_allclose(found[task], expected, rtol=1e-9)


@WIDTHS
def test_gradients_of_the_query_loss_are_those_of_finite_differences(width):
    """In features, residuals and noise; and in features once more, of a gradient."""
    features, residual, weight = made(1, width)
    values = [tf.constant(features), tf.constant(residual), tf.constant(NOISE, tf.float64)]

    def loss(features, residual, noise):
        parts = [
            TaskRowsSeen.of(features[:, rows], residual[:, rows], tf.constant(weight[:, rows]))
            for rows in (OF_SUPPORT, OF_QUERY)
        ]
        return tf.reduce_sum(loss_of(*parts, noise))

    def slope(features, residual, noise):
        with tf.GradientTape() as tape:
            tape.watch(features)
            value = loss(features, residual, noise)
        return tf.reduce_sum(tf.square(tape.gradient(value, features)))

    rng = np.random.default_rng(2)
    for function in (loss, slope):
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = function(*values)
        gradients = tape.gradient(value, values)
        for index, gradient in enumerate(gradients):
            way = tf.constant(rng.normal(size=values[index].shape))
            ahead, behind = (
                function(*values[:index], values[index] + step * way, *values[index + 1 :])
                for step in (1e-5, -1e-5)
            )
            expected = (ahead - behind) / 2e-5
            np.testing.assert_allclose(tf.reduce_sum(gradient * way), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"noise": 0.0}, "expected a finite noise above 0, got 0.0"),
        ({"noise": math.inf}, "expected a finite noise above 0, got inf"),
        ({"scale": -1.0}, "expected a finite scale above 0, got -1.0"),
        ({"centre": math.nan}, "expected a finite centre, got nan"),
        ({"cut": math.inf}, "expected a finite cut, got inf"),
        ({"heads": 0}, "expected heads of at least 1, got 0"),
    ],
)
def test_wrong_settings(options, match):
    with pytest.raises(ValueError, match=match):
        gm.ClosedForm(**options)
