"""Day 1 trains and exports; day 2 appends, goes on and sends a delta: equal to a full export."""

import os
import re

import numpy as np
import pytest
from made_log import write_day_2

from gmeta_tf.cli import main as cli
from gmeta_tf.saving.exports.export_version import read_version
from gmeta_tf.saving.exports.served_values import OBJECT_GRAPH, read_values
from gmeta_tf.saving.runs.exported import exported_checkpoint


@pytest.fixture(scope="module")
def loop(folder, small, tmp_path_factory):
    """Both days, in a folder of their own; `models` holds the versions that are served."""
    here = tmp_path_factory.mktemp("loop")
    schema, run, models = str(folder / "schema.yaml"), str(here / "run"), str(here / "models")
    records = ["--records", str(here / "records"), "--run", run]
    log = ["--input", str(folder / "log.csv"), "--schema", schema]
    cli.main(["prepare", *log, "--output", str(here / "records"), "--valid-fraction", "0.1"])
    cli.main(["train", *records, "--epochs", "1", *small])
    cli.main(["export", "--run", run, "--versions", models])
    write_day_2(here / "day-2.csv")
    log = ["--input", str(here / "day-2.csv"), "--schema", schema]
    cli.main(["prepare", *log, "--output", str(here / "records"), "--append"])
    # Enough epochs to drop what is not kept for the delta.
    cli.main(["train", *records, "--resume", "--epochs", "4", *small])
    cli.main(["export", "--run", run, "--since", "epoch-000001"])
    return here


@pytest.mark.slow
def test_delta_and_full_export_are_equal(loop, capsys):
    models = loop / "models"
    capsys.readouterr()
    cli.main(["apply-delta", "--saved-model", str(models), "--delta", str(loop / "run" / "delta")])
    assert capsys.readouterr().out.startswith(f"{models / '2'}: ")
    cli.main(["export", "--run", str(loop / "run"), "--versions", str(models), "--keep", "2"])
    assert capsys.readouterr().out.endswith(f"{models / '1'}: removed\n")
    assert sorted(os.listdir(models)) == ["2", "3"]
    assert read_version(models / "2") == read_version(models / "3")
    assert read_version(models / "2").checkpoint == "epoch-000004"
    found, expected = (read_values(models / name) for name in ("2", "3"))
    assert set(found) == set(expected)
    for name in set(found) - {OBJECT_GRAPH}:
        np.testing.assert_array_equal(found[name], expected[name])
    outputs = []
    for name in ("2", "3"):
        outputs.append(loop / f"{name}.csv")
        rows = ["--query", str(loop / "day-2.csv"), "--support", str(loop / "day-2.csv")]
        words = ["--saved-model", str(models / name), *rows, "--output", str(outputs[-1])]
        cli.main(["predict", *words])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.slow
def test_the_exported_checkpoint_is_kept(loop):
    checkpoints = sorted(os.listdir(loop / "run" / "checkpoint"))
    assert checkpoints == ["epoch-000001", "epoch-000003", "epoch-000004"]
    assert exported_checkpoint(loop / "run") == "epoch-000004"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--since", "epoch-000007"], "is not a checkpoint: expected"),
        (["--since", "epoch-000001", "--versions", "m"], "expected --versions, .* without --since"),
        (["--output", "o", "--versions", "m"], "expected --versions, .* without --output"),
        (["--keep", "2"], "expected --keep with --versions, got it without"),
        (["--versions", "{models}/1"], "to be a folder of versions, such as .*/1/1, got an export"),
    ],
)
def test_wrong_words(loop, words, match, capsys):
    words = [word.format(models=loop / "run") for word in words]
    if words[-1].endswith("/1"):
        cli.main(["export", "--run", str(loop / "run"), "--output", str(loop / "run" / "1")])
    with pytest.raises(SystemExit):
        cli.main(["export", "--run", str(loop / "run"), *words])
    assert re.search(match, capsys.readouterr().err)


def test_apply_delta_needs_an_output(tmp_path, capsys):
    words = ["--saved-model", str(tmp_path), "--delta", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.main(["apply-delta", *words])
    shown = capsys.readouterr().err
    assert shown.startswith("gmeta-tf apply-delta: expected --output, as ")
    with pytest.raises(SystemExit):
        cli.main(["apply-delta", *words, "--keep", "0"])
    assert "expected --keep of at least 1, got 0" in capsys.readouterr().err
