"""The best epoch by the validation: compared, kept, ended by patience, restored, chosen."""

import keras
import numpy as np
import pytest
from made_data import make_records
from reused_models import ReusedModel

import gmeta_tf as gm
from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch
from gmeta_tf.saving.checkpoints.checkpoint import complete_checkpoints, latest_checkpoint
from gmeta_tf.saving.checkpoints.choice import choose_checkpoint
from gmeta_tf.saving.checkpoints.manifest import read_manifest

ONE = gm.World()
NAN = float("nan")


def slow_best(values, larger):
    """The first of the best finite values, and how many came behind it, by a loop."""
    epoch, waited = 0, 0
    for number, value in enumerate(values, 1):
        sign = 1 if larger else -1
        if value == value and (epoch == 0 or sign * value > sign * values[epoch - 1]):
            epoch, waited = number, 0
        else:
            waited += 1
    return epoch, waited


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_the_best_is_the_slow_twins(metric):
    values = np.random.default_rng(3).choice([0.25, 0.5, 0.75, NAN], (40, 7))
    for row in values:
        best = BestEpoch(metric)
        for epoch, value in enumerate(row, 1):
            best = BestEpoch.from_json(best.after(epoch, float(value)).to_json())
        assert (best.epoch, best.epochs_without_better) == slow_best(row.tolist(), metric == "auc")
        assert best.last == 7


def test_patience_counts_epochs_that_were_compared():
    begun_late = BestEpoch("auc", last=10)
    assert not begun_late.is_over(1)
    assert begun_late.after(11, NAN).is_over(1)
    assert not begun_late.after(11, NAN).is_over(None)
    assert begun_late.after(11, NAN).describe() == (
        "no epoch of 11 has a number for auc of the validation split"
    )
    with pytest.raises(ValueError, match=r"expected one of auc, .* received 'f1'"):
        BestEpoch("f1")


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
    return ReusedModel(lambda seed=0: make_model(records, seed))


class Validated(keras.callbacks.Callback):
    """Stands for a validation with these values, and keeps the model's state of each epoch."""

    def __init__(self, values, states=None):
        super().__init__()
        self.values, self.states = values, {} if states is None else states

    def on_epoch_end(self, epoch, logs=None):
        logs["val_auc_adapted"] = self.values[epoch]
        self.states[epoch + 1] = state_of(self.model)


def state_of(model):
    dense = [np.asarray(v) for v in (*model.trainable_variables, *model.optimizer.variables)]
    shards = model.embedding.shards.values()
    return dense + [v.numpy() for s in shards for v in (s.rows, *s.slots.values())]


def trained(model, records, folder, values, *, best=None, begin=None, **options):
    more = {} if begin is None else {"begin": begin}
    batches = gm.TaskBatches(
        records, "train", tasks=2, support=2, query=3, seed=5, world=ONE, **more
    )
    run = gm.RunFolder(folder, batches, best=best or BestEpoch("auc"), **options)
    seen = Validated(values)
    model.fit(batches, epochs=len(values), verbose=0, callbacks=[seen, run])
    return run, seen.states


def names_in(folder):
    return [path.name for path in complete_checkpoints(folder / "checkpoint")]


def test_patience_ends_the_run_and_the_best_epoch_comes_back_with_its_rows(
    records, fresh, tmp_path
):
    model = fresh()
    values = [0.5, 0.7, 0.6, 0.7, NAN, 0.9]
    run, states = trained(model, records, tmp_path, values, patience=3, checkpoint_every=100)
    assert run.best == BestEpoch("auc", 0.7, 2, 5, 3)
    assert sorted(states) == [1, 2, 3, 4, 5]
    assert names_in(tmp_path) == ["epoch-000002", "epoch-000005"]
    assert any((a != b).any() for a, b in zip(state_of(model), states[2], strict=True))
    run.restore_best()
    for found, expected in zip(state_of(model), states[2], strict=True):
        np.testing.assert_array_equal(found, expected)
    chosen = choose_checkpoint(tmp_path / "checkpoint", ONE, best=True)
    assert chosen.checked.path.name == "epoch-000002"
    assert chosen.later == ("epoch-000005",)
    assert chosen.reason() == (
        "epoch 2 has the best auc of the validation split, 0.7000, of 5 epochs"
    )
    newest = choose_checkpoint(tmp_path / "checkpoint", ONE)
    assert (newest.checked.path.name, newest.reason()) == ("epoch-000005", "the newest")


def test_the_best_is_kept_among_newer_ones_and_a_damaged_one_is_passed_over(
    records, fresh, tmp_path, caplog
):
    values = [0.9, 0.5, 0.6, 0.5, 0.4]
    trained(fresh(), records, tmp_path, values, checkpoint_every=1)
    assert names_in(tmp_path) == ["epoch-000001", "epoch-000004", "epoch-000005"]
    folder = tmp_path / "checkpoint"
    file = folder / "epoch-000001" / "dense.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match="epoch-000001 is damaged"):
        choose_checkpoint(folder, ONE, best=True)
    chosen = choose_checkpoint(folder, ONE, best=True, fall_back=True)
    assert chosen.checked.path.name == "epoch-000005"
    assert chosen.reason().endswith("of 5 epochs, but its checkpoint could not be taken")
    manifest = folder / "epoch-000005" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("epoch", "epoxh", 1))
    with pytest.raises(ValueError, match="epoch-000005 is damaged"):
        choose_checkpoint(folder, ONE, best=True)
    chosen = choose_checkpoint(folder, ONE, best=True, fall_back=True)
    assert chosen.checked.path.name == "epoch-000004"


def test_a_resumed_run_counts_on(records, fresh, tmp_path):
    values = [0.5, 0.7, 0.6, 0.65, 0.68, 0.9]
    straight, expected = trained(
        fresh(), records, tmp_path / "a", values, patience=3, checkpoint_every=1
    )
    trained(fresh(), records, tmp_path / "b", values[:4], patience=3, checkpoint_every=1)
    model = fresh(seed=1)
    path = latest_checkpoint(tmp_path / "b" / "checkpoint")
    saved = gm.load_checkpoint(model, path)
    best = BestEpoch.from_json(saved["best"])
    assert best.epochs_without_better == 2
    begin = gm.Progress(saved["epoch"])
    run, states = trained(
        model, records, tmp_path / "b", values, best=best, begin=begin, patience=3
    )
    assert run.best == straight.best == BestEpoch("auc", 0.7, 2, 5, 3)
    assert sorted(states) == [5]
    for found, value in zip(states[5], expected[5], strict=True):
        np.testing.assert_array_equal(found, value)
    assert names_in(tmp_path / "b") == names_in(tmp_path / "a")


def test_a_run_stopped_within_an_epoch_goes_on_from_where_it_was_and_not_from_the_best(
    records, fresh, tmp_path
):
    values = [0.9, 0.5, 0.5]
    _, expected = trained(fresh(), records, tmp_path / "a", values)
    model = fresh()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if latest_checkpoint(tmp_path / "b" / "checkpoint").name.endswith("step-000004"):
                raise InterruptedError

    batches = gm.TaskBatches(records, "train", tasks=2, support=2, query=3, seed=5, world=ONE)
    run = gm.RunFolder(
        tmp_path / "b", batches, best=BestEpoch("auc"), checkpoint_every_steps=4, keep=9
    )
    (tmp_path / "b").mkdir()
    model.fit(batches, epochs=1, verbose=0, callbacks=[Validated(values), run])
    saved = gm.load_checkpoint(model, tmp_path / "b" / "checkpoint" / "epoch-000001")
    batches = gm.TaskBatches(
        records, "train", tasks=2, support=2, query=3, seed=5, world=ONE, begin=gm.Progress(1)
    )
    run = gm.RunFolder(
        tmp_path / "b",
        batches,
        best=BestEpoch.from_json(saved["best"]),
        checkpoint_every_steps=4,
        keep=9,
    )
    with pytest.raises(InterruptedError):
        model.fit(batches, epochs=3, verbose=0, callbacks=[Validated(values), run, Stop()])
    model = fresh(seed=1)
    path = tmp_path / "b" / "checkpoint" / "epoch-000001-step-000004"
    saved = gm.load_checkpoint(model, path)
    begin = gm.Progress.from_json(saved["progress"])
    run, states = trained(
        model,
        records,
        tmp_path / "b",
        values,
        best=BestEpoch.from_json(saved["best"]),
        begin=begin,
        keep=9,
    )
    assert run.best == BestEpoch("auc", 0.9, 1, 3, 2)
    for found, value in zip(states[3], expected[3], strict=True):
        np.testing.assert_array_equal(found, value)


def test_what_cannot_be_compared_is_told(records, fresh, tmp_path):
    batches = gm.TaskBatches(records, "train", tasks=2, support=2, query=3, world=ONE)
    for wrong in ({"patience": 0, "best": BestEpoch("auc")}, {"patience": 2}):
        with pytest.raises(ValueError, match=r"expected patience of at least 1, with best="):
            gm.RunFolder(tmp_path / "x", batches, **wrong)
    run = gm.RunFolder(tmp_path / "x", batches, best=BestEpoch("auc"))
    with pytest.raises(ValueError, match=r"restore_best: expected .* got BestEpoch\(metric='auc'"):
        run.restore_best()
    with pytest.raises(ValueError, match=r"expected val_auc_adapted .* Give fit validation_data"):
        fresh().fit(batches, epochs=1, verbose=0, callbacks=[run])


def test_a_manifest_says_what_was_the_best_when_it_was_written(records, fresh, tmp_path):
    trained(fresh(), records, tmp_path, [0.5, 0.7, 0.6], checkpoint_every=1, keep=9)
    best = [
        read_manifest(path)["details"]["best"]["epoch"]
        for path in complete_checkpoints(tmp_path / "checkpoint")
    ]
    assert best == [1, 2, 2]
