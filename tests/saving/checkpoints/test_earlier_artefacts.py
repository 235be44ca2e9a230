"""Records, runs and SavedModels of an earlier version and of either stack give what they gave then.

`before_the_rooms` was written with TensorFlow 2.16.2, `current_stack` with 2.21.0: so each stack
reads here what the other wrote.
"""

import csv
import json
import pathlib
import shutil
import tarfile

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary

DATA = pathlib.Path(__file__).parents[2] / "data"

# Sums in another order than two ranks and another processor added them up in.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(params=["before_the_rooms", "current_stack"])
def folder(request, tmp_path, monkeypatch):
    """A copy of the artefacts, as the working directory: the run names its records by `records`."""
    copied = tmp_path / "earlier"
    shutil.copytree(DATA / request.param, copied)
    with tarfile.open(copied / "saved_model.tar.xz") as packed:
        packed.extractall(copied / "run", filter="data")
    monkeypatch.chdir(copied)
    return copied


def predictions_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][-1] == "prediction"
    return [row[:-1] for row in rows], np.array([float(row[-1]) for row in rows[1:]])


def assert_predicts_as_then(saved_model, tmp_path):
    output = tmp_path / "predictions-now.csv"
    words = ("--query", "log.csv", "--support", "log.csv", "--output", str(output))
    cli.main(["predict", "--saved-model", str(saved_model), *words])
    rows, found = predictions_of(output)
    expected_rows, expected = predictions_of("predictions.csv")
    assert rows == expected_rows
    assert len(set(expected)) > 100
    np.testing.assert_allclose(found, expected, **FLOAT32)


def test_records_open_and_are_whole(folder):
    records = gm.Records.open("records")
    assert {name: split.rows for name, split in records.contents.items()} == {
        "train": 112,
        "valid": 40,
        "test": 40,
    }
    assert records.schema.table("item").num_rows == 13
    assert not verify("records").damages


def test_prepare_writes_the_same_bytes(folder):
    words = ("--num-files", "2", "--valid-fraction", "0.2", "--no-progress", "--output", "new")
    cli.main(["prepare", "--input", "log.csv", "--schema", "schema.yaml", *words])
    old = pathlib.Path("records")
    paths = sorted([*old.glob("*.npy"), *old.glob("*.tfrecord")])
    assert len(paths) == 9
    for path in paths:
        assert pathlib.Path("new", path.name).read_bytes() == path.read_bytes(), path
    for table in ("item", "genre"):
        assert read_vocabulary("new", table).tolist() == read_vocabulary(old, table).tolist()


def test_the_run_evaluates_as_then(folder, capsys):
    # Without --item, today's baseline is that of the best field.
    cli.main(["evaluate", "--run", "run", "--json", "--item", "item"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = json.loads(pathlib.Path("evaluate.json").read_text())
    assert expected["auc_adapted"] != expected["auc_unadapted"]
    for name, value in expected.items():
        assert found[name] == (
            pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        )


def test_training_goes_on_from_its_checkpoint(folder):
    words = ("--width", "4", "--hidden", "6", "--tasks", "4", "--support", "3", "--query", "4")
    more = ("--model", "maml_dlrm", "--capacity", "100", "--epochs", "3", "--resume")
    cli.main(["train", "--records", "records", "--run", "run", *words, *more])
    metrics = json.loads(pathlib.Path("run", "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert pathlib.Path("run", "checkpoint", "epoch-000003", "manifest.json").is_file()


def test_its_saved_model_predicts_as_then(folder, tmp_path):
    assert_predicts_as_then("run/saved_model", tmp_path)


def test_the_run_exported_anew_predicts_as_then(folder, tmp_path):
    cli.main(["export", "--run", "run", "--output", str(tmp_path / "again")])
    assert_predicts_as_then(tmp_path / "again", tmp_path)
