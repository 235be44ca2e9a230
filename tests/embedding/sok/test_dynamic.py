"""Dynamic tables over SOK on one rank, against the Horovod back-end's and against dictionaries.

SOK's own Python layer runs, as in `test_backend.py`, and a dictionary stands for HierarchicalKV
(`sok_dictionary.py`): this says nothing of what runs on a GPU.
"""

import dataclasses
import re

import keras
import made_batches
import made_sok
import numpy as np
import pytest
import sok_dictionary
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.embedding.dynamic import state as dynamic_state
from gmeta_tf.embedding.sok import backend as sok_module
from gmeta_tf.embedding.sok.backend import SokRoute
from gmeta_tf.embedding.sok.dynamic import SokDynamicShard
from gmeta_tf.embedding.sok.static import SokStaticShard
from gmeta_tf.embedding.static_shard import initial_rows
from gmeta_tf.saving.checkpoints.dynamic_files import check_dynamic

ONE = gm.World()


# The rules that SOK keeps -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            {"capacity": None},
            "expected a capacity of the dynamic table 'item', which SOK needs to make the table, "
            "got capacity=None. State one, or use backend='horovod'.",
        ),
        ({"when_full": "default"}, "expected when_full='evict' of .* 'item' .* got 'default'"),
        ({"when_full": "error"}, "expected when_full='evict' of .* 'item' .* got 'error'"),
        (
            {"admit_after": 2},
            r"expected admit_after=1 of the dynamic table 'item' \(SOK gives a key its row at the "
            r"first look-up\), got 2\. State that, or use backend='horovod'\.",
        ),
        ({"admit_probability": 0.5}, r"expected admit_probability=1\.0 of .* 'item' .* got 0\.5"),
        ({"time_to_live": 9}, "expected time_to_live=None of .* 'item' .* got 9"),
        ({"unknown_in_training": "error"}, "unknown_in_training='insert' of .* got 'error'"),
        ({"unknown_in_training": "bucket"}, "unknown_in_training='insert' of .* got 'bucket'"),
        ({"unknown_in_training": "default"}, "unknown_in_training='insert' of .* got 'default'"),
        ({"unknown_otherwise": "bucket"}, "unknown_otherwise='default' of .* got 'bucket'"),
        ({"unknown_otherwise": "error"}, "unknown_otherwise='default' of .* got 'error'"),
    ],
)
def test_a_rule_that_sok_can_not_keep(sok, sok_log, rules, expected):
    """Refused for `"sok"`; `"auto"` takes Horovod and says why."""
    rules = gm.DynamicTable(**{"capacity": 99, **rules})
    with pytest.raises(ValueError, match=rf"^backend='sok': .*{expected}"):
        made_sok.dynamic_embedding("sok", ONE, dynamic={"item": rules, "genre": made_sok.RULES})
    # Nor does a table that keeps to the rules make up for the other.
    found = made_sok.dynamic_embedding(
        "auto", ONE, dynamic={"genre": made_sok.RULES, "item": rules}
    )
    assert found.backend == "horovod"
    assert re.match(rf"embedding back-end: horovod \(.*{expected}", sok_log.records[-1].message)
    with pytest.raises(ValueError, match=rf"^SokDynamicShard: .*{expected}"):
        SokDynamicShard(rules, table="item", width=4, seed=1, world=ONE, scale=0.8, name="refused")


def test_rules_of_what_sok_does_not_do_anyhow(sok, sok_log):
    """What only counts with rules that SOK refuses is of no matter."""
    rules = gm.DynamicTable(capacity=5, forget_after=3, max_waiting=7, num_buckets=9)
    tables = made_sok.dynamic_embedding("auto", ONE, dynamic=rules)
    assert tables.backend == "sok"
    assert all(isinstance(shard, SokDynamicShard) for shard in tables.shards.values())
    assert sok_log.records[-1].message == "embedding back-end: sok (every rank has a GPU and SOK)"


# The shard --------------------------------------------------------------------------------------

FAR = 2**62 + 5
KEYS = [[3, FAR, 0], [FAR, 8], [3, 5, FAR], [], [0, 3]]
EMPTIED = ("keys", "last_seen", "rows")


def fresh(keys):
    return initial_rows(keys, 4, 11, 0.8)


def dynamic_shard(name, capacity=100):
    return SokDynamicShard(
        gm.DynamicTable(capacity=capacity),
        table=name,
        width=4,
        seed=11,
        world=ONE,
        scale=0.8,
        name=name,
    )


def trained(shard, keys, optimizer, step=0):
    """One step of gradients of 1."""
    keys = tf.constant(keys, tf.int64)
    shard.update(keys, tf.ones([len(keys), 4]), optimizer, tf.constant(step, tf.int64))


def table_of(variable):
    return sok_dictionary.table_of(variable).rows


def slow_dynamic_run(optimizer):
    """Key -> row after the steps of KEYS: a loop over a dictionary."""
    rows, slots = {}, {}
    for number, keys in enumerate(KEYS):
        for place, key in enumerate(keys):
            row = rows.get(key, fresh(tf.constant([key], tf.int64)))
            old = slots.get(key) or {
                name: slot.values(1) for name, slot in optimizer.slots(4).items()
            }
            gradient = tf.fill([1, 4], 0.1 * (1 + place) * (-1.0) ** number)
            rows[key], slots[key] = optimizer.update(
                row, gradient, old, tf.constant(number, tf.int64)
            )
    return rows, slots


def train_dynamic(shard, optimizer):
    """The fetched rows of each step of KEYS."""

    def step(keys, gradients, number):
        route = SokRoute(keys, trains=True)
        rows = shard.fetch(route)
        owned, sums = shard.return_gradients(gradients, route)
        shard.update(owned, sums, optimizer, number)
        return rows

    fetched = []
    for number, keys in enumerate(KEYS):
        gradients = [[0.1 * (1 + place) * (-1.0) ** number] * 4 for place in range(len(keys))]
        fetched.append(
            step(
                tf.constant(keys, tf.int64, [len(keys)]),
                tf.constant(gradients, tf.float32, [len(keys), 4]),
                tf.constant(number, tf.int64),
            ).numpy()
        )
    return fetched


@pytest.mark.parametrize("optimizer", list(made_sok.ALL_ROW_OPTIMIZERS))
def test_a_dynamic_table_against_a_dictionary(sok, optimizer):
    shard = dynamic_shard(f"against_{optimizer}")
    optimizer = made_sok.ALL_ROW_OPTIMIZERS[optimizer]
    shard.make_slots(optimizer)
    fetched = train_dynamic(shard, optimizer)
    np.testing.assert_array_equal(fetched[0], fresh(tf.constant(KEYS[0], tf.int64)))
    rows, slots = slow_dynamic_run(optimizer)
    keys, values = shard.export_shard()
    assert keys.tolist() == sorted(rows)
    for place, key in enumerate(keys):
        np.testing.assert_allclose(values["rows"][place], rows[key][0], rtol=1e-6, atol=1e-7)
        for name, slot in slots[key].items():
            np.testing.assert_allclose(values[name][place], slot[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(shard.gather(tf.constant(keys)), values["rows"], rtol=1e-6)


def test_a_look_up_alone_takes_places_and_is_not_kept(sok):
    shard = dynamic_shard("looked_up")
    keys = tf.constant([4, FAR], tf.int64)
    assert shard.export_shard()[0].shape == (0,)
    for trains in (False, True, False):
        rows = shard.fetch(SokRoute(keys, trains=trains))
        np.testing.assert_array_equal(rows, fresh(keys) if trains else np.zeros([2, 4]))
    assert sorted(table_of(shard._variable)) == [4, FAR]
    assert int(shard.metrics()["occupancy"]) == 2
    assert shard.export_shard()[0].shape == (0,)


def test_a_row_that_training_made_nan_is_not_taken_for_a_new_one(sok):
    optimizer, shard = gm.SGD(0.1), dynamic_shard("not_a_number")
    keys = tf.constant([4], tf.int64)
    shard.gather(keys)
    shard.update(keys, tf.fill([1, 4], np.nan), optimizer, tf.constant(0, tf.int64))
    assert np.isnan(shard.gather(keys)).all()


def test_a_dynamic_table_goes_on_elsewhere(sok, monkeypatch):
    optimizer = gm.Adagrad(0.3)
    shard = dynamic_shard("before")
    shard.make_slots(optimizer)
    train_dynamic(shard, optimizer)
    keys, values = shard.export_shard()
    halves = []
    for rank in range(2):
        half = dynamic_shard(f"half_{rank}")
        half.make_slots(optimizer)
        half.world = gm.World(rank, 2)
        half.load_shard(keys, values)
        own, own_values = half.export_shard()
        assert set(own % 2) == {rank}
        halves.append((own, own_values))
    together = np.concatenate([own for own, _ in halves])
    for name in ("rows", "accumulator"):
        found = np.concatenate([held[name] for _, held in halves])
        np.testing.assert_array_equal(
            made_sok.by_key(together, found), made_sok.by_key(keys, values[name])
        )


def test_a_slot_that_was_dropped_starts_anew(sok):
    """Rows and slots are two tables, which may be full at two times."""
    optimizer = gm.Adagrad(0.3, initial_accumulator=0.25)
    shard = dynamic_shard("dropped")
    shard.make_slots(optimizer)
    train_dynamic(shard, optimizer)
    _, before = shard.export_shard()
    del table_of(shard.slots["accumulator"])[FAR]
    keys, values = shard.export_shard()
    assert before["accumulator"].shape == values["accumulator"].shape
    dropped = keys == FAR
    np.testing.assert_array_equal(values["accumulator"][dropped], np.full([1, 4], 0.25))
    assert (values["accumulator"][~dropped] > 0.25).all()


def test_a_row_that_was_dropped_starts_anew_with_its_slots(sok):
    optimizer = gm.Adagrad(0.3)
    shard = dynamic_shard("row_dropped")
    shard.make_slots(optimizer)
    trained(shard, [4, 6], optimizer)
    _, once = shard.export_shard()
    del table_of(shard._variable)[4]
    trained(shard, [4], optimizer)
    assert shard.export_shard()[0].tolist() == [4, 6]
    for name, values in shard.export_shard()[1].items():
        # Initial rows of one key and of two may differ in the last bit.
        np.testing.assert_allclose(values, once[name], **made_sok.FLOAT32)


def test_slots_of_another_optimizer(sok):
    """Variables of SOK are never freed: what fits is used again, and holds nothing of before."""
    shard = dynamic_shard("slots")
    shard.make_slots(gm.Ftrl())
    trained(shard, [4], gm.Ftrl())
    accumulator = shard.slots["accumulator"]
    shard.make_slots(gm.Adagrad())
    assert shard.slots == {"accumulator": accumulator}
    np.testing.assert_array_equal(shard.export_shard()[1]["accumulator"], np.full([1, 4], 0.1, "f"))
    shard.make_slots(gm.Adagrad(initial_accumulator=0.5))
    assert shard.slots["accumulator"] is not accumulator
    shard.make_slots(gm.RowWiseAdagrad())
    assert shard.slot_widths == {"row_accumulator": 1}


def test_a_full_table_drops_what_was_used_least_recently(sok):
    """Also for the sake of keys that evaluation alone has met."""
    optimizer, shard = gm.SGD(1.0), dynamic_shard("full")
    keys = np.arange(1024)
    shard.gather(tf.constant(keys))
    trained(shard, keys, optimizer)
    shard.fetch(shard.route(tf.constant([0, 5000, 5001], tf.int64)))
    left, values = shard.export_shard()
    assert left.tolist() == [0, *range(3, 1024)]
    np.testing.assert_allclose(values["rows"], fresh(tf.constant(left)) - 1.0, rtol=1e-6)
    assert int(shard.metrics()["occupancy"]) == 1024
    dropped = tf.constant([1], tf.int64)
    np.testing.assert_array_equal(shard.gather(dropped), fresh(dropped))


def test_loading_forgets_what_was_there_and_keeps_the_keys_seen_last(sok):
    optimizer, shard = gm.Adagrad(0.3), dynamic_shard("loaded")
    shard.make_slots(optimizer)
    trained(shard, [4, 5], optimizer)
    rng = np.random.default_rng(0)
    keys = rng.permutation(1030) + 5
    state = dynamic_state.DynamicState(
        *(0, 1),
        keys=keys,
        last_seen=np.where(keys % 200 == 0, 3, 8).astype(np.int32),  # five keys, and then some
        rows=rng.normal(size=[1030, 4]).astype(np.float32),
        slots={"accumulator": rng.random([1030, 4]).astype(np.float32)},
        **dict(zip(("waiting_keys", "waiting_last_seen", "sightings"), dynamic_state.nobody())),
        bucket_rows=np.zeros([0, 4], np.float32),
        bucket_slots={},
    )
    shard.load_state([state])
    left, values = shard.export_shard()
    dropped = {200, 400, 600, 800, 1000, 5}
    assert left.tolist() == sorted(set(keys.tolist()) - dropped)
    order = np.argsort(keys)[np.isin(np.sort(keys), left)]
    np.testing.assert_array_equal(values["rows"], state.rows[order])
    np.testing.assert_array_equal(values["accumulator"], state.slots["accumulator"][order])
    with pytest.raises(
        ValueError, match=r"'loaded': the key .* comes twice among the keys to load"
    ):
        shard.load_state([state, state])
    assert shard.export_shard()[0].tolist() == left.tolist()
    shard.load_state([state._replace(**{n: getattr(state, n)[:0] for n in EMPTIED})])
    assert shard.export_shard()[0].shape == (0,)
    forgotten = tf.constant([5], tf.int64)
    np.testing.assert_array_equal(shard.gather(forgotten), fresh(forgotten))


def test_parts_of_what_a_shard_holds(sok):
    optimizer, shard = gm.Adagrad(0.3), dynamic_shard("parts")
    shard.make_slots(optimizer)
    (nothing,) = shard.export_state(7)
    assert nothing.rows.shape == nothing.slots["accumulator"].shape == (0, 4)
    trained(shard, [2, 9, 4], optimizer)
    parts = list(shard.export_state(7, keys_at_a_time=2))
    assert [part.keys.tolist() for part in parts] == [[2, 4], [9]]
    assert [part.last_seen.tolist() for part in parts] == [[6, 6], [6]]
    np.testing.assert_array_equal(
        np.concatenate([part.rows for part in parts]), shard.export_shard()[1]["rows"]
    )


@pytest.mark.parametrize(("asked", "made"), [(1, 1024), (1025, 2048), (2**20, 2**20)])
def test_the_capacity_is_a_power_of_two(sok, asked, made):
    shard = dynamic_shard(f"capacity_{asked}", asked)
    assert shard.capacity == made
    config = shard._variable.config_dict
    assert config == {"init_capacity": min(made, 2**16), "max_capacity": made}


# `ShardedEmbedding` -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", list(made_sok.ALL_ROW_OPTIMIZERS))
def test_five_steps_are_those_of_horovod(sok, optimizer):
    """Rows, the owners' sums of gradients, and keys, rows and slots after it all."""
    optimizer = made_sok.ALL_ROW_OPTIMIZERS[optimizer]
    tables = {backend: made_sok.dynamic_embedding(backend, ONE) for backend in ("sok", "horovod")}
    outcomes = {}
    for backend, embedding in tables.items():
        embedding.make_slots(optimizer)
        outcomes[backend] = made_sok.run_steps(embedding, optimizer, ONE)
    made_sok.assert_same(outcomes["sok"], outcomes["horovod"])
    found, expected = (made_sok.held_by_key(embedding) for embedding in tables.values())
    made_sok.assert_same(found, expected)
    assert set(found["embedded:item"]) == {"keys", "rows", *optimizer.slots(4)}
    assert len(found["embedded:item"]["keys"]) > 6
    for group, tables_keys in found.items():
        held = tables["sok"].all_keys(group)
        np.testing.assert_array_equal(held.keys, tables_keys["keys"])
        np.testing.assert_array_equal(held.rows, tables_keys["rows"])
        start = initial_rows(
            tf.constant(held.keys), held.rows.shape[1], tables["sok"].shards[group]._seed, 0.8
        )
        assert (np.abs(held.rows - start).max(axis=1) > 1e-3).all()
        assert held.buckets.shape == (0, held.rows.shape[1])
    occupied = {table: counts["occupancy"] for table, counts in tables["sok"].metrics().items()}
    assert occupied == {table: c["occupancy"] for table, c in tables["horovod"].metrics().items()}


def test_what_has_no_place_in_the_other_kind(sok):
    tables = made_sok.dynamic_embedding("sok", ONE)
    with pytest.raises(ValueError, match=r"all_rows: .* the dynamic table 'item'\. Use all_keys"):
        tables.all_rows("embedded:item")
    with pytest.raises(ValueError, match=r"all_keys: .* got 'embedded'\. Use all_rows"):
        made_sok.embedding("sok", ONE).all_keys("embedded")


def test_a_negative_key_is_refused(sok):
    tables = made_sok.dynamic_embedding("sok", ONE)
    keys = {group: tf.constant([-7], tf.int64) for group in tables.shards}
    routes = tables.routes(keys)
    with pytest.raises(tf.errors.InvalidArgumentError, match="tables of dynamic_0 is negative"):
        tables.fetch(routes, tables.locate(routes, training=True))


# Models -----------------------------------------------------------------------------------------

# A static table stands beside the dynamic one.
SCHEMA = dataclasses.replace(
    made_batches.SCHEMA, tables=(gm.Table("item", keys="raw"), gm.Table("genre", 7))
)
ITEM = "embedded:item"
STEPS = [made_batches.made_tasks(seed, count=5) for seed in range(1, 5)]
UNKNOWN = 10**15


def meta_model(backend, row_optimizer=None, **rules):
    keras.utils.set_random_seed(7)
    tables = gm.ShardedEmbedding(
        SCHEMA,
        4,
        scale=0.8,
        dynamic=gm.DynamicTable(**{"capacity": 99, **rules}),
        world=ONE,
        backend=backend,
    )
    model = gm.MetaModel(gm.models.MeLU((5,)), tables, gm.InnerLoop(1, 0.4))
    model.compile(
        keras.optimizers.Adam(0.03, epsilon=1e-2), row_optimizer or gm.LazyAdam(0.1, epsilon=1e-2)
    )
    return model


def made_data():
    return made_batches.dataset(STEPS, 5, schema=SCHEMA)


def numbers_of(model):
    weights = {f"weight {i}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    held = made_sok.held_by_key(model.embedding)[ITEM]
    return {**weights, "genres": model.embedding.all_rows("embedded").numpy(), **held}


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
        models = {backend: meta_model(backend) for backend in ("sok", "horovod")}
    judged = {}
    for backend, model in models.items():
        model.fit(made_data(), verbose=0)
        judged[backend] = model.evaluate(made_data(), return_dict=True, verbose=0)
    return models, judged


@pytest.mark.slow
def test_fit_and_evaluate_are_those_of_horovod(models):
    models, judged = models
    assert isinstance(models["sok"].embedding.shards[ITEM], SokDynamicShard)
    assert isinstance(models["sok"].embedding.shards["embedded"], SokStaticShard)
    found, expected = (numbers_of(model) for model in models.values())
    assert_equal(found, expected, **CLOSE)
    assert len(found["keys"]) > 8
    start = initial_rows(
        tf.constant(found["keys"]), 4, models["sok"].embedding.shards[ITEM]._seed, 0.8
    )
    assert (np.abs(found["rows"] - start).max(axis=1) > 1e-3).all()
    assert judged["sok"] == pytest.approx(judged["horovod"], rel=1e-5)


def task_of(keys):
    """A task of query rows alone, one of each key."""
    columns = np.array([[key, 1, 4, -1] for key in keys])
    dense = np.full([len(keys), 1], 0.5, np.float32)
    return made_batches.Task(3, 0, columns, dense, np.zeros(len(keys), np.float32))


def batch_of(keys):
    return made_batches.batch([task_of(keys)], schema=SCHEMA)


def test_an_unknown_key_reads_zeros_in_prediction_and_takes_a_place(models):
    """As over Horovod, but for the place, which training fills."""
    keys = [3, UNKNOWN, UNKNOWN + 1, 7]
    found, expected = (
        model.predict_step(batch_of(keys))["unadapted"].numpy() for model in models[0].values()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[1] == found[2]
    assert len(set(found.tolist())) == 3
    tables = models[0]["sok"].embedding
    held = tables.all_keys(ITEM).keys
    assert UNKNOWN not in held
    assert tables.metrics() == {"item": {"occupancy": len(held) + 2}}


def test_the_summary(models):
    lines = []
    models[0]["sok"].summary(print_fn=lambda line, **_: lines.append(line))
    assert any("item" in line and "grows" in line for line in lines)


def test_a_served_model_predicts_as_the_model_does(models, tmp_path):
    """By stock ops: neither SOK nor Horovod is in it."""
    model = models[0]["sok"]
    genres = np.array([str(key) for key in range(1, 7)])
    gm.export_saved_model(model, tmp_path / "m", {"genre": genres})
    saved = (tmp_path / "m" / "saved_model.pb").read_bytes()
    assert b"DummyVar" not in saved
    assert b"Horovod" not in saved
    keys = [0, 3, UNKNOWN, 7, 11]
    served = tf.saved_model.load(str(tmp_path / "m")).signatures["predict_unadapted"]
    found = served(
        query_item=tf.constant([[str(key) for key in keys]]),
        query_genre=tf.constant([["1|4"] * 5]),
        query_price=tf.fill([1, 5], 0.5),
    )
    expected = model.predict_step(batch_of(keys))["unadapted"]
    np.testing.assert_allclose(found["prediction"][0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_goes_over_to_the_other_backend_and_on_there(models, sok, tmp_path):
    """Into models that have been trained: a traced step finds the loaded rows."""
    models, _ = models
    others = {"sok": "horovod", "horovod": "sok"}
    saved = {}
    for backend, model in models.items():
        gm.save_checkpoint(model, tmp_path / backend, of=backend)
        saved[backend] = numbers_of(model)
    for backend, model in models.items():
        model.fit(made_data(), verbose=0)
        assert np.abs(numbers_of(model)["rows"] - saved[backend]["rows"]).max() > 1e-3
    for backend, other in others.items():
        for resumed in (models[other], meta_model(other)):
            assert gm.load_checkpoint(resumed, tmp_path / backend) == {"of": backend}
            assert_equal(numbers_of(resumed), saved[backend], rtol=0, atol=0)
    for model in models.values():
        model.fit(made_data(), verbose=0)
    found, expected = (numbers_of(model) for model in models.values())
    assert_equal(found, expected, **CLOSE)
    assert np.abs(found["rows"] - saved["sok"]["rows"]).max() > 1e-3


def test_a_checkpoint_that_does_not_fit_changes_nothing(sok, tmp_path):
    saved = meta_model("sok", gm.Adagrad(0.3))
    saved.train_step(batch_of([3, 5]))
    gm.save_checkpoint(saved, tmp_path / "c")
    model = meta_model("sok", gm.RowWiseAdagrad(0.3))
    model.train_step(batch_of([4]))
    before = numbers_of(model)
    # The static table stands first in the checkpoint; here the question is of the dynamic one.
    with pytest.raises(ValueError, match="does not fit the model: the dynamic table 'item' has"):
        check_dynamic(model.embedding, tmp_path / "c", 1)
    with pytest.raises(ValueError, match="does not fit the model"):
        gm.load_checkpoint(model, tmp_path / "c")
    assert_equal(numbers_of(model), before, rtol=0, atol=0)


def test_a_skipped_step_writes_no_row(sok):
    """A key has its row from the first step that updates it."""
    model = meta_model("sok", gm.Adagrad(0.3))
    model.compile("adam", gm.Adagrad(0.3), non_finite="skip")
    broken = dataclasses.replace(task_of([3]), dense=np.full([1, 1], np.nan, np.float32))
    logs = model.train_step(made_batches.batch([broken], schema=SCHEMA))
    assert logs["skipped_steps"] == 1
    assert model.embedding.all_keys(ITEM).keys.tolist() == []
    model.train_step(batch_of([3]))
    assert model.embedding.all_keys(ITEM).keys.tolist() == [3]


def test_no_tracker_sees_soks_variables(sok, tmp_path):
    model = meta_model("sok")
    shard = model.embedding.shards[ITEM]
    hidden = {id(shard._variable), *(id(slot) for slot in shard.slots.values())}
    seen = [*model.variables, *model.embedding.variables, *model.embedding.trainable_variables]
    assert not hidden & {id(variable) for variable in seen}
    # TensorFlow's own checkpoint would call what a DynamicVariable does not have.
    for number, root in enumerate((model, model.embedding)):
        written = tf.train.Checkpoint(root=root).write(str(tmp_path / str(number)))
        names = [name for name, _ in tf.train.list_variables(written)]
        assert not any("slots" in name or "_rows" in name for name in names)
