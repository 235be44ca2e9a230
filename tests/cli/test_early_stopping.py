"""`gmeta-tf train --patience --choose-by`, and what the other commands then load."""

import json
import shutil

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_batches import check_validation, evaluation_batches
from gmeta_tf.cli.runs import load_run
from gmeta_tf.saving.checkpoints.checkpoint import checked_checkpoint, restore_checkpoint
from gmeta_tf.saving.runs import run_folder

ONE = gm.World()
VALUES = [0.5, 0.7, 0.6, 0.6, 0.9]


@pytest.fixture
def validated(monkeypatch):
    """Has the validation give `VALUES`, epoch after epoch."""
    compare = run_folder.RunFolder._compare

    def scripted(self, epoch, values):
        return compare(self, epoch, values | {"val_auc_adapted": VALUES[epoch - 1]})

    monkeypatch.setattr(run_folder.RunFolder, "_compare", scripted)


def words(folder, run, small, *more):
    return ["train", "--records", str(folder / "records"), "--run", str(run), *small, *more]


def iterations(model):
    return int(model.optimizer.iterations)


def test_the_best_epoch_is_what_evaluate_and_export_take(
    folder, small, tmp_path, validated, capsys, monkeypatch
):
    run = tmp_path / "run"
    cli.main(words(folder, run, small, "--epochs", "5", "--patience", "2"))
    shown = capsys.readouterr().out
    reason = "epoch 2 has the best auc of the validation split, 0.7000, of 4 epochs"
    assert f"{reason}; --patience 2 ended the run" in shown
    assert json.loads((run / "metrics.json").read_text())["best_epoch"] == 2
    best, last = (load_run(str(run), ONE, checkpoint=c)[2] for c in (None, "epoch-000004"))
    assert iterations(last) == 2 * iterations(best) > 0

    cli.main(["evaluate", "--run", str(run)])
    assert f"epoch-000002: {reason}" in capsys.readouterr().out
    report = json.loads((run / "evaluation-test.json").read_text())
    assert (report["checkpoint"], report["chosen"]) == ("epoch-000002", reason)
    assert report["auc_adapted"] == pytest.approx(evaluated(run, None))
    cli.main(["evaluate", "--run", str(run), "--checkpoint", "epoch-000003"])
    assert "epoch-000003: as --checkpoint or --fall-back chose" in capsys.readouterr().out

    exported = []
    monkeypatch.setattr(gm, "export_saved_model", lambda model, *_, **__: exported.append(model))
    cli.main(["export", "--run", str(run)])
    assert [iterations(model) for model in exported] == [iterations(best)]

    cli.main(words(folder, run, small, "--epochs", "5", "--patience", "2", "--resume"))
    shown = capsys.readouterr().out
    assert f"{run}: ended by --patience 2: {reason}" in shown
    assert not (run / "checkpoint" / "epoch-000005").exists()
    cli.main(words(folder, run, small, "--epochs", "5", "--patience", "3", "--resume"))
    shown = capsys.readouterr().out
    assert "epoch 5 has the best auc of the validation split, 0.9000, of 5 epochs" in shown
    assert "ended the run" not in shown


def evaluated(run, checkpoint):
    options, records, model = load_run(str(run), ONE, checkpoint=checkpoint)
    batches = evaluation_batches(records, "test", options.support, 0, ONE)
    return model.evaluate(batches, return_dict=True, verbose=0)["auc_adapted"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patience", "0"], "patience of at least 1"),
        (["--patience", "2", "--no-validate"], "--patience compares epochs on the split 'valid'"),
        (["--choose-by", "auc", "--no-validate"], "--choose-by compares epochs"),
        (["--choose-by", "f1"], "received 'f1'"),
        (["--choose-by", "mae", "--metrics", "auc"], "one of the metrics, auc, got mae"),
        (["--choose-by", "accuracy"], "one of the metrics, auc, task_auc, log_loss, got accuracy"),
    ],
)
def test_what_cannot_choose_is_refused_before_anything_is_written(
    flags, message, folder, small, tmp_path, capsys
):
    with pytest.raises(SystemExit) as ended:
        cli.main(words(folder, tmp_path / "run", small, *flags))
    assert ended.value.code in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Splits:
    """Stands for records with these splits."""

    path = "records"

    def __init__(self, by="task", **tasks):
        self.splits, self.details, self._tasks = tuple(tasks), {"split": {"by": by}}, tasks

    def index(self, split):
        return np.array([(task,) for task in self._tasks[split]], [("task", np.int64)])


def test_validation_tasks_are_never_test_tasks():
    check_validation(Splits(train=[1], valid=[2, 3], test=[4]))
    check_validation(Splits(train=[1], valid=[2, 3]))
    check_validation(Splits("time", train=[1], valid=[1], test=[1]))
    with pytest.raises(ValueError, match="2 are in both, the first is 3"):
        check_validation(Splits(train=[1], valid=[2, 3, 5], test=[3, 4, 5]))
    with pytest.raises(ValueError, match=r"'valid' with --patience .* has train, test"):
        check_validation(Splits(train=[1], test=[2]))


def test_prepared_validation_tasks_are_not_in_another_split(folder):
    records = gm.Records.open(folder / "records")
    tasks = [set(records.index(split)["task"]) for split in ("train", "valid", "test")]
    assert all(tasks)
    assert len(set.union(*tasks)) == sum(map(len, tasks))
    assert TrainOptions(records="r", run="r").compares_epochs is False


def test_a_best_checkpoint_that_is_gone_begins_the_comparing_anew(
    folder, small, tmp_path, validated, capsys
):
    run = tmp_path / "run"
    cli.main(words(folder, run, small, "--epochs", "3", "--choose-by", "auc"))
    shutil.rmtree(run / "checkpoint" / "epoch-000002")
    cli.main(words(folder, run, small, "--epochs", "4", "--choose-by", "auc", "--resume"))
    shown = capsys.readouterr().out
    assert "but its checkpoint is gone: epochs are compared anew" in shown
    _, _, model = load_run(str(run), ONE)
    expected = load_run(str(run), ONE, checkpoint="epoch-000004")[2]
    assert iterations(model) == iterations(expected)
    restored = restore_checkpoint(
        model, checked_checkpoint(run / "checkpoint" / "epoch-000004", ONE)
    )
    assert restored["best"]["epoch"] == 4
