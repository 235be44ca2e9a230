"""Crosses in a served model: the keys that `prepare` made, in every signature, and no input."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made_crosses import SCHEMA, made_rows
from prepare_twin import write_rows

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.crosses import crossed_keys as prepared_keys
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.word_checks import keys_of
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.exports.export import export_saved_model, serving_graph
from gmeta_tf.saving.exports.served_keys import crossed_keys
from gmeta_tf.saving.exports.wire_forms import as_texts
from gmeta_tf.schema import Table

GIVEN = ("item", "brand", "slot", "id", "tags", "ids")
CROSSES = ("item_x_brand", "far", "tags_x_ids", "tags_x_item")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("log") / "log.csv", made_rows())


@pytest.fixture(scope="module")
def records(log):
    folder = log.removesuffix("log.csv") + "records"
    return prepare(files_source(log), SCHEMA, folder, split=Split(0.0))


@pytest.fixture(scope="module")
def model(records):
    keras.utils.set_random_seed(0)
    dynamic = gm.DynamicTable(capacity=8)
    embedding = gm.ShardedEmbedding(records.schema, 4, dynamic=dynamic, scale=0.5, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("adam", "adagrad")
    batches = gm.TaskBatches(records, "train", tasks=2, support=3, query=4)
    model.fit(batches, epochs=1, verbose=0)
    return model


@pytest.fixture(scope="module")
def graph(model, records):
    return serving_graph(model, records)


def prepared_of(records):
    """Field -> the keys of all rows, int64 [n, slots]; rows by task, each task's in their order."""
    words = np.concatenate([words for _, words in records.read("train")], axis=1)
    ranges = zip(records.schema.fields, slot_ranges(records.schema), strict=True)
    return {
        field.name: keys_of(
            words[slice(*planes)], records.schema.table(field.table_name).words_per_key
        ).T
        for field, planes in ranges
        if field.kind != "dense"
    }


def texts_in_order():
    """Field -> the texts of the same rows, [1, n]."""
    rows = sorted(made_rows(), key=lambda row: row["user"])
    return {name: tf.constant([[row[name] for row in rows]]) for name in GIVEN}


def test_a_served_cross_has_the_key_that_was_prepared(graph, records):
    shape = tf.constant([1, 60])
    served = graph._keys_of_fields(as_texts(graph.keys), texts_in_order(), {}, shape)
    prepared = prepared_of(records)
    for name in (*GIVEN, *CROSSES):
        np.testing.assert_array_equal(served[name].numpy()[0], prepared[name], err_msg=name)
    assert all(len(np.unique(prepared[name])) > 5 for name in CROSSES)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_any_keys_are_crossed_alike(data):
    slots = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    num_slots = data.draw(st.integers(1, 6))
    num_rows = data.draw(st.integers(1, 3))
    table = Table("x", data.draw(st.sampled_from([None, 2, 1000])), keys="hash")
    parts = []
    for most in slots:
        keys = np.full([num_rows, most], -1, np.int64)
        for row in keys:
            known = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=most))
            row[: len(known)] = known
        parts.append(keys)
    served = crossed_keys([tf.constant(part[np.newaxis]) for part in parts], table, num_slots)
    assert served.numpy()[0].tolist() == prepared_keys(parts, table, num_slots)[0].tolist()


def inputs_of(texts, prefix):
    rows = {f"{prefix}_{name}": values for name, values in texts.items()}
    return rows | {f"{prefix}_price": tf.fill(rows[f"{prefix}_item"].shape, 1.5)}


def test_every_signature_predicts_the_same_without_crosses(graph, records):
    signatures = graph.signatures()
    for signature in signatures.values():
        names = " ".join(signature.structured_input_signature[1])
        assert not any(name in names for name in CROSSES)
    texts = texts_in_order()
    label = {"support_click": tf.ones([1, 20]), "support_count": tf.constant([20])}
    support = {name: values[:, :20] for name, values in texts.items()}
    query = {name: values[:, 20:] for name, values in texts.items()}
    given_texts = label | inputs_of(support, "support") | inputs_of(query, "query")
    expected = signatures["predict"](**given_texts)["prediction"].numpy()
    assert len(np.unique(expected)) > 30
    prepared = prepared_of(records)
    keys = {}
    for name in GIVEN:
        of_field = prepared[name][np.newaxis]
        is_multi = of_field.shape[2] > 1
        of_field = tf.constant(of_field if is_multi else of_field[:, :, 0])
        for prefix, part in (("support", slice(20)), ("query", slice(20, None))):
            keys[f"{prefix}_{name}"] = of_field[:, part]
    found = signatures["predict_keys"](**given_texts | keys)["prediction"].numpy()
    np.testing.assert_array_equal(found, expected)
    specs = signatures["predict_integers"].structured_input_signature[1]
    integers = {
        name: tf.strings.to_number(tf.where(texts_of == "", "0", texts_of), tf.int64)
        for name, texts_of in given_texts.items()
        if name != "support_count" and specs[name].dtype == tf.int64
    }
    assert sorted(integers) == ["query_id", "query_slot", "support_id", "support_slot"]
    found = signatures["predict_integers"](**given_texts | integers)["prediction"].numpy()
    np.testing.assert_array_equal(found, expected)
    features = {}
    for name, values in given_texts.items():
        own = values.numpy().reshape(-1).tolist()
        if values.dtype == tf.string:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=own))
        elif name != "support_count":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=own))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    found = signatures["predict_examples"](examples=tf.constant([example.SerializeToString()]))
    np.testing.assert_array_equal(found["prediction"].numpy(), expected)


def test_a_predictor_takes_rows_without_crosses(model, records, tmp_path):
    export_saved_model(model, tmp_path / "saved_model", records)
    described = json.loads((tmp_path / "saved_model/assets.extra/schema.json").read_text())
    assert gm.Schema.from_json(described) == records.schema
    predictor = gm.Predictor.load(tmp_path / "saved_model")
    rows = {name: [row[name] for row in made_rows()] for name in ("user", *GIVEN, "price")}
    support = rows | {"click": [1.0] * 60}
    predictions = predictor(rows, support)
    assert len(np.unique(predictions)) > 30
