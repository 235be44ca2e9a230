"""Dynamic tables over SOK on several ranks, against the Horovod back-end's.

As tests/embedding/sok/test_dynamic.py, over Gloo's AlltoAll.
"""

import collections
import dataclasses
import pathlib
import tempfile

import keras
import made_batches
import made_sok
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json
from gmeta_tf.embedding.sok import backend as sok_module
from gmeta_tf.embedding.sok.backend import SokRoute
from gmeta_tf.embedding.sok.dynamic import SokDynamicShard
from gmeta_tf.embedding.static_shard import initial_rows

WORLD = gm.World.detect()
ALONE = gm.World()
RANK, SIZE = WORLD.rank, WORLD.size
RANKS = range(SIZE)


@pytest.fixture(scope="module")
def folder():
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    yield pathlib.Path(broadcast_json(made, WORLD, name="folder_sok_dynamic"))
    barrier(WORLD, name="folder_sok_dynamic_end")


def fresh(keys):
    return initial_rows(keys, 4, 11, 0.8)


def dynamic_keys(rank, step):
    """Keys of any size; every rank's first is the same, and rank 1 has none in step 1."""
    if rank == 1 and step == 1:
        return np.zeros([0], np.int64)
    rng = np.random.default_rng([rank, step, 3])
    return np.unique(
        np.concatenate([[2**62 + 5], rng.integers(0, 2**62, 3), rng.integers(0, 9, 4)])
    )


@pytest.mark.parametrize("optimizer", list(made_sok.ROW_OPTIMIZERS))
def test_a_shard_against_a_dictionary(sok, optimizer):
    optimizer = made_sok.ROW_OPTIMIZERS[optimizer]
    shard = SokDynamicShard(
        made_sok.RULES,
        table="item",
        width=4,
        seed=11,
        world=WORLD,
        scale=0.8,
        name=f"ranks_{type(optimizer).__name__}",
    )
    shard.make_slots(optimizer)

    def step(keys, gradients, number):
        route = SokRoute(keys, trains=True)
        rows = shard.fetch(route)
        owned, sums = shard.return_gradients(gradients, route)
        shard.update(owned, sums, optimizer, number)
        return rows

    rows, slots = {}, {}
    for number in range(4):
        gradients = {
            rank: np.random.default_rng([rank, number]).normal(size=[len(keys), 4])
            for rank, keys in ((rank, dynamic_keys(rank, number)) for rank in RANKS)
        }
        keys = dynamic_keys(RANK, number)
        fetched = step(
            tf.constant(keys),
            tf.constant(gradients[RANK], tf.float32),
            tf.constant(number, tf.int64),
        )
        for key, row in zip(keys, fetched.numpy(), strict=True):
            expected = rows.get(key, fresh(tf.constant([key], tf.int64)).numpy())
            np.testing.assert_allclose(row, expected[0], rtol=1e-5, atol=1e-6)
        sums = collections.defaultdict(float)
        for rank in RANKS:
            for key, gradient in zip(dynamic_keys(rank, number), gradients[rank], strict=True):
                sums[key] += gradient
        for key, gradient in sums.items():
            old = slots.get(key) or {
                name: slot.values(1) for name, slot in optimizer.slots(4).items()
            }
            row, slots[key] = optimizer.update(
                rows.get(key, fresh(tf.constant([key], tf.int64))),
                tf.constant([gradient], tf.float32),
                old,
                tf.constant(number, tf.int64),
            )
            rows[key] = row.numpy()
    keys, values = shard.export_shard()
    assert keys.tolist() == sorted(key for key in rows if key % SIZE == RANK)
    for key, row in zip(keys, values["rows"], strict=True):
        np.testing.assert_allclose(row, rows[key][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", list(made_sok.ALL_ROW_OPTIMIZERS))
def test_five_steps_are_those_of_horovod(sok, optimizer):
    """Rows, the owners' sums of gradients, and keys, rows and slots after it all."""
    optimizer = made_sok.ALL_ROW_OPTIMIZERS[optimizer]
    tables = {name: made_sok.dynamic_embedding(name, WORLD) for name in ("sok", "horovod")}
    outcomes = {}
    for name, embedding in tables.items():
        embedding.make_slots(optimizer)
        outcomes[name] = made_sok.run_steps(embedding, optimizer, WORLD)
    for (rows, sums), (expected_rows, expected) in zip(*outcomes.values(), strict=True):
        made_sok.assert_same(rows, expected_rows)
        for group, (keys, summed) in expected.items():
            found_keys, found = sums[group]
            assert sorted(found_keys) == sorted(keys)
            made_sok.assert_same(made_sok.by_key(found_keys, found), made_sok.by_key(keys, summed))
    found, expected = (made_sok.held_by_key(embedding) for embedding in tables.values())
    made_sok.assert_same(found, expected)
    for group in found:
        held, other = (embedding.all_keys(group) for embedding in tables.values())
        np.testing.assert_array_equal(held.keys, other.keys)
        np.testing.assert_allclose(held.rows, other.rows, **made_sok.FLOAT32)
        assert len(held.keys) > len(found[group]["keys"]) > 0
    occupied, others = (
        {table: counts["occupancy"] for table, counts in embedding.metrics().items()}
        for embedding in tables.values()
    )
    assert occupied == others


# Models -----------------------------------------------------------------------------------------

SCHEMA = dataclasses.replace(
    made_batches.SCHEMA, tables=(gm.Table("item", keys="raw"), gm.Table("genre", 7))
)
ITEM = "embedded:item"
SLOTS = 7
STEPS = [made_batches.made_tasks(seed, count=SLOTS) for seed in range(1, 5)]
# The second rank has no tasks in any step.
SIZES = {2: [7, 0], 3: [3, 0, 4]}


def meta_model(backend, world):
    keras.utils.set_random_seed(7)
    tables = gm.ShardedEmbedding(
        SCHEMA, 4, scale=0.8, dynamic=made_sok.RULES, world=world, backend=backend
    )
    model = gm.MetaModel(gm.models.MeLU((5,)), tables, gm.InnerLoop(1, 0.4))
    model.compile(keras.optimizers.Adam(0.03, epsilon=1e-2), gm.Adagrad(0.3))
    return model


def own_data():
    sizes = SIZES[SIZE]
    first = sum(sizes[:RANK])
    tasks = [step[first : first + sizes[RANK]] for step in STEPS]
    return made_batches.dataset(tasks, SLOTS, schema=SCHEMA)


def numbers_of(model):
    weights = {f"weight {i}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    held = model.embedding.all_keys(ITEM)
    rows = {"keys": held.keys, "rows": held.rows}
    return {**weights, "genres": model.embedding.all_rows("embedded").numpy(), **rows}


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def models(imported_sok):
    """One of each back-end, which has been through `fit` and `evaluate`; and what that gave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sok_module, "has_gpu", lambda: True)
        models = {backend: meta_model(backend, WORLD) for backend in ("sok", "horovod")}
    judged = {}
    for backend, model in models.items():
        model.fit(own_data(), verbose=0)
        judged[backend] = model.evaluate(own_data(), return_dict=True, verbose=0)
    return models, judged


def test_fit_and_evaluate_are_those_of_horovod(models):
    models, judged = models
    assert isinstance(models["sok"].embedding.shards[ITEM], SokDynamicShard)
    found, expected = (numbers_of(model) for model in models.values())
    assert_equal(found, expected, **CLOSE)
    assert len(found["keys"]) > 8
    assert judged["sok"] == pytest.approx(judged["horovod"], rel=1e-5)


def test_a_checkpoint_goes_over_to_the_other_backend_and_on_there(models, folder):
    models, _ = models
    saved = {}
    for backend, model in models.items():
        gm.save_checkpoint(model, folder / backend)
        saved[backend] = made_sok.held_by_key(model.embedding)[ITEM], numbers_of(model)
        # Of other numbers, which loading is to take away again.
        model.fit(own_data(), verbose=0)
    for backend, other in (("sok", "horovod"), ("horovod", "sok")):
        gm.load_checkpoint(models[other], folder / backend)
        held, numbers = saved[backend]
        assert_equal(made_sok.held_by_key(models[other].embedding)[ITEM], held, rtol=0, atol=0)
        assert_equal(numbers_of(models[other]), numbers, rtol=0, atol=0)
    for model in models.values():
        model.fit(own_data(), verbose=0)
    found, expected = (numbers_of(model) for model in models.values())
    assert_equal(found, expected, **CLOSE)
    assert np.abs(found["rows"] - saved["sok"][1]["rows"]).max() > 1e-3


def test_one_rank_reads_a_checkpoint_of_several_and_several_one_of_one(models, sok, folder):
    """Over Horovod alone: SOK shards over all ranks, whatever it is told."""
    model = models[0]["sok"]
    expected = numbers_of(model)
    gm.save_checkpoint(model, folder / "ranks")
    alone = meta_model("horovod", ALONE)
    gm.load_checkpoint(alone, folder / "ranks")
    assert_equal(numbers_of(alone), expected, rtol=0, atol=0)
    if WORLD.is_chief:
        gm.save_checkpoint(alone, folder / "one")
    barrier(WORLD, name="one_is_written")
    back = meta_model("sok", WORLD)
    gm.load_checkpoint(back, folder / "one")
    assert_equal(numbers_of(back), expected, rtol=0, atol=0)
    held = made_sok.held_by_key(back.embedding)[ITEM]
    assert_equal(held, made_sok.held_by_key(model.embedding)[ITEM], rtol=0, atol=0)
    assert set(held["keys"] % SIZE) == {RANK}


def test_a_rule_that_sok_can_not_keep_is_refused_on_every_rank(sok):
    rules = gm.DynamicTable(capacity=99, admit_after=2)
    with pytest.raises(ValueError, match="expected admit_after=1 of the dynamic table 'item'"):
        made_sok.dynamic_embedding("sok", WORLD, dynamic=rules)
    assert made_sok.dynamic_embedding("auto", WORLD, dynamic=rules).backend == "horovod"
    assert made_sok.dynamic_embedding("auto", WORLD).backend == "sok"
