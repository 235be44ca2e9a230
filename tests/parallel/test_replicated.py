"""Replicated tables train as sharded ones do, in one collective."""

import collections
import dataclasses
import pathlib
import tempfile

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from made_data import TWO_WIDTHS, SharedBatches, make_records

import gmeta_tf as gm
from gmeta_tf.distributed import collectives
from gmeta_tf.distributed.collectives import allgather_rows, barrier, broadcast_json, start
from gmeta_tf.embedding.dynamic.shard import DynamicShard
from gmeta_tf.embedding.replicated import ReplicatedShard
from gmeta_tf.meta.validation import nonfinite_tables

WORLD = gm.World.detect()
ALONE = gm.World()

# Sums are in the order of the ranks on both sides, or but for the last bits; a few steps with
# rates below 1 let those grow some ten times.
FLOAT32 = {"rtol": 1e-4, "atol": 5e-6}

# Adam divides by the root of the squares: a large epsilon keeps the rounding of a gradient near 0
# from being made a step of full size.
OPTIMIZERS = {
    "momentum": gm.SGD(0.3, momentum=0.9, nesterov=True),
    "adagrad": gm.Adagrad(0.3),
    "row_wise_adagrad": gm.RowWiseAdagrad(0.3),
    "lazy_adam": gm.LazyAdam(0.05, epsilon=1e-2),
    "ftrl": gm.Ftrl(0.3, l1=0.01),
}

SLOTS = 7
STEPS = [made_batches.made_tasks(seed, count=SLOTS) for seed in range(1, 6)]
SIZES = {2: [0, 7], 3: [2, 0, 5]}

# A group of each kind, of the same four slots: items grow, two genres of width 2, and tags.
THREE_GROUPS = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("genre", "multi", max_values=2),
        gm.Field("tag"),
        gm.Field("price", "dense"),
    ),
    "label",
    "user",
    tables=(gm.Table("item", keys="raw"), gm.Table("genre", 7, width=2), gm.Table("tag", 7)),
)


def folder_of_all(name):
    """A temporary folder, the same on every rank."""
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    return pathlib.Path(broadcast_json(made, WORLD, name=f"folder_{name}"))


@pytest.fixture(scope="module")
def records():
    folder = folder_of_all("replicated")
    if WORLD.is_chief:
        make_records(folder, 14, splits=("train", "valid"), schema=TWO_WIDTHS)
    barrier(WORLD, name="replicated_records_made")
    return gm.Records.open(folder)


def batches_of(records, split="train", **options):
    return SharedBatches(records, split, tasks=2, support=3, query=4, world=WORLD, **options)


def meta_model(schema, replicate, *, world=WORLD, seed=0, **compiled):
    keras.utils.set_random_seed(7 + seed)
    embedding = gm.ShardedEmbedding(
        schema,
        3,
        seed=seed,
        scale=0.8,
        dynamic=gm.DynamicTable(capacity=99),
        replicate=replicate,
        world=world,
    )
    model = gm.MetaModel(gm.models.MeLU((5,)), embedding, gm.InnerLoop(1, 0.4, order=1))
    compiled = {"row_optimizer": gm.Adagrad(0.3), **compiled}
    model.compile(keras.optimizers.Adam(0.03, epsilon=1e-2), **compiled)
    return model


def numbers(model):
    """Weights, and of each group all rows and slots by key, wherever they are."""
    found = {f"weight {i}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    for group, shard in model.embedding.shards.items():
        if isinstance(shard, DynamicShard):
            held = model.embedding.all_keys(group, int(model.optimizer.iterations))
            found |= {f"{group} keys": held.keys, f"{group} rows": held.rows}
            continue
        found[f"{group} rows"] = model.embedding.all_rows(group).numpy()
        for name, slot in shard.slots.items():
            values = allgather_rows(slot, shard.world, name=f"slot_{group}_{name}").numpy()
            size, order = shard.world.size, []
            for rank in range(size):
                order += range(rank, shard.num_rows, size)
            found[f"{group} {name}"] = values[np.argsort(order)]
    return found


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **(tolerance or FLOAT32))


def assert_equal_on_all_ranks(model):
    """Replicated rows, their slots and the dense weights, to the last bit."""
    named = [(v.name, v.value) for v in (*model.variables, *model.optimizer.variables)]
    for group in model.embedding.replicated:
        shard = model.embedding.shards[group]
        named += [(f"{group} rows", shard.rows), *shard.slots.items()]
    for index, (name, value) in enumerate(named):
        flat = tf.reshape(tf.cast(value, tf.float64), [1, -1])
        everywhere = allgather_rows(flat, WORLD, name=f"equal_{index}").numpy()
        np.testing.assert_array_equal(
            everywhere, np.repeat(everywhere[:1], WORLD.size, axis=0), err_msg=name
        )


# As sharded tables ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_steps(records):
    """This rank's first steps, as the pipeline makes them."""
    return list(batches_of(records).dataset().take(4))


def assert_trained_alike(replicated, other, before):
    """And moved: the rows that steps have read, and no others."""
    assert other.embedding.replicated == ()
    assert replicated.embedding.replicated == ("embedded", "embedded_2")
    assert int(replicated.optimizer.iterations) > 3
    found = numbers(replicated)
    assert_close(found, numbers(other))
    for group in replicated.embedding.replicated:
        moved = np.abs(found[f"{group} rows"] - before[f"{group} rows"]).max(axis=1)
        assert (moved > 1e-3).sum() > 4
        # The last key of a table is never read: its row stays as it was, whatever the optimizer.
        assert moved[-1] == 0
    assert_equal_on_all_ranks(replicated)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_sharded_tables(records, first_steps, name):
    """Few keys are read by all ranks. Not traced, which takes seconds a model."""
    replicated, other = (
        meta_model(records.schema, replicate, row_optimizer=OPTIMIZERS[name])
        for replicate in (True, False)
    )
    before = numbers(replicated)
    for batch in first_steps:
        for model in (replicated, other):
            model.train_step(batch)
    assert_trained_alike(replicated, other, before)


def test_fit_is_that_of_sharded_tables(records):
    """A rank steps on empty tasks at the end of an epoch; no keys are looked ahead to."""
    optimizer = OPTIMIZERS["lazy_adam"]
    replicated = meta_model(records.schema, True, row_optimizer=optimizer)
    assert replicated.look_ahead is None
    before = numbers(replicated)
    batches = batches_of(records, every_row=True)
    replicated.fit(batches, epochs=2, verbose=0)
    other = meta_model(records.schema, False, row_optimizer=optimizer)
    for batch in batches.dataset(0).take(2 * batches.steps_per_epoch):
        other.train_step(batch)
    assert_trained_alike(replicated, other, before)


def own_tasks(world):
    """This rank's tasks of each step; of one rank alone, all of them. One rank has none."""
    if not world.is_distributed:
        return STEPS
    ends = np.cumsum(SIZES[world.size])
    return [
        tasks[ends[world.rank] - SIZES[world.size][world.rank] : ends[world.rank]]
        for tasks in STEPS
    ]


def fitted(schema, replicate, *, world=WORLD, epochs=2, **compiled):
    model = meta_model(schema, replicate, world=world, **compiled)
    data = made_batches.dataset(own_tasks(world), SLOTS, schema=schema)
    model.fit(data, epochs=epochs, verbose=0)
    return model


def test_fit_is_that_of_one_rank():
    together = fitted(made_batches.TWO_WIDTHS, True)
    alone = fitted(made_batches.TWO_WIDTHS, True, world=ALONE, run_eagerly=True)
    assert alone.embedding.replicated == ()
    assert_close(numbers(together), numbers(alone))
    judged = [
        model.evaluate(
            made_batches.dataset(own_tasks(model.world), SLOTS, schema=made_batches.TWO_WIDTHS),
            return_dict=True,
            verbose=0,
        )
        for model in (together, alone)
    ]
    assert judged[0]["tasks"] == SLOTS * len(STEPS)
    assert judged[0] == pytest.approx(judged[1], rel=1e-4)


def test_rows_that_are_read_and_have_no_gradient_are_touched_on_all_ranks():
    """Momentum moves such a row on, as it does where its owner alone updates it."""
    optimizer = OPTIMIZERS["momentum"]
    tables = {
        replicate: gm.ShardedEmbedding(TWO_WIDTHS, 4, replicate=replicate, world=WORLD)
        for replicate in (False, True)
    }
    # Key 2 is read by all in each step, key 3 by rank 0 in the first; 5 + rank by that rank alone.
    for step, keys in enumerate([[2, 3] if WORLD.rank == 0 else [2], [2, 5 + WORLD.rank]]):
        wanted = {"embedded": tf.constant(keys, tf.int64), "embedded_2": tf.zeros([0], tf.int64)}
        gradients = {
            "embedded": tf.fill([len(keys), 4], 1.0 - step),
            "embedded_2": tf.zeros([0, 2]),
        }
        updates = {}
        for replicate, embedding in tables.items():
            if step == 0:
                embedding.make_slots(optimizer)
            _, returned = step_of(embedding, wanted, gradients)
            updates[replicate] = returned.updates
            embedding.apply_gradients(returned.updates, optimizer, tf.constant(step, tf.int64))
        others = [5 + rank for rank in range(WORLD.size)]
        row_indices = updates[True]["embedded"][0].numpy().tolist()
        assert row_indices == ([2, 3] if step == 0 else [2, *others])
        assert updates[True]["embedded_2"][0].shape == (0,)
    for group in tables[True].shards:
        expected = tables[False].all_rows(group)
        np.testing.assert_allclose(tables[True].all_rows(group), expected, atol=1e-6)


def step_of(embedding, wanted, gradients=None):
    """Fetched rows and what comes of their gradients, ones where none are given."""
    routes = embedding.routes(wanted)
    located = embedding.locate(routes, 0, training=True)
    rows = embedding.fetch(routes, located)
    gradients = gradients or {group: tf.ones_like(row) for group, row in rows.items()}
    return rows, embedding.return_gradients(
        gradients, routes, located, totals=[tf.constant([1.0, 2.0])]
    )


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_replicated_tables_are_not_rounded_on_the_wire(wire):
    embedding = gm.ShardedEmbedding(
        TWO_WIDTHS, 3, scale=0.9, wire=wire, replicate=True, world=WORLD
    )
    keys = {"embedded": tf.range(5, dtype=tf.int64), "embedded_2": tf.range(7, dtype=tf.int64)}
    third = (1 + WORLD.rank) / 3
    gradients = {"embedded": tf.fill([5, 3], third), "embedded_2": tf.fill([7, 2], third)}
    rows, returned = step_of(embedding, keys, gradients)
    expected = np.sum([np.float32((1 + rank) / 3) for rank in range(WORLD.size)], dtype=np.float32)
    for group, wanted in keys.items():
        exact = embedding.shards[group].rows.numpy()[wanted]
        assert (tf.cast(tf.cast(exact, wire), tf.float32).numpy() != exact).any()
        np.testing.assert_array_equal(rows[group], exact)
        np.testing.assert_allclose(returned.updates[group][1], expected, rtol=1e-7)
    large = {"embedded": tf.fill([5, 3], 7e4), "embedded_2": tf.ones([7, 2])}
    assert nonfinite_tables(large, {"keys": keys}, embedding).numpy().tolist() == [0, 0]


# Groups of several kinds ----------------------------------------------------------------------


def test_groups_of_several_kinds_train_as_sharded_ones():
    """One grows, one is replicated, one is sharded; keys of two are looked ahead to."""
    expected = fitted(THREE_GROUPS, False, epochs=1, run_eagerly=True, look_ahead=False)
    model = fitted(THREE_GROUPS, {"genre"}, epochs=1)
    kinds = {group: type(shard).__name__ for group, shard in model.embedding.shards.items()}
    assert kinds == {
        "embedded:item": "DynamicShard",
        "embedded_2": "ReplicatedShard",
        "embedded": "StaticShard",
    }
    assert model.look_ahead is not None
    assert_close(numbers(model), numbers(expected))
    assert_equal_on_all_ranks(model)


@pytest.mark.parametrize(
    ("replicate", "groups"),
    [({"genre"}, ("embedded_2",)), (True, ("embedded_2", "embedded"))],
    ids=["genre", "all"],
)
def test_the_messages_of_groups_of_several_kinds(replicate, groups):
    """Rows, sums and totals, in whatever order the groups stand; keys, rows, gradients."""

    def tables_of(replicate):
        rules = gm.DynamicTable(capacity=99)
        return gm.ShardedEmbedding(
            THREE_GROUPS, 3, dynamic={"item": rules}, replicate=replicate, world=WORLD
        )

    plain = tables_of(False)
    mixed = tables_of(replicate)
    assert mixed.replicated == groups
    rng = np.random.default_rng(WORLD.rank)
    wanted = {group: tf.constant(rng.permutation(6)[:4], tf.int64) for group in mixed.shards}
    (rows, returned), (expected, _) = step_of(mixed, wanted), step_of(plain, wanted)
    for group in wanted:
        np.testing.assert_array_equal(rows[group], expected[group])
    assert returned.totals[0].numpy().tolist() == [WORLD.size, 2.0 * WORLD.size]
    everyones = [np.random.default_rng(rank) for rank in range(WORLD.size)]
    everyones = [[one.permutation(6)[:4] for _ in wanted] for one in everyones]
    genres = np.bincount(np.concatenate([one[1] for one in everyones]), minlength=6)
    row_indices, sums = returned.updates["embedded_2"]
    np.testing.assert_array_equal(row_indices, np.flatnonzero(genres))
    np.testing.assert_array_equal(sums[:, 0], genres[genres > 0])
    counts = horovod_operations(lambda keys: step_of(mixed, keys)[1].updates, wanted)
    assert counts == {"HorovodAlltoall": 3}


def horovod_operations(function, *arguments):
    """Operation type -> how often it stands in a function, and in those that it calls."""
    traced = tf.function(function, autograph=False).get_concrete_function(*arguments)
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(n for inner in graph.library.function for n in inner.node_def)]
    return dict(collections.Counter(n.op for n in nodes if n.op.startswith("Horovod")))


def test_a_step_of_replicated_tables_makes_one_collective():
    model = meta_model(made_batches.TWO_WIDTHS, True)
    batch = made_batches.batch(STEPS[0], schema=made_batches.TWO_WIDTHS)
    assert horovod_operations(model.train_step, batch) == {"HorovodAlltoall": 1}
    assert horovod_operations(model.test_step, batch) == {}


# Checkpoints ----------------------------------------------------------------------------------


def rows_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("rows-*"))}


@pytest.mark.parametrize("first", [True, False], ids=["from replicated", "from sharded"])
def test_checkpoints_are_the_same_of_replicated_and_sharded_tables(records, first_steps, first):
    folder = folder_of_all(f"checkpoints_{first}")
    model = meta_model(records.schema, first)
    model.train_step(first_steps[0])
    gm.save_checkpoint(model, folder / "c", epoch=1)
    expected = numbers(model)
    exact = {"rtol": 0, "atol": 0}

    other = meta_model(records.schema, not first, seed=1)
    assert gm.load_checkpoint(other, folder / "c") == {"epoch": 1}
    assert_close(numbers(other), expected, **exact)
    gm.save_checkpoint(other, folder / "again")
    assert rows_files(folder / "again") == rows_files(folder / "c")
    assert len(rows_files(folder / "c")) == WORLD.size

    alone = meta_model(records.schema, True, world=ALONE, seed=2)
    gm.load_checkpoint(alone, folder / "c")
    assert_close(numbers(alone), expected, **exact)
    own = folder / f"alone-{WORLD.rank}"
    gm.save_checkpoint(alone, own)
    again = meta_model(records.schema, first, seed=3)
    gm.load_checkpoint(again, own)
    assert_close(numbers(again), expected, **exact)


def test_replicated_rows_are_read_without_a_collective(monkeypatch):
    model = meta_model(made_batches.TWO_WIDTHS, True)

    def refuse():
        raise AssertionError("a collective was called")

    monkeypatch.setattr(collectives, "_horovod", refuse)
    whole = gm.ShardedEmbedding(made_batches.TWO_WIDTHS, 3, scale=0.8, world=ALONE)
    for group, shard in whole.shards.items():
        np.testing.assert_array_equal(model.embedding.all_rows(group), shard.rows)
    routes = model.embedding.routes({g: tf.constant([3], tf.int64) for g in whole.shards})
    rows = model.embedding.fetch(routes, model.embedding.locate(routes))
    np.testing.assert_array_equal(rows["embedded"][0], whole.shards["embedded"].rows[3])


# What is refused ------------------------------------------------------------------------------


def broken_step(model, task):
    """One step of which rank 1 has the task, by `train_step` itself, which leaves the world be."""
    tasks = [task if WORLD.rank == 1 else STEPS[0][0]]
    batch = made_batches.batch(tasks, schema=made_batches.TWO_WIDTHS)
    return model.train_step(batch)


def test_a_key_out_of_range_on_one_rank_stops_every_rank():
    model = meta_model(made_batches.TWO_WIDTHS, True)
    before = numbers(model)
    keys = STEPS[0][0].keys.copy()
    keys[0, 0] = 13
    with pytest.raises(tf.errors.InvalidArgumentError, match="item: expected keys from 0 to 12"):
        broken_step(model, dataclasses.replace(STEPS[0][0], keys=keys))
    assert_close(numbers(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_a_non_finite_gradient_on_one_rank(non_finite):
    model = meta_model(made_batches.TWO_WIDTHS, True, non_finite=non_finite)
    before = numbers(model)
    broken = dataclasses.replace(STEPS[0][0], dense=np.full_like(STEPS[0][0].dense, np.nan))
    if non_finite == "skip":
        assert broken_step(model, broken)["skipped_steps"] == 1
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="got NaN or Inf in"):
            broken_step(model, broken)
    assert_close(numbers(model), before, rtol=0, atol=0)


def test_auto_replicates_small_tables_and_no_large_ones():
    small = gm.ShardedEmbedding(TWO_WIDTHS, 3, world=WORLD)
    assert small.replicated == ("embedded", "embedded_2")
    assert all(isinstance(shard, ReplicatedShard) for shard in small.shards.values())
    large = gm.ShardedEmbedding(
        TWO_WIDTHS.with_num_rows({"item": 100_000, "genre": 7}), 3, world=WORLD
    )
    assert large.replicated == ()
    assert large.exchanged == ("embedded", "embedded_2")


def test_ranks_that_replicate_and_others_are_refused_on_every_rank():
    with pytest.raises(ValueError, match="replicate is True on rank 0 and False on rank 1"):
        gm.ShardedEmbedding(TWO_WIDTHS, 3, replicate=WORLD.rank == 0, world=WORLD)


def test_summary_says_what_a_rank_holds(capsys):
    meta_model(made_batches.TWO_WIDTHS, True, row_optimizer="sgd").summary()
    held = [line.split() for line in capsys.readouterr().out.splitlines() if " item " in line]
    assert held == [["item", "13", "3", "13", "156", "B", "0", "B", "156", "B"]]
