"""A served model makes the keys that `prepare` made, whatever their kind."""

import csv

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving import export

S, Q = 3, 4

SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("brand"),
        gm.Field("tags", "multi", table="brand", max_values=3),
        gm.Field("slot"),
        gm.Field("far"),
    ),
    label="click",
    task="user",
    time="when",
    tables=(
        gm.Table("item"),
        gm.Table("brand", 50, keys="hash"),
        gm.Table("slot", 12, keys="raw"),
        # Two words a key in the records, few of them used.
        gm.Table("far", 2**31 + 8, keys="raw", width=2),
    ),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "brand", "tags", "slot", "far", "click", "when"])
        for row in range(60):
            brand = draw.choice(["", " Ünd ", "x", "a b"])
            tags = "|".join(draw.choice(["x", "y", " z", "", "x"], draw.integers(0, 5)))
            far = draw.choice([0, 5, 2**31 + 7])
            values = [f"u{row % 6}", f"i{draw.integers(9)}", brand, tags, draw.integers(12), far]
            writer.writerow([*values, draw.integers(2), row])
    return path


def test_served_keys_are_those_of_prepare(log, tmp_path, monkeypatch):
    records = prepare(files_source(log), SCHEMA, tmp_path / "records", split=Split(0.2))
    schema = records.schema
    with open(log, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    task_of = dict(zip((f"u{i}" for i in range(6)), range(6), strict=True))

    class Model:
        class embedding:
            pass

    Model.embedding.schema = schema
    serving = export._Serving.__new__(export._Serving)
    tf.Module.__init__(serving, name="keys")
    serving._model = Model
    vocabulary = export.read_vocabulary(records.path, "item")
    serving.vocabularies = {"item": export._lookup_table(vocabulary, "item")}
    compared = 0
    for split in records.splits:
        for task, words in records.read(split):
            own = [row for row in rows if task_of[row["user"]] == task]
            inputs = {
                f"support_{field.name}": tf.constant([[row[field.name] for row in own]])
                for field in schema.fields
            }
            label = tf.constant([[float(row["click"]) for row in own]])
            found = serving._words(inputs, "support", label)
            np.testing.assert_array_equal(np.transpose(found[0]), words)
            compared += words.size
    assert compared == 60 * (1 + 1 + 1 + 3 + 1 + 2)


def test_what_is_no_raw_key_reads_row_0():
    serving = export._Serving.__new__(export._Serving)
    table = gm.Table("slot", 12, keys="raw")
    values = tf.constant(["", "7", "11", "12", "-1", "1.5", "x", "9" * 30, "007"])
    assert serving._key_of(table, values).numpy().tolist() == [0, 7, 11, 0, 0, 0, 0, 0, 7]
