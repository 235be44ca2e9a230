"""A delta is the same at any number of ranks, and after a resume at another one."""

import pathlib
import tempfile

import keras
import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json, start
from gmeta_tf.saving.deltas.apply_delta import apply_delta
from gmeta_tf.saving.deltas.export_delta import export_delta, served_state
from gmeta_tf.saving.exports.export_version import read_version
from gmeta_tf.saving.exports.served_values import OBJECT_GRAPH, read_values

WORLD = gm.World.detect()


def make_model(records, world, seed=0):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(records.schema, 4, replicate=False, world=world)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding)
    model.compile("adam", "adagrad")
    return model


def train(model, records):
    batches = gm.TaskBatches(records, "train", tasks=2, support=2, query=3, world=model.world)
    model.fit(batches, steps_per_epoch=2, epochs=1, verbose=0)


@pytest.fixture(scope="module")
def folder():
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_delta"))
    if WORLD.is_chief:
        make_records(folder / "records", seed=3)
    barrier(WORLD, name="delta_records_made")
    return folder


def test_after_a_resume_at_another_number_of_ranks(folder):
    records = gm.Records.open(folder / "records")
    # Values to look up; the made records have none of their own.
    vocabularies = {
        table.name: np.array([f"{table.name} {i}" for i in range(table.num_rows - 1)], object)
        for table in records.schema.tables
    }
    model = make_model(records, WORLD)
    train(model, records)
    gm.save_checkpoint(model, folder / "c")
    gm.export_saved_model(model, folder / "day-1", vocabularies)
    before = served_state(model, vocabularies)

    train(model, records)
    gm.save_checkpoint(model, folder / "d")
    export_delta(model, folder / "delta", vocabularies, before=before)
    gm.export_saved_model(model, folder / "day-2", vocabularies)
    barrier(WORLD, name="delta_exported")
    own = folder / f"of-{WORLD.rank}"

    alone = make_model(records, gm.World(), seed=1)
    gm.load_checkpoint(alone, folder / "c")
    again = served_state(alone, vocabularies)
    assert again.version == before.version == read_version(folder / "day-1")
    gm.load_checkpoint(alone, folder / "d")
    export_delta(alone, own / "delta", vocabularies, before=again)

    expected = read_values(folder / "day-2")
    for delta in (folder / "delta", own / "delta"):
        assert apply_delta(folder / "day-1", delta, own / "out") == read_version(folder / "day-2")
        found = read_values(own / "out")
        assert set(found) == set(expected)
        for name in set(expected) - {OBJECT_GRAPH}:
            np.testing.assert_array_equal(found[name], expected[name])

    train(alone, records)  # from here on with one rank
    version = export_delta(
        alone, own / "next", vocabularies, before=served_state(model, vocabularies)
    )
    assert apply_delta(folder / "day-2", own / "next", own / "later") == version
