"""What a run leaves behind, and that a run which was stopped goes on as if it had not been."""

import json
import os
import subprocess
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_data import make_records
from reused_models import ReusedModel

import gmeta_tf as gm
from gmeta_tf.meta_io.records.fingerprint import fingerprint_of
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.runs import run_folder
from gmeta_tf.saving.runs.run_lock import LOCK

ONE = gm.World()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("records"), [7] * 16, splits=("train",))


def make_model(records, seed=0):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(records.schema, 3, seed=seed, world=ONE)
    model = gm.MetaModel(gm.models.MeLU((4,)), embedding)
    model.compile("adam", "adagrad")
    return model


@pytest.fixture(scope="module")
def fresh(records):
    """Makes a model as new of a seed, always the same one: see `ReusedModel`."""
    return ReusedModel(lambda seed=0: make_model(records, seed))


def batches_of(records, **options):
    options = {"tasks": 2, "support": 2, "query": 3, "seed": 5, "world": ONE, **options}
    return gm.TaskBatches(records, "train", **options)


def state_of(model):
    dense = [np.asarray(v) for v in (*model.trainable_variables, *model.optimizer.variables)]
    shards = model.embedding.shards.values()
    return dense + [v.numpy() for s in shards for v in (s.rows, *s.slots.values())]


def assert_same_state(model, expected):
    for found, value in zip(state_of(model), expected, strict=True):
        np.testing.assert_array_equal(found, value)


class StopAt(keras.callbacks.Callback):
    """Raises after a step of an epoch, as a machine that is switched off."""

    def __init__(self, epoch, step):
        super().__init__()
        self._place, self._epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch + 1) == self._place:
            raise InterruptedError


def run(model, records, folder, *, epochs=2, stop_at=None, begin=None, **options):
    """A run of `fit` with a RunFolder, from `begin` on: the model."""
    batches = batches_of(records, **({"begin": begin} if begin else {}))
    callbacks = [gm.RunFolder(folder, batches, **options)]
    if stop_at:
        with pytest.raises(InterruptedError):
            model.fit(batches, epochs=epochs, verbose=0, callbacks=[*callbacks, StopAt(*stop_at)])
    else:
        model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def going_on(model, records, folder, **options):
    """The model with what the newest checkpoint holds, trained on from there."""
    saved = gm.load_checkpoint(model, latest_checkpoint(folder / "checkpoint"))
    begin = gm.Progress.from_json(saved["progress"]) if "progress" in saved else None
    begin = begin or gm.Progress(saved["epoch"])
    return run(model, records, folder, begin=begin, **options)


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def log_of(folder):
    """Each line of log.txt: the epoch and its values."""
    found = []
    for line in (folder / "log.txt").read_text().splitlines():
        words = line.split()
        names, values = words[2::2], map(float, words[3::2])
        found.append((words[:2], dict(zip(names, values, strict=True))))
    return found


@pytest.fixture(scope="module")
def straight(fresh, records, tmp_path_factory):
    """A run of two epochs of 8 steps, never stopped: its model's state and its folder."""
    folder = tmp_path_factory.mktemp("straight")
    model = run(fresh(), records, folder, checkpoint_every_steps=3, keep=9)
    return state_of(model), folder


def test_names_of_checkpoints(straight):
    _, folder = straight
    assert checkpoints(folder) == [
        "epoch-000000-step-000003",
        "epoch-000000-step-000006",
        "epoch-000001",
        "epoch-000001-step-000003",
        "epoch-000001-step-000006",
        "epoch-000002",
    ]


def test_what_a_checkpoint_within_an_epoch_says(straight, records):
    _, folder = straight
    saved = gm.load_checkpoint(
        make_model(records), folder / "checkpoint" / "epoch-000001-step-000003"
    )
    assert saved["epoch"] == 1
    assert gm.Progress.from_json(saved["progress"]) == batches_of(records).progress(1, 3)
    whole = gm.load_checkpoint(make_model(records), folder / "checkpoint" / "epoch-000002")
    assert whole["epoch"] == 2
    assert "progress" not in whole


def test_the_log_of_a_run(straight):
    _, folder = straight
    lines = log_of(folder)
    assert [words for words, _ in lines] == [["epoch", "1"], ["epoch", "2"]]
    for _, values in lines:
        assert {"loss", "samples_per_second", "input_wait"} <= values.keys()
        assert 0 <= values["input_wait"] <= 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["samples_per_second"] > 0
    tags = {
        value.tag
        for path in (folder / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert {"loss", "samples_per_second", "input_wait"} <= tags


@pytest.mark.parametrize("place", [(0, 5), (1, 3), (1, 8)])
def test_a_stopped_run_goes_on_to_the_same_weights(fresh, straight, records, tmp_path, place):
    expected, _ = straight
    run(fresh(), records, tmp_path, stop_at=place, checkpoint_every_steps=3)
    # One of them in a model that has never trained, as in another process.
    model = make_model(records, seed=9) if place == (0, 5) else fresh(9)
    assert_same_state(going_on(model, records, tmp_path, checkpoint_every_steps=3), expected)
    assert checkpoints(tmp_path)[-1] == "epoch-000002"
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == 2


def test_begin_in_the_middle_gives_the_same_weights(fresh, straight, records):
    """Without checkpoints: one model, two calls of fit."""
    expected, _ = straight
    for step in (1, 8):
        other = fresh()
        with pytest.raises(InterruptedError):
            other.fit(batches_of(records), epochs=1, verbose=0, callbacks=[StopAt(0, step)])
        begin = batches_of(records).progress(0, step)
        history = other.fit(batches_of(records, begin=begin), epochs=2, verbose=0)
        assert_same_state(other, expected)
        assert history.epoch == ([0, 1] if step == 1 else [1])
        assert len(history.history["loss"]) == len(history.epoch)


def test_begin_at_an_epoch(fresh, straight, records):
    expected, _ = straight
    other = fresh()
    other.fit(batches_of(records), epochs=1, verbose=0)
    other.fit(batches_of(records, begin=gm.Progress(1)), epochs=2, verbose=0)
    assert_same_state(other, expected)


def test_stopped_twice_in_an_epoch(fresh, straight, records, tmp_path):
    expected, _ = straight
    run(fresh(), records, tmp_path, stop_at=(0, 4), checkpoint_every_steps=3)
    again = fresh(9)
    saved = gm.load_checkpoint(again, latest_checkpoint(tmp_path / "checkpoint"))
    begin = gm.Progress.from_json(saved["progress"])
    # Steps are counted from where the run goes on: its 3rd is the epoch's 6th.
    run(again, records, tmp_path, stop_at=(0, 4), begin=begin, checkpoint_every_steps=3)
    assert checkpoints(tmp_path) == ["epoch-000000-step-000003", "epoch-000000-step-000006"]
    model = going_on(fresh(9), records, tmp_path, checkpoint_every_steps=3)
    assert_same_state(model, expected)


def test_the_newest_checkpoint_is_the_last_in_name_after_another_world(fresh, records, tmp_path):
    """What is left of an epoch is counted anew at another W or T; names must go on growing."""
    done = batches_of(records, tasks=1).progress(0, 9)
    model = fresh()
    gm.save_checkpoint(model, tmp_path / "checkpoint" / "epoch-000000-step-000009", epoch=0)
    run(fresh(), records, tmp_path, epochs=1, begin=done, stop_at=(0, 3), checkpoint_every_steps=2)
    newest = gm.load_checkpoint(make_model(records), latest_checkpoint(tmp_path / "checkpoint"))
    expected = batches_of(records, begin=done).progress(0, 2)
    assert len(expected.done) == 2
    assert gm.Progress.from_json(newest["progress"]) == expected


def test_a_finished_run_is_left_as_it_is(fresh, records, tmp_path):
    """Going on to an epoch that was reached already neither trains nor writes."""
    expected = state_of(run(fresh(), records, tmp_path, epochs=2))
    before = {
        path: path.read_bytes()
        for path in [*tmp_path.glob("*.*"), *tmp_path.glob("checkpoint/*/*")]
        if path.is_file()
    }
    again = going_on(fresh(9), records, tmp_path, epochs=2)
    assert_same_state(again, expected)
    assert checkpoints(tmp_path) == ["epoch-000001", "epoch-000002"]
    after = {path: path.read_bytes() for path in before}
    assert after == before


@pytest.mark.parametrize("left", ["none", "an earlier run's", "half"])
def test_a_run_that_was_killed_after_its_last_checkpoint_is_ended(fresh, records, tmp_path, left):
    run(fresh(), records, tmp_path, epochs=2, checkpoint_every_steps=3, keep=9)
    whole = json.loads((tmp_path / "metrics.json").read_text())
    if left == "none":
        (tmp_path / "metrics.json").unlink()
    else:
        text = json.dumps(whole | {"epochs": 1})
        (tmp_path / "metrics.json").write_text(text if left != "half" else text[:9])
        (tmp_path / ".metrics.json.4999999").write_text("killed while it was written")
    going_on(fresh(9), records, tmp_path, epochs=2)
    assert checkpoints(tmp_path) == ["epoch-000001-step-000006", "epoch-000002"]
    ended = json.loads((tmp_path / "metrics.json").read_text())
    assert (ended["epochs"], ended["loss"]) == (2, whole["loss"])
    assert not list(tmp_path.glob(".*json*"))


def test_keep(fresh, records, tmp_path):
    run(fresh(), records, tmp_path, epochs=2, checkpoint_every_steps=3, keep=2)
    assert checkpoints(tmp_path) == ["epoch-000001-step-000006", "epoch-000002"]


def test_checkpoints_of_some_epochs_and_of_the_last(fresh, records, tmp_path):
    run(fresh(), records, tmp_path, epochs=3, checkpoint_every=2, keep=9)
    assert checkpoints(tmp_path) == ["epoch-000002", "epoch-000003"]


def test_a_folder_in_which_another_process_trains(fresh, records, tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": "node-7", "pid": 4}))
    with pytest.raises(ValueError, match="is in use by process 4 on node-7"):
        run(fresh(), records, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_the_lock_is_there_while_it_trains(fresh, records, tmp_path):
    run(fresh(), records, tmp_path, epochs=1, stop_at=(0, 1))
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    run(fresh(), records, tmp_path, epochs=1)
    assert not (tmp_path / LOCK).exists()


def test_what_killed_runs_left_is_removed_or_named(fresh, records, tmp_path, caplog):
    folder = tmp_path / "checkpoint"
    for name in (".epoch-000009-abcd1234", ".epoch-000001-efgh5678"):
        (folder / name / "removed").mkdir(parents=True)
        (folder / name / "lock").write_text(name[1:13])
    left = ("epoch-000003.partial", "epoch-000007", "it's old.partial")
    for name in left:
        (folder / name).mkdir()
        (folder / name / "dense.safetensors").write_text("half")
    run(fresh(), records, tmp_path, epochs=1)
    assert checkpoints(tmp_path) == ["epoch-000001", *left]
    (line,) = (r.message for r in caplog.records if r.name == run_folder.__name__)
    assert line.startswith("left by a run that was killed, and not used: ")
    assert all(f"checkpoint/{name}" in line for name in left)
    # The line ends in the command that removes them, and nothing else.
    subprocess.run(line.partition("To remove: ")[2], shell=True, check=True)
    assert checkpoints(tmp_path) == ["epoch-000001"]


def test_without_tensorboard_a_run_says_so_at_its_start_and_goes_on(
    fresh, records, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(run_folder.importlib.util, "find_spec", {"tensorboard": None}.get)
    run(fresh(), records, tmp_path, epochs=1)
    (line,) = (r.message for r in caplog.records if r.name == run_folder.__name__)
    assert line.startswith("TensorBoard is not installed, so this run writes no scalars")
    assert "pip install tensorboard" in line
    assert len(log_of(tmp_path)) == 1
    assert checkpoints(tmp_path) == ["epoch-000001"]
    assert not (tmp_path / "tensorboard").exists()


def test_checkpoints_know_their_records_and_details(fresh, records, tmp_path):
    run(fresh(), records, tmp_path, epochs=1, details={"options": {"width": 3}})
    details = gm.load_checkpoint(fresh(9), tmp_path / "checkpoint" / "epoch-000001")
    assert details["records"] == fingerprint_of(records)
    assert details["options"] == {"width": 3}


class SlowBatches(gm.TaskBatches):
    """TaskBatches for whose every step `late()` is called when it is asked for."""

    late = staticmethod(lambda: time.sleep(0.05))

    def dataset(self, first_epoch=None):
        def delayed(step):
            self.late()
            return step

        return (
            super()
            .dataset(first_epoch)
            .map(
                lambda batch: {
                    **batch,
                    "task": tf.ensure_shape(
                        tf.numpy_function(delayed, [batch["task"]], tf.int64), batch["task"].shape
                    ),
                }
            )
        )


class Clock(keras.callbacks.Callback):
    """A clock in place of the library's two, which goes on only when it is told to.

    Input takes `input_seconds` a step, and computing a step takes 3 seconds.
    """

    def __init__(self, monkeypatch, input_seconds):
        super().__init__()
        self.now, self.input_seconds = 100.0, input_seconds
        fake = types.SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(run_folder, "time", fake)
        monkeypatch.setattr(tf, "timestamp", self.timestamp)

    def timestamp(self):
        return tf.ensure_shape(tf.numpy_function(lambda: self.now, [], tf.float64), [])

    def late(self):
        self.now += self.input_seconds

    def on_train_batch_end(self, batch, logs=None):
        self.now += 3.0


@pytest.mark.parametrize(("input_seconds", "share"), [(0.0, 0.0), (1.0, 0.25), (9.0, 0.75)])
def test_input_wait_is_the_share_of_the_seconds_spent_waiting(
    fresh, records, tmp_path, monkeypatch, input_seconds, share
):
    clock = Clock(monkeypatch, input_seconds)
    monkeypatch.setattr(SlowBatches, "late", clock.late)
    batches = SlowBatches(records, "train", tasks=2, support=2, query=3, world=ONE)
    callback = gm.RunFolder(tmp_path, batches)
    fresh().fit(batches, epochs=2, verbose=0, callbacks=[clock, callback])
    values = [values for _, values in log_of(tmp_path)]
    assert [epoch["input_wait"] for epoch in values] == [share] * 2
    speed = batches.samples_per_epoch / (8 * (3 + input_seconds))
    assert [epoch["samples_per_second"] for epoch in values] == [pytest.approx(speed, rel=1e-3)] * 2


def test_input_that_is_made_ahead_is_not_waited_for(fresh, records, tmp_path, monkeypatch):
    """The clock stands still while batches are made, wherever that is."""
    clock = Clock(monkeypatch, 0.0)
    batches = batches_of(records)
    callback = gm.RunFolder(tmp_path, batches)
    fresh().fit(batches, epochs=1, verbose=0, callbacks=[clock, callback])
    assert [values["input_wait"] for _, values in log_of(tmp_path)] == [0.0]


def test_waited_seconds_are_those_of_the_steps(fresh, records):
    """50 ms a step, one after the other: no clock is compared but with the sleep itself."""
    batches = SlowBatches(records, "train", tasks=2, support=2, query=3, world=ONE)
    model = fresh()
    began = time.perf_counter()
    model.fit(batches, epochs=2, verbose=0)
    seconds = time.perf_counter() - began
    assert 0 < float(model.input_seconds) < seconds


@pytest.mark.parametrize(
    "options", [{"checkpoint_every": 0}, {"keep": 0}, {"checkpoint_every_steps": 0}], ids=str
)
def test_sizes_below_one(options, records, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every_steps and keep of at least 1, got"):
        gm.RunFolder(tmp_path, batches_of(records), **options)


def test_a_path_that_is_a_file(records, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="run to be a folder or new, got a file"):
        gm.RunFolder(tmp_path / "run", batches_of(records))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("several", [3, 16])
def test_several_steps_an_execution_come_out_even(records, straight, several, tmp_path):
    """An epoch has 8 steps, whatever an execution has; the rest of an epoch as well."""
    model = make_model(records)
    model.compile("adam", "adagrad", steps_per_execution=several)
    run(model, records, tmp_path, checkpoint_every_steps=3, keep=9)
    assert int(model.optimizer.iterations) == 16
    assert_same_state(model, straight[0])
    assert model.steps_per_execution == several
    if several == 3:
        begin = gm.load_checkpoint(model, straight[1] / "checkpoint" / "epoch-000000-step-000003")
        run(model, records, tmp_path, begin=gm.Progress.from_json(begin["progress"]))
        assert_same_state(model, straight[0])


def test_metrics_that_are_no_numbers_are_null(fresh, records, tmp_path):
    """JSON has no NaN: neither metrics.json nor a checkpoint's manifest may."""

    class Undefined(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_auc_adapted"] = float("nan")

        def on_train_end(self, logs=None):
            self.on_epoch_end(0, logs)

    batches = batches_of(records)
    model, folder = fresh(), gm.RunFolder(tmp_path, batches)
    model.fit(batches, verbose=0, callbacks=[Undefined(), folder])

    def read(path):
        return json.loads(path.read_text(), parse_constant=pytest.fail)

    assert read(tmp_path / "metrics.json")["val_auc_adapted"] is None
    manifest = read(tmp_path / "checkpoint" / "epoch-000001" / "manifest.json")
    assert manifest["details"]["logs"]["val_auc_adapted"] is None
