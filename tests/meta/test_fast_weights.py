"""Tasks side by side against a slow loop that writes each task's weights into the Keras model."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.meta.fast_dense import LoopShape
from gmeta_tf.meta.fast_layers import DenseUnit
from gmeta_tf.meta.fast_weights import TaskLearner, adapted_variables
from gmeta_tf.meta.inner_loop import adapt

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
        "embedded": tf.constant(rng.normal(size=[T, R, F, D]), keras.config.floatx()),
        "dense": tf.constant(rng.normal(size=[T, R, 1]), keras.config.floatx()),
    }


def task_learner(learner, adapt="all", form="auto"):
    inputs = {name: value[0] for name, value in features().items()}
    return TaskLearner(learner, adapt, inputs, form=form)


RATES = (0.05, 0.04, 0.03)
LOOP = LoopShape(len(RATES), R, R)
LABEL = tf.constant(np.random.default_rng(5).normal(size=[T, R]), tf.float32)
# Task 1 lacks two of its rows.
WEIGHT = tf.constant([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]], tf.float32)


def losses_of(outputs):
    label, weight = tf.cast(LABEL, outputs.dtype), tf.cast(WEIGHT, outputs.dtype)
    return tf.reduce_sum(weight * tf.square(outputs - label), axis=1)


def adapted_outputs(tasks, support, query, rates=RATES, order=2, training=False):
    """What each task's query rows give after its inner steps."""

    def support_pass(fast, watch):
        outputs, values, inputs = tasks.support_forward(
            fast, support, training=training, watch=watch
        )
        return losses_of(outputs), values, inputs

    descend = functools.partial(tasks.descend, loop=LOOP)
    step_rates = [[rate / (place + 1) for place in range(len(tasks.adapted))] for rate in rates]
    fast = adapt(support_pass, descend, tasks.start(T), step_rates, order=order)
    return tasks(fast, query, training=training)


def slow_outputs(tasks, support, query, rates=RATES):
    """One task after the other, each on weights that are written into the model and put back."""
    variables = tasks.adapted
    before = [variable.numpy() for variable in variables]
    outputs = []
    for task in range(T):
        for rate in rates:
            with tf.GradientTape() as tape:
                output = tasks.learner({name: value[task] for name, value in support.items()})
                output = tf.reshape(output, [R])
                loss = tf.reduce_sum(WEIGHT[task] * tf.square(output - LABEL[task]))
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            for place, (variable, gradient) in enumerate(zip(variables, gradients)):
                variable.assign(variable.value - rate / (place + 1) * gradient)
        output = tasks.learner({name: value[task] for name, value in query.items()})
        outputs.append(np.reshape(output, [R]))
        for variable, value in zip(variables, before):
            variable.assign(value)
    return np.stack(outputs)


class HoldsOthers(keras.layers.Layer):
    """A layer of a user's own, of two Dense layers, the second one called twice."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first = keras.layers.Dense(4, activation="tanh", name="first")
        self.second = keras.layers.Dense(4, use_bias=False, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build([None, 4])
        self.built = True

    def call(self, inputs):
        return self.second(keras.ops.tanh(self.second(self.first(inputs))))


class Owns(keras.layers.Layer):
    """A layer of a user's own, with a weight and a Dense layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones", name="scale")
        self.inner = keras.layers.Dense(4, activation="tanh", name="inner")
        self.inner.build(shape)

    def call(self, inputs, training=False):
        return self.inner(inputs * self.scale)


class OtherDense(keras.layers.Dense):
    """A Dense layer that does more than one."""

    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training)


def holding(fields, dense):
    hidden = HoldsOthers(name="hidden")(keras.layers.Flatten()(fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def owning(fields, dense):
    hidden = Owns(name="hidden")(keras.layers.Flatten()(fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def doubled(fields, dense):
    hidden = OtherDense(3, name="hidden")(keras.layers.Flatten()(fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def along_fields(fields, dense):
    """A Dense layer that is applied to each field."""
    hidden = keras.layers.Flatten()(keras.layers.Dense(3, "tanh", name="hidden")(fields))
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


def without_bias(fields, dense):
    hidden = keras.layers.Flatten()(fields)
    hidden = keras.layers.Dense(4, "gelu", use_bias=False, name="hidden")(hidden)
    return keras.layers.Dense(1, name="score")(keras.layers.Concatenate()([hidden, dense]))


BODIES = [
    mlp,
    normalized,
    attention,
    holding,
    owning,
    doubled,
    along_fields,
    without_bias,
]


@pytest.fixture
def forms(monkeypatch):
    """Yields `auto`, then the forms that do otherwise than `auto` did for some Dense layer.

    A form is asked for nowhere but in `_is_low_rank`: one that would have said what `auto` said
    each time is computed by the very same ops.
    """
    said = set()
    is_low_rank = DenseUnit._is_low_rank

    def noted(unit, rows, slopes, loop):
        low_rank = is_low_rank(unit, rows, slopes, loop)
        said.add(low_rank)
        return low_rank

    def generate():
        monkeypatch.setattr(DenseUnit, "_is_low_rank", noted)
        yield "auto"
        by_auto = set(said)
        for form, says in (("low_rank", True), ("stacked", False)):
            if not by_auto <= {says}:
                yield form

    return generate()


@pytest.mark.parametrize("adapt_dense", ["all", "hidden", "bias"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_tasks_side_by_side_are_tasks_one_by_one(body, adapt_dense, forms):
    # A step of a layer that is not Dense is as the one before, and takes seconds to trace.
    rates = RATES if body in (mlp, along_fields, without_bias) else RATES[:2]
    learner = learner_of(body)
    if adapt_dense == "hidden":
        adapt_dense = [learner.get_layer("hidden")]
    elif adapt_dense == "bias":
        adapt_dense = is_bias
    expected = None
    # The whole learner takes seconds to trace, and is the same whatever adapts.
    vectorized = ["vectorized"] if adapt_dense == "all" else []
    for form in itertools.chain(forms, vectorized):
        tasks = task_learner(learner, adapt_dense, form)
        assert (tasks.fallback_reason is not None) == (form == "vectorized")
        if expected is None:
            expected = slow_outputs(tasks, features(0), features(1), rates)
            unadapted = tasks(None, features(1), training=False)
            assert np.abs(expected - unadapted).max() > 1e-2
        found = adapted_outputs(tasks, features(0), features(1), rates)
        np.testing.assert_allclose(found, expected, err_msg=form, **FLOAT32)


@pytest.mark.slow
def test_a_recurrent_layer():
    """By itself, since its loop takes long to trace."""
    tasks = task_learner(learner_of(recurrent))
    assert tasks.fallback_reason is None
    expected = slow_outputs(tasks, features(0), features(1), RATES[:1])
    found = adapted_outputs(tasks, features(0), features(1), RATES[:1])
    np.testing.assert_allclose(found, expected, **FLOAT32)


def is_bias(variable):
    return variable.name in ("bias", "beta")


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.usefixtures("float64")
def test_outer_gradients_are_the_same_in_every_form(body, order, forms):
    """`vectorized` is Keras' own call under `vectorized_map`; NumPy is asked below."""
    learner = learner_of(body)
    variables = [variable.value for variable in learner.trainable_variables]
    support, query = features(0), features(1)
    found = {}
    for form in itertools.chain(["vectorized"], forms):
        tasks = task_learner(learner, form=form)
        with tf.GradientTape() as tape:
            tape.watch(support)
            outputs = adapted_outputs(tasks, support, query, RATES[:2], order)
            loss = tf.reduce_sum(losses_of(outputs))
        found[form] = tape.gradient(
            loss, [*variables, support], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        expected = tf.nest.flatten(found["vectorized"])
        for gradient, one in zip(tf.nest.flatten(found[form]), expected, strict=True):
            # Sums of up to a few hundred terms of size 1 to 10, in another order.
            np.testing.assert_allclose(gradient, one, rtol=1e-10, atol=1e-10, err_msg=form)
    of_variables = expected[: len(variables)]
    reached = sum(np.abs(one).max() > 1e-3 for one in of_variables)
    assert reached >= len(variables) - (body is attention)  # a key's bias has no effect


def test_no_fast_weights_reads_the_shared_ones():
    for form in ("auto", "vectorized"):
        tasks, inputs = task_learner(learner_of(mlp), form=form), features()
        expected = slow_outputs(tasks, inputs, inputs, rates=())
        shared, start = tasks(None, inputs, training=False), tasks.start(T)
        np.testing.assert_allclose(shared, expected, **FLOAT32)
        np.testing.assert_allclose(tasks(start, inputs, training=False), expected, **FLOAT32)
        tasks.adapted[0].assign_add(tf.ones_like(tasks.adapted[0]))
        assert np.abs(tasks(None, inputs, training=False) - expected).max() > 1e-2


def test_sizes_that_are_not_known_before_the_step():
    tasks = task_learner(learner_of(along_fields))
    inputs = {
        "embedded": tf.TensorSpec([None, None, F, D], tf.float32),
        "dense": tf.TensorSpec([None, None, 1], tf.float32),
    }

    def outputs(support, query):
        def support_pass(fast, watch):
            found, values, seen = tasks.support_forward(fast, support, training=False, watch=watch)
            return losses_of(found), values, seen

        descend = functools.partial(tasks.descend, loop=LoopShape(1, None, None))
        start = tasks.start(tf.shape(support["dense"])[0])
        fast = adapt(support_pass, descend, start, [[0.06, 0.03, 0.02, 0.015]], order=2)
        return tasks(fast, query, training=False)

    traced = tf.function(outputs, input_signature=[inputs, inputs])
    expected = slow_outputs(tasks, features(0), features(1), rates=(0.06,))
    np.testing.assert_allclose(traced(features(0), features(1)), expected, **FLOAT32)


def mixes_rows(fields, dense):
    mean = keras.ops.mean(dense, axis=0, keepdims=True)
    return keras.layers.Dense(1, name="score")(dense - mean)


class TiedKernel(keras.Model):
    """Reads a Dense layer's kernel outside the layer."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(1, name="hidden")

    def call(self, inputs):
        hidden = self.hidden(inputs["dense"])
        return hidden + keras.ops.matmul(hidden, self.hidden.kernel)


class OwnWeight(keras.Model):
    """Has a weight of its own, and mixes rows by it: not at first, when it is 0."""

    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1, name="score")
        self.share = self.add_weight(shape=[], initializer="zeros", name="share")

    def call(self, inputs):
        score = self.score(inputs["dense"])
        return score + self.share * keras.ops.mean(score, axis=0, keepdims=True)


def built(learner):
    learner({name: value[0] for name, value in features().items()})
    return learner


def mixing():
    return learner_of(mixes_rows)


@pytest.mark.parametrize(
    ("make", "adapt_dense", "reason"),
    [
        (mixing, "all", "a row's output depends on other rows"),
        (TiedKernel, "all", "hidden/kernel is used outside its layer's own call"),
        (OwnWeight, "all", "it owns adapted weights outside its layers"),
        (OwnWeight, lambda v: "score" in v.path, "a row's output depends on other rows"),
    ],
)
def test_learners_that_take_the_vectorized_fallback(make, adapt_dense, reason):
    keras.utils.set_random_seed(2)
    learner = built(make())
    tasks = task_learner(learner, adapt_dense)
    assert reason in tasks.fallback_reason
    expected = slow_outputs(tasks, features(0), features(1))
    found = adapted_outputs(tasks, features(0), features(1))
    np.testing.assert_allclose(found, expected, **FLOAT32)
    with pytest.raises(ValueError, match=rf"fast_weights='low_rank'.*{reason}.*Use .*'vectorized'"):
        task_learner(learner, adapt_dense, "low_rank")


def test_a_form_that_is_not_known():
    with pytest.raises(
        ValueError, match=r"expected form to be one of auto, low_rank, stacked, vectorized"
    ):
        task_learner(learner_of(mlp), form="thin")


def test_calling_writes_nothing():
    for form in ("low_rank", "stacked", "vectorized"):
        tasks = task_learner(learner_of(owning), form=form)
        before = [variable.numpy() for variable in tasks.learner.variables]
        adapted_outputs(tasks, features(0), features(1), training=True)
        for variable, value in zip(tasks.learner.variables, before):
            np.testing.assert_array_equal(variable, value)


def test_a_subclass_of_one_number_a_row():
    tasks = task_learner(built(OneNumberARow()))
    found = adapted_outputs(tasks, features(0), features(1), training=True)
    assert found.shape == (T, R)
    np.testing.assert_allclose(found, slow_outputs(tasks, features(0), features(1)), **FLOAT32)


# NumPy's own MAML, of a tanh layer and a score.


def numpy_gradients(weights, x, label, weight):
    """The loss `sum weight (f(x) - label)^2` of one task, and its gradients."""
    kernel, bias, score_kernel, score_bias = weights
    hidden = np.tanh(x @ kernel + bias)
    error = (hidden @ score_kernel + score_bias)[:, 0] - label
    of_output = (2 * weight * error)[:, np.newaxis]
    of_hidden = of_output @ score_kernel.T * (1 - hidden**2)
    gradients = [
        x.T @ of_hidden,
        of_hidden.sum(axis=0),
        hidden.T @ of_output,
        of_output.sum(axis=0),
    ]
    return float((weight * error**2).sum()), gradients


def numpy_maml(weights, support, query, rates, order):
    """The query loss of one task after the inner steps, and its gradients by the chain rule.

    `g <- (I - alpha H) g` for each step, the last one first; `H g` is a central difference of the
    support gradient, exact to about 1e-9 here.
    """
    path = [weights]
    for rate in rates:
        _, gradients = numpy_gradients(path[-1], *support)
        path.append([w - rate * g for w, g in zip(path[-1], gradients)])
    loss, outer = numpy_gradients(path[-1], *query)
    if order == 2:
        for rate, here in zip(reversed(rates), reversed(path[:-1])):
            step = 1e-6
            ends = [
                numpy_gradients([w + s * step * g for w, g in zip(here, outer)], *support)[1]
                for s in (1, -1)
            ]
            outer = [g - rate * (high - low) / (2 * step) for g, high, low in zip(outer, *ends)]
    return loss, outer


@pytest.mark.parametrize("floatx", ["float32", "float64"])
@pytest.mark.parametrize("form", ["low_rank", "stacked", "vectorized"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5])
def test_maml_against_numpy(num_steps, order, form, floatx):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        keras.utils.set_random_seed(4)
        x = keras.Input([D], name="x")
        hidden = keras.layers.Dense(5, activation="tanh")(x)
        learner = keras.Model({"x": x}, keras.layers.Dense(1)(hidden))
        tasks = TaskLearner(learner, "all", {"x": tf.zeros([1, D], floatx)}, form=form)
        rng = np.random.default_rng(6)
        support, query = rng.normal(size=[2, T, R, D])
        label, weight = LABEL.numpy().astype(floatx), WEIGHT.numpy().astype(floatx)
        rates = [0.05 / (step + 1) for step in range(num_steps)]

        def support_pass(fast, watch):
            outputs, values, inputs = tasks.support_forward(
                fast, {"x": tf.constant(support, floatx)}, training=False, watch=watch
            )
            return tf.reduce_sum(weight * tf.square(outputs - label), axis=1), values, inputs

        with tf.GradientTape() as tape:
            fast = adapt(
                support_pass,
                functools.partial(tasks.descend, loop=LoopShape(num_steps, R, R)),
                tasks.start(T),
                [[rate] * 4 for rate in rates],
                order=order,
            )
            outputs = tasks(fast, {"x": tf.constant(query, floatx)}, training=False)
            loss = tf.reduce_sum(weight * tf.square(outputs - label))
        variables = learner.trainable_variables
        found = tape.gradient(loss, [variable.value for variable in variables])
        weights = [variable.numpy().astype(np.float64) for variable in variables]
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    expected_loss, expected = 0.0, [np.zeros_like(value) for value in weights]
    for task in range(T):
        own = [(part[task], LABEL[task].numpy(), WEIGHT[task].numpy()) for part in (support, query)]
        task_loss, gradients = numpy_maml(weights, *own, rates, order)
        expected_loss += task_loss
        expected = [total + one for total, one in zip(expected, gradients)]
    # float64: the central differences of the oracle; float32: sums of a few dozen products.
    near = {"rtol": 1e-6, "atol": 1e-7} if floatx == "float64" else {"rtol": 2e-4, "atol": 2e-4}
    np.testing.assert_allclose(loss, expected_loss, **near)
    for gradient, one in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, one, **near)


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
        (
            "last",
            r"expected 'all', 'none', 'last_layer', a list of layers or a predicate, got 'last'",
        ),
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
        task_learner(learner_of(batch_normalized))


def test_a_frozen_layer_is_refused():
    learner = learner_of(mlp)
    learner.get_layer("hidden").trainable = False
    with pytest.raises(ValueError, match=r"hidden/kernel.*unfreeze or drop frozen variables"):
        task_learner(learner)


@pytest.mark.slow
@pytest.mark.parametrize("body", [mlp, normalized, holding], ids=lambda body: body.__name__)
def test_mixed_precision_is_keras_own_policy(body):
    """Layers compute in bfloat16; weights, losses and what tasks are judged by are float32."""
    inputs = features(0), features(1)
    expected = adapted_outputs(task_learner(learner_of(body)), *inputs)
    for form in ("auto", "low_rank", "stacked", "vectorized"):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            tasks = task_learner(learner_of(body), form=form)
        finally:
            keras.config.set_dtype_policy("float32")
        assert (tasks.fallback_reason is not None) == (form == "vectorized")
        with tf.GradientTape() as tape:
            found = adapted_outputs(tasks, *inputs)
            loss = tf.reduce_sum(losses_of(found))
        assert found.dtype == tf.float32
        for gradient in tape.gradient(loss, [variable.value for variable in tasks.adapted]):
            assert gradient.dtype == tf.float32
            assert np.isfinite(gradient).all()
        # bfloat16 rounds by 0.4 %; three inner steps and three layers of outputs of size 1.
        np.testing.assert_allclose(found, expected, atol=0.1, err_msg=form)
        assert np.abs(found - expected).max() > 1e-6
