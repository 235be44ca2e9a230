"""Shards of embedding tables: what rows hold before training, who owns them, what updates touch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import SCHEMA, TWO_WIDTHS

import gmeta_tf as gm
from gmeta_tf.embedding import static_shard as table_module
from gmeta_tf.embedding.exchange import (
    Route,
    departure_of,
    fetch,
    return_gradients,
    send_keys,
)
from gmeta_tf.embedding.pooling import field_slots, pool_fields
from gmeta_tf.embedding.static_shard import StaticShard, TableRange, initial_rows

quick = settings(deadline=None, max_examples=40, derandomize=True)
int64s = st.integers(-(2**63), 2**63 - 1)

TABLES = (
    TableRange("item", 0, 17, seed=5),
    TableRange("genre", 17, 2, seed=-9),
    TableRange("shop", 19, 8, seed=2**40),
)
WIDTH = 3
ONE = gm.World()


def slow_splitmix64(state):
    """The output function of splitmix64, in whole numbers modulo 2 to the 64."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def slow_initial_rows(keys, width, seed, scale):
    """Column c of a key: number `key * width + c` of the stream that starts at the mixed seed."""
    golden = 0x9E3779B97F4A7C15
    state = slow_splitmix64((seed + golden) % 2**64)
    rows = []
    for key in keys:
        numbers = [
            slow_splitmix64((state + (key * width + column) * golden) % 2**64)
            for column in range(width)
        ]
        rows.append([(2 * (number >> 40) / 2**24 - 1) * scale for number in numbers])
    return np.array(rows, np.float32).reshape(-1, width)


def made_shard(world=ONE):
    return StaticShard(TABLES, WIDTH, world, scale=0.05, name="embedded")


# Initial rows --------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 2**40), max_size=5), st.integers(1, 5), int64s)
def test_initial_rows_against_splitmix64_in_whole_numbers(keys, width, seed):
    found = initial_rows(
        tf.constant(keys, tf.int64, [len(keys)]), width, tf.constant(seed, tf.int64), 0.5
    )
    assert found.dtype == tf.float32
    np.testing.assert_allclose(
        found, slow_initial_rows(keys, width, seed, 0.5), rtol=1e-6, atol=1e-7
    )


def test_initial_rows_do_not_depend_on_order_or_company():
    keys = np.random.default_rng(0).permutation(50)
    together = initial_rows(tf.constant(keys, tf.int64), 4, 7, 1.0).numpy()
    for row, key in zip(together, keys, strict=True):
        np.testing.assert_array_equal(initial_rows(tf.constant([key], tf.int64), 4, 7, 1.0), [row])


def test_a_seed_for_each_key():
    keys, seeds = [4, 4, 0], [1, -2, 1]
    found = initial_rows(tf.constant(keys, tf.int64), 3, tf.constant(seeds, tf.int64), 1.0)
    for row, key, seed in zip(found, keys, seeds, strict=True):
        np.testing.assert_allclose(row, slow_initial_rows([key], 3, seed, 1.0)[0], rtol=1e-6)


def test_initial_rows_are_roughly_uniform():
    rows = initial_rows(tf.range(20_000, dtype=tf.int64), 5, 3, 0.05).numpy()
    assert np.abs(rows).max() <= 0.05
    counts, _ = np.histogram(rows, bins=20, range=(-0.05, 0.05))
    assert np.abs(counts / (rows.size / 20) - 1).max() < 0.06  # 4 standard deviations
    # Neither columns, nor neighbouring keys, nor neighbouring seeds go together.
    others = initial_rows(tf.range(20_000, dtype=tf.int64), 5, 4, 0.05).numpy()
    for left, right in ((rows[:, 0], rows[:, 1]), (rows[1:], rows[:-1]), (rows, others)):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.03


# Shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_shards_together_hold_the_rows_of_one_rank(size):
    expected = np.concatenate(
        [slow_initial_rows(range(table.num_rows), WIDTH, table.seed, 0.05) for table in TABLES]
    )
    held = np.full_like(expected, np.nan)
    for rank in range(size):
        shard = made_shard(gm.World(rank, size))
        own = np.arange(rank, len(expected), size)
        assert shard.rows.shape == (len(own), WIDTH)
        held[own] = shard.rows.numpy()
        places = shard.locate(tf.constant(own, tf.int64)).row_indices
        np.testing.assert_array_equal(shard.gather(places), shard.rows)
    np.testing.assert_allclose(held, expected, rtol=1e-6, atol=1e-8)


def test_rows_are_filled_in_pieces(monkeypatch):
    whole = made_shard(gm.World(1, 2)).rows.numpy()
    for numbers_at_a_time in (1, 5 * WIDTH + 1, whole.size):
        monkeypatch.setattr(table_module, "_NUMBERS_AT_A_TIME", numbers_at_a_time)
        np.testing.assert_array_equal(made_shard(gm.World(1, 2)).rows, whole)


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (1, 2), (2, 3)])
def test_update_touches_the_rows_of_its_keys_alone(rank, size):
    shard, optimizer = made_shard(gm.World(rank, size)), gm.SGD(0.5)
    shard.make_slots(optimizer)
    before = shard.rows.numpy()
    own = np.arange(rank, shard.num_rows, size)
    touched = own[[5, 0, 3]]
    gradients = np.random.default_rng(0).normal(size=[3, WIDTH]).astype(np.float32)
    shard.update(
        shard.locate(tf.constant(touched, tf.int64)).row_indices,
        tf.constant(gradients),
        optimizer,
        tf.constant(0, tf.int64),
    )
    expected = before.copy()
    for key, gradient in zip(touched, gradients, strict=True):
        expected[own.tolist().index(key)] -= 0.5 * gradient
    np.testing.assert_allclose(shard.rows, expected, rtol=1e-6)
    untouched = [place for place, key in enumerate(own) if key not in touched]
    np.testing.assert_array_equal(shard.rows.numpy()[untouched], before[untouched])


def test_slots_start_where_the_optimizer_says():
    shard = made_shard()
    shard.make_slots(gm.Adagrad(initial_accumulator=0.25))
    assert set(shard.slots) == {"accumulator"}
    np.testing.assert_array_equal(shard.slots["accumulator"], np.full([27, WIDTH], 0.25))
    assert not shard.slots["accumulator"].trainable
    shard.make_slots(gm.RowWiseAdagrad(initial_accumulator=0.5))
    assert set(shard.slots) == {"row_accumulator"}
    np.testing.assert_array_equal(shard.slots["row_accumulator"], np.full([27, 1], 0.5))


MEMORY_OF_A_SHARD = """
import json, re, sys
import tensorflow as tf
import gmeta_tf as gm
from gmeta_tf.embedding.static_shard import StaticShard, TableRange

def resident_bytes(which):
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(which + r":\\s+(\\d+)", status)[1])

@tf.function(autograph=False)
def step(shard, keys):
    shard.update(keys, shard.gather(keys), optimizer, tf.constant(0, tf.int64))

def train(num_rows):
    shard = StaticShard((TableRange("a", 0, num_rows, 1),), 64, gm.World(), scale=0.1, name="a")
    shard.make_slots(optimizer)
    shard.make_slots(optimizer)
    step(shard, tf.range(0, num_rows, num_rows // 1000, tf.int64))

optimizer = gm.Adagrad()
train(1000)
before = resident_bytes("VmRSS")
train(1_000_000)
print((resident_bytes("VmHWM") - before) / (2 * 4 * 64 * 1_000_000))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_shard_takes_the_memory_of_its_rows_and_slots_and_no_more():
    """At the peak of building, of changing the optimizer and of a step: all is held once."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_A_SHARD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0.95 < float(done.stdout) < 1.25


# The exchange of one rank --------------------------------------------------------------------


@pytest.mark.parametrize("keys", [[], [4], [26, 0, 17]])
def test_fetch_and_return_on_one_rank(keys):
    shard = made_shard()
    departure = departure_of(tf.constant(keys, tf.int64), None, ONE)
    (arrival,) = send_keys([departure], ONE, name="keys")
    route = Route(departure, arrival)
    (rows,) = fetch(
        [route], [shard.gather(shard.locate(route.owned).row_indices)], ONE, name="rows"
    )
    np.testing.assert_array_equal(rows, shard.rows.numpy()[keys].reshape(-1, WIDTH))
    gradients = tf.ones_like(rows)
    (sums,), following, totals = return_gradients(
        [gradients], [route], ONE, name="gradients", totals=[tf.constant(3.0)]
    )
    assert route.owned.numpy().tolist() == keys
    assert sums is gradients
    assert following == []
    assert totals == [3.0]


# ShardedEmbedding ----------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [SCHEMA, TWO_WIDTHS], ids=["one_width", "two_widths"])
def test_sharded_embedding_holds_each_table_in_its_group(schema):
    embedding = gm.ShardedEmbedding(schema, 4, world=ONE)
    shapes = {group: tuple(shard.rows.shape) for group, shard in embedding.shards.items()}
    if schema == SCHEMA:
        assert shapes == {"embedded": (17 + 7, 4)}
    else:
        assert shapes == {"embedded": (17, 4), "embedded_2": (7, 2)}
    assert embedding.table_names == ("item", "genre")
    for group, shard in embedding.shards.items():
        np.testing.assert_array_equal(embedding.all_rows(group), shard.rows)


def test_the_order_of_out_of_range_is_that_of_the_table_names():
    tables = (gm.Table("a", 3), gm.Table("b", 3, 16), gm.Table("c", 3))
    schema = gm.Schema([gm.Field(name) for name in "abc"], "label", "user", tables=tables)
    assert gm.ShardedEmbedding(schema, 4, world=ONE).table_names == ("a", "c", "b")


def test_initial_rows_are_a_function_of_seed_table_and_key():
    def rows(schema, **settings):
        embedding = gm.ShardedEmbedding(schema, 4, world=ONE, **settings)
        return embedding.shards["embedded"].rows.numpy()

    both = rows(SCHEMA)
    assert np.abs(both).max() <= 0.05
    assert len(np.unique(both)) > 0.95 * both.size
    # The item table is the same one when the genre table is elsewhere, or has more rows.
    np.testing.assert_array_equal(both[:17], rows(TWO_WIDTHS))
    more = SCHEMA.with_num_rows({"item": 20, "genre": 7})
    np.testing.assert_array_equal(rows(more)[[*range(17), *range(20, 27)]], both)
    assert not np.isclose(both, rows(SCHEMA, seed=1)).any(axis=1).all()
    assert not np.isclose(both[:7], both[17:]).any(axis=1).all()
    np.testing.assert_allclose(rows(SCHEMA, scale=0.5), 10 * both, rtol=1e-5)


def test_fetch_return_and_apply_touch_the_keys_of_a_step():
    embedding = gm.ShardedEmbedding(TWO_WIDTHS, 4, world=ONE)
    optimizer = gm.SGD(0.5)
    embedding.make_slots(optimizer)
    before = {group: shard.rows.numpy() for group, shard in embedding.shards.items()}
    keys = {"embedded": [16, 3, 0], "embedded_2": [5]}
    tensors = {group: tf.constant(value, tf.int64) for group, value in keys.items()}
    routes = embedding.routes(tensors)
    located = embedding.locate(routes)
    rows = embedding.fetch(routes, located)
    for group, value in keys.items():
        np.testing.assert_array_equal(rows[group], before[group][value])
    updates = embedding.return_gradients(rows, routes, located).updates
    embedding.apply_gradients(updates, optimizer, tf.constant(0, tf.int64))
    for group, value in keys.items():
        expected = before[group].copy()
        expected[value] *= 0.5
        np.testing.assert_allclose(embedding.all_rows(group), expected, rtol=1e-6)


def test_a_width_below_one():
    with pytest.raises(ValueError, match="expected a width of at least 1, got 0"):
        gm.ShardedEmbedding(SCHEMA, 0, world=ONE)


def test_a_table_without_num_rows():
    schema = dataclasses.replace(SCHEMA, tables=(gm.Table("item", 17), gm.Table("genre")))
    with pytest.raises(ValueError, match=r"the table 'genre' has no num_rows.*Records\.schema"):
        gm.ShardedEmbedding(schema, 4, world=ONE)


# Pooling -------------------------------------------------------------------------------------


def slow_pool(values, pairs, slots):
    """One vector a field, row after row: the mean of the slots that are there, else zeros."""
    fields, start = [], 0
    for size in slots:
        there = [values[slot] for slot in range(start, start + size) if pairs[slot] > 0]
        fields.append(np.mean(there, axis=0) if there else np.zeros(values.shape[1]))
        start += size
    return fields


@pytest.mark.parametrize("slots", [(1, 3, 2), (3,), (1, 1), (2, 1, 1)])
def test_pool_fields_against_a_loop(slots):
    rng = np.random.default_rng(0)
    pairs = rng.integers(1, 9, [4, 5, sum(slots)]) * (rng.random([4, 5, sum(slots)]) < 0.6)
    values = np.where(pairs[..., np.newaxis] > 0, rng.normal(size=[*pairs.shape, WIDTH]), 0)
    pooled = pool_fields(
        tf.constant(values, tf.float32), tf.constant(pairs, tf.int32), slots
    ).numpy()
    assert pooled.shape == (4, 5, len(slots), WIDTH)
    for task, row in np.ndindex(4, 5):
        np.testing.assert_allclose(
            pooled[task, row], slow_pool(values[task, row], pairs[task, row], slots), atol=1e-6
        )


def test_field_slots_follow_the_fields_of_each_group():
    assert field_slots(SCHEMA) == {"embedded": (1, 3, 2)}
    assert field_slots(TWO_WIDTHS) == {"embedded": (1, 2), "embedded_2": (3,)}


def test_an_exchange_that_is_not_known():
    with pytest.raises(ValueError, match="exchange to be one of auto, flat, by-host, got 'near'"):
        gm.ShardedEmbedding(SCHEMA, 4, exchange="near", world=ONE)


def test_a_wire_that_is_not_known():
    message = "expected wire to be one of float32, bfloat16, float16, got 'int8'"
    with pytest.raises(ValueError, match=message):
        gm.ShardedEmbedding(SCHEMA, 4, wire="int8", world=ONE)


@pytest.mark.parametrize("num_rows", [10**15, 2**63 - 1])
def test_a_table_that_no_machine_holds_is_told(num_rows):
    schema = gm.Schema((gm.Field("ad"),), "label", "task", tables=(gm.Table("ad", num_rows),))
    match = rf"the tables of width 8 \(ad {num_rows} rows\) need .* GiB on a rank.*Correct num_rows"
    with pytest.raises(ValueError, match=match):
        gm.ShardedEmbedding(schema, 8)
