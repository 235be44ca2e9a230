"""A model whose vocabularies have grown takes a checkpoint: old rows stay, new ones begin."""

import dataclasses

import keras
import numpy as np
import pytest
from made_batches import Task, dataset

import gmeta_tf as gm
from gmeta_tf.saving.checkpoints.grown_tables import grown_tables

OPTIMIZERS = [gm.LazyAdam(0.05), gm.RowWiseAdagrad(0.3), gm.Ftrl(0.1)]


def schema_of(items, genres=3, *, keys="vocabulary"):
    """Two tables of one width, so that new rows of the first move those of the second."""
    return gm.Schema(
        (gm.Field("item"), gm.Field("genre")),
        "liked",
        "user",
        tables=(gm.Table("item", items, keys=keys), gm.Table("genre", genres)),
    )


def make_model(schema, *, rows=OPTIMIZERS[0], replicate=False, width=4):
    keras.utils.set_random_seed(0)
    embedding = gm.ShardedEmbedding(schema, width, seed=3, replicate=replicate, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.2))
    model.compile("adam", rows)
    return model


def train(model, items):
    """One step, on rows of each of the items."""
    keys = np.array([[item, 1 + item % 2] for item in items])
    labels = np.arange(len(items)) % 2
    task = Task(0, 1, keys, np.zeros([len(items), 0]), labels)
    model.fit(dataset([[task]], 1, schema=model.embedding.schema), verbose=0)


def state_of(model):
    (shard,) = model.embedding.indexed.values()
    return {name: variable.numpy() for name, variable in shard.state_variables.items()}


@pytest.mark.parametrize("replicate", [False, True])
@pytest.mark.parametrize("rows", OPTIMIZERS, ids=lambda rows: type(rows).__name__)
def test_old_rows_and_slots_stay_and_new_ones_begin(tmp_path, rows, replicate):
    small = make_model(schema_of(5), rows=rows, replicate=replicate)
    train(small, [1, 2, 4])
    gm.save_checkpoint(small, tmp_path / "c", epoch=1)
    fresh = state_of(make_model(schema_of(8, 4), rows=rows, replicate=replicate))

    large = make_model(schema_of(8, 4), rows=rows, replicate=replicate)
    train(large, [7, 6])  # what is loaded into has no say
    assert gm.load_checkpoint(large, tmp_path / "c", grow=True) == {"epoch": 1}

    before, now = state_of(small), state_of(large)
    assert len(before["rows"]) == 8
    for name in before:
        np.testing.assert_array_equal(now[name][:5], before[name][:5])  # items
        np.testing.assert_array_equal(now[name][8:11], before[name][5:])  # genres
        np.testing.assert_array_equal(now[name][5:8], fresh[name][5:8])
        np.testing.assert_array_equal(now[name][11:], fresh[name][11:])
    assert np.ptp(now["rows"][5:8]) > 0
    for one, other in zip(small.trainable_variables, large.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    train(large, [7, 2])
    assert (state_of(large)["rows"][7] != now["rows"][7]).any()


@pytest.mark.parametrize(
    ("schema", "grow"),
    [
        (schema_of(8), False),
        (schema_of(4), True),
        (schema_of(8, keys="hash"), True),
        (gm.Schema((gm.Field("item"),), "liked", "user", tables=(gm.Table("item", 8),)), True),
    ],
    ids=["not asked for", "fewer rows", "other keys", "no genre"],
)
def test_other_tables_are_refused(tmp_path, schema, grow):
    gm.save_checkpoint(make_model(schema_of(5)), tmp_path / "c")
    model = make_model(schema)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"has tables .*, the model has .*Build the model"):
        gm.load_checkpoint(model, tmp_path / "c", grow=grow)
    for name, values in state_of(model).items():
        np.testing.assert_array_equal(values, before[name])


def test_another_width_or_optimizer_is_told_as_ever(tmp_path):
    gm.save_checkpoint(make_model(schema_of(5)), tmp_path / "c")
    with pytest.raises(ValueError, match="has width 4, the model has 5"):
        gm.load_checkpoint(make_model(schema_of(8), width=5), tmp_path / "c", grow=True)
    with pytest.raises(ValueError, match=r"no embedded/slot_accumulator.*row optimizer"):
        gm.load_checkpoint(make_model(schema_of(8), rows=gm.Adagrad()), tmp_path / "c", grow=True)


def test_what_has_grown_is_described():
    saved = [dataclasses.asdict(table) for table in schema_of(5).tables]
    assert grown_tables(saved, schema_of(5)) == ()
    (grown,) = grown_tables(saved, schema_of(7))
    assert grown == ("item", 5, 7)
    assert grown.describe().startswith("item: 2 rows added for new values, 7 in all; ")
