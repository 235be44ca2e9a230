"""An export that finds an item's features itself predicts what rows that carry them do."""

import csv
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from made_tables import schema_of, write_flat, write_tables

import gmeta_tf as gm
from gmeta_tf.cli.look_ups import read_look_ups
from gmeta_tf.cli.main import main

FOUND = {"year", "genre", "country"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on joined tables, its plain export, and one that looks up by the item."""
    folder = tmp_path_factory.mktemp("look-ups")
    rows = write_tables(folder)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema_of(".").to_json()))
    records, run = str(folder / "records"), str(folder / "run")
    words = ["--schema", str(folder / "schema.yaml"), "--output", records, "--num-files", "2"]
    main(["prepare", "--input", str(folder / "log-*.csv"), *words])
    training = ["--epochs", "1", "--tasks", "4", "--support", "2", "--query", "2", "--loss", "mse"]
    main(["train", "--records", records, "--run", run, *training])
    main(["export", "--run", run])
    main(["export", "--run", run, "--look-up", "item", "--output", str(folder / "short")])
    write_flat(folder / "flat.jsonl", rows)
    return folder


def predicted(folder, model, query, support):
    main(
        [
            *("predict", "--saved-model", str(folder / model), "--query", str(folder / query)),
            *("--support", str(folder / support), "--output", str(folder / "p.csv")),
        ]
    )
    with open(folder / "p.csv", newline="") as file:
        return np.array([float(row["prediction"]) for row in csv.DictReader(file)])


def test_requests_do_without_what_is_looked_up(made):
    whole, short = (
        tf.saved_model.load(str(made / name)).signatures for name in ("run/saved_model", "short")
    )
    assert set(short) == set(whole)
    for name in set(whole) - {"predict_examples"}:
        inputs = [set(one[name].structured_input_signature[1]) for one in (whole, short)]
        left_out = {one.partition("_")[2] for one in inputs[0] - inputs[1]}
        assert left_out == (set() if name == "predict_keys" else FOUND), name


@pytest.mark.parametrize("query", ["log-0.csv", "log-2.csv"])
def test_predictions_are_those_of_rows_that_have_everything(made, query):
    """Items that stand in no table, an item without a brand, rows without an item among them."""
    whole = predicted(made, "run/saved_model", query, "log-1.csv")
    short = predicted(made, "short", query, "log-1.csv")
    np.testing.assert_array_equal(short, whole)
    assert np.ptp(whole) > 0


def test_the_looked_up_tables_are_not_read_again(made, tmp_path):
    expected = predicted(made, "short", "log-0.csv", "log-1.csv")
    away = ("items.tsv", "genres.csv", "brands.csv")
    for name in away:
        shutil.move(made / name, tmp_path / name)
    try:
        np.testing.assert_array_equal(predicted(made, "short", "log-0.csv", "log-1.csv"), expected)
    finally:
        for name in away:
            shutil.move(tmp_path / name, made / name)


def test_a_value_is_given_once_and_as_an_example(made):
    """An item that is the same in all rows of a task, and rows as tf.train.Example."""
    loaded = tf.saved_model.load(str(made / "short"))
    predict, examples = (loaded.signatures[name] for name in ("predict", "predict_examples"))
    items, ages = [["i3", "i4", "i5"], ["i7", "", "none"]], [["20"], ["31"]]
    inputs = {
        "support_item": items,
        "support_age": [["20"] * 3, ["31"] * 3],
        "support_stars": [[1.0, 2.0, 5.0], [4.0, 3.0, 1.0]],
        "support_count": [3, 3],
        "query_item": [[" i6 "], ["i2"]],
        "query_age": [["20", "21"], ["31", "32"]],
    }
    once = predict(**{name: tf.constant(one) for name, one in inputs.items()})["prediction"]
    inputs["query_item"] = [["i6", "i6"], ["i2", "i2"]]
    inputs["support_age"] = ages
    whole = predict(**{name: tf.constant(one) for name, one in inputs.items()})["prediction"]
    np.testing.assert_array_equal(once, whole)
    serialized = [_example(inputs, task) for task in range(2)]
    of_examples = examples(examples=tf.constant(serialized))["prediction"]
    np.testing.assert_allclose(of_examples, whole, rtol=1e-6)


def _example(inputs, task):
    feature = {}
    for name, values in inputs.items():
        if name == "support_count":
            continue
        of_task = values[task]
        feature[name] = (
            tf.train.Feature(float_list=tf.train.FloatList(value=of_task))
            if name == "support_stars"
            else tf.train.Feature(
                bytes_list=tf.train.BytesList(value=[one.encode() for one in of_task])
            )
        )
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_a_delta_brings_the_tables_of_its_day(made, tmp_path):
    """A film that the table did not have when the base was exported."""
    shutil.copytree(made, tmp_path / "later")
    later = tmp_path / "later"
    config = ["--records", str(later / "records")]
    before = (made / "items.tsv").read_text()
    try:
        (made / "items.tsv").write_text(before + "i0\tb1\t1999\n")
        run = str(later / "run")
        more = ["--resume", "--epochs", "2", *config]
        main(["train", "--run", run, *more, *TRAINING])
        main(["export", "--run", run, *config, "--since", "epoch-000001", "--look-up", "item"])
        full = str(later / "full")
        main(["export", "--run", run, *config, "--look-up", "item", "--output", full])
    finally:
        (made / "items.tsv").write_text(before)
    main(
        [
            *("apply-delta", "--saved-model", str(made / "short")),
            *("--delta", str(later / "run/delta"), "--output", str(later / "applied")),
        ]
    )
    applied, whole = (
        predicted(later, name, "log-0.csv", "log-1.csv") for name in ("applied", "full")
    )
    np.testing.assert_array_equal(applied, whole)
    # Of an item that the base found nothing for: its year is 1999 now, and was missing.
    of_item = {"user": ["u"], "age": ["30"], "item": ["i0"]}
    none = {name: [] for name in (*of_item, "stars")}
    with_year = of_item | {"year": [1999], "genre": [None], "country": ["c1"]}
    main(["export", "--run", run, *config, "--output", str(later / "plain")])
    expected = gm.Predictor.load(later / "plain")(with_year, {n: [] for n in (*with_year, "stars")})
    assert gm.Predictor.load(later / "applied")(of_item, none) == expected
    assert gm.Predictor.load(later / "applied").looked_up == {"item": ["year", "genre", "country"]}


TRAINING = ["--tasks", "4", "--support", "2", "--query", "2", "--loss", "mse"]


@pytest.mark.parametrize("name", ["age", "film", "genre"])
def test_a_field_that_no_table_is_joined_on(name, tmp_path):
    with pytest.raises(ValueError, match=rf"joined on \(item\), got {name!r}"):
        read_look_ups(schema_of(tmp_path), [name])
