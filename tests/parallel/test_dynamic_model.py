"""Dynamic tables on several ranks: as on one, and refused together."""

import dataclasses
import pathlib
import tempfile

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json
from gmeta_tf.table_groups import key_groups

WORLD = gm.World.detect()
ALONE = gm.World()

SCHEMA = dataclasses.replace(
    made_batches.SCHEMA, tables=(gm.Table("item", keys="raw"), gm.Table("genre", 7))
)
SLOTS = 7
STEPS = [made_batches.made_tasks(seed, count=SLOTS) for seed in range(1, 6)]
FLOAT32 = {"rtol": 1e-4, "atol": 5e-6}
# In turn, so that each rank is the empty one, too.
SIZES = {2: [4, 3, 7, 0], 3: [3, 2, 2, 5, 0, 2]}


def own_tasks(world):
    if not world.is_distributed:
        return STEPS
    steps = []
    for index, tasks in enumerate(STEPS):
        sizes = SIZES[world.size]
        turned = np.roll(sizes[: world.size] if index % 2 else sizes[world.size :], index)
        ends = np.cumsum(turned)
        steps.append(tasks[ends[world.rank] - turned[world.rank] : ends[world.rank]])
    return steps


def meta_model(world, rules, **compiled):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(SCHEMA, 3, scale=0.8, dynamic=rules, world=world)
    model = gm.MetaModel(gm.models.MeLU((5,)), embedding, gm.InnerLoop(1, 0.4))
    compiled = {"row_optimizer": gm.Adagrad(0.3), **compiled}
    model.compile(keras.optimizers.Adam(0.03, epsilon=1e-2), **compiled)
    return model


def stepping(model):
    """The model's step of an iterator, whose batches leave U open: it is traced once.

    One rank alone is what ranks together are compared with: its step need not be traced.
    """

    def step(batches):
        return model.train_step(next(batches))

    return tf.function(step, autograph=False) if model.world.is_distributed else step


def train(step, tasks):
    batches = iter(made_batches.dataset(tasks, SLOTS, schema=SCHEMA))
    for _ in tasks:
        step(batches)


class Twins:
    """A model of all ranks and one of this rank alone, after the same steps, and their steps."""

    def __init__(self, rules):
        self.together, self.alone = meta_model(WORLD, rules), meta_model(ALONE, rules)
        self.step_together, self.step_alone = stepping(self.together), stepping(self.alone)
        self.train()

    def train(self):
        train(self.step_together, own_tasks(WORLD))
        train(self.step_alone, own_tasks(ALONE))


@pytest.fixture(scope="module")
def plain():
    return Twins(gm.DynamicTable())


@pytest.fixture(scope="module")
def all_rules():
    rules = gm.DynamicTable(capacity=99, admit_after=2, admit_probability=0.7, time_to_live=2)
    return Twins(rules)


def rows_of(model):
    (group,) = [g for g, tables in key_groups(SCHEMA).items() if tables == ("item",)]
    held = model.embedding.all_keys(group, int(model.optimizer.iterations))
    return dict(zip(held.keys.tolist(), held.rows, strict=True))


@pytest.mark.parametrize("rules", ["plain", "all_rules"])
def test_ranks_train_as_one(rules, request):
    twins = request.getfixturevalue(rules)
    together, alone = twins.together, twins.alone
    for found, expected in zip(
        together.trainable_variables, alone.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), **FLOAT32)
    found, expected = rows_of(together), rows_of(alone)
    assert found.keys() == expected.keys()
    assert len(found) > 3
    for key, row in expected.items():
        np.testing.assert_allclose(found[key], row, **FLOAT32)
    counts, of_one = together.embedding.metrics()["item"], alone.embedding.metrics()["item"]
    assert counts["insertions"] == of_one["insertions"]
    assert counts["not_admitted"] == of_one["not_admitted"]


def test_a_checkpoint_of_ranks_is_read_by_one(all_rules):
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_dynamic"))
    together, alone = all_rules.together, all_rules.alone
    gm.save_checkpoint(together, folder / "c")
    expected = rows_of(together)
    # What is read stands in the place of other rows.
    train(all_rules.step_alone, STEPS[:2])
    other = rows_of(alone)
    assert other.keys() != expected.keys() or any(
        (other[key] != row).any() for key, row in expected.items()
    )
    gm.load_checkpoint(alone, folder / "c")
    found = rows_of(alone)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_array_equal(found[key], row)
    # What waits, and the slots, are there too: the next steps are the same.
    all_rules.train()
    found, expected = rows_of(alone), rows_of(together)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_allclose(found[key], row, **FLOAT32)
    barrier(WORLD, name="dynamic_checkpoint_end")


MOST_TASKS = 40


def step_where_rank_1(broken_tasks, slots):
    """Batches of one step: three tasks of the first for each rank, of which rank 1's are others."""
    tasks = [broken_tasks if WORLD.rank == 1 else STEPS[0][:3]]
    return iter(made_batches.dataset(tasks, slots, schema=SCHEMA))


@pytest.fixture(scope="module")
def strict():
    """A model of small tables that skips steps, and its step."""
    rules = gm.DynamicTable(capacity=12 * WORLD.size, when_full="error")
    model = meta_model(WORLD, rules, non_finite="skip")
    return model, stepping(model)


def with_item(task, key):
    keys = task.keys.copy()
    keys[0, 0] = key
    return dataclasses.replace(task, keys=keys)


@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_a_non_finite_gradient_on_one_rank(non_finite, all_rules, strict):
    if non_finite == "skip":
        (model, step), slots = strict, MOST_TASKS
    else:  # as models are by default
        model, step, slots = all_rules.together, all_rules.step_together, SLOTS
    assert model.non_finite == non_finite
    task = STEPS[0][0]
    broken = dataclasses.replace(task, dense=np.full_like(task.dense, np.nan))
    data = step_where_rank_1([broken], slots)
    before = [variable.numpy() for variable in model.trainable_variables]
    if non_finite == "skip":
        assert step(data)["skipped_steps"] == 1
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="got NaN or Inf in"):
            step(data)
    for found, expected in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_a_table_that_one_rank_finds_full_stops_every_rank(strict):
    model, step = strict
    before = [variable.numpy() for variable in model.trainable_variables]
    many = [with_item(STEPS[0][0], WORLD.size * key) for key in range(20, 20 + MOST_TASKS)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"item: expected a row for every key"):
        step(step_where_rank_1(many, MOST_TASKS))
    for found, expected in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_ranks_of_other_rules_are_refused():
    with pytest.raises(ValueError, match=r"dynamic\.item\.capacity is 5 on rank 0 and None"):
        meta_model(WORLD, gm.DynamicTable(capacity=None if WORLD.rank else 5))
