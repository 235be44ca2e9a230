"""Tasks side by side against a slow loop that writes each task's weights into the Keras model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.meta.fast_weights import TaskLearner, adapted_variables

T, R, F, D = 3, 4, 5, 2

# float32 sums of at most a few dozen products of size 1, in another order.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def mlp(fields, dense):
    hidden = keras.layers.Concatenate()([keras.layers.Flatten()(fields), dense])
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(hidden)
    return keras.layers.Dense(1, name="score")(hidden)


def normalized(fields, dense):
    hidden = keras.layers.LayerNormalization(name="hidden")(keras.layers.Flatten()(fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def recurrent(fields, dense):
    hidden = keras.layers.GRU(3, name="hidden")(fields)
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def attention(fields, dense):
    attend = keras.layers.MultiHeadAttention(2, 3, name="hidden")
    hidden = keras.layers.Flatten()(attend(fields, fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def learner_of(body):
    keras.utils.set_random_seed(3)
    inputs = {
        "embedded": keras.Input([F, D], name="embedded"),
        "dense": keras.Input([1], name="dense"),
    }
    return keras.Model(inputs, body(inputs["embedded"], inputs["dense"]))


class OneNumberARow(keras.Model):
    """A subclass whose output is `[R]` and whose call takes no `training`."""

    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1)

    def call(self, inputs):
        return self.score(inputs["dense"])[:, 0]


def features(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "embedded": tf.constant(rng.normal(size=[T, R, F, D]), tf.float32),
        "dense": tf.constant(rng.normal(size=[T, R, 1]), tf.float32),
    }


def different_weights(tasks):
    rng = np.random.default_rng(1)
    return [
        value + tf.constant(rng.normal(size=value.shape), tf.float32) for value in tasks.initial(T)
    ]


def slow_outputs(tasks, fast, inputs):
    """One task after the other: assign its weights, call the model, put the weights back."""
    before = [variable.numpy() for variable in tasks.adapted]
    outputs = []
    for task in range(T):
        for variable, own in zip(tasks.adapted, fast):
            variable.assign(own[task])
        output = tasks.learner({name: value[task] for name, value in inputs.items()})
        outputs.append(np.reshape(output, [R]))
    for variable, value in zip(tasks.adapted, before):
        variable.assign(value)
    return np.stack(outputs)


@pytest.mark.parametrize("adapt", ["all", "score"])
@pytest.mark.parametrize(
    "body", [mlp, normalized, recurrent, attention], ids=lambda body: body.__name__
)
def test_tasks_side_by_side_are_tasks_one_by_one(body, adapt):
    learner = learner_of(body)
    tasks = TaskLearner(learner, adapt if adapt == "all" else [learner.get_layer(adapt)])
    fast, inputs = different_weights(tasks), features()
    expected = slow_outputs(tasks, fast, inputs)
    assert np.ptp(expected, axis=0).min() > 1e-3  # the tasks differ
    np.testing.assert_allclose(tasks(fast, inputs, training=False), expected, **FLOAT32)


@pytest.mark.parametrize(
    "body", [mlp, normalized, recurrent, attention], ids=lambda body: body.__name__
)
def test_gradients_of_each_task_are_those_of_the_task_alone(body):
    tasks = TaskLearner(learner_of(body), "all")
    fast, inputs = different_weights(tasks), features()
    with tf.GradientTape() as tape:
        tape.watch(fast)
        loss = tf.reduce_sum(tf.square(tasks(fast, inputs, training=True)))
    gradients = tape.gradient(loss, fast)
    for task in range(T):
        for variable, own in zip(tasks.adapted, fast):
            variable.assign(own[task])
        with tf.GradientTape() as tape:
            output = tasks.learner({name: value[task] for name, value in inputs.items()})
            loss = tf.reduce_sum(tf.square(output))
        expected = tape.gradient(loss, [variable.value for variable in tasks.adapted])
        for found, alone in zip(gradients, expected):
            # Sums over R rows and up to F steps or pairs of values of size 10.
            np.testing.assert_allclose(found[task], alone, rtol=1e-4, atol=1e-4)


def test_no_fast_weights_reads_the_shared_ones():
    tasks = TaskLearner(learner_of(mlp), "all")
    inputs = features()
    expected = slow_outputs(tasks, tasks.initial(T), inputs)
    np.testing.assert_allclose(tasks(None, inputs, training=False), expected, **FLOAT32)
    np.testing.assert_allclose(tasks(tasks.initial(T), inputs, training=False), expected, **FLOAT32)
    tasks.adapted[0].assign_add(tf.ones_like(tasks.adapted[0]))
    assert np.abs(tasks(None, inputs, training=False) - expected).max() > 1e-2


def test_calling_writes_nothing():
    tasks = TaskLearner(learner_of(mlp), "all")
    before = [variable.numpy() for variable in tasks.learner.variables]
    tasks(different_weights(tasks), features(), training=True)
    for variable, value in zip(tasks.learner.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_a_subclass_of_one_number_a_row():
    learner = OneNumberARow()
    learner({"dense": tf.zeros([1, 1])})
    tasks = TaskLearner(learner, "all")
    fast, inputs = different_weights(tasks), {"dense": features()["dense"]}
    output = tasks(fast, inputs, training=True)
    assert output.shape == (T, R)
    np.testing.assert_allclose(output, slow_outputs(tasks, fast, inputs), **FLOAT32)


def test_initial_is_the_shared_value_once_a_task():
    tasks = TaskLearner(learner_of(mlp), "all")
    for variable, stacked in zip(tasks.adapted, tasks.initial(T)):
        np.testing.assert_array_equal(stacked, np.stack([variable.numpy()] * T))


def test_adapted_variables_by_word_layer_and_predicate():
    learner = learner_of(mlp)  # hidden/kernel, hidden/bias, score/kernel, score/bias
    assert adapted_variables(learner, "all") == [True] * 4
    assert adapted_variables(learner, "none") == [False] * 4
    assert adapted_variables(learner, [learner.get_layer("score")]) == [False, False, True, True]
    assert adapted_variables(learner, lambda variable: variable.name == "bias") == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        ("last", r"expected 'all', 'none', a list of layers or a predicate, got 'last'"),
        (lambda variable: "decision" in variable.path, r"picks none .*hidden/kernel.*'none'"),
        ([], r"picks none of the learner's variables"),
    ],
)
def test_adapted_variables_refuses(adapt, message):
    with pytest.raises(ValueError, match=message):
        adapted_variables(learner_of(mlp), adapt)


def test_a_layer_of_another_model_is_refused():
    learner = learner_of(mlp)
    stranger = keras.layers.Dense(2, name="stranger")
    stranger.build([None, 3])
    with pytest.raises(ValueError, match=r"2 variable\(s\) of the layers \['score', 'stranger'\]"):
        adapted_variables(learner, [learner.get_layer("score"), stranger])


def test_state_outside_the_weights_is_refused():
    def batch_normalized(fields, dense):
        return keras.layers.Dense(1)(keras.layers.BatchNormalization(name="norm")(dense))

    with pytest.raises(ValueError, match=r"norm/moving_mean.*use LayerNormalization"):
        TaskLearner(learner_of(batch_normalized), "all")


def test_a_frozen_layer_is_refused():
    learner = learner_of(mlp)
    learner.get_layer("hidden").trainable = False
    with pytest.raises(ValueError, match=r"hidden/kernel.*unfreeze or drop frozen variables"):
        TaskLearner(learner, "all")
