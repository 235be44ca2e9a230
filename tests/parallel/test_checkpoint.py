"""A checkpoint of W ranks is read by W ranks and by one, bit for bit."""

import dataclasses
import json
import os
import pathlib
import tempfile
import types

import keras
import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json, gather_json, start
from gmeta_tf.saving.checkpoints.checkpoint import checked_checkpoint
from gmeta_tf.saving.checkpoints.manifest import DamagedCheckpointError, read_manifest

WORLD = gm.World.detect()


def make_model(records, world, seed):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(records.schema, 4, seed=seed, replicate=False, world=world)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding)
    model.compile("adam", "adagrad")
    return model


@pytest.fixture(scope="module")
def trained():
    """A run of three epochs of records that rank 0 makes: the one folder, records and model."""
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_checkpoint"))
    if WORLD.is_chief:
        make_records(folder / "records", seed=3)
    barrier(WORLD, name="records_made")
    records = gm.Records.open(folder / "records")
    batches = gm.TaskBatches(records, "train", tasks=2, support=2, query=3, world=WORLD)
    model = make_model(records, WORLD, seed=0)
    callback = gm.RunFolder(folder / "run", batches, keep=1)
    model.fit(batches, epochs=3, verbose=0, callbacks=[callback])
    barrier(WORLD, name="run_written")
    return folder, records, model


def test_resume_and_other_world_sizes(trained):
    folder, records, model = trained
    gm.save_checkpoint(model, folder / "c", epoch=2)
    whole = {group: model.embedding.all_rows(group).numpy() for group in model.embedding.shards}

    again = make_model(records, WORLD, seed=1)
    assert gm.load_checkpoint(again, folder / "c") == {"epoch": 2}
    for group, shard in model.embedding.shards.items():
        read = again.embedding.shards[group]
        np.testing.assert_array_equal(read.rows.numpy(), shard.rows.numpy())
        for name, slot in shard.slots.items():
            np.testing.assert_array_equal(read.slots[name].numpy(), slot.numpy())

    alone = make_model(records, gm.World(), seed=2)
    gm.load_checkpoint(alone, folder / "c")
    for group, rows in whole.items():
        np.testing.assert_array_equal(alone.embedding.shards[group].rows.numpy(), rows)
    for ours, theirs in zip(alone.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_grown_tables_at_any_number_of_ranks(trained):
    """More rows of the first table move those of the second, to other ranks too."""
    folder, records, model = trained
    gm.save_checkpoint(model, folder / "g", epoch=2)
    schema, table = records.schema, records.schema.tables[0]
    grown = schema.with_num_rows({t.name: t.num_rows for t in schema.tables})
    more = tuple(
        dataclasses.replace(t, num_rows=t.num_rows + 3) if t.name == table.name else t
        for t in grown.tables
    )
    larger = types.SimpleNamespace(schema=dataclasses.replace(schema, tables=more))
    (whole,) = (model.embedding.all_rows(group).numpy() for group in model.embedding.shards)
    old = table.num_rows
    for world in (WORLD, gm.World()):
        again = make_model(larger, world, seed=4)
        (fresh,) = (again.embedding.all_rows(group).numpy() for group in again.embedding.shards)
        gm.load_checkpoint(again, folder / "g", grow=True)
        (found,) = (again.embedding.all_rows(group).numpy() for group in again.embedding.shards)
        assert len(found) == len(whole) + 3
        np.testing.assert_array_equal(found[:old], whole[:old])
        np.testing.assert_array_equal(found[old + 3 :], whole[old:])
        np.testing.assert_array_equal(found[old : old + 3], fresh[old : old + 3])


def test_what_one_rank_finds_changed_is_raised_on_all(trained):
    """Each file is read by one rank; all of them raise the same, and hold what they held."""
    folder, records, model = trained
    gm.save_checkpoint(model, folder / "d", epoch=2)
    other = make_model(records, WORLD, seed=3)
    before = [variable.numpy() for variable in other.trainable_variables]
    names = sorted(read_manifest(folder / "d")["files"])
    assert len(names) == WORLD.size + 1
    for name in names:
        if WORLD.is_chief:
            file = folder / "d" / name
            content = bytearray(file.read_bytes())
            content[-9] ^= 4
            file.write_bytes(content)
        barrier(WORLD, name="checkpoint_flipped")
        with pytest.raises(DamagedCheckpointError, match=f"{name}: expected the SHA-256") as told:
            gm.load_checkpoint(other, folder / "d")
        assert len(set(gather_json(str(told.value), WORLD, name="told"))) == 1
        if WORLD.is_chief:
            content[-9] ^= 4
            file.write_bytes(content)
        barrier(WORLD, name="checkpoint_mended")
    for expected, variable in zip(before, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected)
    assert gm.load_checkpoint(other, folder / "d") == {"epoch": 2}


def test_a_full_disk_of_one_rank_is_raised_on_all(trained, monkeypatch):
    folder, _, model = trained
    gm.save_checkpoint(model, folder / "e", epoch=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if WORLD.rank == WORLD.size - 1:
        monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"the disk is full: .*rows-.*\.safetensors"):
        gm.save_checkpoint(model, folder / "e", epoch=3)
    monkeypatch.undo()
    assert checked_checkpoint(folder / "e", WORLD).details == {"epoch": 2}
    barrier(WORLD, name="checkpoint_looked")
    assert not list(folder.glob(".e-*"))


def test_a_run_folder_is_written_by_rank_0_and_its_rows_by_all(trained):
    folder, *_ = trained
    checkpoints = [path.name for path in (folder / "run" / "checkpoint").iterdir()]
    assert checkpoints == ["epoch-000003"]
    rows = list((folder / "run" / "checkpoint" / "epoch-000003").glob("rows-*"))
    assert len(rows) == WORLD.size
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert metrics["samples_per_second"] > 0
    assert len((folder / "run" / "log.txt").read_text().splitlines()) == 3
