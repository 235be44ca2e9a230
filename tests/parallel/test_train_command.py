"""`gmeta-tf train` on several ranks: all of them raise, and rank 0 touches the run folder last."""

import dataclasses
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.evaluate import evaluate
from gmeta_tf.cli.options import EvaluateOptions, TrainOptions
from gmeta_tf.cli.run_batches import training_batches
from gmeta_tf.cli.train import train
from gmeta_tf.distributed.collectives import barrier, broadcast_json, gather_json, start
from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.runs.run_lock import LOCK

WORLD = gm.World.detect()


def options_of(folder, **changed):
    small = {"width": 4, "hidden": [6], "tasks": 2, "support": 2, "query": 3, "epochs": 1}
    return TrainOptions(
        **{"records": str(folder / "records"), "run": str(folder / "run"), **small, **changed}
    )


@pytest.fixture(scope="module")
def folder():
    """Records and a run of one epoch."""
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_train"))
    if WORLD.is_chief:
        make_records(folder / "records", 20, splits=("train",))
    barrier(WORLD, name="train_records_made")
    train(options_of(folder))
    barrier(WORLD, name="train_trained")
    return folder


def assert_all_ranks_raise_the_same(act, match, name):
    with pytest.raises(OSError, match=match) as raised:
        act()
    texts = gather_json(str(raised.value), WORLD, name=name)
    assert texts == texts[:1] * WORLD.size


@pytest.mark.parametrize("name", ["metrics.json", "log.txt"])
def test_a_file_that_rank_0_cannot_write_is_told_on_all_ranks(folder, name):
    run = folder / f"run-without-{name}"
    options, records, model = gm.load_run(str(folder / "run"), WORLD)
    batches = training_batches(options, records, WORLD)
    callback = gm.RunFolder(run, batches)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    if WORLD.is_chief:
        (run / name / "in-its-place").mkdir(parents=True)
    barrier(WORLD, name="train_unwritable_made")
    if name == "log.txt":
        assert_all_ranks_raise_the_same(lambda: callback.on_epoch_end(0, {}), name, "log_told")
        return
    callback.on_epoch_end(0, {})
    assert_all_ranks_raise_the_same(lambda: callback.on_train_end({}), name, "metrics_told")


def test_a_report_that_rank_0_cannot_write_is_told_on_all_ranks(folder):
    report = folder / "run" / "evaluation-train.json"
    if WORLD.is_chief:
        (report / "in-its-place").mkdir(parents=True)
    barrier(WORLD, name="evaluate_unwritable_made")
    options = EvaluateOptions(run=str(folder / "run"), split="train")
    assert_all_ranks_raise_the_same(lambda: evaluate(options), "evaluation-train", "report_told")
    if WORLD.is_chief:
        shutil.rmtree(report)
    barrier(WORLD, name="evaluate_unwritable_removed")


def test_an_export_that_rank_0_cannot_write_is_told_on_all_ranks(folder):
    _, records, model = gm.load_run(str(folder / "run"), WORLD)
    words = {
        table.name: np.array([f"v{key}" for key in range(1, table.num_rows)])
        for table in records.schema.tables
    }
    output = folder / "run" / "config.yaml" / "saved_model"  # in a file
    assert_all_ranks_raise_the_same(
        lambda: gm.export_saved_model(model, output, words), "config.yaml", "export_told"
    )
    gm.export_saved_model(model, folder / "saved_model", words)
    assert (folder / "saved_model" / "saved_model.pb").is_file()  # once any rank returns


class Says(keras.callbacks.Callback):
    """Stands for a validation with these values; keeps the rank's rows of each epoch."""

    def __init__(self, values):
        super().__init__()
        self.values, self.rows = values, []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_auc_adapted"] = self.values[epoch]
        self.rows.append(rows_of(self.model))


def rows_of(model):
    return [np.asarray(shard.rows) for shard in model.embedding.shards.values()]


def test_all_ranks_stop_together_and_get_the_best_epochs_rows(folder):
    """Rank 0 decides: here the others' values say otherwise, as rounding might make them."""
    options, records, _ = gm.load_run(str(folder / "run"), WORLD)
    # Rates that have fallen to their end would move no row.
    model = build_model(dataclasses.replace(options, decay="none"), records.schema, WORLD)
    batches = training_batches(options, records, WORLD)
    run = gm.RunFolder(folder / "run-best", batches, best=BestEpoch("auc"), patience=2)
    said = Says([0.5, 0.7, 0.6, 0.6, 0.9] if WORLD.is_chief else [0.1, 0.2, 0.3, 0.4, 0.5])
    model.fit(batches, epochs=5, verbose=0, callbacks=[said, run])
    best = gather_json([len(said.rows), run.best.to_json()], WORLD, name="best_told")
    assert best == [[4, BestEpoch("auc", 0.7, 2, 4, 2).to_json()]] * WORLD.size
    assert any((a != b).any() for a, b in zip(rows_of(model), said.rows[1], strict=True))
    run.restore_best()
    for found, expected in zip(rows_of(model), said.rows[1], strict=True):
        np.testing.assert_array_equal(found, expected)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({}, "exists. Choose another --run"),
        ({"overwrite": True, "replicate": "nowhere"}, "got 'nowhere'"),
        ({"overwrite": True, "optimizer": "adamant"}, "adamant"),
        ({"overwrite": True, "tasks": 1000}, "Lower tasks to"),
        ({"resume": True, "width": 5}, "expected --width 4, got 5"),
    ],
    ids=str,
)
def test_what_is_wrong_leaves_the_run_as_it_was(folder, changed, match):
    before = contents(folder)
    with pytest.raises(ValueError, match=match):
        train(options_of(folder, **changed))
    barrier(WORLD, name="train_rejected")
    assert contents(folder) == before


def test_a_run_folder_that_another_process_has(folder):
    lock = folder / "run" / LOCK
    barrier(WORLD, name="train_before_lock")  # no rank is looking at the folder any more
    if WORLD.is_chief:
        lock.write_text('{"host": "node-7", "pid": 4}')
    barrier(WORLD, name="train_locked")
    with pytest.raises(ValueError, match="is in use by process 4 on node-7"):
        train(options_of(folder, resume=True))
    if WORLD.is_chief:
        lock.unlink()
    barrier(WORLD, name="train_unlocked")


def test_a_run_goes_on_falls_back_and_is_overwritten(folder):
    train(options_of(folder, epochs=2, resume=True))
    barrier(WORLD, name="train_resumed")
    checkpoints = folder / "run" / "checkpoint"
    assert latest_checkpoint(checkpoints).name == "epoch-000002"
    barrier(WORLD, name="train_looked")
    if WORLD.is_chief:
        (checkpoints / "epoch-000002" / "dense.safetensors").write_bytes(b"cut off")
    barrier(WORLD, name="train_damaged")
    before = contents(folder)
    with pytest.raises(ValueError, match=r"dense.safetensors: expected \d+ bytes, found 7"):
        train(options_of(folder, epochs=2, resume=True))
    barrier(WORLD, name="train_told")
    assert contents(folder) == before
    # Nothing is left to train: only where the run goes on is chosen.
    train(options_of(folder, resume=True, fall_back=True))
    barrier(WORLD, name="train_fell_back")
    assert latest_checkpoint(checkpoints).name == "epoch-000001"
    assert (folder / "run" / "set_aside" / "epoch-000002").is_dir()
    barrier(WORLD, name="train_looked_again")
    train(options_of(folder, overwrite=True))
    barrier(WORLD, name="train_overwritten")
    assert [path.name for path in checkpoints.iterdir()] == ["epoch-000001"]
