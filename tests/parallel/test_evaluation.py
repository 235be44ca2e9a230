"""An evaluation on several ranks is that of one: each task once, from all its episodes."""

import dataclasses
import pathlib
import tempfile

import keras
import made_batches
import made_catalogue
import numpy as np
import pytest
import tensorflow as tf
from made_data import SCHEMA, make_records

import gmeta_tf as gm
from gmeta_tf.cli.evaluation_details import evaluate_draw
from gmeta_tf.cli.options import EvaluateOptions
from gmeta_tf.distributed.collectives import barrier, broadcast_json, start
from gmeta_tf.evaluation.catalogue import Catalogue
from gmeta_tf.meta.validation import rejection_text

WORLD, ALONE = gm.World.detect(), gm.World()
RATINGS = dataclasses.replace(SCHEMA, positive_from=None)


@pytest.fixture(scope="module")
def folder():
    """A folder of this rank's own; the records in it are the same on every rank."""
    return pathlib.Path(tempfile.mkdtemp())


def model_of(world, loss, schema=SCHEMA):
    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(schema, 3, scale=0.8, replicate=False, world=world)
    learner = gm.models.MeLU((4,))
    model = gm.MetaModel(learner, embedding, learner.inner_loop(num_steps=1, learning_rate=0.5))
    model.compile(loss=loss)
    return model


def same_path(folder, name):
    """One path for all ranks, which compare what they are given."""
    start(WORLD)
    made = str(folder / name) if WORLD.is_chief else None
    return pathlib.Path(broadcast_json(made, WORLD, name=f"path_{name}"))


def records_of(folder, name, **options):
    path = same_path(folder, name)
    if WORLD.is_chief:
        make_records(path, **options)
    barrier(WORLD, name=f"made_{name}")
    return gm.Records.open(path)


def test_tasks_of_many_episodes_are_evaluated_as_on_one_rank(folder):
    records = records_of(folder, "clicks", tasks=20, episode_rows=6)
    assert records.contents["test"].episodes > 2 * records.contents["test"].tasks

    def results(world):
        batches = gm.TaskBatches(
            records, "test", tasks=3, support=4, query=5, every_query=True, world=world
        )
        return model_of(world, "bce").evaluate(batches, return_dict=True, verbose=0)

    together, alone = results(WORLD), results(ALONE)
    assert together["tasks"] == 20
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone["auc_adapted"] != alone["auc_unadapted"]


def test_rows_and_their_keys_are_those_of_one_rank_in_the_same_order(folder):
    records = records_of(folder, "rows", tasks=20, episode_rows=6)
    field = next(one.name for one in SCHEMA.fields if one.kind == "multi")

    def draw(world):
        batches = gm.TaskBatches(
            records, "test", tasks=3, support=4, query=5, every_query=True, world=world
        )
        options = EvaluateOptions(run="r", by=field)
        return evaluate_draw(model_of(world, "bce"), batches, options, None, number=0)

    together, alone = draw(WORLD), draw(ALONE)
    assert len(together.rows) == together.results["samples"] > 20
    for name in ("task", "label"):
        np.testing.assert_array_equal(getattr(together.rows, name), getattr(alone.rows, name))
    np.testing.assert_allclose(together.rows.adapted, alone.rows.adapted, rtol=1e-4)
    np.testing.assert_array_equal(together.keys, alone.keys)
    assert len(np.unique(together.keys)) > 2


@pytest.mark.parametrize("negatives", [None, 2])
def test_a_catalogue_is_ranked_as_on_one_rank(folder, negatives):
    path = same_path(folder, f"catalogue_{negatives}")
    if WORLD.is_chief:
        made_catalogue.write(path, made_catalogue.made_splits())
    barrier(WORLD, name=f"made_catalogue_{negatives}")
    records = gm.Records.open(path)
    catalogue = Catalogue.of(records, "test", "item", "train")
    options = EvaluateOptions(run="r", catalogue="item", top=2, negatives=negatives)

    def ranked(world):
        # One task a step: the ranks have other numbers of steps.
        batches = made_catalogue.batches_of(records, tasks=1, world=world)
        model = model_of(world, "bce", made_catalogue.SCHEMA)
        return evaluate_draw(model, batches, options, catalogue, number=0).ranked

    together, alone = ranked(WORLD), ranked(ALONE)
    assert together["tasks"] == 7
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone["mrr_adapted"] != alone["mrr_unadapted"] != alone["mrr_baseline"]
    assert set(alone) > {"recall@2_adapted", "ndcg@2_baseline"}


def test_a_label_that_one_rank_meets_is_raised_by_all():
    tasks = made_batches.made_tasks(4)
    if WORLD.rank == WORLD.size - 1:
        labels = tasks[0].label.copy()
        labels[0] = 4.0
        tasks[0] = dataclasses.replace(tasks[0], label=labels)
    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, replicate=False, world=WORLD)
    model = gm.MetaModel(gm.models.MeLU((4,)), embedding)
    model.compile()
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        # Not `fit`, which leaves the world.
        model.train_step(next(iter(made_batches.dataset([tasks], 7))))
    got = "4" if WORLD.rank == WORLD.size - 1 else "such labels on 1 other rank(s)"
    expected = f"binary_crossentropy: expected labels from 0 to 1, got {got}. "
    assert expected in rejection_text(raised.value)
    assert int(model.optimizer.iterations) == 0


def test_labels_that_do_not_suit_are_refused_on_every_rank(folder):
    records = records_of(folder, "ratings", tasks=12, schema=RATINGS, splits=("train",))
    batches = gm.TaskBatches(records, "train", tasks=2, support=2, query=3, world=WORLD)
    model = model_of(WORLD, "bce")
    with pytest.raises(ValueError, match="expected labels from 0 to 1, got labels from 1 to 5"):
        model.fit(batches, verbose=0)
    assert int(model.optimizer.iterations) == 0
