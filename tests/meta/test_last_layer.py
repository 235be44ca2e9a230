"""The layer that makes the output is found in every kind of Keras model, or told to be none."""

import keras
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.fast_weights import TaskLearner, adapted_variables
from gmeta_tf.meta.last_layer import last_layer

ROWS = {"embedded": tf.zeros([2, 3, 4]), "dense": tf.zeros([2, 1])}


def inputs():
    return {
        "embedded": keras.Input([3, 4], name="embedded"),
        "dense": keras.Input([1], name="dense"),
    }


def functional(end):
    """Flatten, a hidden layer, and what `end` makes of it and of the flat input."""
    given = inputs()
    flat = keras.layers.Flatten()(given["embedded"])
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(flat)
    return keras.Model(given, end(hidden, flat, given["dense"]))


def sequential():
    first = keras.layers.Lambda(lambda rows: rows["embedded"][:, 0], output_shape=(4,))
    layers = [keras.layers.Dense(5, name="hidden"), keras.layers.Dense(1, name="score")]
    return keras.Sequential([first, *layers])


class Subclass(keras.Model):
    """The layers are made in another order than they are called."""

    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1, name="score")
        self.body = keras.Sequential([keras.layers.Dense(5, name="hidden")])

    def call(self, rows):
        flat = keras.ops.reshape(rows["embedded"], (-1, 12))
        return keras.ops.squeeze(self.score(self.body(flat)), -1) * 0.5


class OwnWeights(Subclass):
    """Its last weights are in no layer."""

    def build(self, shape):
        self.scale = self.add_weight((), "ones", name="scale")
        super().build(shape)

    def call(self, rows):
        return super().call(rows) * self.scale


def score(hidden, *_):
    return keras.layers.Dense(1, name="score")(hidden)


def nothing_behind_counts(hidden, *_):
    out = keras.layers.Dense(1, use_bias=False, name="score")(hidden)
    return keras.layers.Reshape([1])(keras.layers.Activation("tanh")(out))


def recurrent(hidden, *_):
    steps = keras.layers.Reshape([5, 1])(hidden)
    return keras.layers.GRU(1, name="score")(steps)


def normalized(hidden, *_):
    out = keras.layers.Dense(1, name="out")(hidden)
    return keras.layers.LayerNormalization(name="score")(out)


def wide_and_deep(hidden, flat, dense):
    deep = keras.layers.Dense(1, name="deep")(hidden)
    return keras.layers.Add()([deep, keras.layers.Dense(1, name="wide")(dense)])


MODELS = {
    "functional": lambda: functional(score),
    "sequential": sequential,
    "subclass": Subclass,
    "reshaped": lambda: functional(nothing_behind_counts),
    "recurrent": lambda: functional(recurrent),
    "normalized": lambda: functional(normalized),
    "melu": gm.models.MeLU,
    "maml_dlrm": gm.models.MamlDLRM,
}


@pytest.mark.parametrize("name", list(MODELS))
def test_the_last_layer_is_found(name):
    learner = MODELS[name]()
    learner(ROWS)
    found = last_layer(learner, ROWS)
    assert found.name == "score"
    chosen = adapted_variables(learner, "last_layer", ROWS)
    assert sum(chosen) == len(found.trainable_variables) < len(chosen)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: functional(wide_and_deep), "got deep and wide"),
        (OwnWeights, "got score and weights of the learner's own"),
        (lambda: functional(lambda hidden, flat, dense: dense * 2.0), "got none"),
    ],
    ids=["wide and deep", "own weights", "without weights"],
)
def test_an_ambiguous_end_is_refused(make, told):
    learner = make()
    learner(ROWS)
    message = f"output of the learner .* to come out of one layer with weights, {told}"
    with pytest.raises(ValueError, match=message):
        TaskLearner(learner, "last_layer", ROWS)


def test_layers_by_name():
    learner = functional(score)
    learner(ROWS)
    assert adapted_variables(learner, ["hidden"]) == [True, True, False, False]
    assert adapted_variables(learner, ["score", learner.get_layer("hidden")]) == [True] * 4
    with pytest.raises(ValueError, match=r"with weights \(hidden, score\).*got 'top', of 0"):
        adapted_variables(learner, ["top"])
