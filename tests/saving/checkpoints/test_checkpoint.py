"""Checkpoints give back what was saved, at any number of ranks, and refuse what does not fit."""

import dataclasses
import json
import os
import pathlib

import keras
import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.embedding.row_optimizers import Slot
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint

LAZY_ADAM = gm.LazyAdam(0.05)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("records"), seed=3)


def make_model(records, *, seed=0, width=4, hidden=(6,), optimizer="adam", rows=LAZY_ADAM):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(records.schema, width, seed=seed, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU(hidden), embedding, gm.InnerLoop(1, 0.2, learn_rates=True))
    model.compile(optimizer, rows)
    return model


def state_of(model):
    dense = [np.asarray(v) for v in (*model.trainable_variables, *model.optimizer.variables)]
    shards = model.embedding.shards.values()
    return dense + [v.numpy() for s in shards for v in (s.rows, *s.slots.values())]


def batches_of(records):
    return gm.TaskBatches(records, "train", tasks=4, support=2, query=3, seed=5, world=gm.World())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [LAZY_ADAM, gm.RowWiseAdagrad(0.3)], ids=repr)
def test_resuming_equals_never_having_stopped(records, tmp_path, rows):
    straight, saved = make_model(records, rows=rows), []

    def save(epoch, logs):
        if epoch == 1:
            saved.extend(state_of(straight))
            gm.save_checkpoint(straight, tmp_path / "c", epoch=2)
            for value, found in zip(saved, state_of(straight), strict=True):
                np.testing.assert_array_equal(found, value)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save)
    straight.fit(batches_of(records), epochs=4, verbose=0, callbacks=[callback])
    second = make_model(records, seed=9, rows=rows)
    details = gm.load_checkpoint(second, tmp_path / "c")
    assert details == {"epoch": 2}
    second.fit(batches_of(records), epochs=4, initial_epoch=2, verbose=0)

    for expected, found in zip(state_of(straight), state_of(second), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((a != b).any() for a, b in zip(saved, state_of(second), strict=True))


def test_what_does_not_fit_is_refused_and_changes_nothing(records, tmp_path):
    gm.save_checkpoint(make_model(records), tmp_path / "c")
    for model, match in (
        (make_model(records, width=5), "has width 4, the model has 5"),
        (make_model(records, hidden=(7,)), "does not fit the model"),
        (make_model(records, optimizer="sgd"), "does not fit the model"),
        (make_model(records, rows=gm.Adagrad()), "no embedded/slot_accumulator.*row optimizer"),
        (make_model(records, rows=gm.SGD()), "the model has no embedded/slot_mean"),
    ):
        before = state_of(model)
        with pytest.raises(ValueError, match=match):
            gm.load_checkpoint(model, tmp_path / "c")
        for expected, found in zip(before, state_of(model), strict=True):
            np.testing.assert_array_equal(found, expected)


class OneMeanARow(gm.LazyAdam):
    """Its slots have LazyAdam's names, and one of them another width."""

    def slots(self, width):
        return super().slots(width) | {"mean": Slot(0.0, 1)}


def test_slots_of_another_width_are_refused_and_change_nothing(records, tmp_path):
    gm.save_checkpoint(make_model(records, seed=1), tmp_path / "c")
    model = make_model(records, rows=OneMeanARow(0.05))
    before = state_of(model)
    with pytest.raises(
        ValueError, match=r"embedded/slot_mean has the shape \(\d+, 4\).*\(\d+, 1\)"
    ):
        gm.load_checkpoint(model, tmp_path / "c")
    for expected, found in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_damage_is_named(records, tmp_path):
    model = make_model(records)
    gm.save_checkpoint(model, tmp_path / "c")
    rows = tmp_path / "c" / "rows-00000-of-00001.safetensors"
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        gm.load_checkpoint(model, tmp_path / "c")
    rows.unlink()
    with pytest.raises(ValueError, match="damaged or incomplete"):
        gm.load_checkpoint(model, tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        gm.load_checkpoint(model, tmp_path / "elsewhere")


def test_a_checkpoint_of_another_format_is_refused(records, tmp_path):
    model = make_model(records)
    gm.save_checkpoint(model, tmp_path / "c")
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99"):
        gm.load_checkpoint(model, tmp_path / "c")


def test_latest_overlooks_what_is_not_whole(records, tmp_path):
    assert latest_checkpoint(tmp_path) is None
    model = make_model(records)
    for epoch in (1, 2):
        gm.save_checkpoint(model, tmp_path / f"epoch-{epoch:06d}", epoch=epoch)
    (tmp_path / "epoch-000003.partial").mkdir()
    (tmp_path / "epoch-000003.partial" / "manifest.json").write_text("{}")
    (tmp_path / "epoch-000004").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "epoch-000002"


def test_an_old_checkpoint_is_replaced(records, tmp_path):
    model = make_model(records)
    gm.save_checkpoint(model, tmp_path / "c", epoch=1)
    gm.save_checkpoint(model, tmp_path / "c", epoch=2)
    assert gm.load_checkpoint(model, tmp_path / "c") == {"epoch": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_other_tables_are_refused(records, tmp_path):
    gm.save_checkpoint(make_model(records), tmp_path / "c")
    sizes = {table.name: (table.num_rows or 0) + 1 for table in records.schema.tables}
    other = dataclasses.replace(records, schema=records.schema.with_num_rows(sizes))
    with pytest.raises(ValueError, match="tables"):
        gm.load_checkpoint(make_model(other), tmp_path / "c")


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(records, tmp_path, monkeypatch):
    model, path, synced = make_model(records), tmp_path / "saved", []
    fsync = os.fsync

    def noting(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    gm.save_checkpoint(model, path)
    before = [pathlib.Path(name).name for name, is_named in synced if not is_named]
    names = {file.name for file in path.iterdir()}
    assert names >= {"manifest.json", "dense.safetensors", "rows-00000-of-00001.safetensors"}
    assert names <= set(before)
    assert before[-1] == "checkpoint"  # its folder, under the hidden name
    assert (str(tmp_path), True) in synced
