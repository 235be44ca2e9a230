"""A step of MetaModel against a slow loop over tasks, and what `fit` and `evaluate` promise."""

import dataclasses
import re
import types

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from reused_models import ReusedModel

import gmeta_tf as gm
from gmeta_tf.meta.losses import RowLoss, row_loss, task_losses
from gmeta_tf.meta.validation import nonfinite_tables_of_group

WIDTH = 3
STEPS = [made_batches.made_tasks(seed) for seed in (1, 2, 3)]

# Float32: sums over at most 60 rows and 7 tasks, in another order, over two or three steps whose
# gradients are of size 1.
FLOAT32 = {"rtol": 1e-4, "atol": 2e-6}


def functional():
    """Flatten, tanh layer, score; `slow_score` is its twin."""
    embedded = keras.Input([2, WIDTH], name="embedded")
    dense = keras.Input([1], name="dense")
    flat = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), dense])
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(flat)
    return keras.Model(
        {"embedded": embedded, "dense": dense}, keras.layers.Dense(1, name="score")(hidden)
    )


class Subclass(keras.Model):
    """An item's vector times a genre's, and a weighed price; counts how often it is traced."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.hidden = keras.layers.Dense(5, activation="tanh")
        self.dropout = keras.layers.Dropout(dropout) if dropout else None
        self.score = keras.layers.Dense(1)
        self.calls = 0

    def call(self, inputs, training=False):
        self.calls += 1
        product = inputs["embedded"][:, 0] * inputs["embedded"][:, 1]
        hidden = self.hidden(keras.ops.concatenate([product, inputs["dense"]], axis=-1))
        if self.dropout:
            hidden = self.dropout(hidden, training=training)
        return self.score(hidden)


def ends_in_a_sigmoid():
    learner = functional()
    return keras.Model(learner.input, keras.layers.Activation("sigmoid")(learner.output))


def meta_model(learner=functional, inner=None, *, scale=0.8, **compiled):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, WIDTH, scale=scale, world=gm.World())
    made = learner()
    encoder = made.task_encoder(width=4) if hasattr(made, "task_encoder") else None
    model = gm.MetaModel(made, embedding, inner or gm.InnerLoop(1, 0.4), task_encoder=encoder)
    compiled = {"optimizer": keras.optimizers.SGD(0.3), "row_optimizer": gm.SGD(0.3), **compiled}
    model.compile(**compiled)
    return model


@pytest.fixture(scope="module")
def fresh():
    """Makes `meta_model()` as new, always the same one: see `ReusedModel`."""
    return ReusedModel(meta_model)


def state_of(model):
    """Every number that training changes."""
    shards = model.embedding.shards
    return {
        **{f"dense {v.path}": v.numpy() for v in model.trainable_variables},
        **{f"optimizer {i}": v.numpy() for i, v in enumerate(model.optimizer.variables)},
        **{f"rows {group}": shard.rows.numpy() for group, shard in shards.items()},
        **{
            f"slot {group} {name}": slot.numpy()
            for group, shard in shards.items()
            for name, slot in shard.slots.items()
        },
    }


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


# The slow twin of a step: one task after the other, every value of its own written out.


def slow_score(dense, rows, keys, price):
    kernel, bias, score_kernel, score_bias = dense
    vectors = made_batches.pooled(rows, keys)
    flat = tf.concat([tf.reshape(vectors, [len(keys), -1]), price], axis=1)
    return (tf.tanh(flat @ kernel + bias) @ score_kernel + score_bias)[:, 0]


def slow_task_loss(dense, rows, part):
    keys, price, label = part
    if not len(label):
        return tf.constant(0.0)
    output = slow_score(dense, rows, keys, price)
    return tf.reduce_sum(tf.nn.softplus(output) - label * output) / len(label)


def slow_query_loss(task, dense, rows, inner, adapts):
    """The query loss of one task after K steps on its own copies of weights and tables."""
    own_dense, own_rows = list(dense), list(rows)
    for _ in range(inner.num_steps):
        with tf.GradientTape() as tape:
            tape.watch([own_dense, own_rows])
            loss = slow_task_loss(own_dense, own_rows, task.part("support"))
        of_dense, of_rows = tape.gradient(
            loss, [own_dense, own_rows], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        if inner.order == 1:
            of_dense, of_rows = tf.nest.map_structure(tf.stop_gradient, (of_dense, of_rows))
        for index, gradient in enumerate(of_dense):
            if adapts[index]:
                own_dense[index] = own_dense[index] - inner.learning_rate * gradient
        if inner.adapt_embeddings:
            own_rows = [
                row - inner.rate_of_embeddings * tf.convert_to_tensor(gradient)
                for row, gradient in zip(own_rows, of_rows)
            ]
    read = rows if inner.overlap == "stale" else own_rows
    return slow_task_loss(own_dense, read, task.part("query"))


def slow_gradients(tasks, dense, rows, inner, adapts):
    """The mean over tasks of their query losses, and its gradients."""
    dense, rows = [tf.constant(v) for v in dense], [tf.constant(v) for v in rows]
    with tf.GradientTape() as tape:
        tape.watch([dense, rows])
        losses = [slow_query_loss(task, dense, rows, inner, adapts) for task in tasks]
        loss = sum(losses) / len(tasks)
    of_dense, of_rows = tape.gradient(loss, [dense, rows])
    return float(loss), of_dense, [np.array(tf.convert_to_tensor(g)) for g in of_rows]


def slow_training(model, steps, adapts, dense_optimizer, row_update):
    """Dense weights, rows of both tables and loss after the steps, from where the model stands."""
    variables = [keras.Variable(v.numpy()) for v in model.learner.trainable_variables]
    rows = np.split(model.embedding.all_rows("embedded").numpy(), [13])
    accumulators = [np.full_like(table, 0.1) for table in rows]
    losses = []
    for tasks in steps:
        dense = [variable.numpy() for variable in variables]
        loss, of_dense, of_rows = slow_gradients(tasks, dense, rows, model.inner, adapts)
        dense_optimizer.apply(of_dense, variables)
        for table, gradient, accumulator in zip(rows, of_rows, accumulators):
            row_update(table, gradient, accumulator)
        losses.append(loss)
    return [v.numpy() for v in variables], np.concatenate(rows), np.mean(losses)


def sgd_rows(table, gradient, accumulator):
    table -= 0.3 * gradient


def adagrad_rows(table, gradient, accumulator):
    accumulator += gradient**2
    table -= 0.3 * gradient / np.sqrt(accumulator + 1e-7)


def sgd():
    return keras.optimizers.SGD(0.3), gm.SGD(0.3), sgd_rows


def adam_and_adagrad():
    # A large epsilon, so that the rounding of a gradient near 0 is not made a step of full size.
    return keras.optimizers.Adam(0.05, epsilon=1e-2), gm.Adagrad(0.3), adagrad_rows


@pytest.mark.parametrize(
    ("inner", "optimizers"),
    [
        (gm.InnerLoop(1, 0.4), adam_and_adagrad),
        (gm.InnerLoop(2, 0.4, embedding_learning_rate=0.9), sgd),
        (gm.InnerLoop(2, 0.4, order=1), sgd),
        (gm.InnerLoop(2, 0.4, adapt_embeddings=False), sgd),
        (gm.InnerLoop(1, 0.4, adapt_dense="none"), sgd),
        (gm.InnerLoop(2, 0.4, adapt_dense=lambda v: "score" in v.path, overlap="stale"), sgd),
    ],
    ids=["Adam", "two steps", "order 1", "rows stay", "dense stays", "score, stale"],
)
def test_two_steps_are_those_of_a_slow_loop_over_tasks(inner, optimizers):
    optimizer, row_optimizer, row_update = optimizers()
    model = meta_model(inner=inner, optimizer=optimizer, row_optimizer=row_optimizer)
    dense_twin = type(optimizer).from_config(optimizer.get_config())
    steps = STEPS[:2]
    adapts = {"none": [False] * 4, "all": [True] * 4}.get(str(inner.adapt_dense)) or [
        False,
        False,
        True,
        True,
    ]
    expected_dense, expected_rows, expected_loss = slow_training(
        model, steps, adapts, dense_twin, row_update
    )
    before = state_of(model)
    history = model.fit(made_batches.dataset(steps, 7), verbose=0)
    for variable, value in zip(model.learner.trainable_variables, expected_dense):
        np.testing.assert_allclose(variable, value, err_msg=variable.path, **FLOAT32)
        assert np.abs(value - before[f"dense {variable.path}"]).max() > 1e-3
    rows = model.embedding.all_rows("embedded").numpy()
    np.testing.assert_allclose(rows, expected_rows, **FLOAT32)
    np.testing.assert_allclose(history.history["loss"], [expected_loss], **FLOAT32)
    moved = np.abs(rows - before["rows embedded"]).max(axis=1) > 1e-4
    assert moved.sum() >= 12
    assert not moved[[12, 19]].any()  # item 12 and genre 6, which no task reads


def test_padding_tasks_and_rows_change_nothing(fresh):
    tight, wide = fresh(), meta_model()
    tight.fit(made_batches.dataset(STEPS, 7), verbose=0)
    wide.fit(made_batches.dataset(STEPS, 11, support=6, query=9), verbose=0)
    assert_same(state_of(wide), state_of(tight), **FLOAT32)
    losses = [float(model.loss_metric.result()) for model in (tight, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_empty_step_changes_nothing():
    model = meta_model(row_optimizer="adagrad", optimizer="adam")
    model.fit(made_batches.dataset(STEPS[:1], 7), verbose=0)
    rows = model.embedding.all_rows("embedded").numpy()
    model.fit(made_batches.dataset([[]], 7), verbose=0)
    np.testing.assert_array_equal(model.embedding.all_rows("embedded"), rows)
    assert all(np.isfinite(value).all() for value in state_of(model).values())


# Conformance: every learner trains at both orders, is traced once, and judges as it predicts.


def melu():
    return gm.models.MeLU((6, 4))


def maml_dlrm():
    return gm.models.MamlDLRM(bottom=(4,), top=(6,))


def mmaml():
    return gm.models.MMAML((6,))


def cbml():
    return gm.models.CBML((6,))


LEARNERS = {
    "functional": (functional, gm.InnerLoop),
    "subclass": (Subclass, gm.InnerLoop),
    "melu": (melu, lambda *a, **o: gm.models.MeLU.inner_loop(*a, **o)),
    "maml_dlrm": (maml_dlrm, lambda *a, **o: gm.models.MamlDLRM.inner_loop(*a, **o)),
    "mmaml": (mmaml, gm.models.MMAML.inner_loop),
    "cbml": (cbml, gm.models.CBML.inner_loop),
}


class CountTraces(keras.callbacks.Callback):
    """How often the learner's Python had been called by the end of each step."""

    def __init__(self, monkeypatch, learner):
        super().__init__()
        self.calls, self.after_step = 0, []
        stateless_call = learner.stateless_call

        def counted(*arguments, **options):
            self.calls += 1
            return stateless_call(*arguments, **options)

        monkeypatch.setattr(learner, "stateless_call", counted)

    def on_train_batch_end(self, batch, logs=None):
        self.after_step.append(self.calls)


BY_BOTH_ORDERS = [(name, order) for name in LEARNERS for order in (1, 2)]
# The order is a matter of gradients alone.
PREDICTING = pytest.mark.parametrize("trained", [(n, 2) for n in LEARNERS], ids=str, indirect=True)


@pytest.fixture(scope="module", params=BY_BOTH_ORDERS, ids=str)
def trained(request):
    """A model trained for some epochs, and what was seen of it."""
    name, order = request.param
    learner, inner_loop = LEARNERS[name]
    # Rows of size 0.8 keep the two-layer nets clear of dead units, so that all weights move.
    model = meta_model(
        learner,
        inner_loop(1, 0.2, order=order),
        optimizer=keras.optimizers.Adam(0.03),
        row_optimizer=gm.Adagrad(0.1),
    )
    before = state_of(model)
    with pytest.MonkeyPatch.context() as monkeypatch:
        traces = CountTraces(monkeypatch, model.learner)
        history = model.fit(made_batches.dataset(STEPS, 8), epochs=8, verbose=0, callbacks=[traces])
    return types.SimpleNamespace(
        model=model, before=before, traces=traces.after_step, losses=history.history["loss"]
    )


def test_the_second_step_traces_nothing(trained):
    sizes = [
        (batch["keys"]["embedded"].shape[0], batch["pair_to_key"]["embedded"].shape[0])
        for batch in made_batches.dataset(STEPS, 8)
    ]
    assert len(set(sizes)) == len(STEPS)  # U and P differ from step to step
    assert trained.traces[0] > 0
    assert trained.traces == [trained.traces[0]] * (8 * len(STEPS))


def test_training_lowers_the_loss_and_moves_every_weight(trained):
    assert trained.losses[-1] < 0.95 * trained.losses[0]
    for name, value in state_of(trained.model).items():
        if name.startswith(("dense", "rows")):
            assert np.abs(value - trained.before[name]).max() > 1e-4, name


@PREDICTING
def test_evaluate_is_the_metrics_of_what_predict_gives(trained):
    data = made_batches.dataset(STEPS, 8)
    found = trained.model.evaluate(data, return_dict=True, verbose=0)
    judged = trained.model.predict(data, verbose=0)
    expected = slow_metrics(judged)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        slack = {f"auc_{kind}": ties(judged, kind) for kind in ("adapted", "unadapted")}
        np.testing.assert_allclose(
            found[name], value, rtol=2e-5, atol=slack.get(name, 0.0), err_msg=name
        )


@PREDICTING
def test_predict_gives_every_query_row_once(trained):
    judged = trained.model.predict(made_batches.dataset(STEPS, 8), verbose=0)
    tasks = [task for step in STEPS for task in step]
    labels = [task.part("query")[2] for task in tasks]
    np.testing.assert_array_equal(judged["label"], np.concatenate(labels))
    numbers = [task.number for task in tasks]
    np.testing.assert_array_equal(judged["task"], np.repeat(numbers, [len(y) for y in labels]))
    assert np.abs(judged["adapted"] - judged["unadapted"]).max() > 1e-2
    assert (judged["adapted"] > 0).all()
    assert (judged["adapted"] < 1).all()


@PREDICTING
def test_calling_the_model_is_predicting(trained):
    (batch,) = made_batches.dataset(STEPS[:1], 8)
    called = trained.model(batch).numpy()[batch["query"]["weight"].numpy() > 0]
    judged = trained.model.predict(made_batches.dataset(STEPS[:1], 8), verbose=0)
    np.testing.assert_allclose(called, judged["adapted"], rtol=1e-5)


def slow_auc(label, prediction):
    pairs = [
        (p > n) + 0.5 * (p == n) for p in prediction[label > 0] for n in prediction[label == 0]
    ]
    return np.mean(pairs) if pairs else np.nan


def ties(judged, kind):
    """What the pooled AUC may be off by: it counts pairs within 0.001 of a logit as halves."""
    logit = np.log(judged[kind] / (1 - judged[kind]))
    positive = judged["label"] > 0
    apart = np.abs(logit[positive][:, np.newaxis] - logit[~positive])
    assert (apart < 1e-3).mean() < 0.02
    return (apart < 1e-3).mean() / 2


def slow_metrics(judged):
    task, label = judged["task"], judged["label"]
    own = [task == number for number in dict.fromkeys(task)]
    results = {}

    def log_losses(prediction):
        return -np.log(np.where(label > 0, prediction, 1 - prediction))

    results["loss"] = np.mean([log_losses(judged["adapted"])[rows].mean() for rows in own])
    results |= {"tasks": len(own), "samples": len(label)}
    for kind in ("adapted", "unadapted"):
        of_tasks = [slow_auc(label[rows], judged[kind][rows]) for rows in own]
        results[f"auc_{kind}"] = slow_auc(label, judged[kind])
        results[f"task_auc_{kind}"] = np.nanmean(of_tasks)
        results[f"log_loss_{kind}"] = log_losses(judged[kind]).mean()
    return results


def test_evaluate_as_a_list_and_in_fit_is_evaluate(fresh):
    model = fresh()
    data = made_batches.dataset(STEPS, 8)
    history = model.fit(data, validation_data=data, verbose=0).history
    as_dict = model.evaluate(data, return_dict=True, verbose=0)
    assert model.evaluate(data, verbose=0) == list(as_dict.values())
    assert {f"val_{name}": [value] for name, value in as_dict.items()}.items() <= history.items()


def test_several_steps_an_execution_change_nothing(fresh):
    """`steps_per_execution` is Keras' and only a matter of speed: here 2 of 3 steps, then 1."""
    data = made_batches.dataset(STEPS, 8)
    one, two = fresh(), meta_model(steps_per_execution=2)
    one.fit(data, verbose=0)
    two.fit(data, verbose=0)
    assert_same(state_of(two), state_of(one), **FLOAT32)
    expected = one.evaluate(data, return_dict=True, verbose=0)
    assert two.evaluate(data, return_dict=True, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_looking_ahead_is_nothing_to_one_rank():
    data = made_batches.dataset(STEPS, 8)
    plain, ahead = meta_model(look_ahead=False), meta_model(look_ahead=True)
    plain.fit(data, verbose=0)
    ahead.fit(data, verbose=0)
    assert ahead.look_ahead is None
    for name, value in state_of(plain).items():
        np.testing.assert_array_equal(state_of(ahead)[name], value)


def test_run_eagerly_changes_nothing(fresh):
    data = made_batches.dataset(STEPS[:1], 8)
    graph, eager = fresh(), meta_model(run_eagerly=True)
    graph.fit(data, verbose=0)
    eager.fit(data, verbose=0)
    assert_same(state_of(eager), state_of(graph), **FLOAT32)


def test_learned_rates_are_trained():
    inner = gm.InnerLoop(2, 0.4, learn_rates=True)
    model = meta_model(inner=inner)
    model.fit(made_batches.dataset(STEPS, 7), verbose=0)
    rates = next(v for v in model.trainable_variables if v.name == "inner_rates")
    assert (np.abs(rates - 0.4) > 1e-6).all()


def test_tables_of_two_widths_train():
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.TWO_WIDTHS, 3, scale=0.8, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((5,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile(keras.optimizers.Adam(0.03), gm.Adagrad(0.1))
    before = state_of(model)
    history = model.fit(
        made_batches.dataset(STEPS, 8, schema=made_batches.TWO_WIDTHS), epochs=8, verbose=0
    )
    assert history.history["loss"][-1] < 0.9 * history.history["loss"][0]
    for group, width in (("embedded", 3), ("embedded_2", 2)):
        rows = model.embedding.all_rows(group).numpy()
        assert rows.shape[1] == width
        assert np.abs(rows - before[f"rows {group}"]).max() > 1e-2


def test_a_learner_need_not_read_the_rows():
    """Then the rows have no gradient, and stay."""
    embedded, dense = keras.Input([2, WIDTH], name="embedded"), keras.Input([1], name="dense")
    inputs = {"embedded": embedded, "dense": dense}
    model = meta_model(lambda: keras.Model(inputs, keras.layers.Dense(1, name="score")(dense)))
    before = state_of(model)
    model.fit(made_batches.dataset(STEPS, 8), verbose=0)
    after = state_of(model)
    np.testing.assert_array_equal(after["rows embedded"], before["rows embedded"])
    moved = [name for name in after if name.startswith("dense") and "kernel" in name]
    assert np.abs(after[moved[0]] - before[moved[0]]).max() > 1e-3


# Dropout.


def dropout_model(rate):
    return meta_model(
        lambda: Subclass(dropout=0.5),
        gm.InnerLoop(1, 0.2),
        optimizer=keras.optimizers.SGD(rate),
        row_optimizer=gm.SGD(rate),
    )


def test_dropout_trains():
    model = dropout_model(0.3)
    before = state_of(model)
    data = made_batches.dataset(STEPS, 7)
    losses = model.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    for name, value in state_of(model).items():
        if name.startswith(("dense", "rows")):
            assert np.abs(value - before[name]).max() > 1e-3, name
    first, second = (model.evaluate(data, verbose=0) for _ in range(2))
    assert first == second  # and drops nothing where it judges


def test_dropout_draws_anew_in_each_step():
    """Weights all but stand still, so that the losses of one batch differ by the masks alone."""
    model = dropout_model(1e-9)
    losses = model.fit(made_batches.dataset(STEPS[:1], 7), epochs=4, verbose=0).history["loss"]
    assert np.ptp(losses) > 1e-3


# What is refused.


def out_of_range(field, key):
    """STEPS[0] with one key of a support row beyond its table."""
    task = STEPS[0][0]
    keys = task.keys.copy()
    keys[1, field] = key
    broken = made_batches.Task(task.number, task.num_support, keys, task.dense, task.label)
    return [[*STEPS[0][1:], broken]]


@pytest.fixture(scope="module")
def fresh_with_slots():
    """As `fresh`, with optimizers that keep slots."""
    return ReusedModel(
        lambda: meta_model(optimizer=keras.optimizers.Adam(0.1), row_optimizer="lazy_adam")
    )


@pytest.mark.parametrize(
    ("field", "key", "table", "num_rows"),
    [(0, 13, "item", 13), (2, 7, "genre", 7), (0, -5, "item", 13)],
)
def test_a_key_out_of_range_raises_and_updates_nothing(
    fresh_with_slots, field, key, table, num_rows
):
    model = fresh_with_slots()
    model.fit(made_batches.dataset(STEPS[:1], 7), verbose=0)
    before = state_of(model)
    broken = made_batches.dataset(out_of_range(field, key), 7)
    message = (
        f"a step was rejected: the table {table}: expected keys from 0 to {num_rows - 1}, got "
        f"{key}. Prepare the data and build the tables from one schema."
    )
    with pytest.raises(ValueError, match=rf"^{message} Nothing was updated\.$"):
        model.fit(broken, verbose=0)
    assert_same(state_of(model), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=f"^{message}$"):
        model.evaluate(broken, verbose=0)
    with pytest.raises(ValueError, match=f"^{message}$"):
        model.predict(broken, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.train_step(next(iter(broken)))


class Scale(keras.layers.Layer):
    def __init__(self, make):
        super().__init__()
        self.scale = make()

    def call(self, values):
        scale = self.scale[0] if isinstance(self.scale, (list, tuple)) else self.scale
        return values * scale


@pytest.mark.parametrize(
    "make", [lambda: tf.Variable(1.0), lambda: [tf.Variable(1.0)]], ids=["alone", "in a list"]
)
def test_a_loose_variable_has_no_update_rule(make):
    def learner():
        embedded, dense = keras.Input([2, WIDTH], name="embedded"), keras.Input([1], name="dense")
        flat = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), dense])
        score = Scale(make)(keras.layers.Dense(1)(flat))
        return keras.Model({"embedded": embedded, "dense": dense}, score)

    with pytest.raises(ValueError, match=r"scale.* is trainable and has no update rule"):
        meta_model(learner)


def with_nan_price():
    """A step whose first task has a price of NaN, and no genre."""
    task = made_batches.made_tasks(1)[0]
    keys, dense = task.keys.copy(), task.dense.copy()
    keys[:, 1:] = -1
    dense[-1] = np.nan
    broken = made_batches.Task(task.number, task.num_support, keys, dense, task.label)
    return made_batches.batch([broken, *made_batches.made_tasks(1)[3:]])


def test_nonfinite_gradients_raise_with_the_table_and_update_nothing():
    model = meta_model(row_optimizer="adagrad", optimizer="adam")
    before = state_of(model)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"expected finite gradients, got NaN or Inf in the table item on 1 rank\(s\), the "
        r"dense weights or the loss\. .* Nothing was updated",
    ):
        tf.function(model.train_step, autograph=False)(with_nan_price())
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_nonfinite_gradients_are_skipped_and_counted():
    model = meta_model(row_optimizer="adagrad", optimizer="adam", non_finite="skip")
    plain = meta_model(row_optimizer="adagrad", optimizer="adam")
    good = made_batches.batch(STEPS[1])
    step = tf.function(model.train_step, autograph=False)
    before = state_of(model)
    assert step(with_nan_price())["skipped_steps"] == 1
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    logs = step(good)
    assert logs["skipped_steps"] == 1
    tf.function(plain.train_step, autograph=False)(good)
    for name, value in state_of(plain).items():
        np.testing.assert_allclose(state_of(model)[name], value, err_msg=name, rtol=1e-6)
    assert np.isfinite(logs["loss"])


@pytest.mark.parametrize(
    ("num_rows", "bad", "expected"),
    [
        ([3, 2, 4], [], [0, 0, 0]),
        ([3, 2, 4], [2], [1, 0, 0]),
        ([3, 2, 4], [3, 8], [0, 1, 1]),
        ([None], [-(2**60)], [1]),
        ([None], [], [0]),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tables_whose_gradients_are_not_finite(num_rows, bad, expected, value):
    keys = np.array([-(2**60), 5] if num_rows == [None] else [8, 0, 3, 4, 2, 1])
    gradients = np.ones([len(keys), 2], np.float32)
    gradients[np.isin(keys, bad), 1] = value
    found = nonfinite_tables_of_group(tf.constant(gradients), tf.constant(keys), num_rows)
    assert found.numpy().tolist() == expected


def test_finite_gradients_whose_sum_is_not_are_fine():
    largest = tf.fill([4, 2], 3e38)
    assert nonfinite_tables_of_group(
        largest, tf.range(4, dtype=tf.int64), [4]
    ).numpy().tolist() == [0]


@pytest.mark.parametrize(("steps", "executed"), [(9, 9), (6, 6), (None, 12)])
def test_a_number_of_steps_is_evaluated_whatever_an_execution_has(steps, executed, monkeypatch):
    model = meta_model(steps_per_execution=4)
    counted = []
    monkeypatch.setattr(model.accumulator, "update", lambda *columns: counted.append(1))
    data = made_batches.dataset(STEPS[:1] * 12, 7)
    model.evaluate(data, steps=steps, verbose=0)
    assert len(counted) == executed


def with_label(label):
    """A global step of which one support row has another label."""
    tasks = made_batches.made_tasks(4)
    labels = tasks[3].label.copy()
    labels[0] = label
    tasks[3] = dataclasses.replace(tasks[3], label=labels)
    return made_batches.dataset([tasks], 7)


@pytest.mark.parametrize("label", [4.0, -0.5])
def test_a_label_out_of_range_is_rejected_before_anything_is_updated(fresh, label):
    model = fresh()
    before = state_of(model)
    message = rf"binary_crossentropy: expected labels from 0 to 1, got {label:g}\. State positive_"
    with pytest.raises(ValueError, match=message) as raised:
        model.fit(with_label(label), verbose=0)
    assert str(raised.value).endswith("mean_squared_error. Nothing was updated.")
    assert_same(state_of(model), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(with_label(label), verbose=0)


def test_numbers_are_labels_of_a_squared_error():
    model = meta_model(loss="mse")
    model.fit(with_label(4.0), verbose=0)
    results = model.evaluate(with_label(4.0), verbose=0, return_dict=True)
    assert {"rmse_adapted", "mae_unadapted"} <= set(results)


def test_save_is_refused():
    model = meta_model()
    for save in (model.save, model.save_weights, model.export):
        with pytest.raises(ValueError, match=r"leave the embedding tables out.*export_saved_model"):
            save("model.keras")
    with pytest.raises(ValueError, match=r"embedding tables as they are.*load_checkpoint"):
        model.load_weights("model.weights.h5")


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (
            {"loss": "huber"},
            r"loss to be one of binary_crossentropy, bce, .*, got 'huber'",
        ),
        ({"loss": "mse", "metrics": ["log_loss"]}, r"got 'log_loss', which needs probabilities"),
        ({"optimizer": keras.optimizers.SGD(use_ema=True)}, r"got use_ema"),
        ({"steps_per_execution": "auto"}, r"a number of steps_per_execution, got 'auto'"),
        (
            {"learner": ends_in_a_sigmoid},
            r"ends in a sigmoid: expected logits",
        ),
        ({"row_optimizer": "adam"}, r"row_optimizer to be one of sgd, .*, got 'adam'"),
        ({"optimizer": "adamant"}, r"adamant"),
        ({"non_finite": "ignore"}, r"expected non_finite to be one of raise, skip, got 'ignore'"),
        ({"metrics": ["auroc"]}, r"metric: expected one of auc, .*received 'auroc'"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, dict) else one,
)
def test_compile_refuses(compiled, message):
    with pytest.raises(ValueError, match=message):
        meta_model(**compiled)


# Losses.


def test_binary_crossentropy_is_its_formula():
    loss = row_loss("binary_crossentropy")
    label, logit = np.array([[0.0, 1.0, 1.0]]), np.array([[0.3, -2.0, 4.0]])
    probability = 1 / (1 + np.exp(-logit))
    expected = -label * np.log(probability) - (1 - label) * np.log(1 - probability)
    np.testing.assert_allclose(loss.loss(label, logit), expected, rtol=1e-12)
    np.testing.assert_allclose(loss.predict(logit), probability, rtol=1e-12)
    # finite where a formula with a logarithm is not
    np.testing.assert_allclose(loss.loss(np.array([0.0]), np.array([800.0])), [800.0])


def test_mean_squared_error_is_its_formula():
    loss = row_loss("mean_squared_error")
    label, output = np.array([[4.0, 1.0]]), np.array([[3.5, 2.0]])
    np.testing.assert_array_equal(loss.loss(label, output), [[0.25, 1.0]])
    np.testing.assert_array_equal(loss.predict(output), output)


def test_task_losses_are_means_over_the_rows_that_are_there():
    label = tf.constant([[1.0, 2.0, 9.0], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    output = tf.constant([[2.0, 5.0, 0.0], [1.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    weight = tf.constant([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    losses = task_losses(row_loss("mean_squared_error"), label, output, weight)
    np.testing.assert_array_equal(losses, [5.0, 0.25, 0.0])


def test_a_loss_of_ones_own_is_used():
    def cubic(label, output):
        return tf.abs(label - output) ** 3

    own = RowLoss("cubic", cubic, lambda output: 2 * output)
    assert row_loss(own) is own
    model = meta_model(loss=own, metrics=["mae"])
    data = made_batches.dataset(STEPS[:1], 7)
    judged = model.predict(data, verbose=0)
    losses = np.abs(judged["label"] - judged["adapted"] / 2) ** 3
    expected = np.mean([losses[judged["task"] == task].mean() for task in set(judged["task"])])
    found = model.evaluate(data, return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


# Who prints.


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_only_the_chief_shows_progress(verbose):
    def options_of(rank):
        stand_in = types.SimpleNamespace(world=gm.World(rank, 2, rank, 2))
        return gm.MetaModel._quiet_but_for_chief(stand_in, {"epochs": 3, "verbose": verbose})

    assert options_of(0) == {"epochs": 3, "verbose": verbose}
    assert options_of(1) == {"epochs": 3, "verbose": 0}


def test_summary_names_the_tables_and_how_a_step_is_computed(capsys):
    meta_model().summary()
    printed = capsys.readouterr().out
    assert re.search(r"the learner runs once for all tasks of a lane\n lanes: [1-9]", printed)
    assert re.search(r"\n +item +13 +3 +13 +156 B +0 B +156 B\n", printed)
    assert re.search(r"\n +total +20 +20 +240 B", printed)
    meta_model(inner=gm.InnerLoop(1, 0.4, fast_weights="vectorized")).summary()
    assert (
        "takes the vectorized fallback: fast_weights='vectorized' asks for it"
        in capsys.readouterr().out
    )
