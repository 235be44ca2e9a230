"""A row of weight w counts as w rows: in the loss of a task, in its adaptation and in a step."""

import dataclasses

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.batch import columns_of, present_of, tasks_of
from gmeta_tf.meta.closed_form import TaskRowsSeen, posterior, predictive, query_loss
from gmeta_tf.meta.losses import row_loss, task_losses
from gmeta_tf.models.support_encoder import SupportEncoder

# A tenth of all rows weighs nothing, others up to 3: three times as many rows have room for all.
SUPPORT, QUERY = 3 * made_batches.SUPPORT, 3 * made_batches.QUERY
WEIGHTED = [made_batches.weighted(made_batches.made_tasks(seed), seed) for seed in (1, 2, 3)]
FLOAT32 = {"rtol": 2e-4, "atol": 5e-6}


def melu():
    return gm.models.MeLU((5,))


def smooth():
    """Without corners, for finite differences."""
    embedded, dense = keras.Input([2, 6], name="embedded"), keras.Input([1], name="dense")
    both = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), dense])
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(both)
    return keras.Model(
        {"embedded": embedded, "dense": dense}, keras.layers.Dense(1, name="score")(hidden)
    )


WAYS = {
    "smooth": (smooth, gm.InnerLoop(2, 0.3)),
    "first order": (melu, gm.InnerLoop(2, 0.3, order=1)),
    "second order": (lambda: gm.models.MamlDLRM(bottom=(4,), top=(6,)), gm.InnerLoop(2, 0.3)),
    "one matrix a task": (melu, gm.InnerLoop(1, 0.3, fast_weights="stacked")),
    "vectorized": (melu, gm.InnerLoop(1, 0.3, fast_weights="vectorized")),
    "steps counted": (
        melu,
        gm.InnerLoop(2, 0.3, multi_step_loss=3, learn_rates=True, clip_gradients=0.05),
    ),
    "reptile": (melu, gm.InnerLoop(2, 0.3, order=1, outer_gradient="reptile")),
    "heads": (
        lambda: gm.models.Heads([gm.models.MeLU((5,)), gm.models.MeLU((5,))]),
        gm.InnerLoop(1, 0.3, heads=2),
    ),
    "task encoder": (lambda: gm.models.MMAML((5,)), gm.InnerLoop(1, 0.3)),
    "closed form": (lambda: gm.models.Factors([1]), gm.ClosedForm(noise=0.7)),
    "closed form of two heads": (lambda: gm.models.Factors([1], heads=2), gm.ClosedForm(heads=2)),
}


def model_of(way, schema, lanes=1):
    make_learner, inner = WAYS[way]
    keras.utils.set_random_seed(5)
    embedding = gm.ShardedEmbedding(schema, 6, scale=0.8, world=gm.World())
    learner = make_learner()
    encoder = learner.task_encoder(width=4) if hasattr(learner, "task_encoder") else None
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder, lanes=lanes)
    model.compile(keras.optimizers.SGD(0.1), gm.SGD(0.2))
    return model


def numbers(model):
    rows = {group: model.embedding.all_rows(group).numpy() for group in model.embedding.groups}
    return rows | {v.path: np.asarray(v) for v in model.trainable_variables}


@pytest.mark.parametrize("way", WAYS)
def test_training_by_weights_is_training_on_repeated_rows(way):
    sizes = {"support": SUPPORT, "query": QUERY}
    slots = len(WEIGHTED[0])
    by_weight = made_batches.dataset(WEIGHTED, slots, schema=made_batches.WEIGHTED, **sizes)
    plain = [made_batches.repeated(tasks) for tasks in WEIGHTED]
    by_rows = made_batches.dataset(plain, slots, **sizes)
    unweighted = made_batches.dataset(WEIGHTED, slots, **sizes)
    found, losses = [], []
    for schema, data in (
        (made_batches.WEIGHTED, by_weight),
        (made_batches.SCHEMA, by_rows),
        (made_batches.SCHEMA, unweighted),
    ):
        model = model_of(way, schema)
        losses += model.fit(data, verbose=0).history["loss"]
        found.append(numbers(model))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    names = zip(*(own.values() for own in found), strict=True)
    for name, (weighed, repeated, plain_value) in zip(found[0], names, strict=True):
        np.testing.assert_allclose(weighed, repeated, err_msg=name, **FLOAT32)
        assert np.abs(weighed - plain_value).max() > 1e-4, name  # the weights matter


def test_lanes_change_nothing():
    tasks = made_batches.weighted(made_batches.made_tasks(5, count=19))
    batch = made_batches.batch(tasks, 20, schema=made_batches.WEIGHTED)
    one, two = (
        model_of("second order", made_batches.WEIGHTED, lanes).test_step(batch) for lanes in (1, 2)
    )
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_weights_of_one_are_no_weights():
    """To the last bit, whatever else the schema says."""
    steps = [made_batches.made_tasks(seed) for seed in (1, 2)]
    trained = []
    for schema in (made_batches.SCHEMA, made_batches.WEIGHTED):
        model = model_of("second order", schema)
        model.fit(made_batches.dataset(steps, 8, schema=schema), verbose=0)
        trained.append(numbers(model))
    for name, value in trained[0].items():
        np.testing.assert_array_equal(trained[1][name], value, err_msg=name)


def test_a_weight_scales_away_where_all_are_alike():
    """A task counts once: 0.25 of each row is what 1 of each is, and so is 1000."""
    losses = []
    for factor in (0.25, 1.0, 1000.0):
        tasks = [
            dataclasses.replace(task, weight=factor * np.ones(len(task.label)))
            for task in made_batches.made_tasks(1)
        ]
        batch = made_batches.batch(tasks, schema=made_batches.WEIGHTED)
        losses.append(
            float(model_of("second order", made_batches.WEIGHTED).test_step(batch)["loss"])
        )
    np.testing.assert_allclose(losses, losses[1], rtol=1e-5)


@pytest.mark.parametrize("way", ["smooth", "closed form"])
def test_gradients_of_weighted_tasks_by_finite_differences(way):
    """Of the outer loss in some dense weights and rows, through the weighted adaptation."""
    rng = np.random.default_rng(3)
    tasks = [
        dataclasses.replace(task, weight=rng.uniform(0, 2, len(task.label)))
        for task in made_batches.made_tasks(2)
    ]
    batch = made_batches.batch(tasks, schema=made_batches.WEIGHTED)
    model = model_of(way, made_batches.WEIGHTED)
    rows = model.fetch(batch)
    _, gradients, row_gradients = model._differentiated(model.adapter, rows, batch)

    def loss(rows):
        return float(tf.reduce_sum(model.adapter.query_pass(rows, batch, training=True).losses))

    step = 1e-2
    for group, value in rows.items():
        direction = rng.normal(size=value.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        ends = [loss({**rows, group: value + sign * step * direction}) for sign in (1, -1)]
        expected = float(tf.reduce_sum(row_gradients[group] * direction))
        assert abs(expected) > 0.01
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), expected, rtol=0.01, atol=2e-3)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if gradient is None or variable.path.endswith("cut"):  # the cut learns from clicks alone
            continue
        own = np.asarray(variable)
        direction = rng.normal(size=own.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            variable.assign(own + sign * step * direction)
            ends.append(loss(rows))
        variable.assign(own)
        expected = float(tf.reduce_sum(gradient * direction))
        np.testing.assert_allclose(
            (ends[0] - ends[1]) / (2 * step), expected, rtol=0.01, atol=3e-3, err_msg=variable.path
        )


def test_task_losses_are_weighted_means():
    loss = row_loss("mse")
    label = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [1.0, 1.0, 1.0]])
    output = tf.constant([[0.0, 0.0, 1.0], [1.0, 1.0, 9.0], [5.0, 5.0, 5.0]])
    weight = tf.constant([[0.5, 0.0, 0.25], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = task_losses(loss, label, output, weight).numpy()
    expected = [(0.5 * 1 + 0.25 * 4) / 0.75, (3 * 9 + 1 * 16) / 4, 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    heads = tf.stack([output, output + 1], axis=2)
    expected = (found + task_losses(loss, label, output + 1, weight).numpy()) / 2
    np.testing.assert_allclose(task_losses(loss, label, heads, weight), expected, rtol=1e-6)


@pytest.mark.parametrize("width", [2, 12], ids=["covariance of values", "covariance of labels"])
def test_closed_form_of_fractions_is_rows_of_other_noise(width):
    """A row of weight w is one whose noise has the variance `noise^2 / w`, by NumPy."""
    rng = np.random.default_rng(width)
    features, residual = rng.normal(size=[6, width]), rng.normal(size=6)
    weight, noise = rng.uniform(0.1, 3, 6), 0.7
    parts = [
        TaskRowsSeen.of(
            *(tf.constant(one[rows][np.newaxis]) for one in (features, residual, weight))
        )
        for rows in (slice(4), slice(4, 6))
    ]
    own = posterior(parts[:1], tf.constant(noise, tf.float64))
    asked = rng.normal(size=[3, width])
    mean, variance = predictive(own, tf.constant(asked[np.newaxis]))
    known, labels = features[:4], residual[:4]
    matrix = known @ known.T + np.diag(noise**2 / weight[:4])
    gain = np.linalg.solve(matrix, known @ asked.T).T
    np.testing.assert_allclose(mean[0], gain @ labels, rtol=1e-9)
    expected = (asked**2).sum(axis=1) - (gain * (asked @ known.T)).sum(axis=1)
    np.testing.assert_allclose(variance[0], expected, rtol=1e-9)
    # The likelihood has the factor of each row's noise as often as the row counts.
    loss = 0.0
    for sign, size in ((1, 6), (-1, 4)):
        part = features[:size] @ features[:size].T + np.diag(noise**2 / weight[:size])
        loss += sign * 0.5 * residual[:size] @ np.linalg.solve(part, residual[:size])
        loss += (
            sign
            * 0.5
            * (
                np.linalg.slogdet(part)[1]
                - np.log(noise**2 / weight[:size]).sum()
                + weight[:size].sum() * np.log(2 * np.pi * noise**2)
            )
        )
    found = query_loss(own, *parts, tf.constant(noise, tf.float64))
    np.testing.assert_allclose(found[0], loss, rtol=1e-9)


def test_an_encoder_takes_the_weighted_mean_of_the_rows():
    rng = np.random.default_rng(0)
    inputs = {
        "embedded": tf.constant(rng.normal(size=[2, 3, 2, 4]), tf.float32),
        "label": tf.constant(rng.normal(size=[2, 3]), tf.float32),
    }
    encoder = SupportEncoder(5)
    alone = [encoder({**inputs, "weight": tf.one_hot([row] * 2, 3)}).numpy() for row in range(3)]
    weight = np.array([[0.25, 0.25, 0.0], [0.0, 0.0, 0.0]], np.float32)
    found = encoder({**inputs, "weight": tf.constant(weight)}).numpy()
    np.testing.assert_allclose(found[0], (alone[0][0] + alone[1][0]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(found[1], 0)


def test_rows_of_weight_0_are_evaluated_and_predicted():
    tasks = made_batches.weighted(made_batches.made_tasks(1))
    plain = made_batches.batch(tasks, 8)
    batch = made_batches.batch(tasks, 8, schema=made_batches.WEIGHTED)
    assert (batch["query"]["weight"].numpy() == 0).sum() > (
        plain["query"]["weight"] == 0
    ).numpy().sum()
    for part in ("support", "query"):
        np.testing.assert_array_equal(present_of(batch[part]), plain[part]["weight"] > 0)
        cut = tasks_of(columns_of(batch[part], slice(2)), slice(3))
        np.testing.assert_array_equal(present_of(cut), plain[part]["weight"][:3, :2] > 0)
    model = model_of("second order", made_batches.WEIGHTED)
    found = model.test_step(batch)
    assert len(found["label"]) == sum(len(t.label) - t.num_support for t in tasks)
    assert found["num_tasks"] == len(tasks) - 1  # the last one's query rows weigh nothing


def test_a_label_out_of_range_is_told_whatever_the_row_weighs():
    task = made_batches.weighted(made_batches.made_tasks(1))[0]
    label, weight = task.label.copy(), task.weight.copy()
    label[1], weight[1] = 7.0, 0.0
    wrong = dataclasses.replace(task, label=label, weight=weight)
    data = made_batches.dataset([[wrong]], 1, schema=made_batches.WEIGHTED)
    with pytest.raises(ValueError, match=r"label.*7"):
        model_of("second order", made_batches.WEIGHTED).fit(data, verbose=0)


def test_evaluate_gives_metrics_with_and_without_weights():
    tasks = made_batches.weighted(made_batches.made_tasks(1))
    model = model_of("second order", made_batches.WEIGHTED)
    model.compile("sgd", "sgd", metrics=["log_loss"], weighted_metrics=["log_loss", "accuracy"])
    assert model.accumulator.names == ("log_loss", "weighted_log_loss", "weighted_accuracy")
    data = made_batches.dataset([tasks[:3], tasks[3:]], 4, schema=made_batches.WEIGHTED)
    found = model.evaluate(data, return_dict=True, verbose=0)
    predicted = model.predict(data, verbose=0)
    weight = np.concatenate([task.weight[task.num_support :] for task in tasks])
    label, probability = predicted["label"], predicted["adapted"]
    losses = -np.log(np.where(label > 0.5, probability, 1 - probability))
    assert found["log_loss_adapted"] == pytest.approx(losses.mean(), rel=1e-5)
    expected = pytest.approx(np.average(losses, weights=weight), rel=1e-5)
    assert found["weighted_log_loss_adapted"] == expected
    right = np.average((label > 0.5) == (predicted["unadapted"] > 0.5), weights=weight)
    assert found["weighted_accuracy_unadapted"] == pytest.approx(right, rel=1e-5)
    assert found["samples"] == len(weight)
    # The loss is the mean over the tasks of their weighted means.
    of_tasks = [
        np.average(losses[predicted["task"] == t.number], weights=t.weight[t.num_support :])
        for t in tasks[:-1]
    ]
    assert found["loss"] == pytest.approx(np.mean(of_tasks), rel=1e-5)


def test_a_metric_of_whole_tasks_has_no_weighted_form():
    model = model_of("second order", made_batches.WEIGHTED)
    with pytest.raises(ValueError, match=r"or weighted_auc, weighted_log_loss, .*'weighted_mrr'"):
        model.compile(weighted_metrics=["mrr"])
