"""Histories in a served model: the request carries them, and their keys are those of `prepare`."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made_histories import SCHEMA, made_rows
from prepare_twin import write_rows

import gmeta_tf as gm
from gmeta_tf.cli.main import main
from gmeta_tf.meta_io.preparing.histories import distinct_known
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.records.word_checks import keys_of
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.exports.export import export_saved_model
from gmeta_tf.saving.exports.served_keys import ServedKeys

ITEMS = np.array(["a", "b", "c"], object)
SERVED = ServedKeys(SCHEMA, {"item": ITEMS})


def past_of(rows, row, column):
    """What a request carries: the values of all earlier rows, the newest first."""
    own = rows[row]
    past = [
        (float(other["at"]), place)
        for place, other in enumerate(rows)
        if other["user"] == own["user"] and float(other["at"]) < float(own["at"])
    ]
    return "|".join(rows[place][column] for _, place in sorted(past, reverse=True))


def test_a_request_of_the_log_has_the_keys_that_were_prepared(tmp_path):
    rows = made_rows()
    source = files_source(write_rows(tmp_path / "log.csv", rows))
    records = prepare(source, SCHEMA, tmp_path / "records", split=Split(0.3, by="time"))
    served = ServedKeys(records.schema, {"item": read_vocabulary(records.path, "item")})
    compared = 0
    ranges = list(zip(records.schema.fields, slot_ranges(records.schema), strict=True))
    for split in records.splits:
        for _, words in records.read(split):
            numbers = words[0].view(np.float32).astype(int).tolist()
            for field, planes in ranges:
                if field.last is None:
                    continue
                width = records.schema.table(field.table_name).words_per_key
                expected = keys_of(words[slice(*planes)], width).T
                texts = [[past_of(rows, row, field.of) for row in numbers]]
                found = served(field, tf.constant(texts)).numpy()[0]
                np.testing.assert_array_equal(found, expected)
                compared += len(expected)
    assert compared == 2 * len(rows)


@given(st.lists(st.sampled_from(["a", " b", "c", "unknown", ""]), max_size=7))
@settings(deadline=None)
def test_any_request_has_the_keys_of_its_last_rows(items):
    field = SCHEMA.fields[0]
    found = SERVED(field, tf.constant([["|".join(items)]])).numpy()[0]
    known = ["", *ITEMS]
    keys = [known.index(item.strip()) if item.strip() in known else 0 for item in items][:3]
    assert found.tolist() == distinct_known(np.array([keys + [-1] * (3 - len(keys))])).tolist()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    source = files_source(write_rows(folder / "log.csv", made_rows()))
    records = prepare(source, SCHEMA, folder / "records", split=Split(0.0))
    embedding = gm.ShardedEmbedding(
        records.schema, 4, dynamic=gm.DynamicTable(capacity=8), scale=0.5, world=gm.World()
    )
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("adam", "adagrad")
    export_saved_model(model, folder / "saved", records)
    return gm.Predictor.load(folder / "saved"), folder


def test_a_predictor_takes_lists_and_texts(predictor):
    predictor, _ = predictor
    rows = {"user": ["u"] * 3, "item": ["a"] * 3, "shop": ["3"] * 3, "row": [1.0] * 3}
    support = {name: values[:0] for name, values in rows.items()}
    support |= {"history": [], "shops": []}
    rows |= {"shops": np.array([["3"], [], ["3", "0"]], object)}
    as_lists = predictor(rows | {"history": np.array([["a", "b"], [], ["b"]], object)}, support)
    as_texts = predictor(rows | {"history": ["a|b", "", "b"], "shops": ["3", "", "3|0"]}, support)
    np.testing.assert_array_equal(as_lists, as_texts)
    assert as_lists[0] != as_lists[1]
    with pytest.raises(ValueError, match="no column 'history'"):
        predictor(rows, support)


def test_the_command_reads_a_column_of_histories(predictor, tmp_path):
    rows = [
        {"user": "u", "item": item, "shop": "3", "history": past, "shops": "3|0"}
        for item, past in (("a", "a|b"), ("a", ""), ("b", "b"))
    ]
    query = write_rows(tmp_path / "query.csv", rows)
    support = write_rows(tmp_path / "support.csv", [rows[0] | {"row": "1"}])
    folder, output = predictor[1], str(tmp_path / "out.csv")
    files = ("--query", query, "--support", support, "--output", output)
    main(["predict", "--saved-model", str(folder / "saved"), *files])
    with open(output, newline="", encoding="utf-8") as file:
        found = [float(row["prediction"]) for row in csv.DictReader(file)]
    columns = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    known = {name: values[:1] for name, values in columns.items()} | {"row": np.ones(1)}
    np.testing.assert_allclose(found, predictor[0](columns, known), rtol=1e-6)
    assert found[0] != found[1]
