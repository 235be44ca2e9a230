"""What a model cannot train right with is told when it is made or compiled."""

import keras
import pytest
import tensorflow as tf

from gmeta_tf.meta.learner_checks import (
    check_metrics,
    check_optimizer,
    check_output,
    check_precision,
)
from gmeta_tf.meta.losses import RowLoss, row_loss

CLICKS, NUMBERS = row_loss("bce"), row_loss("mse")
EXAMPLE = {"embedded": tf.ones([1, 2, 3])}


def functional(activation, *, behind=()):
    embedded = keras.Input([2, 3], name="embedded")
    output = keras.layers.Dense(1, activation=activation)(keras.layers.Flatten()(embedded))
    for layer in behind:
        output = layer(output)
    return keras.Model({"embedded": embedded}, output)


class Subclass(keras.Model):
    def __init__(self, end):
        super().__init__()
        self.score, self.end = keras.layers.Dense(1), end

    def call(self, inputs, training=False):
        return self.end(self.score(inputs["embedded"][:, 0]))


SIGMOIDS = {
    "activation": lambda: functional("sigmoid"),
    "layer": lambda: functional(None, behind=[keras.layers.Activation("sigmoid")]),
    "reshaped": lambda: functional("sigmoid", behind=[keras.layers.Reshape([])]),
    "subclass": lambda: Subclass(keras.ops.sigmoid),
    "squeezed": lambda: Subclass(lambda z: tf.squeeze(tf.sigmoid(z), 1)),
}
LOGITS = {
    "linear": lambda: functional(None),
    "bounded": lambda: functional("tanh"),
    "gated": lambda: Subclass(lambda z: z * tf.sigmoid(z)),
    "scaled": lambda: Subclass(lambda z: 4 * tf.sigmoid(z) - 2),
}


def built(make):
    learner = make()
    learner(EXAMPLE)
    return learner


@pytest.mark.parametrize("name", SIGMOIDS)
def test_a_learner_that_ends_in_a_sigmoid(name):
    learner = built(SIGMOIDS[name])
    with pytest.raises(ValueError, match=r"ends in a sigmoid: expected logits.*Leave the last"):
        check_output(learner, EXAMPLE, CLICKS)
    check_output(learner, EXAMPLE, NUMBERS)
    check_output(learner, EXAMPLE, RowLoss("own", CLICKS.loss, tf.identity))


@pytest.mark.parametrize("name", LOGITS)
def test_a_learner_that_gives_logits(name):
    check_output(built(LOGITS[name]), EXAMPLE, CLICKS)


def test_a_learner_in_float16():
    half = keras.layers.Dense(1, dtype="mixed_float16", name="half")
    embedded = keras.Input([6], name="embedded")
    with pytest.raises(ValueError, match=r"got 'half' in float16.*mixed_bfloat16"):
        check_precision(keras.Model(embedded, half(embedded)))
    bfloat = keras.layers.Dense(1, dtype="mixed_bfloat16")
    check_precision(keras.Model(embedded, bfloat(embedded)))
    learner = functional(None)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match=r"expected a learner that computes in float32"):
            check_precision(learner)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            "got a LossScaleOptimizer",
        ),
        (lambda: keras.optimizers.SGD(loss_scale_factor=8.0), "loss_scale_factor, by which"),
        (
            lambda: keras.optimizers.Adam(gradient_accumulation_steps=4),
            "gradient_accumulation_steps, while rows are updated in every step",
        ),
        (lambda: keras.optimizers.SGD(use_ema=True), "use_ema, which averages the dense weights"),
    ],
)
def test_an_optimizer_that_would_treat_dense_weights_alone(optimizer, match):
    with pytest.raises(ValueError, match=match):
        check_optimizer(optimizer())


def test_optimizers_of_every_step():
    for optimizer in (keras.optimizers.Adam(clipnorm=1.0), keras.optimizers.SGD(momentum=0.9)):
        check_optimizer(optimizer)


def test_metrics_follow_the_loss():
    for loss in (CLICKS, NUMBERS):
        check_metrics(loss, loss.metrics)
    assert CLICKS.metrics == ("auc", "task_auc", "log_loss")
    assert NUMBERS.metrics == ("rmse", "mae")
    check_metrics(NUMBERS, ["auc", "ndcg@3"])
    check_metrics(RowLoss("own", CLICKS.loss, tf.sigmoid), ["log_loss"])
    with pytest.raises(ValueError, match=r"loss mean_squared_error, got 'log_loss'.*rmse, mae are"):
        check_metrics(NUMBERS, ["auc", "log_loss"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bce", "BCE", "BinaryCrossentropy", "binary_crossentropy"], CLICKS),
        (["mse", "MSE", "MeanSquaredError", "mean_squared_error"], NUMBERS),
    ],
)
def test_names_of_losses(names, expected):
    for name in names:
        assert row_loss(name) is expected
        assert row_loss(expected.name) is expected
        keras.losses.get(name)  # the names are Keras' own
