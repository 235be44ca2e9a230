"""Ranks that stop in the middle of an epoch go on there, as many as they were or others."""

import collections
import pathlib
import tempfile

import keras
import numpy as np
import pytest
from made_data import SharedBatches, make_records

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json, gather_json, start

WORLD = gm.World.detect()
# Fewer tasks than make whole steps on every rank, in episodes of few rows.
TASKS = [30, 1, 9, 4, 4, 17, 2, 6, 22, 5, 8, 3, 11, 7]
MIDDLE = "epoch-000000-step-000003"


def batches_of(records, world=WORLD, **options):
    options = {"tasks": 2, "support": 2, "query": 3, "every_row": True, **options}
    return SharedBatches(records, "train", seed=6, window_rows=40, world=world, **options)


def make_model(records, world, seed):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(records.schema, 4, seed=seed, replicate=False, world=world)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding)
    model.compile("adam", "adagrad")
    return model


def loaded(model, path):
    """Where in the data the checkpoint was saved, which the model now holds."""
    return gm.Progress.from_json(gm.load_checkpoint(model, path)["progress"])


def samples_of(ranks, num_steps):
    """What ranks of batches read in so many steps: each task of a step by its words.

    The ranks of this run share those of the batches out.
    """
    own = collections.Counter()
    for batches in ranks[WORLD.rank :: WORLD.size]:
        for step in batches.picked().take(num_steps).as_numpy_iterator():
            for task, words, support, query in zip(
                step["task"], step["words"], step["num_support"], step["num_query"], strict=True
            ):
                if task >= 0:
                    rows = words[2 : 2 + query].tobytes().hex()
                    own[f"{task} {words[:support].tobytes().hex()} {rows}"] += 1
    shares = gather_json(own, WORLD, name="samples")
    return sum((collections.Counter(share) for share in shares), collections.Counter())


def of_all_ranks(records, size, **options):
    return [batches_of(records, gm.World(rank, size), **options) for rank in range(size)]


def numbers(model):
    """The weights, and this rank's rows of each group."""
    found = {f"weight {i}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    for group, shard in model.embedding.shards.items():
        found[f"{group} rows"] = shard.rows.numpy()
    return found


@pytest.fixture(scope="module")
def trained():
    """A run of two epochs that saved itself on the way: folder, records, model and numbers."""
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_resume"))
    if WORLD.is_chief:
        make_records(folder / "records", TASKS, episode_rows=12, splits=("train",))
    barrier(WORLD, name="resume_records_made")
    records = gm.Records.open(folder / "records")
    batches = batches_of(records)
    model = make_model(records, WORLD, seed=0)
    callback = gm.RunFolder(folder / "run", batches, checkpoint_every_steps=3, keep=99)
    model.fit(batches, epochs=2, verbose=0, callbacks=[callback])
    barrier(WORLD, name="resume_trained")
    assert batches.steps_per_epoch > 4
    return folder / "run" / "checkpoint", records, model, numbers(model)


def test_as_many_ranks_go_on_to_the_same_weights(trained):
    """In the model of the whole run, whose step is traced already: it holds other numbers."""
    checkpoints, records, model, at_end = trained
    begin = loaded(model, checkpoints / MIDDLE)
    assert begin == batches_of(records).progress(0, 3)
    in_middle = numbers(model)
    assert all((in_middle[name] != value).any() for name, value in at_end.items())
    model.fit(batches_of(records, begin=begin), epochs=2, verbose=0)
    found = numbers(model)
    assert found.keys() == at_end.keys()
    for name, value in at_end.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_one_rank_goes_on_with_what_the_others_left(trained):
    checkpoints, records, *_ = trained
    alone = make_model(records, gm.World(), seed=9)
    begin = loaded(alone, checkpoints / MIDDLE)
    batches = batches_of(records, gm.World(), begin=begin)
    steps = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    before = [np.asarray(variable) for variable in alone.trainable_variables]
    alone.fit(batches, epochs=1, verbose=0, callbacks=[count])
    assert len(steps) == batches.steps_at_begin > 0
    after = [np.asarray(variable) for variable in alone.trainable_variables]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def samples(trained):
    """What a whole epoch reads, what of it the first run had read, and where it stopped."""
    checkpoints, records, model, _ = trained
    begin = loaded(model, checkpoints / MIDDLE)
    whole = of_all_ranks(records, 1)
    expected = samples_of(whole, whole[0].steps_per_epoch)
    return expected, samples_of(of_all_ranks(records, WORLD.size), 3), begin


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_sample_once_over_both_runs(trained, samples, size):
    expected, had, begin = samples
    rest = of_all_ranks(trained[1], size, begin=begin)
    assert 0 < had.total() < expected.total()
    assert had + samples_of(rest, rest[0].steps_at_begin) == expected
