"""Weights of support rows: served as they were trained, in every signature and command."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.cli.main import main
from gmeta_tf.saving.serving.predictor import Predictor

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("price", "dense")), "liked", "user", weight="importance"
)


def made_log(path, seed=0):
    """12 users of 9 rows; a price is of one row, so that it tells which row is where."""
    draw = np.random.default_rng(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "price", "liked", "importance"])
        for row in range(12 * 9):
            item, weight = draw.integers(7), draw.choice(["0", "0.5", "1", "3"])
            writer.writerow([f"u{row % 12}", item, row / 128, int(draw.random() < 0.5), weight])
    return str(path)


def columns_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


@pytest.fixture(scope="module", params=["by steps", "closed form"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    source = gm.files_source(made_log(folder / "log.csv"))
    records = gm.prepare(source, SCHEMA, folder / "records", split=gm.Split(0.4), num_files=2)
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(records.schema, 4, scale=0.5, world=gm.World())
    learner, inner = gm.models.MeLU((8,)), gm.InnerLoop(2, 0.5)
    if request.param == "closed form":
        learner, inner = gm.models.Factors(), gm.ClosedForm(noise=0.5)
    model = gm.MetaModel(learner, embedding, inner)
    model.compile(keras.optimizers.Adam(0.05), gm.Adagrad(0.3))
    model.fit(gm.TaskBatches(records, "train", tasks=4, support=4, query=5), epochs=2, verbose=0)
    gm.export_saved_model(model, folder / "saved", records)
    return model, records, folder


def drawn(trained):
    """What the model predicts of the test, and the raw support and query rows of that."""
    model, records, folder = trained
    batches = gm.TaskBatches(
        records, "test", tasks=2, support=4, query=9, every_query=True, shuffle=False
    )
    columns = columns_of(folder / "log.csv")
    support, query = [], []
    for batch in batches.dataset(0).take(batches.steps_per_epoch):
        for part, rows in (("support", support), ("query", query)):
            there = batch[part]["present"].numpy()
            rows.extend(np.round(batch[part]["dense"].numpy()[there, 0] * 128).astype(int))
    predicted = model.predict(batches, verbose=0)["adapted"]
    return predicted, *({k: v[rows] for k, v in columns.items()} for rows in (query, support))


def test_served_is_trained(trained):
    predicted, query, support = drawn(trained)
    del query["importance"]  # a query row's weight is not asked for
    predictor = Predictor.load(trained[2] / "saved")
    np.testing.assert_allclose(predictor(query, support, tasks=3), predicted, atol=2e-6)
    alike = support | {"importance": np.ones(len(support["user"]))}
    assert np.abs(predictor(query, alike) - predicted).max() > 1e-3
    none = support | {"importance": np.zeros(len(support["user"]))}
    nobody = {name: values[:0] for name, values in support.items()}
    np.testing.assert_allclose(predictor(query, none), predictor(query, nobody), atol=2e-6)


def test_wrong_weights_are_told(trained):
    _, query, support = drawn(trained)
    predictor = Predictor.load(trained[2] / "saved")
    wrong = support | {"importance": np.full(len(support["user"]), -2.0)}
    match = r"the support rows, column 'importance', row 1 .*: expected a finite number of at least"
    with pytest.raises(ValueError, match=match):
        predictor(query, wrong)
    del support["importance"]
    with pytest.raises(ValueError, match=r"the support rows: no column 'importance'"):
        predictor(query, support)


def test_every_signature_takes_them(trained):
    signatures = tf.saved_model.load(str(trained[2] / "saved")).signatures
    inputs = {
        "support_item": tf.constant([["1", "2", "3"], ["4", "5", ""]]),
        "support_price": tf.constant([[0.5, 0.25, 0.0], [0.5, 0.75, 0.0]]),
        "support_liked": tf.constant([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        "support_importance": tf.constant([[3.0, 0.5, 0.0], [1.0, 2.0, 7.0]]),
        "support_count": tf.constant([3, 2]),
        "query_item": tf.constant([["1", "6"], ["2", "?"]]),
        "query_price": tf.constant([[0.5, 0.5], [0.1, 0.2]]),
    }
    expected = signatures["predict"](**inputs)["prediction"].numpy()
    examples = []
    for task, count in enumerate([3, 2]):
        features = {}
        for name, value in inputs.items():
            if name == "support_count":
                continue
            own = value[task].numpy()[: count if name.startswith("support") else None].tolist()
            features[name] = (
                tf.train.Feature(bytes_list=tf.train.BytesList(value=own))
                if name.endswith("item")
                else tf.train.Feature(float_list=tf.train.FloatList(value=own))
            )
        example = tf.train.Example(features=tf.train.Features(feature=features))
        examples.append(example.SerializeToString())
    found = signatures["predict_examples"](examples=tf.constant(examples))["prediction"]
    np.testing.assert_array_equal(found, expected)
    once = inputs | {"support_importance": tf.constant([[2.0], [2.0]])}
    every = inputs | {"support_importance": tf.fill([2, 3], 2.0)}
    found, spread = (signatures["predict"](**one)["prediction"].numpy() for one in (once, every))
    np.testing.assert_array_equal(found, spread)
    assert np.abs(found - expected).max() > 1e-3
    assert set(signatures["predict_keys"].structured_input_signature[1]) == set(inputs)
    names = set(signatures["predict_unadapted"].structured_input_signature[1])
    assert names == {"query_item", "query_price"}


def test_the_predict_command_reads_them(trained, tmp_path):
    folder = trained[2]
    saved, log = str(folder / "saved"), str(folder / "log.csv")
    outputs = []
    for name, support in (("given", log), ("none", None)):
        path = tmp_path / f"{name}.csv"
        words = ["predict", "--saved-model", saved, "--query", log, "--output", str(path)]
        main(words + ([] if support is None else ["--support", support]))
        outputs.append(columns_of(path)["prediction"].astype(float))
    columns = columns_of(log)
    expected = Predictor.load(folder / "saved")(columns, columns)
    np.testing.assert_allclose(outputs[0], expected, atol=1e-6)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
