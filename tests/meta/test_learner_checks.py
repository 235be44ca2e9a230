"""What a model cannot train right with is told when it is made or compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.learner_checks import (
    check_metrics,
    check_optimizer,
    check_options,
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


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        ([keras.metrics.AUC()], r"got an object of AUC\. Keras' own .* Give 'auc'"),
        (["AUC"], r"got 'AUC'\. .* Give 'auc'"),
        (["auc", keras.metrics.RootMeanSquaredError()], "RootMeanSquaredError.* Give 'rmse'"),
        ([lambda label, output: 0.0], r"got an object of function\. .* \['auc', 'task_auc'"),
        ("auc", r"expected a list of names, such as \['auc', .*got 'auc'\. Put it in a list"),
        (keras.metrics.AUC(), "expected a list of names, .* got an object of AUC"),
    ],
    ids=["object", "Keras' name", "one object of two", "function", "name alone", "object alone"],
)
def test_metrics_that_know_nothing_of_tasks(metrics, match):
    with pytest.raises(ValueError, match=match):
        check_metrics(CLICKS, metrics)


def test_weighted_metrics_of_rows_without_weights():
    check_metrics(CLICKS, ["auc", "weighted_auc"], "importance")
    match = r"expected a schema with a `weight` with 'weighted_auc', .* or give 'auc'"
    with pytest.raises(ValueError, match=match):
        check_metrics(CLICKS, ["auc", "weighted_auc"])
    with pytest.raises(ValueError, match=r"got 'weighted_log_loss', which needs probabilities"):
        check_metrics(row_loss("mse"), ["weighted_log_loss"], "importance")


@pytest.mark.parametrize("name", ["loss_weights", "jit_compile"])
def test_options_of_keras_without_an_effect(name):
    check_options(["run_eagerly", "steps_per_execution"])
    with pytest.raises(ValueError, match=f"and steps_per_execution alone, got {name}"):
        check_options(["run_eagerly", name])


SCHEMA = gm.Schema((gm.Field("item"),), "label", "user").with_num_rows({"item": 9})


def model_of(learner):
    return gm.MetaModel(learner, gm.ShardedEmbedding(SCHEMA, 3), gm.InnerLoop(1, 0.1))


def ending_in(output_of):
    embedded = keras.Input([1, 3], name="embedded")
    return keras.Model({"embedded": embedded}, output_of(keras.layers.Flatten()(embedded)))


def dense(name, units=1):
    return keras.layers.Dense(units, name=name)


@pytest.mark.parametrize(
    ("output_of", "match"),
    [
        (lambda x: [dense("a")(x), dense("b")(x)], r"got for one row \['\[1, 1\]', '\[1, 1\]'\]"),
        (lambda x: {"a": dense("a")(x), "b": dense("b")(x)}, r"got for one row \{'a': '\[1, 1\]'"),
        (lambda x: {"a": dense("a")(x)}, r"got for one row \{'a'"),
        (lambda x: dense("wide", 2)(x), r"got for one row \[1, 2\]"),
    ],
)
def test_a_learner_with_other_outputs_than_one_number(output_of, match):
    with pytest.raises(ValueError, match=rf"to give one number a row.*{match}"):
        model_of(ending_in(output_of))


def test_a_learner_that_takes_the_mean_of_the_rows():
    class Mean(keras.Model):
        def call(self, inputs, training=False):
            return tf.reduce_mean(inputs["embedded"])

    with pytest.raises(ValueError, match=r"one number a row.*got for one row \[\]"):
        model_of(Mean())


@pytest.mark.parametrize(
    ("learner", "match"),
    [
        (
            lambda: keras.layers.Dense(1),
            "expected a Keras model as the learner, got an object of De",
        ),
        (lambda: lambda inputs: inputs, "got an object of function"),
    ],
)
def test_what_is_no_model(learner, match):
    with pytest.raises(ValueError, match=match):
        model_of(learner())


@pytest.mark.parametrize(
    "learner",
    [
        lambda: keras.Sequential([keras.Input([3]), dense("a")]),
        lambda: keras.Model(given := keras.Input([3]), dense("a")(given)),
    ],
)
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_a_learner_that_does_not_take_the_rows(learner):
    with pytest.raises(
        ValueError,
        match=r"failed on one row, ValueError: [^\n]*input is a dict of 'embedded' \[1, 1, 3",
    ) as raised:
        model_of(learner())
    assert raised.value.__cause__ is not None
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Layer '.*' looks like it has unbuilt state")
def test_an_error_in_a_learner_s_own_code_is_its_own():
    with pytest.raises(AttributeError, match="no_such_attribute"):
        model_of(Subclass(lambda z: z.no_such_attribute))


def test_a_sequential_trains_as_the_functional_model_that_it_is(tmp_path):
    """One step of both, from the same weights."""

    def layers():
        return [
            keras.layers.Dense(4, activation="tanh", name="hidden"),
            keras.layers.Dense(1, name="score"),
        ]

    rows = keras.layers.Lambda(lambda inputs: inputs["embedded"][:, 0], output_shape=(3,))
    embedded = keras.Input([1, 3], name="embedded")
    hidden, score = layers()
    learners = [
        keras.Sequential([rows, *layers()]),
        keras.Model({"embedded": embedded}, score(hidden(embedded[:, 0]))),
    ]
    (tmp_path / "log.csv").write_text(
        "user,item,label\n"
        + "".join(f"{u},{i},{(u + i) % 2}\n" for u in range(6) for i in range(8))
    )
    records = gm.prepare(
        gm.files_source(tmp_path / "log.csv"),
        gm.Schema((gm.Field("item"),), "label", "user"),
        tmp_path / "records",
        split=gm.Split(0.0),
    )
    batches = gm.TaskBatches(records, "train", tasks=6, support=3, query=5)
    weights = [np.random.default_rng(0).normal(size=s) for s in ((3, 4), (4,), (4, 1), (1,))]
    predictions = []
    for learner in learners:
        model = gm.MetaModel(learner, gm.ShardedEmbedding(records.schema, 3), gm.InnerLoop(2, 0.5))
        model.learner.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.5), gm.SGD(0.5))
        model.fit(batches, epochs=2, verbose=0)
        predictions.append(model(batches.one_batch(0)).numpy())
    np.testing.assert_allclose(predictions[0], predictions[1], rtol=1e-5)
    assert not np.allclose(learners[0].get_weights()[0], weights[0])
