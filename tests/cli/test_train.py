"""`gmeta-tf train`: when it ends in an error, and what options it resumes with."""

import json
import pathlib
import shutil
import types

import pytest
import yaml

import gmeta_tf as gm
from gmeta_tf.cli import evaluate as evaluate_command
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.cli.runs import load_run
from gmeta_tf.cli.train import check_outcome


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["loss", "val_loss", "val_auc_adapted"])
def test_a_last_epoch_without_a_number_is_an_error(name, value):
    with pytest.raises(ValueError, match=rf"got none for {name}: the model diverged"):
        check_outcome({"loss": [0.7, 0.6], name: [0.5, value]}, 8)
    check_outcome({"loss": [0.7, 0.6], name: [value, 0.5]}, 8)


def test_an_epoch_of_skipped_steps_is_an_error():
    check_outcome({"loss": [0.7], "skipped_steps": [7.0]}, 8)
    with pytest.raises(ValueError, match="got none: all 8 steps of the last epoch were left out"):
        check_outcome({"loss": [0.0], "skipped_steps": [8.0]}, 8)
    check_outcome({}, 8)  # a run that had nothing left to train


@pytest.fixture
def run(folder, tmp_path):
    """A copy of the trained run."""
    return pathlib.Path(shutil.copytree(folder / "run", tmp_path / "run"))


def test_the_options_given_win_over_the_checkpoint(folder, small, run, capsys):
    words = ["train", "--records", str(folder / "records"), "--run", str(run), *small, "--resume"]
    cli.main([*words, "--epochs", "3", "--learning-rate", "0.25", "--no-validate"])
    shown = capsys.readouterr().out.splitlines()
    assert "--learning-rate: 0.25, was 0.002" in shown
    assert "--epochs: 3, was 2" in shown
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"] == 0.25
    _, _, model = load_run(str(run), gm.World())
    assert float(model.optimizer._learning_rate(0)) == pytest.approx(0.25)  # and falls


class Evaluated:
    """Stands for a trained model: what it is asked to evaluate, and an AUC."""

    accumulator = types.SimpleNamespace(names=("auc",), keeps_rows=False, kept_rows=lambda: None)
    row_loss = types.SimpleNamespace(predicts_probabilities=True, name="binary_crossentropy")

    def __init__(self, auc):
        self.auc, self.asked = auc, []

    def evaluate(self, batches, **options):
        self.asked.append(batches)
        return {"loss": 0.5, "auc_adapted": self.auc, "tasks": 8.0, "samples": 60.0}


@pytest.fixture
def evaluated(run, monkeypatch):
    """Puts an `Evaluated` in the place of the run's model."""

    def put(auc):
        options, model = read_config(run), Evaluated(auc)
        loaded = options, gm.Records.open(options.records), model
        checkpoint = types.SimpleNamespace(path=run / "checkpoint" / "epoch-000002")
        chosen = types.SimpleNamespace(checked=checkpoint, reason=lambda: "the newest")
        monkeypatch.setattr(
            evaluate_command, "load_chosen_run", lambda *given, **more: (loaded, chosen)
        )
        return model

    return put


@pytest.mark.parametrize(
    ("trained", "words", "expected"),
    [
        (False, [], False),
        (True, [], True),
        (True, ["--in-time-order", "false"], False),
        (False, ["--in-time-order", "true"], True),
    ],
)
def test_evaluate_takes_support_rows_as_the_run_did(
    run, evaluated, trained, words, expected, capsys
):
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"in_time_order": trained}
    config.write_text(yaml.safe_dump(values))
    model = evaluated(0.75)
    cli.main(["evaluate", "--run", str(run), *words, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["in_time_order"] is expected
    assert [batches.in_time_order for batches in model.asked] == [expected]
    assert json.loads((run / "evaluation-test.json").read_text()) == report
    assert report["baseline"] in ("item", "liked")
    assert 0 < report["auc_baseline"] < 1


def test_a_metric_without_a_value_is_an_error_once_the_report_is_there(run, evaluated, capsys):
    evaluated(float("nan"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--run", str(run), "--json"])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "a number for every metric, got none for auc_adapted" in shown.err
    report = json.loads(shown.out, parse_constant=pytest.fail)
    assert report["auc_adapted"] is None
    assert json.loads((run / "evaluation-test.json").read_text()) == report


def test_validation_takes_support_rows_as_training_does(folder, small, tmp_path, monkeypatch):
    """And labels are checked before the run folder is touched."""
    asked = []

    def check_data(model, training, validation):
        asked.append((training.in_time_order, validation.in_time_order))
        raise ValueError("stops here")

    monkeypatch.setattr(gm.MetaModel, "check_data", check_data)
    words = ["train", "--records", str(folder / "records"), "--run", str(tmp_path / "r"), *small]
    for flag, expected in (("--in-time-order", True), ("--no-in-time-order", False)):
        with pytest.raises(SystemExit):
            cli.main([*words, flag])
        assert asked.pop() == (expected, expected)
    assert not (tmp_path / "r").exists()
