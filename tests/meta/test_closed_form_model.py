"""A model that adapts in closed form trains, evaluates and serves what its equations say."""

import dataclasses
import math

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from made_data import make_records

import gmeta_tf as gm

SCHEMA = dataclasses.replace(made_batches.SCHEMA, positive_from=4.0)
WIDTH = 3
CENTRE, SCALE, NOISE, CUT = 3.2, 1.3, 0.6, 3.6


def rated(tasks, seed=0):
    """The tasks, with ratings of 1 to 5."""
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(t, label=rng.integers(1, 6, len(t.label)).astype(np.float32))
        for t in tasks
    ]


TASKS = rated(made_batches.made_tasks(3))


def make_model(*, heads=1, loss="bce", schema=SCHEMA, optimizer="sgd", rows="sgd", lanes=None):
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(schema, heads * WIDTH, scale=0.8, world=gm.World(), seed=4)
    learner = gm.models.Factors([1], heads=heads)
    inner = learner.inner_loop(noise=NOISE, centre=CENTRE, scale=SCALE, cut=CUT)
    model = gm.MetaModel(learner, embedding, inner, lanes=lanes)
    model.compile(optimizer, rows, loss=loss)
    return model


def part_of_head(model, head):
    """The model of one head, with that head's weights and rows."""
    single = make_model(loss=model.row_loss.name)
    for variable, every in zip(single.learner.weights, model.learner.weights, strict=True):
        value = np.asarray(every)
        if variable.path.endswith("kernel"):  # of the dense values
            variable.assign(value[:, head * WIDTH : (head + 1) * WIDTH])
        else:
            variable.assign(value[head : head + 1])
    for group, shard in single.embedding.shards.items():
        rows = model.embedding.shards[group].rows
        shard.rows.assign(rows[:, head * WIDTH : (head + 1) * WIDTH])
    return single


def by_hand(model, task):
    """A task's query rows: mean label and its variance, from each row's vectors, in NumPy."""
    table = model.embedding.all_rows(model.embedding.groups[0]).numpy()
    rows = [table[:13], table[13:]]
    vectors = made_batches.pooled([tf.constant(one) for one in rows], task.keys).numpy()
    dense = task.dense @ np.asarray(model.learner.dense_vector.kernel)
    row, of_task = vectors[:, 0] + dense, vectors[:, 1] + np.asarray(model.learner.prior_mean)[0]
    prior = (row[:, :-1] * of_task[:, :-1]).sum(axis=1) + 3.0 * (row[:, -1] + of_task[:, -1])
    with_factors = np.asarray(model.learner.bias_with_factors)[0]
    own_bias = np.full([len(row), 1], np.asarray(model.learner.bias_deviation)[0, 0])
    features = np.concatenate([row[:, :-1] + with_factors, own_bias], axis=1)
    residual = (task.label - CENTRE) / SCALE - prior
    n = task.num_support
    matrix = features @ features.T + NOISE**2 * np.eye(len(row))
    weights = np.zeros([len(row) - n, n])
    if n:
        weights = np.linalg.solve(matrix[:n, :n], matrix[:n, n:]).T
    mean = prior[n:] + weights @ residual[:n]
    variance = np.diag(matrix)[n:] - (weights * matrix[n:, :n]).sum(axis=1)
    loss = 0.0
    for sign, size in ((1, len(row)), (-1, n)):
        part, known = matrix[:size, :size], residual[:size]
        quadratic = known @ np.linalg.solve(part, known) if size else 0.0
        loss += sign * 0.5 * (quadratic + np.linalg.slogdet(part)[1]) if size else 0.0
    loss += (len(row) - n) * (0.5 * math.log(2 * math.pi) + math.log(SCALE))
    return mean, variance, loss, prior[n:], (features[n:] ** 2).sum(axis=1) + NOISE**2


def normal_cdf(x):
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in x])


@pytest.fixture(scope="module")
def model():
    model = make_model()
    rng = np.random.default_rng(0)
    for variable in model.learner.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.5)
    return model


def with_rows(values, tasks):
    """Each task's part of values of all query rows."""
    return np.split(values, np.cumsum([len(t.label) - t.num_support for t in tasks])[:-1])


def test_predictions_and_loss_are_those_of_its_equations(model):
    batch = made_batches.batch(TASKS, 9, schema=SCHEMA)
    found = {name: value.numpy() for name, value in model.test_step(batch).items()}
    losses = []
    for number, task in enumerate(TASKS):
        mine = found["task"] == task.number
        mean, variance, loss, prior, prior_variance = by_hand(model, task)
        losses.append(loss)
        for name, centre, spread in (
            ("adapted", mean, variance),
            ("unadapted", prior, prior_variance),
        ):
            above = (centre - (CUT - CENTRE) / SCALE) / np.sqrt(spread)
            expected = normal_cdf(above)
            # The logit is Page's approximation.
            np.testing.assert_allclose(found[name][mine], expected, atol=2e-4, err_msg=str(number))
        np.testing.assert_array_equal(found["label"][mine], task.label[task.num_support :] >= 4)
        np.testing.assert_allclose(found["deviation"][mine], SCALE * np.sqrt(variance), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], sum(losses), rtol=1e-5)
    assert np.abs(found["adapted"] - found["unadapted"]).max() > 0.05


def test_squared_error_predicts_the_mean_label():
    model = make_model(loss="mse")
    batch = made_batches.batch(TASKS, schema=SCHEMA)
    found = model.test_step(batch)["adapted"].numpy()
    expected = np.concatenate([CENTRE + SCALE * by_hand(model, task)[0] for task in TASKS])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_are_models_side_by_side():
    """Their logits are averaged, and so are their losses."""
    model = make_model(heads=3)
    batch = made_batches.batch(TASKS, schema=SCHEMA)
    found = model.test_step(batch)
    alone = [part_of_head(model, head).test_step(batch) for head in range(3)]
    for name in ("adapted", "unadapted"):
        logits = [np.log(one[name] / (1 - one[name])) for one in alone]
        assert np.ptp(logits, axis=0).max() > 0.1
        expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], np.mean([one["loss"] for one in alone]), rtol=1e-5)
    # The deviation is that of a mixture: of a head's label, and of the heads among themselves.
    rated = make_model(heads=3, loss="mse")
    alone = [part_of_head(rated, head).test_step(batch) for head in range(3)]
    expected = np.mean([one["deviation"] ** 2 for one in alone], axis=0)
    expected += np.var([one["adapted"] for one in alone], axis=0)
    np.testing.assert_allclose(found["deviation"], np.sqrt(expected), rtol=1e-5)
    assert list(rated.predict_step(batch)) == ["task", "label", "adapted", "unadapted", "deviation"]


def test_lanes_change_nothing():
    many = rated(made_batches.made_tasks(5, count=19))
    results = []
    for lanes in (1, 2):
        model = make_model(lanes=lanes, heads=2)
        results.append(model.test_step(made_batches.batch(many, 20, schema=SCHEMA)))
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_training_moves_every_weight_down_the_loss():
    model = make_model(heads=2, optimizer=keras.optimizers.SGD(0.01), rows=gm.SGD(0.01))
    data = made_batches.dataset([TASKS] * 12, 8, schema=SCHEMA)
    before = [np.asarray(variable) for variable in model.trainable_variables]
    names = [variable.path.split("/")[-1] for variable in model.trainable_variables]
    assert {"log_noise", "centre", "log_scale", "cut"} < set(names)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    for name, value, variable in zip(names, before, model.trainable_variables, strict=True):
        assert np.abs(np.asarray(variable) - value).max() > 1e-5, name


def test_clicks_move_the_cut_alone():
    """With other clicks of the same ratings, the step is the same but for the cut."""
    batch = made_batches.batch(TASKS, schema=SCHEMA)
    other = {**batch, "query": {**batch["query"], "label": 1 - batch["query"]["label"]}}
    after = []
    for one in (batch, other):
        model = make_model()
        model.train_step(one)
        after.append({v.path: np.asarray(v) for v in model.trainable_variables})
        after[-1]["rows"] = model.embedding.all_rows(model.embedding.groups[0]).numpy()
    changed = [path for path in after[0] if not np.array_equal(after[0][path], after[1][path])]
    assert [path.split("/")[-1] for path in changed] == ["cut"]


def test_ratings_tell_more_than_clicks():
    """A support rating of 1 is not one of 3, though both are no clicks."""
    outputs = []
    for rating in (1.0, 3.0):
        label = np.array([rating] * 4 + [5.0] * 5, np.float32)
        task = dataclasses.replace(TASKS[0], label=label)
        batch = made_batches.batch([task], schema=SCHEMA)
        outputs.append(make_model().test_step(batch)["adapted"].numpy())
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


def test_a_run_from_records_ranks_better_adapted(tmp_path):
    records = make_records(tmp_path, tasks=60)
    embedding = gm.ShardedEmbedding(records.schema, 6, scale=0.1, world=gm.World())
    learner = gm.models.Factors(heads=2)
    model = gm.MetaModel(learner, embedding, learner.inner_loop(centre=3.3, scale=1.1))
    rows = gm.ShrunkRows(optimizer=gm.LazyAdam(0.05), strength=0.1)
    model.compile(keras.optimizers.Adam(0.02), rows)
    batches = gm.TaskBatches(records, "train", tasks=8, support=6, query=24)
    model.fit(batches, epochs=12, verbose=0)
    evaluated = gm.TaskBatches(
        records, "test", tasks=2, support=6, query=24, every_query=True, shuffle=False
    )
    results = model.evaluate(evaluated, return_dict=True, verbose=0)
    assert results["auc_adapted"] > results["auc_unadapted"] + 0.02


def test_a_learner_of_one_number_a_row_is_refused():
    embedding = gm.ShardedEmbedding(SCHEMA, 4, world=gm.World())
    with pytest.raises(ValueError, match=r"1 \+ D numbers a row.*got the shape \(1, 1\)"):
        gm.MetaModel(gm.models.MeLU((4,)), embedding, gm.ClosedForm())
    with pytest.raises(ValueError, match=r"to give 3 times 1 \+ D numbers"):
        gm.MetaModel(gm.models.Factors(), embedding, gm.ClosedForm(heads=3))


def test_a_learner_with_state_of_its_own_is_refused():
    class Stateful(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()
            self.score = keras.layers.Dense(3)

        def call(self, inputs):
            return self.score(self.norm(keras.ops.mean(inputs["embedded"], axis=1)))

    embedding = gm.ShardedEmbedding(SCHEMA, 4, world=gm.World())
    with pytest.raises(ValueError, match="Use LayerNormalization"):
        gm.MetaModel(Stateful(), embedding, gm.ClosedForm())
