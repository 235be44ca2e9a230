"""Task encoders: what a step computes, and what is refused.

The slow twin takes one task after the other, without padding, by the learner's and the encoder's
own calls; TensorFlow differentiates it.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_batches import SCHEMA, batch, made_tasks, pooled
from reused_models import variables_of

import gmeta_tf as gm
from gmeta_tf.meta.task_encoder import TaskEncoder

WIDTH = 3
# Sums over at most 63 rows in another order, through two inner steps, in float32.
FLOAT32 = {"rtol": 2e-4, "atol": 3e-6}


def mmaml():
    return gm.models.MMAML((6, 4))


def cbml():
    return gm.models.CBML((6,))


def encoder_of(learner):
    if isinstance(learner, gm.models.CBML):
        return learner.task_encoder(clusters=3, width=4)
    return learner.task_encoder(width=4)


def meta_model(make=mmaml, inner=None, encoder=None, **compiled):
    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(SCHEMA, WIDTH, scale=0.8, world=gm.World())
    learner = make()
    inner = learner.inner_loop(2, 0.3) if inner is None else inner
    encoder = encoder_of(learner) if encoder is None else encoder
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder)
    compiled = {"optimizer": keras.optimizers.SGD(0.4), "row_optimizer": gm.SGD(0.4), **compiled}
    model.compile(**compiled)
    return model


def shaken(model):
    """The model, with other values in all weights, so that no initial 0 hides a term."""
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign_add(0.2 * rng.normal(size=variable.shape).astype(np.float32))
    return model


def whole_tables(model):
    rows = gm_rows(model)
    return [tf.Variable(rows[:13]), tf.Variable(rows[13:20])]


def gm_rows(model):
    (shard,) = model.embedding.shards.values()
    return shard.rows.numpy()


def slow_outputs(model, tables, task, num_steps, rate, blind=False):
    """The query rows' outputs of one task."""
    learner = model.learner
    support, query = ({}, {})
    for part, name in ((support, "support"), (query, "query")):
        keys, dense, label = task.part(name)
        if len(keys):
            part.update(embedded=pooled(tables, keys), dense=tf.constant(dense))
            part["label"] = tf.constant(label)
    read = {
        "embedded": tf.zeros([1, 0, 2, WIDTH]),
        "dense": tf.zeros([1, 0, 1]),
        "label": tf.zeros([1, 0]),
    }
    if support and not blind:
        read = {name: value[tf.newaxis] for name, value in support.items()}
    read["weight"] = tf.ones_like(read["label"])
    encoding = model.task_encoder(read)
    weights = [variable.value for variable in learner.trainable_variables]

    def outputs(weights, part):
        rows = {name: part[name] for name in ("embedded", "dense")}
        rows["task"] = tf.repeat(encoding, len(part["label"]), axis=0)
        return learner.stateless_call(weights, [], rows)[0][:, 0]

    for _ in range(num_steps if support and not blind else 0):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            error = tf.nn.sigmoid_cross_entropy_with_logits(
                support["label"], outputs(weights, support)
            )
            loss = tf.reduce_mean(error)
        slopes = tape.gradient(loss, weights)
        weights = [value - rate * slope for value, slope in zip(weights, slopes)]
    return outputs(weights, query), query["label"]


@pytest.mark.parametrize("make", [mmaml, cbml])
def test_a_step_is_that_of_a_slow_loop_over_tasks(make):
    model = shaken(meta_model(make))
    tasks = made_tasks(1)
    tables = whole_tables(model)
    with tf.GradientTape() as tape:
        losses = []
        for task in tasks:
            outputs, label = slow_outputs(model, tables, task, 2, 0.3)
            error = tf.nn.sigmoid_cross_entropy_with_logits(label, outputs)
            losses.append(tf.reduce_mean(error))
        loss = tf.add_n(losses) / len(tasks)
    variables = [variable.value for variable in model.trainable_variables]
    *dense, items, genres = tape.gradient(loss, [*variables, *tables])
    expected = [value - 0.4 * slope for value, slope in zip(variables, dense)]
    of_rows = [
        table - 0.4 * tf.convert_to_tensor(slope) for table, slope in zip(tables, (items, genres))
    ]
    of_encoder = len(model.task_encoder.trainable_variables)
    assert all(np.abs(one).max() > 1e-4 for one in dense[-of_encoder:])
    found = model.train_step(batch(tasks, 8))
    np.testing.assert_allclose(found["loss"], loss, **FLOAT32)
    for variable, value in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, err_msg=variable.path, **FLOAT32)
    np.testing.assert_allclose(gm_rows(model)[:20], np.concatenate(of_rows), **FLOAT32)


@pytest.mark.parametrize("make", [mmaml, cbml])
def test_evaluation_encodes_the_support_and_the_unadapted_sees_none(make):
    model = shaken(meta_model(make))
    tasks = made_tasks(2)
    tables = whole_tables(model)
    seen = model.test_step(batch(tasks, 8))
    for name, blind in (("adapted", False), ("unadapted", True)):
        slow = [slow_outputs(model, tables, task, 2, 0.3, blind)[0] for task in tasks]
        np.testing.assert_allclose(seen[name], tf.sigmoid(tf.concat(slow, 0)), **FLOAT32)
    assert np.abs(seen["adapted"] - seen["unadapted"]).max() > 0.01


def test_cbml_shares_are_a_softmax_of_distances_and_its_gate_a_sigmoid():
    keras.utils.set_random_seed(0)
    encoder = cbml().task_encoder(clusters=3, width=4)
    rng = np.random.default_rng(0)
    inputs = {
        "embedded": rng.normal(size=(2, 5, 3, 2)).astype(np.float32),
        "label": rng.normal(size=(2, 5)).astype(np.float32),
        "weight": np.float32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    }
    gate = encoder(inputs).numpy()
    g = encoder.support(inputs).numpy()
    centres = encoder.centres.numpy()
    kernel, bias = (np.asarray(one) for one in encoder.shared.variables)
    of_gate, gate_bias = (np.asarray(one) for one in encoder.gate.variables)
    for task in range(2):
        near = np.exp([-((g[task] - centre) ** 2).sum() / 2 for centre in centres])
        shares = near / near.sum()
        np.testing.assert_allclose(encoder.shares(g)[task], shares, rtol=1e-5)
        h = sum(
            share * np.tanh(g[task] @ kernel[:, 4 * c : 4 * c + 4] + bias[4 * c : 4 * c + 4])
            for c, share in enumerate(shares)
        )
        logits = np.concatenate([g[task], h]) @ of_gate + gate_bias
        np.testing.assert_allclose(gate[task], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert gate.shape == (2, 7)


def test_a_support_encoder_is_a_mean_over_present_rows_of_labels_in_its_units():
    encoder = gm.models.SupportEncoder(4, centre=3.0, scale=2.0)
    rng = np.random.default_rng(1)
    rows = {"embedded": rng.normal(size=(1, 3, 2, 2)).astype(np.float32)}
    rows |= {"label": np.float32([[5, 1, 4]]), "weight": np.float32([[1, 1, 0]])}
    found = encoder(rows).numpy()[0]
    (kernel, bias), (of_row, row_bias) = (
        [np.asarray(one) for one in layer.variables] for layer in (encoder.hidden, encoder.row)
    )
    one_by_one = []
    for index, label in enumerate([1.0, -1.0]):
        inputs = np.append(rows["embedded"][0, index].ravel(), label)
        one_by_one.append(np.maximum(inputs @ kernel + bias, 0) @ of_row + row_bias)
    np.testing.assert_allclose(found, np.mean(one_by_one, axis=0), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_keeps_the_encoder(tmp_path):
    model = shaken(meta_model(cbml))
    model.train_step(batch(made_tasks(1), 8))
    gm.save_checkpoint(model, tmp_path / "saved")
    other = meta_model(cbml)
    assert not all(np.array_equal(*pair) for pair in zip(other.variables, model.variables))
    gm.load_checkpoint(other, tmp_path / "saved")
    for found, expected in zip(variables_of(other), variables_of(model), strict=True):
        np.testing.assert_array_equal(found, expected)


# What is refused.


class Encoder(keras.Model):
    """The mean of the rows' labels; each fault is an option."""

    def __init__(self, *, divide=True, mask=True, axis=True, normalize=False):
        super().__init__()
        self.divide, self.mask, self.axis = divide, mask, axis
        self.norm = keras.layers.BatchNormalization() if normalize else None

    def call(self, inputs, training=False):
        weight = inputs["weight"] if self.mask else tf.ones_like(inputs["weight"])
        count = tf.reduce_sum(weight, axis=1, keepdims=True)
        count = tf.maximum(count, 1.0) if self.divide else count
        mean = tf.reduce_sum(inputs["label"] * weight, axis=1, keepdims=True) / count
        if self.norm is not None:
            mean = self.norm(mean, training=training)
        return mean if self.axis else mean[:, 0]


class ReadsNoTask(keras.Model):
    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1)

    def call(self, inputs):
        return self.score(inputs["dense"])


REFUSED = {
    "a function": (lambda inputs: inputs["label"], "expected a keras.Model, got function"),
    "no axis": (Encoder(axis=False), r"to give \[T, M\] for T tasks, here \(2, M\), got \(2,\)"),
    "no mask": (Encoder(mask=False), r"depends on rows that are missing \(weight 0\). Multiply"),
    "no rows": (Encoder(divide=False), "is not finite for a task without support rows. Divide"),
    "state": (Encoder(normalize=True), "keeps state outside its weights: .*LayerNormalization"),
    "other inputs": (keras.Sequential([keras.layers.Dense(2)]), "failed on the inputs 'embedded'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_encoders_that_are_refused(name):
    encoder, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        meta_model(encoder=encoder)


def test_a_learner_that_does_not_read_the_task_is_refused():
    with pytest.raises(ValueError, match="does not read its input 'task'"):
        meta_model(ReadsNoTask, gm.InnerLoop(), Encoder())


def test_closed_form_takes_no_encoder():
    with pytest.raises(ValueError, match="expected no task_encoder with ClosedForm"):
        meta_model(mmaml, gm.ClosedForm())


@pytest.mark.parametrize("learner", [gm.models.MMAML, gm.models.CBML])
def test_no_decision_layer(learner):
    with pytest.raises(ValueError, match=r"at least one decision layer, got hidden=\(\)"):
        learner(())


def test_no_cluster():
    with pytest.raises(ValueError, match="at least one cluster, got 0"):
        cbml().task_encoder(clusters=0)


def test_an_encoder_knows_its_size():
    learner = cbml()
    example = {"embedded": tf.zeros([1, 2, WIDTH]), "dense": tf.zeros([1, 1])}
    assert TaskEncoder(learner.task_encoder(), example).size == 7


def test_reptile_trains_no_encoder():
    with pytest.raises(
        ValueError, match=r"'reptile' trains what adapts .* a task encoder does not"
    ):
        meta_model(inner=gm.InnerLoop(order=1, outer_gradient="reptile"))


def test_an_encoder_reads_the_labels_of_the_inner_loss():
    """Ratings, where tasks adapt to them, and not the clicks that the outer loss judges."""
    schema = dataclasses.replace(SCHEMA, positive_from=0.5)
    seen = []

    class Reads(Encoder):
        def call(self, inputs, training=False):
            seen.append(inputs["label"])
            return super().call(inputs, training=training)

    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(schema, WIDTH, world=gm.World())
    encoder = Reads()
    model = gm.MetaModel(
        gm.models.MeLU((4,)), embedding, gm.models.MeLU.inner_loop(), task_encoder=encoder
    )
    model.compile(inner_loss=gm.rating_loss(3.0))
    tasks = [dataclasses.replace(task, label=task.label + 0.25) for task in made_tasks(1)]
    seen.clear()
    given = batch(tasks, 7, schema=schema)
    model.adapter.query_pass_in_one_lane(model.fetch(given), given, training=False)
    np.testing.assert_array_equal(seen[0], given["support"]["value"])
    assert set(np.unique(seen[0])) == {0.0, 0.25, 1.25}
