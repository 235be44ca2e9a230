"""The inner loop against sums done by hand, and its outer gradients against finite differences."""

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.inner_loop import adapt, descend_values

# Float64 throughout: what is left is rounding in the last place, many times smaller than this.
EXACT = {"rtol": 1e-12, "atol": 1e-14}

X_SUPPORT = np.array([1.0, -0.5, 2.0])
Y_SUPPORT = np.array([0.3, 1.0, -1.0])
X_QUERY = np.array([0.7, 1.5, -0.4])
Y_QUERY = np.array([-0.2, 0.5, 0.9])
RATE = 0.1


def adapt_values(losses, fast, rates, *, order):
    """`adapt` of own values that are plain tensors."""

    def support_pass(own, watch):
        watch(own)
        return losses(own), own, []

    return adapt(support_pass, descend_values, fast, rates, order=order)


def line_losses(weights):
    """Three tasks of one support row each, `L = (w x - y)^2 / 2`, so `dL/dw = x (w x - y)`."""
    return tf.square(weights * X_SUPPORT - Y_SUPPORT) / 2


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_adapt_descends_each_task_by_hand(num_steps, order):
    start = [0.5, 0.5, -1.0]
    rates = [RATE / (step + 1) for step in range(num_steps)]
    expected = []
    for weight, x, y in zip(start, X_SUPPORT, Y_SUPPORT):
        for rate in rates:
            weight -= rate * x * (weight * x - y)
        expected.append(weight)
    adapted = adapt_values(line_losses, tf.constant(start, tf.float64), rates, order=order)
    np.testing.assert_allclose(adapted, expected, **EXACT)


def test_adapt_moves_each_value_of_a_structure_at_its_own_rate():
    fast = {"slope": tf.constant([2.0, -1.0]), "row": [tf.constant([[3.0]])]}

    def losses(own):  # the gradients are 1 for the slopes and 5 for the row
        return own["slope"] + tf.constant([5.0, 0.0]) * own["row"][0][0]

    adapted = adapt_values(losses, fast, [{"slope": 0.5, "row": [0.25]}] * 2, order=2)
    np.testing.assert_array_equal(adapted["slope"], [1.0, -2.0])
    np.testing.assert_array_equal(adapted["row"][0], [[0.5]])


def test_adapt_leaves_what_the_loss_does_not_read():
    fast = {"read": tf.constant([1.0]), "not": tf.constant([7.0])}
    adapted = adapt_values(lambda own: own["read"], fast, [{"read": 0.5, "not": 0.5}], order=2)
    np.testing.assert_array_equal(adapted["read"], [0.5])
    np.testing.assert_array_equal(adapted["not"], [7.0])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_outer_gradient_of_a_line_by_hand(num_steps, order):
    """`dw'/dw = (1 - alpha x_s^2)^K`, which the first order takes to be 1."""
    weights = tf.constant([0.5, 0.5, -1.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        adapted = adapt_values(line_losses, weights, [RATE] * num_steps, order=order)
        loss = tf.reduce_sum(tf.square(adapted * X_QUERY - Y_QUERY) / 2)
    first_order = X_QUERY * (adapted.numpy() * X_QUERY - Y_QUERY)
    factor = (1 - RATE * X_SUPPORT**2) ** num_steps
    expected = first_order * (factor if order == 2 else 1.0)
    np.testing.assert_allclose(tape.gradient(loss, weights), expected, **EXACT)


@pytest.mark.parametrize("order", [1, 2])
def test_outer_gradient_of_a_quadratic_by_hand(order):
    """`L_s = w' H w / 2` gives `w_K = (I - alpha H)^K w`; `L_q = g w_K`."""
    curvature = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]])
    slope = np.array([1.0, -2.0, 0.5])
    weights = tf.constant([[0.4, -0.3, 0.8]], tf.float64)

    def losses(own):
        return tf.reduce_sum(own * (own @ curvature), axis=1) / 2

    with tf.GradientTape() as tape:
        tape.watch(weights)
        adapted = adapt_values(losses, weights, [RATE] * 3, order=order)
        loss = tf.reduce_sum(adapted * slope)
    step = np.linalg.matrix_power(np.eye(3) - RATE * curvature, 3)
    np.testing.assert_allclose(adapted[0], step @ weights.numpy()[0], **EXACT)
    expected = step.T @ slope if order == 2 else slope
    np.testing.assert_allclose(tape.gradient(loss, weights)[0], expected, **EXACT)


# MetaModel's inner loop over rows and dense weights.


def smooth_learner():
    """tanh all over: finite differences of a ReLU are wrong where they straddle its corner."""
    embedded = keras.Input([2, 3], name="embedded")
    dense = keras.Input([1], name="dense")
    flat = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), dense])
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(flat)
    score = keras.layers.Dense(1, name="score")(hidden)
    return keras.Model({"embedded": embedded, "dense": dense}, score)


def meta_model(*arguments, layers=(), **inner):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, scale=0.8, world=gm.World())
    learner = smooth_learner()
    if layers:
        inner["adapt_dense"] = [learner.get_layer(layer) for layer in layers]
    model = gm.MetaModel(learner, embedding, gm.InnerLoop(*arguments, **inner))
    model.compile("sgd", "sgd")
    return model


def fetch(model, batch):
    routes = model.embedding.routes(batch["keys"])
    return model.embedding.fetch(routes, model.embedding.locate(routes))


def outputs_of(model, batch):
    return model.adapter.outputs(fetch(model, batch), batch, training=True).numpy()


def unadapted_of(model, batch):
    return model.adapter.unadapted_outputs(fetch(model, batch), batch).numpy()


def in_float64(values):
    def cast(value):
        return tf.cast(value, tf.float64) if value.dtype == tf.float32 else value

    return tf.nest.map_structure(cast, values)


class OuterLoss:
    """The outer loss in float64 as a function of dense weights, rows and rates.

    Rates are learned, because that makes them variables, of the floatx of the test.
    """

    def __init__(self, tasks, *arguments, **inner):
        self.model = meta_model(*arguments, learn_rates=True, **inner)
        self.batch = in_float64(made_batches.batch(tasks))
        self.rows = in_float64(fetch(self.model, self.batch))["embedded"]
        self.dense = [variable.value for variable in self.model.learner.trainable_variables]
        self.rates = next(v for v in self.model.trainable_variables if v.name == "inner_rates")
        self.rates.assign(self.rates * np.linspace(0.5, 1.5, np.size(self.rates)).reshape(
            self.rates.shape
        ))  # fmt: skip
        self._traced = tf.function(self._loss)

    def __call__(self, rows=None):
        return self._traced(self.rows if rows is None else rows)

    def _loss(self, rows):
        outputs = self.model.adapter.outputs({"embedded": rows}, self.batch, training=True)
        query = self.batch["query"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(query["label"], outputs)
        return tf.reduce_sum(query["weight"] * losses)

    def gradients(self):
        """Of the rows, each dense variable and the rates."""
        with tf.GradientTape() as tape:
            tape.watch(self.rows)
            loss = self()
        return tape.gradient(loss, (self.rows, self.dense, self.rates.value))

    def slope_at_rows(self, direction, step=1e-5):
        return (self(self.rows + step * direction) - self(self.rows - step * direction)) / (
            2 * step
        )

    def slope_at_variable(self, variable, direction, step=1e-5):
        start = variable.numpy()
        losses = []
        for sign in (1, -1):
            variable.assign(start + sign * step * direction)
            losses.append(self())
        variable.assign(start)
        return (losses[0] - losses[1]) / (2 * step)


# Central differences of step h = 1e-5 err by h^2 f''' / 6, about 1e-10, and by rounding of the
# loss, 1e-16 / h = 1e-11; slopes here are of size 0.01 to 1.
BY_DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner",
    [
        {},
        {"overlap": "stale"},
        {"adapt_embeddings": False},
        {"adapt_dense": "none"},
        {"fast_weights": "low_rank"},
        {"fast_weights": "stacked"},
        {"fast_weights": "vectorized"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_second_order_gradients_by_finite_differences(inner):
    loss = OuterLoss(made_batches.made_tasks(3, count=4), 2, 0.4, **inner)
    of_rows, of_dense, of_rates = loss.gradients()
    rng = np.random.default_rng(0)
    for _ in range(2):
        direction = rng.normal(size=loss.rows.shape)
        slope = tf.reduce_sum(of_rows * direction)
        np.testing.assert_allclose(slope, loss.slope_at_rows(direction), **BY_DIFFERENCES)
    for variable, gradient in zip(loss.dense, of_dense):
        direction = rng.normal(size=variable.shape)
        slope = tf.reduce_sum(gradient * direction)
        expected = loss.slope_at_variable(variable, direction)
        np.testing.assert_allclose(slope, expected, **BY_DIFFERENCES, err_msg=variable.name)
    assert np.abs(of_rows).max() > 1e-3
    assert all(np.abs(gradient).max() > 1e-3 for gradient in of_dense)
    # each rate of each of the two steps on its own
    assert of_rates.shape[0] == 2
    # No query reads stale rows, so how far the last step moved them does not matter.
    matters = np.ones(of_rates.shape, bool)
    matters[-1, -1] = inner.get("overlap") != "stale"
    np.testing.assert_array_equal(np.abs(of_rates) > 1e-6, matters)
    for index in np.ndindex(*of_rates.shape):
        direction = np.zeros(of_rates.shape)
        direction[index] = 1.0
        expected = loss.slope_at_variable(loss.rates.value, direction)
        np.testing.assert_allclose(of_rates[index], expected, **BY_DIFFERENCES)


@pytest.mark.usefixtures("float64")
def test_first_order_still_teaches_the_rates():
    """`d(w - alpha g)/d alpha = -g`: with one step nothing is dropped from it."""
    loss = OuterLoss(made_batches.made_tasks(3, count=4), 1, 0.4, order=1)
    _, _, of_rates = loss.gradients()
    assert np.abs(of_rates).min() > 1e-6
    for index in range(of_rates.shape[1]):
        direction = np.eye(of_rates.shape[1])[[index]]
        expected = loss.slope_at_variable(loss.rates.value, direction)
        np.testing.assert_allclose(of_rates[0, index], expected, **BY_DIFFERENCES)


@pytest.mark.usefixtures("float64")
def test_orders_evaluate_alike_and_differ_in_the_gradient():
    tasks = made_batches.made_tasks(3, count=4)
    first, second = (OuterLoss(tasks, 1, 0.4, order=order) for order in (1, 2))
    np.testing.assert_allclose(first(), second(), **EXACT)
    rows_1, dense_1, _ = first.gradients()
    rows_2, dense_2, _ = second.gradients()
    for one, two in zip([rows_1, *dense_1], [rows_2, *dense_2]):
        assert np.abs(one - two).max() > 1e-3


def test_learned_rates_start_where_the_inner_loop_says():
    model = meta_model(3, 0.25, embedding_learning_rate=0.5, learn_rates=True)
    rates = next(v for v in model.trainable_variables if v.name == "inner_rates")
    np.testing.assert_array_equal(rates, [[0.25, 0.25, 0.25, 0.25, 0.5]] * 3)


# float32 outputs of size 1 through two layers; rates and rows of size 1.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def own_query_rows(batch):
    """Whether all that a query row reads is its own: neither shared with the support nor empty."""
    support = batch["support"]["pairs"]["embedded"].numpy()
    query = batch["query"]["pairs"]["embedded"].numpy()
    alone = [
        [not set(row[row > 0]) & set(read[read > 0]) for row in rows]
        for rows, read in zip(query, support)
    ]
    return np.array(alone), batch["query"]["weight"].numpy() > 0


def test_query_reads_the_rows_that_the_support_moved_and_no_other():
    batch = made_batches.batch(made_batches.made_tasks(5))
    model = meta_model(1, 0.5, adapt_dense="none")
    moved = np.abs(outputs_of(model, batch) - unadapted_of(model, batch)) > 1e-4
    alone, present = own_query_rows(batch)
    assert (alone & present).sum() > 3
    assert (~alone & present).sum() > 3
    np.testing.assert_array_equal(moved[present], ~alone[present])


def test_stale_overlap_reads_rows_as_they_were():
    batch = made_batches.batch(made_batches.made_tasks(5))
    rows_only = meta_model(2, 0.5, adapt_dense="none", overlap="stale")
    np.testing.assert_allclose(
        outputs_of(rows_only, batch), unadapted_of(rows_only, batch), **FLOAT32
    )
    stale = outputs_of(meta_model(2, 0.5, overlap="stale"), batch)
    adapted = outputs_of(meta_model(2, 0.5, overlap="adapted"), batch)
    alone, present = own_query_rows(batch)
    np.testing.assert_allclose(stale[alone & present], adapted[alone & present], **FLOAT32)
    assert (np.abs(stale - adapted)[~alone & present] > 1e-4).all()


def test_rows_stay_where_embeddings_do_not_adapt():
    batch = made_batches.batch(made_batches.made_tasks(5))
    rates = {"learning_rate": 0.0, "embedding_learning_rate": 0.5}
    fixed = meta_model(2, adapt_embeddings=False, **rates)
    np.testing.assert_allclose(outputs_of(fixed, batch), unadapted_of(fixed, batch), **FLOAT32)
    moving = meta_model(2, adapt_embeddings=True, **rates)
    assert np.abs(outputs_of(moving, batch) - unadapted_of(moving, batch)).max() > 1e-2


def test_no_steps_is_no_adaptation():
    batch = made_batches.batch(made_batches.made_tasks(5))
    for learn_rates in (False, True):
        model = meta_model(0, 0.5, learn_rates=learn_rates)
        np.testing.assert_allclose(outputs_of(model, batch), unadapted_of(model, batch), **FLOAT32)


def test_a_task_without_support_is_not_adapted():
    batch = made_batches.batch(made_batches.made_tasks(5))
    model = meta_model(2, 0.5)
    adapted, unadapted = outputs_of(model, batch), unadapted_of(model, batch)
    np.testing.assert_allclose(adapted[1], unadapted[1], **FLOAT32)
    assert np.abs(adapted[0] - unadapted[0]).max() > 1e-2


def test_adapt_dense_moves_the_chosen_weights():
    """Where only the score's bias moves, it moves every query row of a task by one number."""
    batch = made_batches.batch(made_batches.made_tasks(5))

    def shift(**adapting):
        model = meta_model(1, 0.5, adapt_embeddings=False, **adapting)
        present = batch["query"]["weight"].numpy() > 0
        return (outputs_of(model, batch) - unadapted_of(model, batch))[0][present[0]]

    bias = shift(adapt_dense=lambda variable: variable.path.endswith("score/bias"))
    assert abs(bias[0]) > 1e-3
    np.testing.assert_allclose(bias, np.full_like(bias, bias[0]), **FLOAT32)
    score, everything = shift(layers=["score"]), shift()
    assert np.ptp(score) > 1e-3
    assert np.abs(everything - score).max() > 1e-3
    np.testing.assert_array_equal(shift(layers=["hidden", "score"]), everything)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, r"num_steps to be at least 0, got -1"),
        ({"learning_rate": -0.5}, r"learning_rate to be 0 or more, got -0\.5"),
        (
            {"embedding_learning_rate": -0.5},
            r"embedding_learning_rate to be 0 or more, got -0\.5",
        ),
        ({"learning_rate": float("nan")}, r"learning_rate to be 0 or more, got nan"),
        ({"order": 3}, r"order to be 1 or 2, got 3"),
        ({"overlap": "fresh"}, r"overlap to be one of adapted, stale, got 'fresh'"),
        ({"fast_weights": "thin"}, r"one of auto, low_rank, stacked, vectorized, got 'thin'"),
        ({"adapt_dense": "none", "adapt_embeddings": False}, r"nothing adapts"),
    ],
    ids=str,
)
def test_inner_loop_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        gm.InnerLoop(**settings)


def test_the_former_name_of_the_vectorized_fallback_warns():
    with pytest.warns(DeprecationWarning, match="Use fast_weights='vectorized'"):
        inner = gm.InnerLoop(fast_weights="whole")
    assert inner == gm.InnerLoop(fast_weights="vectorized")


def test_rate_of_embeddings_is_the_rate_unless_it_is_stated():
    assert gm.InnerLoop(1, 0.3).rate_of_embeddings == 0.3
    assert gm.InnerLoop(1, 0.3, embedding_learning_rate=0.0).rate_of_embeddings == 0.0
