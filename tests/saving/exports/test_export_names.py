"""Whatever fields, tables and labels are called, a model is trained, exported and served."""

import csv

import keras
import numpy as np

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.exports.input_names import input_names
from gmeta_tf.saving.serving.predictor import Predictor

FIELDS = ("Book-Rating", "_c1", "城市", "a b", "a-b", "count", "support_count", "größe")
SCHEMA = gm.Schema(
    (
        *(gm.Field(name, "multi" if name == "a b" else "categorical") for name in FIELDS[:6]),
        gm.Field("support_count", "dense"),
        gm.Field("größe", "dense"),
    ),
    label="'2' (stars)",
    task="user/id",
    tables=(
        gm.Table("Book-Rating", keys="raw"),
        gm.Table("_c1", keys="hash"),
        gm.Table("城市", 9, keys="raw"),
        gm.Table("a b", 5, keys="hash"),
        gm.Table("a-b", 7, keys="raw", width=3),
        gm.Table("count", 7, keys="raw"),
    ),
)


def test_names_of_inputs():
    names = input_names(SCHEMA)
    assert list(names.fields.items()) == [
        ("Book-Rating", "Book_Rating"),
        ("_c1", "_c1"),
        ("城市", "field"),
        ("a b", "a_b"),
        ("a-b", "a_b_2"),
        ("count", "count_2"),
        ("support_count", "support_count"),
        ("größe", "gr_e"),
    ]
    assert names.label == "_2_stars_"


def test_the_name_of_a_weight():
    schema = gm.Schema((gm.Field("w"), gm.Field("v 2")), "y", "u", weight="w")
    names = input_names(schema)
    assert (names.fields, names.label) == ({"w": "w", "v 2": "v_2"}, "y")
    assert names.weight == "w_2"
    assert input_names(gm.Schema((gm.Field("w"),), "y", "u")).weight is None


def test_a_name_that_can_stay_is_taken_by_no_other():
    schema = gm.Schema((gm.Field("a b"), gm.Field("a_b")), label="a-b", task="t")
    names = input_names(schema)
    assert (dict(names.fields), names.label) == ({"a b": "a_b_2", "a_b": "a_b"}, "a_b_3")


LOG = {
    "Book-Rating": [str(2**63 - 1), "0", "5"] * 8,
    "_c1": ["x", "", "y"] * 8,
    "城市": ["8", "0", "1"] * 8,
    "a b": ["p|q", "q|r|p", ""] * 8,
    "a-b": ["6", "5", "4"] * 8,
    "count": ["1", "2", "3"] * 8,
    "support_count": [str(row / 8) for row in range(24)],
    "größe": ["-1.5", "0", "1"] * 8,
    "'2' (stars)": ["0", "1", "1", "0"] * 6,
    "user/id": [str(row // 6) for row in range(24)],
}


def test_any_names_train_and_serve(tmp_path):
    with open(tmp_path / "log.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([LOG, *zip(*LOG.values(), strict=True)])
    source = files_source(tmp_path / "log.csv")
    records = prepare(source, SCHEMA, tmp_path / "records", split=Split(0.5))
    keras.utils.set_random_seed(0)
    embedding = gm.ShardedEmbedding(records.schema, 2, scale=0.5)
    model = gm.MetaModel(gm.models.MeLU((3,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("adam", "adagrad")
    model.fit(gm.TaskBatches(records, "train", tasks=2, support=3, query=3), verbose=0)
    test = gm.TaskBatches(
        records, "test", tasks=2, support=3, query=3, every_query=True, in_time_order=True
    )
    predicted = model.predict(test, verbose=0)["adapted"]
    gm.export_saved_model(model, tmp_path / "saved", records)

    # In time order a task's first three rows are its support, and the others its query.
    rows = np.arange(24)
    held_out = np.isin(rows // 6, [task for task, _ in records.read("test")])
    columns = {name: np.array(values, object) for name, values in LOG.items()}
    support, query = (
        {name: values[held_out & which] for name, values in columns.items()}
        for which in (rows % 6 < 3, rows % 6 >= 3)
    )
    served = Predictor.load(tmp_path / "saved")(query, support)
    assert len(served) == 6
    np.testing.assert_allclose(np.sort(served), np.sort(predicted), atol=2e-6)
    assert np.ptp(served) > 1e-3
    # The same, typed as another source would have them.
    query["user/id"] = query["user/id"].astype(int)
    query["count"] = query["count"].astype(int)
    support["a b"] = [value.split("|") for value in support["a b"]]
    support["user/id"] = np.array([f" {task} " for task in support["user/id"]])
    again = Predictor.load(tmp_path / "saved")(query, support | {"a b": objects(support["a b"])})
    np.testing.assert_array_equal(again, served)


def objects(values):
    column = np.empty(len(values), object)
    column[:] = values
    return column
