"""Each option of the inner loop against a slow loop over tasks, and against finite differences."""

import dataclasses
from typing import Any, NamedTuple

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from reused_models import ReusedModel

import gmeta_tf as gm
from gmeta_tf.meta.losses import row_loss
from gmeta_tf.meta.multi_step_loss import step_weights
from gmeta_tf.meta.phases import Phase, in_phase, phases_of
from gmeta_tf.meta.reptile import joined_rows

WIDTH, K = 3, 2
SCHEMA = dataclasses.replace(made_batches.SCHEMA, positive_from=4.0)
RATINGS = gm.rating_loss(3.5, 1.2)
BCE = row_loss("bce")

# Float64: sums of some dozen terms, in another order.
EXACT = {"rtol": 1e-9, "atol": 1e-12}
# Central differences of step h = 1e-5 err by h^2 f''' / 6 and by rounding, 1e-16 / h.
BY_DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}


def rated(seed=3, count=4):
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(t, label=rng.integers(1, 6, len(t.label)).astype(np.float32))
        for t in made_batches.made_tasks(seed, count=count)
    ]


TASKS = rated()


def smooth_learner():
    """tanh all over: finite differences of a ReLU are wrong where they straddle its corner."""
    embedded = keras.Input([2, WIDTH], name="embedded")
    dense = keras.Input([1], name="dense")
    flat = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), dense])
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(flat)
    score = keras.layers.Dense(1, name="score")(hidden)
    return keras.Model({"embedded": embedded, "dense": dense}, score)


def meta_model(inner, learner=smooth_learner, **compiled):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(SCHEMA, WIDTH, scale=0.8, world=gm.World())
    model = gm.MetaModel(learner(), embedding, inner)
    compiled = {"optimizer": keras.optimizers.SGD(0.3), "row_optimizer": gm.SGD(0.3), **compiled}
    model.compile(**compiled)
    return model


class Case(NamedTuple):
    """Options of the inner loop.

    Attributes:
        options: of `InnerLoop`, apart from K and alpha.
        step: how many outer steps are done.
        inner_loss: None is the outer loss.
        forms: the `fast_weights` that the options allow.
        num_steps: K.
    """

    options: dict[str, Any]
    step: int = 0
    inner_loss: Any = None
    forms: tuple[str, ...] = ("auto", "low_rank", "stacked")
    num_steps: int = K

    def inner(self, form="auto"):
        return gm.InnerLoop(self.num_steps, 0.4, fast_weights=form, **self.options)


APART = ("auto", "stacked", "vectorized")
REPTILE = {"outer_gradient": "reptile", "order": 1}
CASES = {
    "clipped": Case({"clip_gradients": 0.05}, forms=APART),
    "ANIL": Case({"adapt_dense": "last_layer", "adapt_embeddings": False}),
    "one layer": Case({"adapt_dense": ["hidden"], "order": 1}),
    "one field": Case({"adapt_embeddings": ["genre"]}),
    "rates of variables": Case({"learn_rates": "variables"}),
    "Meta-SGD": Case({"learn_rates": "parameters"}, forms=APART),
    "Meta-SGD of a field, clipped": Case(
        {"learn_rates": "parameters", "clip_gradients": 0.1, "adapt_embeddings": ["item"]},
        forms=("auto",),
    ),
    "all losses": Case({"multi_step_loss": 4, "overlap": "stale"}, num_steps=3),
    "some of the losses": Case({"multi_step_loss": 4}, step=1, num_steps=3, forms=APART),
    "the last loss": Case({"multi_step_loss": 4}, step=4, num_steps=3, forms=("auto",)),
    "first order yet": Case({"second_order_after": 2}, step=1, forms=("auto",)),
    "second order now": Case({"second_order_after": 2}, step=2, forms=("auto",)),
    "ratings inside": Case({}, inner_loss=RATINGS),
    "Reptile": Case(REPTILE, forms=("auto", "low_rank", "stacked", "vectorized")),
    "Reptile, clipped": Case({**REPTILE, "clip_gradients": 0.05}, forms=("auto",)),
}
BY_FORM = [(name, form) for name, case in CASES.items() for form in case.forms]


class Differentiated(NamedTuple):
    """The sum of the tasks' losses, and its gradients.

    Attributes:
        loss: a scalar.
        dense: of each of the learner's variables.
        tables: of all rows of both tables, `[20, D]`.
        rates: of each variable of rates.
    """

    loss: Any
    dense: list
    tables: Any
    rates: list


class Outer:
    """The outer loss of a model in float64, and its gradients."""

    def __init__(self, case, form="auto"):
        self.case = case
        self.model = meta_model(case.inner(form), inner_loss=case.inner_loss)
        self.model.optimizer.iterations.assign(case.step)
        rng = np.random.default_rng(5)
        self.rates = [v for v in self.model.trainable_variables if v.name.startswith("inner_rates")]
        for rate in self.rates:  # not all alike
            rate.assign(rate * rng.uniform(0.5, 1.5, rate.shape))
        batch = made_batches.batch(TASKS, schema=SCHEMA)
        self.batch = tf.nest.map_structure(
            lambda v: tf.cast(v, tf.float64) if v.dtype == tf.float32 else v, batch
        )
        embedding = self.model.embedding
        self.table = tf.cast(embedding.all_rows("embedded"), tf.float64)
        self.dense = self.model.learner.trainable_variables

    def loss(self, table):
        rows = {"embedded": tf.gather(table, self.batch["keys"]["embedded"])}
        return in_phase(
            self.model.optimizer.iterations.value,
            self.model.adapter.phases,
            lambda adapter: tf.reduce_sum(
                adapter.query_pass_in_one_lane(rows, self.batch, training=True).losses
            ),
        )

    def differentiated(self):
        with tf.GradientTape() as tape:
            tape.watch(self.table)
            loss = self.loss(self.table)
        values = [[v.value for v in self.dense], self.table, [v.value for v in self.rates]]
        found = tape.gradient(loss, values, **ZERO)
        found = tf.nest.map_structure(tf.convert_to_tensor, found)
        return Differentiated(loss, *found)

    def slow(self):
        return slow_differentiated(
            [tf.convert_to_tensor(v) for v in self.dense],
            list(tf.split(self.table, [13, 7])),
            [tf.convert_to_tensor(v) for v in self.rates],
            self.case,
        )


ZERO = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}


# The slow twin: one task after the other, every value of its own written out.


def slow_loss(dense, tables, part, loss):
    keys, price, label = part
    if not len(label):
        return tf.zeros([], tf.float64)
    kernel, bias, score_kernel, score_bias = dense
    flat = tf.reshape(made_batches.pooled(tables, keys), [len(keys), -1])
    flat = tf.concat([flat, tf.cast(price, tf.float64)], axis=1)
    output = (tf.tanh(flat @ kernel + bias) @ score_kernel + score_bias)[:, 0]
    if loss is not None:
        label = (tf.constant(label, tf.float64) - 3.5) / 1.2
        return tf.reduce_mean(tf.square(label - output))
    click = tf.constant(label >= 4, tf.float64)
    return tf.reduce_mean(tf.nn.softplus(output) - click * output)


def slow_rate(rates, case, step, index):
    """Of the four dense variables and, the last, of rows."""
    if not rates:
        return 0.4
    if case.options["learn_rates"] == "parameters":
        return rates[index]
    return rates[0][step, index]


def slow_steps(task, dense, tables, rates, case, part):
    """A task's own weights and tables after each step."""
    inner = case.inner()
    chosen = {"last_layer": [False, False, True, True], "all": [True] * 4}.get(
        str(inner.adapt_dense), [True, True, False, False]
    )
    fields = [inner.adapt_embeddings] * 2
    if inner.adapted_fields is not None:
        fields = [name in inner.adapted_fields for name in ("item", "genre")]
    first = inner.order == 1 or case.step < inner.second_order_after
    own_dense, own_tables, after = list(dense), list(tables), []
    for step in range(case.num_steps):
        with tf.GradientTape() as tape:
            tape.watch([own_dense, own_tables])
            loss = slow_loss(own_dense, own_tables, part, case.inner_loss)
        found = tape.gradient(loss, own_dense + own_tables, **ZERO)
        found = [tf.convert_to_tensor(one) for one in found]
        if inner.clip_gradients:
            found = [tf.maximum(tf.minimum(g, inner.clip_gradients), -inner.clip_gradients)
                     for g in found]  # fmt: skip
        if first:
            found = [tf.stop_gradient(one) for one in found]
        own_dense = [
            own - slow_rate(rates, case, step, i) * g if chosen[i] else own
            for i, (own, g) in enumerate(zip(own_dense, found))
        ]
        own_tables = [
            own - slow_rate(rates, case, step, 4) * g if moves else own
            for own, g, moves in zip(own_tables, found[4:], fields)
        ]
        after.append((own_dense, own_tables))
    return after


def slow_differentiated(dense, tables, rates, case):
    inner = case.inner()
    with tf.GradientTape() as tape:
        tape.watch([dense, tables, rates])
        total, moved = 0.0, []
        for task in TASKS:
            whole = (task.keys, task.dense, task.label)
            part = whole if inner.is_reptile else task.part("support")
            after = slow_steps(task, dense, tables, rates, case, part)
            moved.append(after[-1])
            for step, (own_dense, own_tables) in enumerate(after):
                weight = slow_weight(case, step)
                read = tables if inner.overlap == "stale" else own_tables
                total += weight * slow_loss(own_dense, read, task.part("query"), None)
    if inner.is_reptile:
        of_dense = [sum(v - own[0][i] for own in moved) for i, v in enumerate(dense)]
        of_tables = [sum(v - own[1][i] for own in moved) for i, v in enumerate(tables)]
        return Differentiated(total, of_dense, tf.concat(of_tables, axis=0), [])
    found = tape.gradient(total, [dense, tables, rates], **ZERO)
    of_dense, of_tables, of_rates = tf.nest.map_structure(tf.convert_to_tensor, found)
    return Differentiated(total, of_dense, tf.concat(of_tables, axis=0), of_rates)


def slow_weight(case, step):
    """All alike at first, the last alone after N outer steps, and evenly between."""
    annealed, last = case.options.get("multi_step_loss", 0), step == case.num_steps - 1
    if not annealed or case.step >= annealed:
        return float(last)
    start, end = 1 / case.num_steps, float(last)
    return start + (end - start) * case.step / annealed


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found.loss, expected.loss, **tolerance)
    np.testing.assert_allclose(found.tables, expected.tables, **tolerance)
    for one, other in zip([*found.dense, *found.rates], [*expected.dense, *expected.rates]):
        np.testing.assert_allclose(one, other, **tolerance)
    assert len(found.rates) == len(expected.rates)
    assert np.abs(found.tables).max() > 1e-3
    assert all(np.abs(one).max() > 1e-3 for one in found.dense)


@pytest.mark.parametrize(("name", "form"), BY_FORM, ids=str)
@pytest.mark.usefixtures("float64")
def test_the_outer_gradient_is_that_of_a_slow_loop_over_tasks(name, form):
    outer = Outer(CASES[name], form)
    assert_close(outer.differentiated(), outer.slow(), EXACT)


OF_SECOND_ORDER = [
    name
    for name, case in CASES.items()
    if case.options.get("order") != 1 and name != "first order yet"
]


@pytest.mark.parametrize("name", OF_SECOND_ORDER)
@pytest.mark.usefixtures("float64")
def test_the_second_order_is_that_of_finite_differences(name):
    outer = Outer(CASES[name])
    found = outer.differentiated()
    rng = np.random.default_rng(0)
    variables = [*outer.dense, *outer.rates]
    along = [rng.normal(size=v.shape) for v in variables]
    of_table, starts = rng.normal(size=outer.table.shape), [v.numpy() for v in variables]
    losses = []
    for sign in (1e-5, -1e-5):
        for variable, start, direction in zip(variables, starts, along):
            variable.assign(start + sign * direction)
        losses.append(outer.loss(outer.table + sign * of_table))
    slope = tf.reduce_sum(found.tables * of_table) + sum(
        tf.reduce_sum(g * one) for g, one in zip([*found.dense, *found.rates], along)
    )
    np.testing.assert_allclose(slope, (losses[0] - losses[1]) / 2e-5, **BY_DIFFERENCES)
    assert abs(slope) > 1e-3


@pytest.mark.usefixtures("float64")
def test_the_clip_clips_some_numbers_and_not_others():
    """Else the cases above would say little of it."""
    case = CASES["clipped"]
    free = Case({}, forms=())
    losses = [float(Outer(one).loss(Outer(one).table)) for one in (case, free)]
    wide = Case({"clip_gradients": 100.0})
    assert abs(losses[0] - losses[1]) > 1e-3
    np.testing.assert_allclose(Outer(wide).loss(Outer(wide).table), losses[1], **EXACT)


def test_weights_of_the_steps():
    weights = [step_weights(4, tf.constant(n, tf.int64), 8) for n in (0, 2, 8, 100)]
    found = [[float(one) for one in pair] for pair in weights]
    assert found == [[0.25, 0.25], [0.1875, 0.4375], [0.0, 1.0], [0.0, 1.0]]


def test_phases():
    """Either annealing may end first; without one there is one phase."""
    assert phases_of(gm.InnerLoop(2)) == [(None, Phase(2, False))]
    assert phases_of(gm.InnerLoop(2, order=1)) == [(None, Phase(1, False))]
    first = gm.InnerLoop(2, second_order_after=9, multi_step_loss=5)
    assert phases_of(first) == [
        (5, Phase(1, True)),
        (9, Phase(1, False)),
        (None, Phase(2, False)),
    ]
    both = gm.InnerLoop(2, second_order_after=5, multi_step_loss=5)
    assert phases_of(both) == [(5, Phase(1, True)), (None, Phase(2, False))]


def test_rows_of_both_parts_are_joined_and_tasks_without_query_rows_left_out():
    part = made_batches.batch(TASKS, 5, schema=SCHEMA)
    nothing = tf.zeros_like(part["query"]["weight"][0])
    query = {**part["query"], "weight": tf.tensor_scatter_nd_update(
        part["query"]["weight"], [[2]], [nothing])}  # fmt: skip
    joined = joined_rows(part["support"], query)
    assert joined["label"].shape == [5, made_batches.SUPPORT + made_batches.QUERY]
    np.testing.assert_array_equal(joined["value"][:, :4], part["support"]["value"])
    np.testing.assert_array_equal(joined["pairs"]["embedded"][:, 4:], query["pairs"]["embedded"])
    rows = tf.reduce_sum(joined["weight"], axis=1).numpy()
    np.testing.assert_array_equal(rows, [9, 1, 0, len(TASKS[3].label), 0])


# One table that two fields read.


def test_a_field_that_does_not_adapt_reads_the_shared_tables_rows_as_they_were():
    schema = gm.Schema((gm.Field("item"), gm.Field("last", table="item")), "label", "user")
    schema = schema.with_num_rows({"item": 5})
    keys = np.array([[1, 2], [2, 1], [1, 1], [2, 2], [1, 2]])
    task = made_batches.Task(0, 2, keys, np.zeros([5, 0], np.float32), np.ones(5, np.float32))
    batch = made_batches.batch([task], schema=schema, support=2, query=3)

    def outputs(field, fields):
        embedding = gm.ShardedEmbedding(schema, 2, scale=0.8, world=gm.World(), seed=1)
        embedded = keras.Input([2, 2], name="embedded")
        both = keras.layers.Lambda(lambda v: v[:, field], output_shape=(2,))(embedded)
        score = keras.layers.Dense(1, kernel_initializer="ones")(both)
        inner = gm.InnerLoop(1, 0.5, adapt_dense="none", adapt_embeddings=fields)
        model = gm.MetaModel(keras.Model({"embedded": embedded}, score), embedding, inner)
        model.compile("sgd", "sgd")
        found = model.test_step(batch)
        return np.abs(found["adapted"] - found["unadapted"]).max()

    assert outputs(0, ["item"]) > 1e-2
    assert outputs(1, ["item"]) == 0
    assert outputs(1, ["last"]) > 1e-2
    assert outputs(1, ["item", "last"]) == outputs(1, True)


# In the graph.


STEPS = [rated(seed, count=7) for seed in (1, 2, 3, 4)]
ANNEALED = gm.InnerLoop(
    2,
    0.3,
    multi_step_loss=3,
    second_order_after=2,
    learn_rates="parameters",
    clip_gradients=0.2,
    adapt_embeddings=["item"],
)


def small_dlrm():
    return gm.models.MamlDLRM(bottom=(4,), top=(6,))


def annealed(run_eagerly=False, inner=ANNEALED):
    return meta_model(inner, small_dlrm, inner_loss=RATINGS, run_eagerly=run_eagerly)


def numbers_of(model):
    return [
        *(variable.numpy() for variable in model.trainable_variables),
        model.embedding.all_rows("embedded").numpy(),
    ]


def dataset(steps):
    return made_batches.dataset(steps, 8, schema=SCHEMA)


@pytest.fixture(scope="module")
def fresh():
    """`annealed()` as new, always the same one: see `ReusedModel`."""
    return ReusedModel(annealed)


@pytest.fixture(scope="module")
def after_four_steps(fresh):
    """The numbers after four steps, and how often the learner was traced by the end of each."""
    model, calls, after = fresh(), [0], []
    stateless_call = model.learner.stateless_call

    def counted(*arguments, **options):
        calls[0] += 1
        return stateless_call(*arguments, **options)

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            after.append(calls[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.learner, "stateless_call", counted)
        model.fit(dataset(STEPS), verbose=0, callbacks=[Count()])
    return numbers_of(model), after


@pytest.mark.slow
def test_annealing_traces_nothing_anew(after_four_steps):
    _, traces = after_four_steps
    assert traces[0] > 0
    assert traces == [traces[0]] * 4


@pytest.mark.slow
def test_the_graph_goes_through_the_same_steps_as_a_run_without_one(after_four_steps):
    eager = annealed(run_eagerly=True)
    before = numbers_of(eager)
    eager.fit(dataset(STEPS), verbose=0)
    # float32 sums in another order, over four steps.
    for found, expected, start in zip(after_four_steps[0], numbers_of(eager), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)
        assert np.abs(expected - start).max() > 1e-4


@pytest.mark.slow
def test_annealing_goes_on_where_it_was(fresh, after_four_steps, tmp_path):
    model = fresh()
    model.fit(dataset(STEPS[:2]), verbose=0)
    gm.save_checkpoint(model, tmp_path / "checkpoint")
    model = fresh()
    gm.load_checkpoint(model, tmp_path / "checkpoint")
    model.fit(dataset(STEPS[2:]), verbose=0)
    for found, expected in zip(numbers_of(model), after_four_steps[0], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_evaluation_knows_nothing_of_annealing():
    plain = dataclasses.replace(ANNEALED, multi_step_loss=0, second_order_after=0)
    batch = made_batches.batch(STEPS[0], schema=SCHEMA)
    found, expected = (annealed(inner=one).test_step(batch) for one in (ANNEALED, plain))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_reptile_with_plain_sgd_is_algorithm_2():
    """`phi <- phi + epsilon mean(phi_K - phi)`, where the rate outside is epsilon."""
    model = meta_model(
        gm.InnerLoop(3, 0.4, **REPTILE),
        optimizer=keras.optimizers.SGD(1.0),
        row_optimizer=gm.SGD(1.0),
        run_eagerly=True,
    )
    dense = [tf.convert_to_tensor(v) for v in model.learner.trainable_variables]
    tables = list(tf.split(model.embedding.all_rows("embedded"), [13, 7]))
    start = tf.nest.map_structure(lambda v: tf.cast(v, tf.float64), (dense, tables))
    case = Case(REPTILE, num_steps=3)
    mean = [0.0] * 6
    for task in TASKS:
        whole = (task.keys, task.dense, task.label)
        own_dense, own_tables = slow_steps(task, *start, [], case, whole)[-1]
        own = [*own_dense, *own_tables]
        mean = [total + value / len(TASKS) for total, value in zip(mean, own)]
    model.fit(made_batches.dataset([TASKS], 4, schema=SCHEMA), verbose=0)
    rows = tf.split(model.embedding.all_rows("embedded"), [13, 7])
    for found, value in zip([*model.learner.trainable_variables, *rows], mean):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


# What does not go together.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_gradients": 0.0}, "clip_gradients to be a finite number above 0, got 0.0"),
        ({"clip_gradients": float("inf")}, "clip_gradients to be a finite number above 0"),
        ({"multi_step_loss": -1}, "multi_step_loss to be at least 0, got -1"),
        ({"second_order_after": -1}, "second_order_after to be at least 0, got -1"),
        ({"learn_rates": "layers"}, "learn_rates to be one of variables, parameters"),
        ({"outer_gradient": "fomaml"}, "outer_gradient to be one of query_loss, reptile"),
        ({"adapt_embeddings": "item"}, "True, False or a list of names of key fields, got 'item'"),
        ({"adapt_embeddings": []}, r"True, False or a list of names of key fields, got \[\]"),
        (
            {"fast_weights": "low_rank", "clip_gradients": 1.0},
            "with clip_gradients, got 'low_rank'",
        ),
        (
            {"fast_weights": "low_rank", "learn_rates": "parameters"},
            "with learn_rates=parameters, got 'low_rank'",
        ),
        ({"multi_step_loss": 9, "num_steps": 1}, "num_steps of at least 2 with multi_step_loss"),
        ({"second_order_after": 9, "order": 1}, "order 2 with second_order_after"),
        ({**REPTILE, "order": 2}, "order 1 with outer_gradient='reptile'.* got 2"),
        ({**REPTILE, "learn_rates": True}, "no learn_rates with outer_gradient='reptile'"),
        ({**REPTILE, "multi_step_loss": 9}, "no multi_step_loss with outer_gradient='reptile'"),
        ({**REPTILE, "num_steps": 0}, "num_steps of at least 1 with outer_gradient='reptile'"),
        ({**REPTILE, "adapt_dense": "last_layer"}, "adapt_dense to be 'all' with outer_gradient"),
        ({**REPTILE, "adapt_embeddings": False}, "adapt_embeddings to be True with outer_gradient"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        gm.InnerLoop(**{"num_steps": 2, **options})


def test_an_unknown_field_is_refused_with_the_known_ones():
    inner = gm.InnerLoop(adapt_embeddings=["genre", "price"])
    with pytest.raises(ValueError, match="among the key fields item, genre, got 'price'"):
        meta_model(inner)


def test_true_is_the_rates_of_variables():
    assert gm.InnerLoop(learn_rates=True) == gm.InnerLoop(learn_rates="variables")


# A loss of its own for the inner loop.


def test_an_inner_loss_of_numbers_needs_their_units():
    with pytest.raises(ValueError, match=r"expected inner_loss=gm.rating_loss\(centre, scale\)"):
        meta_model(gm.InnerLoop(), inner_loss="ratings")


def test_a_model_in_closed_form_has_no_inner_loss():
    learner = gm.models.Factors()
    with pytest.raises(ValueError, match="expected no inner_loss with ClosedForm"):
        meta_model(learner.inner_loop(), lambda: learner, inner_loss="mse")


def test_a_learner_that_ends_in_a_sigmoid_has_no_logits_for_the_inner_loss():
    def probability():
        plain = smooth_learner()
        return keras.Model(plain.input, keras.layers.Activation("sigmoid")(plain.output))

    with pytest.raises(ValueError, match="ends in a sigmoid"):
        meta_model(gm.InnerLoop(), probability, loss="mse", inner_loss="bce")


def test_labels_that_the_inner_loss_is_not_right_for_are_refused_in_the_step():
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, WIDTH, world=gm.World())
    model = gm.MetaModel(smooth_learner(), embedding, gm.InnerLoop())
    model.compile("sgd", "sgd", loss="mse", inner_loss="bce", run_eagerly=True)
    before = numbers_of(model)
    with pytest.raises(ValueError, match="binary_crossentropy: expected labels from 0 to 1, got"):
        model.fit(made_batches.dataset([TASKS], 4), verbose=0)
    for found, expected in zip(numbers_of(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)
