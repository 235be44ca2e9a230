"""Transformed dense values: what is served of raw ones is what was trained."""

import csv
import logging
import pathlib

import keras
import numpy as np
import pytest
from made_dense import NAMES, SCHEMA, write_dense_log

import gmeta_tf as gm
from gmeta_tf.cli.main import main
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.serving.predictor import Predictor


def read_columns(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    source = files_source(write_dense_log(folder / "log.csv"))
    records = prepare(source, SCHEMA, folder / "records", split=Split(0.4), num_files=2)
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(records.schema, 4, scale=0.5)
    model = gm.MetaModel(gm.models.MeLU((8,)), embedding, gm.InnerLoop(2, 0.3))
    model.compile(keras.optimizers.Adam(0.05), gm.Adagrad(0.3))
    model.fit(gm.TaskBatches(records, "train", tasks=4, support=2, query=3), epochs=2, verbose=0)
    gm.export_saved_model(model, folder / "saved", records)
    return model, records, read_columns(folder / "log.csv"), folder / "saved"


def rows_of_test(records, columns):
    """The raw support and query rows of the test's tasks; no two rows have one price."""
    batches = gm.TaskBatches(
        records, "test", tasks=2, support=2, query=20, every_query=True, shuffle=False
    )
    ranges = dict(zip((f.name for f in records.schema.fields), slot_ranges(records.schema)))
    row_of = {np.float32(price): row for row, price in enumerate(columns["price"])}
    assert len(row_of) == len(columns["price"])
    support, query = [], []
    for step in batches.picked(0).take(batches.steps_per_epoch).as_numpy_iterator():
        words = np.ascontiguousarray(step["words"][:, :, ranges["price"][0]])
        prices = words.view(np.float32)
        for price, num_support, num_query in zip(prices, step["num_support"], step["num_query"]):
            support.extend(row_of[one] for one in price[:num_support])
            query.extend(row_of[one] for one in price[2 : 2 + num_query])
    return batches, np.array(support), np.array(query)


def test_served_is_trained(trained):
    model, records, columns, saved = trained
    batches, support, query = rows_of_test(records, columns)
    blank = {name: [not columns[name][row].strip() for row in query] for name in NAMES}
    assert all(any(missing) != (name == "price") for name, missing in blank.items())
    predicted = model.predict(batches, verbose=0)["adapted"]
    assert np.ptp(predicted) > 0.01
    predictor = Predictor.load(saved)
    parts = [{k: v[rows] for k, v in columns.items()} for rows in (query, support)]
    np.testing.assert_allclose(predictor(*parts, tasks=3), predicted, atol=2e-6)
    # Numbers and NaN or None in place of texts.
    for name in NAMES:
        for part in parts:
            numbers = [float(v) if v.strip() else None for v in part[name]]
            part[name] = np.array(numbers, object if name == "age" else float)
    np.testing.assert_allclose(predictor(*parts, tasks=3), predicted, atol=2e-6)


def test_a_missing_value_of_a_field_that_needs_one_is_an_error(trained):
    *_, columns, saved = trained
    parts = [{k: v[:4].copy() for k, v in columns.items()} for _ in range(2)]
    parts[0]["price"][2] = ""
    with pytest.raises(ValueError, match=r"column 'price', row 3 .*: expected a finite number"):
        Predictor.load(saved)(*parts)
    parts[0]["price"][2], parts[0]["year"][1] = "1", "MCMXC"
    with pytest.raises(ValueError, match=r"column 'year', row 2 .*: expected a finite number"):
        Predictor.load(saved)(*parts)


def test_the_learner_sees_numbers_of_about_one(trained):
    _, records, *_ = trained
    batches = gm.TaskBatches(records, "train", tasks=4, support=2, query=3)
    assert records.schema.num_dense_columns == 1 + 1 + 1 + 5 + 4 + 2
    for batch in batches.dataset().take(batches.steps_per_epoch):
        assert batch["query"]["dense"].shape[2] == records.schema.num_dense_columns
        assert np.abs(batch["query"]["dense"]).max() < 7  # ln of a price
        assert np.isfinite(batch["query"]["dense"]).all()


def test_the_command_warns_before_the_records_and_before_training(tmp_path, capsys, caplog):
    write_dense_log(tmp_path / "log.csv")
    schema = "fields: [{name: item}, {name: year, kind: dense, missing: 1970}]\n"
    (tmp_path / "schema.yaml").write_text(f"{schema}label: liked\ntask: user\n")
    records, run = str(tmp_path / "records"), str(tmp_path / "run")
    main(
        [
            *("prepare", "--input", str(tmp_path / "log.csv"), "--output", records),
            *("--schema", str(tmp_path / "schema.yaml")),
        ]
    )
    said = "the dense field 'year' has values from"
    assert f"warning: {said}" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING):
        main(
            [
                *("train", "--records", records, "--run", run, "--epochs", "1", "--tasks", "4"),
                *("--support", "2", "--query", "2"),
            ]
        )
    assert [said in line.getMessage() for line in caplog.records].count(True) == 1
    assert pathlib.Path(run).is_dir()
