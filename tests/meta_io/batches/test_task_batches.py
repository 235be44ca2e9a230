"""Task batches against plain NumPy: which rows stand where, on which rank, in which epoch."""

import collections
import dataclasses
import functools
import itertools
import json
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import NEVER_READ, SCHEMA, TWO_WIDTHS, make_records, price_of, steps_of

import gmeta_tf as gm
from gmeta_tf.meta_io.batches.assembly import assemble_batch, distinct_keys
from gmeta_tf.meta_io.batches.dataset_ops import timed, with_next_keys
from gmeta_tf.meta_io.batches.plan import Segment
from gmeta_tf.meta_io.records.verification import describe_damage
from gmeta_tf.meta_io.records.writer import EpisodeWriter, episode_sizes
from gmeta_tf.table_groups import key_groups

quick = settings(deadline=None, max_examples=40, derandomize=True)
ONE = gm.World()
T, S, Q = 4, 5, 6
UNEVEN = (1, 2, 30, 7, 7, 1, 19, 3, 12, 6, 28, 4, 5)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("records"), UNEVEN)


@pytest.fixture(scope="module")
def rows_of(records):
    """task -> its raw planes `[C, n]`, for tasks of the split train."""
    return dict(records.read("train"))


def task_batches(records, split="train", **settings):
    return gm.TaskBatches(
        records, split, **{"tasks": T, "support": S, "query": Q, "world": ONE, **settings}
    )


@pytest.fixture(scope="module")
def epoch(records):
    """The batches of one epoch of the split train."""
    return drawn(task_batches(records))[0]


def drawn(batches, epochs=1, first_epoch=0):
    """Each epoch's batches, as NumPy."""
    steps = iter(batches.dataset(first_epoch).take(epochs * batches.steps_per_epoch))
    return [
        [tf.nest.map_structure(lambda value: value.numpy(), next(steps)) for _ in range(count)]
        for count in [batches.steps_per_epoch] * epochs
    ]


def rows_in(batch, part):
    """task -> the row numbers of its part, which the dense values tell; one entry a task slot."""
    there = []
    for task, dense, weight in zip(
        batch["task"], batch[part]["dense"][..., 0], batch[part]["weight"], strict=True
    ):
        rows = [round(4096 * price) - 64 * task for price in dense[weight > 0].astype(float)]
        there.append((int(task), rows))
    return there


def same(first, second):
    """Whether two nests of arrays are equal."""
    tf.nest.assert_same_structure(first, second)
    flat = zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True)
    return all(np.array_equal(a, b) for a, b in flat)


# Distinct keys -------------------------------------------------------------------------------


def slow_distinct(keys):
    """The sets that `distinct_keys` must number: keys, and (task, key) pairs, padding left out."""
    pairs = {(task, key) for task, row in enumerate(keys) for key in row if key >= 0}
    return {key for _, key in pairs}, pairs


def keys_of_tasks(values):
    """Up to 4 tasks of up to 5 positions each."""
    return st.integers(0, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from(values), min_size=width, max_size=width),
            min_size=1,
            max_size=4,
        )
    )


ANY_KEYS = keys_of_tasks([-1, 0, 1, 2, 2**32, 2**32 + 1, 2**63 - 1])


@quick
@given(ANY_KEYS, st.integers(-(2**31), 2**31 - 1))
def test_distinct_keys_against_sets(keys, padding):
    assert_distinct(keys, padding, None)


@quick
@given(st.data(), st.sampled_from([3, 2**29, (2**31 - 1) // 4, 2**30, 2**31 - 1, 2**33, 2**40]))
def test_distinct_keys_below_a_number(data, num_keys):
    """Around where pairs stop fitting into 32 bits, and where keys do."""
    keys = data.draw(keys_of_tasks([-1, 0, 1, num_keys // 2, num_keys - 2, num_keys - 1]))
    assert_distinct(keys, data.draw(st.sampled_from([-1, 0, -(2**31), 2**31 - 1])), num_keys)


def assert_distinct(keys, padding, num_keys):
    """The keys -1 are padding, for which `padding` stands in what `distinct_keys` is given."""
    shape = (len(keys), len(keys[0]))
    there = tf.constant(keys, tf.int64, shape) >= 0
    dtypes = [tf.int64] if num_keys is None or num_keys > 2**31 else [tf.int32, tf.int64]
    for dtype in dtypes:
        given = [[key if key >= 0 else padding for key in row] for row in keys]
        found = distinct_keys(tf.constant(given, dtype, shape), there, num_keys)
        assert_numbered(keys, *(value.numpy() for value in found))


def assert_numbered(keys, distinct, pair_to_key, positions):
    shape = (len(keys), len(keys[0]))
    assert (distinct.dtype, pair_to_key.dtype, positions.dtype) == ("int64", "int32", "int32")
    expected_keys, expected_pairs = slow_distinct(keys)
    # Each key once, each pair once, and a pair's number for the padding.
    assert sorted(distinct) == sorted(expected_keys)
    assert len(pair_to_key) == 1 + len(expected_pairs)
    assert pair_to_key[0] == 0
    assert positions.shape == shape
    number_of = {}
    for task, slot in np.ndindex(*shape):
        key, pair = keys[task][slot], positions[task, slot]
        if key < 0:
            assert pair == 0
        else:
            assert distinct[pair_to_key[pair] - 1] == key
            assert number_of.setdefault((task, key), pair) == pair
    assert sorted(number_of.values()) == list(range(1, 1 + len(expected_pairs)))


def test_distinct_keys_as_its_docstring_says():
    given = tf.constant([[7, 9, -1], [9, 9, 4]])
    keys, pair_to_key, positions = distinct_keys(given, given >= 0, 10)
    assert keys.numpy().tolist() == [7, 9, 4]
    assert pair_to_key.numpy().tolist() == [0, 1, 2, 2, 3]
    assert positions.numpy().tolist() == [[1, 2, 0], [3, 3, 4]]


def test_key_groups_are_tables_of_one_width():
    fields = [gm.Field(name) for name in "abcd"]
    tables = (gm.Table("b", 3, 16), gm.Table("c", 3), gm.Table("d", 3, 16))
    schema = gm.Schema(fields, "label", "user", tables=tables)
    assert key_groups(schema) == {"embedded": ("a", "c"), "embedded_16": ("b", "d")}


# A batch -------------------------------------------------------------------------------------

# Of each key slot of SCHEMA: its table, and its plane in a record (plane 0 is the label's).
SLOT_TABLES = ("item", "genre", "genre", "genre", "item", "item")
PRICE_PLANE = 7


def slow_batch(episodes, schema, num_support):
    """What `assemble_batch` must hold, row after row; keys stand for themselves, not for pairs."""
    words, size = episodes["words"], {table.name: table.num_rows for table in schema.tables}
    num_tasks, num_rows, _ = words.shape
    label, weight, dense = np.zeros([3, num_tasks, num_rows], np.float32)
    keys = {
        group: np.full(
            [num_tasks, num_rows, sum(table in tables for table in SLOT_TABLES)], -1, np.int64
        )
        for group, tables in key_groups(schema).items()
    }
    largest = dict.fromkeys(size, -1)
    for task, row in np.ndindex(num_tasks, num_rows):
        if row < num_support:
            there = row < episodes["num_support"][task]
        else:
            there = row - num_support < episodes["num_query"][task]
        if not there:
            continue
        weight[task, row] = 1
        rating = words[task, row].view(np.float32)[0]
        label[task, row] = rating if schema.positive_from is None else rating >= 4
        dense[task, row] = words[task, row].view(np.float32)[PRICE_PLANE]
        for group, tables in key_groups(schema).items():
            slots = [slot for slot, table in enumerate(SLOT_TABLES) if table in tables]
            for column, slot in enumerate(slots):
                table, key = SLOT_TABLES[slot], int(words[task, row, 1 + slot])
                first_row = sum(size[name] for name in tables[: tables.index(table)])
                if 0 <= key < size[table]:
                    keys[group][task, row, column] = first_row + key
                elif key != -1:
                    largest[table] = max(largest[table], abs(key))
    tables = [table for tables in key_groups(schema).values() for table in tables]
    return {
        "label": label,
        "weight": weight,
        "dense": dense[..., np.newaxis],
        "keys": keys,
        "out_of_range": [largest[table] for table in tables],
    }


def keys_read(batch, part, group):
    """The key of each position of a part, -1 for padding."""
    pairs = batch[part]["pairs"][group]
    key_of_pair = np.append(batch["keys"][group], -1)[batch["pair_to_key"][group] - 1]
    return np.where(pairs > 0, key_of_pair[pairs], -1)


def assert_batch_is(batch, expected, num_support):
    for part, rows in (("support", slice(num_support)), ("query", slice(num_support, None))):
        for name in ("label", "weight", "dense"):
            np.testing.assert_array_equal(batch[part][name], expected[name][:, rows])
        for group, keys in expected["keys"].items():
            np.testing.assert_array_equal(keys_read(batch, part, group), keys[:, rows])
    for group, keys in expected["keys"].items():
        distinct, pairs = slow_distinct(keys.reshape([len(keys), -1]).tolist())
        assert sorted(batch["keys"][group]) == sorted(distinct)
        assert len(batch["pair_to_key"][group]) == 1 + len(pairs)
    assert batch["out_of_range"].tolist() == expected["out_of_range"]


@pytest.mark.parametrize("positive_from", [None, 4.0])
@pytest.mark.parametrize("base", [SCHEMA, TWO_WIDTHS], ids=["one_width", "two_widths"])
def test_assemble_batch_against_loops(tmp_path, base, positive_from):
    schema = dataclasses.replace(base, positive_from=positive_from)
    batches = task_batches(make_records(tmp_path, UNEVEN, schema=schema))
    for episodes in batches.picked().take(5).as_numpy_iterator():
        batch = assemble_batch(tf.nest.map_structure(tf.constant, episodes), schema, S)
        batch = tf.nest.map_structure(lambda value: value.numpy(), batch)
        assert_batch_is(batch, slow_batch(episodes, schema, S), S)
        np.testing.assert_array_equal(batch["task"], episodes["task"])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_assemble_batch_of_any_words(seed, num_support, num_query):
    """Keys out of every range."""
    rng = np.random.default_rng(seed)
    words = rng.integers(-3, 20, [3, num_support + num_query, 8]).astype(np.int32)
    for plane in (0, PRICE_PLANE):
        values = rng.normal(3, 2, words[..., plane].shape)
        words[..., plane] = values.astype("<f4").view("<i4")
    episodes = {
        "words": words,
        "num_support": rng.integers(0, num_support + 1, 3).astype(np.int32),
        "num_query": rng.integers(0, num_query + 1, 3).astype(np.int32),
        "task": np.array([3, 1, -1]),
    }
    for task in range(3):
        words[task, episodes["num_support"][task] : num_support] = -1
        words[task, num_support + episodes["num_query"][task] :] = -1
    for schema in (SCHEMA, TWO_WIDTHS):
        batch = assemble_batch(tf.nest.map_structure(tf.constant, episodes), schema, num_support)
        batch = tf.nest.map_structure(lambda value: value.numpy(), batch)
        assert_batch_is(batch, slow_batch(episodes, schema, num_support), num_support)


@pytest.mark.parametrize("positive_from", [None, 4.0])
def test_assemble_batch_with_weights(tmp_path, positive_from):
    """The same batch, and each row's weight where it was 1."""
    schema = dataclasses.replace(SCHEMA, positive_from=positive_from)
    weighted = dataclasses.replace(schema, weight="importance")
    rng = np.random.default_rng(0)
    batches = task_batches(make_records(tmp_path, UNEVEN, schema=schema))
    for episodes in batches.picked().take(2).as_numpy_iterator():
        weight = rng.integers(0, 3, episodes["words"].shape[:2]) / np.float32(4)
        words = np.insert(episodes["words"], 1, weight.astype("<f4").view("<i4"), axis=2)
        plain = assemble_batch(tf.nest.map_structure(tf.constant, episodes), schema, S)
        batch = assemble_batch(
            tf.nest.map_structure(tf.constant, {**episodes, "words": words}), weighted, S
        )
        for part, columns in (("support", slice(S)), ("query", slice(S, None))):
            there = plain[part]["weight"].numpy()
            assert 0 < there.mean() < 1
            np.testing.assert_array_equal(batch[part].pop("present"), there > 0)
            np.testing.assert_array_equal(batch[part].pop("weight"), weight[:, columns] * there)
            del plain[part]["weight"]
        tf.nest.map_structure(np.testing.assert_array_equal, batch, plain)


WIDE = gm.Schema(
    (gm.Field("page"), gm.Field("word", "multi", max_values=2), gm.Field("ad", table="page")),
    "click",
    "user",
    tables=(gm.Table("page", 2**62, keys="raw"), gm.Table("word", 2**32 + 5, keys="hash")),
)
NARROW_BESIDE_WIDE = dataclasses.replace(
    WIDE,
    tables=(WIDE.tables[0], gm.Table("word", 5), gm.Table("ad", 2**40, keys="raw")),
    fields=(*WIDE.fields[:2], gm.Field("ad")),
)


def wide_planes(schema, keys):
    """The planes of key fields, `[C - 1, n]`: of a wide table the low words, then the high ones.

    Args:
        keys: field -> `[slots, n]`.
    """
    planes = []
    for field in schema.fields:
        words = schema.table(field.table_name).words_per_key
        planes += [keys[field.name] & 0xFFFFFFFF, keys[field.name] >> 32][:words]
    return np.concatenate(planes).astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("schema", [WIDE, NARROW_BESIDE_WIDE], ids=["wide", "narrow beside wide"])
def test_keys_of_two_words(schema):
    rng = np.random.default_rng(0)
    num_rows = 9
    sizes = {field.name: schema.table(field.table_name).num_rows for field in schema.fields}
    keys = {
        field.name: rng.integers(0, sizes[field.name], [field.num_slots, num_rows])
        >> rng.integers(0, 34, [field.num_slots, num_rows])
        for field in schema.fields
    }
    keys["page"][0, :5] = (2**62 - 1, 2**32, 2**31, 2**32 - 1, -1)
    keys["ad"][0, :3] = (2**40 - 1, 2**31, 0)
    keys["word"][1, ::2] = -1
    words = np.concatenate([np.zeros([1, num_rows], np.int32), wide_planes(schema, keys)])
    drawn = {"words": words.T[np.newaxis], "task": np.array([7])}
    drawn |= {"num_support": np.array([4], np.int32), "num_query": np.array([5], np.int32)}
    batch = assemble_batch(tf.nest.map_structure(tf.constant, drawn), schema, 4)
    batch = tf.nest.map_structure(lambda value: value.numpy(), batch)
    assert (batch["out_of_range"] == -1).all()
    (tables,) = key_groups(schema).values()
    begins = np.cumsum([0, *(schema.table(name).num_rows for name in tables)])
    expected = [
        np.where(
            keys[field.name] < 0, -1, keys[field.name] + begins[tables.index(field.table_name)]
        )
        for field in schema.fields
    ]
    found = [keys_read(batch, part, "embedded")[0] for part in ("support", "query")]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected).T)


def test_a_key_of_two_words_without_a_row():
    """The whole key is reported, not a word of it."""
    keys = {
        "page": np.array([[2**62, -2, 3, 0]]),
        "word": np.array([[0, 2**32 + 5, 1, 2**40], [-1, 0, 0, 0]]),
        "ad": np.array([[2**63 - 1, 2**62 - 1, 0, 1]]),
    }
    words = np.concatenate([np.zeros([1, 4], np.int32), wide_planes(WIDE, keys)])
    drawn = {"words": words.T[np.newaxis], "task": np.array([7])}
    drawn |= {"num_support": np.array([2], np.int32), "num_query": np.array([2], np.int32)}
    batch = assemble_batch(tf.nest.map_structure(tf.constant, drawn), WIDE, 2)
    assert batch["out_of_range"].numpy().tolist() == [2**63 - 1, 2**40]


def test_the_smallest_key_of_two_words_is_not_taken_for_missing():
    """It has no positive counterpart, and is reported as 0."""
    keys = {
        "page": np.array([[1, 2, 3, 0]]),
        "word": np.array([[0, 5, 1, 2], [-1, 0, 0, 0]]),
        "ad": np.array([[-(2**63), 4, 0, 1]]),
    }
    words = np.concatenate([np.zeros([1, 4], np.int32), wide_planes(WIDE, keys)])
    drawn = {"words": words.T[np.newaxis], "task": np.array([7])}
    drawn |= {"num_support": np.array([2], np.int32), "num_query": np.array([2], np.int32)}
    batch = assemble_batch(tf.nest.map_structure(tf.constant, drawn), WIDE, 2)
    assert sorted(batch["out_of_range"].numpy().tolist()) == [-1, 0]


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_keys_of_two_words_from_records_to_batches(tmp_path, compression):
    keys = {
        "page": np.array([[2**62 - 1, 2**33, 5]]),
        "word": np.array([[2**32 + 4, 1, 2**31], [-1, 0, -1]]),
        "ad": np.array([[2**61, 0, 2**62 - 2]]),
    }
    words = np.concatenate([np.zeros([1, 3], np.int32), wide_planes(WIDE, keys)])
    records = opened(tmp_path, WIDE, [words], compression=compression)
    ((batch,),) = drawn(task_batches(records, tasks=1))
    read = np.concatenate([keys_read(batch, part, "embedded")[0] for part in ("support", "query")])
    found = sorted(row for row in read.tolist() if row != [-1] * 4)
    word = np.where(keys["word"] < 0, -1, keys["word"] + 2**62)
    assert found == sorted(np.concatenate([keys["page"], word, keys["ad"]]).T.tolist())


def test_the_made_data_is_what_the_tests_take_it_for(records, rows_of):
    assert SCHEMA.positive_from == 4.0
    assert [words.shape[1] for _, words in sorted(rows_of.items())] == list(UNEVEN)
    planes = np.concatenate(list(rows_of.values()), axis=1)
    for table, never in NEVER_READ.items():
        keys = planes[1 : 1 + len(SLOT_TABLES)][np.array(SLOT_TABLES) == table]
        assert set(np.unique(keys)) == set(range(-1, never))
    assert len(np.unique(planes[0])) == 5
    assert (planes[2:5] == -1).all(axis=0).any()
    assert (planes[2:5] >= 0).all(axis=0).any()


def test_made_data_depends_on_its_arguments_alone(tmp_path, records):
    again = make_records(tmp_path / "again", UNEVEN)
    other = make_records(tmp_path / "other", UNEVEN, seed=1)
    assert [words.tolist() for _, words in again.read("train")] == [
        words.tolist() for _, words in records.read("train")
    ]
    assert [words.tolist() for _, words in other.read("train")] != [
        words.tolist() for _, words in records.read("train")
    ]


# Epochs and ranks ----------------------------------------------------------------------------


def picked(batches, num_steps, first_epoch=None):
    """Steps before their keys are made distinct, which are made sooner than batches."""
    return list(batches.picked(first_epoch).take(num_steps).as_numpy_iterator())


def tasks_picked(step):
    """`(task, support rows, query rows)` of each task of a step, -1 where there is none."""
    num_support = min(S, step["words"].shape[1] - 1)
    prices = 4096 * step["words"][..., PRICE_PLANE].view("<f4").astype(float)
    found = []
    for task, price, *counts in zip(
        step["task"].tolist(), prices, step["num_support"], step["num_query"], strict=True
    ):
        halves = price[: counts[0]], price[num_support : num_support + counts[1]]
        rows = ([round(value) - 64 * task for value in half] for half in halves)
        found.append((task, *rows))
    return found


def told(batches, epoch):
    """What a rank's plan says of an epoch, and what its steps hold; rows are the whole task's."""
    sizes = collections.Counter()
    for entry in batches.records.index(batches.split):
        sizes[int(entry["task"])] += int(entry["rows"])

    def first_row(one):
        return sum(episode_sizes(sizes[one.task], batches.records.episode_rows)[: one.part])

    planned = [
        [
            (one.task, *([first_row(one) + row for row in half] for half in one[3:]))
            if one
            else (-1, [], [])
            for one in step
        ]
        for _, step in steps_of(batches._plan(epoch), batches.world.rank)
    ]
    read = [tasks_picked(step) for step in picked(batches, batches.steps_per_epoch, epoch)]
    return planned, read


GRID = [
    # ranks, files, episode rows, what is asked for beside T = 2
    (1, 1, 1024, {}),
    (1, 7, 1024, {"shuffle": False, "window_rows": 20}),
    (2, 3, 8, {"every_row": True, "buckets": 3}),
    (3, 2, 1024, {"every_query": True, "window_rows": 1}),
    (2, 5, 10, {"in_time_order": True, "window_rows": 40}),
    (1, 3, 1024, {"every_row": True, "in_time_order": True, "buckets": 2, "shuffle": False}),
    (2, 1, 8, {"every_query": True, "in_time_order": True}),
    (5, 4, 16, {"buckets": 4, "window_rows": 30}),
]


@pytest.mark.parametrize(("size", "num_files", "episode_rows", "options"), GRID)
def test_steps_are_those_of_the_plan(tmp_path, size, num_files, episode_rows, options):
    """test_plan.py says what a plan has to be."""
    layout = {"num_files": num_files, "episode_rows": episode_rows}
    layout["compression"] = "zlib" if num_files == 3 else "none"
    records = make_records(tmp_path, UNEVEN, splits=("train",), **layout)
    for rank in sorted({0, size - 1}):
        batches = task_batches(records, tasks=2, world=gm.World(rank, size), **options)
        planned, read = told(batches, epoch=1)
        assert len(read) == batches.steps_per_epoch
        assert read == planned


@pytest.mark.parametrize(
    ("size", "num_files", "tasks", "options"),
    [
        (2, 5, UNEVEN, {"every_row": True, "window_rows": 30}),
        (3, 3, (30, 1, 1, 1, 1, 1), {"buckets": 2}),  # some ranks have many tasks, one many rows
        (4, 4, (30, 1, 2), {"shuffle": False}),  # more ranks than records, and a file of none
    ],
)
def test_every_task_once_an_epoch_and_equal_steps(tmp_path, size, num_files, tasks, options):
    records = make_records(tmp_path, tasks, num_files=num_files, splits=("train",))
    ranks = [
        task_batches(records, tasks=1, world=gm.World(rank, size), **options)
        for rank in range(size)
    ]
    assert len({batches.steps_per_epoch for batches in ranks}) == 1
    seen, rooms, busy_steps = collections.Counter(), 0, []
    rows_seen = collections.Counter()
    for batches in ranks:
        (epoch,) = drawn(batches)
        busy_steps.append(sum((batch["task"] >= 0).any() for batch in epoch))
        for batch in epoch:
            seen.update(batch["task"].tolist())
            for part in ("support", "query"):
                assert not batch[part]["weight"][batch["task"] < 0].any()
                rooms += batch[part]["weight"].size * (batch["task"] >= 0).any()
                for task, rows in rows_in(batch, part):
                    rows_seen.update((task, row) for row in rows)
    del seen[-1]
    assert rows_seen.total() == len(rows_seen) == ranks[0].samples_per_epoch
    assert ranks[0].padding == pytest.approx(1 - rows_seen.total() / rooms)
    if options.get("every_row"):
        assert len(rows_seen) == sum(tasks)
        assert seen == {task: -(-rows // (S + Q)) for task, rows in enumerate(tasks)}
    else:
        assert len(rows_seen) == sum(min(rows, S + Q) for rows in tasks)
        assert seen == dict.fromkeys(range(len(tasks)), 1)
    # No step that every rank would run empty.
    assert max(busy_steps) == ranks[0].steps_per_epoch


def test_a_rank_without_a_record_runs_the_same_steps(tmp_path):
    records = make_records(tmp_path, (30, 2), num_files=1, splits=("train",))
    ranks = [
        task_batches(records, tasks=1, every_row=True, world=gm.World(rank, 4)) for rank in range(4)
    ]
    assert [batches.steps_per_epoch for batches in ranks] == [3] * 4
    for batch in itertools.chain(*drawn(ranks[1], epochs=2)):
        assert (batch["task"] == -1).all()
        assert all(len(keys) == 0 for keys in batch["keys"].values())
        assert not batch["query"]["weight"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"every_query": True}, {"every_row": True, "buckets": 3, "window_rows": 40}]
)
def test_the_same_seed_epoch_and_world_give_the_same_batches(records, options):
    settings = {"world": gm.World(1, 2), "seed": 3, "tasks": 2, **options}
    epochs = drawn(task_batches(records, **settings), epochs=4)
    assert same(epochs[3], drawn(task_batches(records, **settings), first_epoch=3)[0])
    assert not same(epochs[0], drawn(task_batches(records, **{**settings, "seed": 4}))[0])
    assert not same(epochs[2], epochs[3])


def test_a_dataset_read_twice_gives_the_same_batches(records):
    batches = task_batches(records)
    dataset = batches.dataset().take(batches.steps_per_epoch)
    first, second = list(dataset.as_numpy_iterator()), list(dataset.as_numpy_iterator())
    assert same(first, second)


@pytest.mark.slow
def test_one_batch_is_the_first_of_its_epoch(records):
    batches = task_batches(records)
    for epoch in (None, 0, 2):
        first = next(batches.dataset(epoch).as_numpy_iterator())
        own = tf.nest.map_structure(lambda value: value.numpy(), batches.one_batch(epoch))
        assert same([own], [first])
    assert not same([batches.one_batch(0)], [batches.one_batch(2)])


def test_not_deterministic_is_another_order_within_an_epoch(records):
    options = {"every_row": True, "window_rows": 20, "tasks": 2}
    progress = task_batches(records, **options).progress(3, 4)
    orders = {True: [], False: []}
    for deterministic, order in orders.items():
        batches = task_batches(records, deterministic=deterministic, begin=progress, **options)
        steps = iter(batches.dataset())
        for count in (batches.steps_at_begin, *[batches.steps_per_epoch] * 2):
            epoch = (next(steps)["query"]["dense"].numpy().tobytes() for _ in range(count))
            order.append(sorted(epoch))
    assert orders[True] == orders[False]
    assert [len(epoch) for epoch in orders[True]] == [
        batches.steps_per_epoch - 4,
        *[batches.steps_per_epoch] * 2,
    ]


def test_the_order_does_not_depend_on_the_global_seed(records):
    orders = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append([batch["task"].tolist() for batch in drawn(task_batches(records))[0]])
    tf.random.set_seed(None)
    assert orders[0] == orders[1]


def test_shuffle_changes_the_order_of_the_tasks_in_every_epoch(tmp_path):
    """In one file, so that the order of the files does not hide that of the tasks."""
    records = make_records(tmp_path, UNEVEN, num_files=1, splits=("train",))
    (first, second), (shuffled, reshuffled) = (
        [
            [batch["task"].tolist() for batch in epoch]
            for epoch in drawn(task_batches(records, shuffle=shuffle), epochs=2)
        ]
        for shuffle in (False, True)
    )
    assert first == second != shuffled != reshuffled
    assert sorted(np.ravel(shuffled)) == sorted(np.ravel(reshuffled)) == sorted(np.ravel(first))
    assert np.ravel(first)[: len(UNEVEN)].tolist() == list(range(len(UNEVEN)))


def test_shuffle_reaches_over_windows(records):
    """Each window is an episode or two here, and yet an epoch may begin with any."""
    batches = task_batches(records, tasks=1, window_rows=1)
    first_tasks = {epoch[0]["task"][0] for epoch in drawn(batches, epochs=8)}
    assert len(first_tasks) > 3


def supports(epoch):
    """task -> its support rows and its query rows, in an epoch in which it stands once."""
    found = {}
    for batch in epoch:
        for part in ("support", "query"):
            for task, rows in rows_in(batch, part):
                found.setdefault(task, {})[part] = sorted(rows)
    found.pop(-1, None)
    return found


def test_the_draw_is_a_function_of_seed_epoch_and_task(records):
    expected = supports(drawn(task_batches(records), first_epoch=2)[0])
    found = {}
    for rank in range(2):
        batches = task_batches(records, shuffle=False, world=gm.World(rank, 2), tasks=2)
        found.update(supports(drawn(batches, first_epoch=2)[0]))
    assert found == expected


def test_support_differs_between_epochs_seeds_and_tasks(records):
    epochs = drawn(task_batches(records), epochs=2) + drawn(task_batches(records, seed=1))
    draws = [supports(epoch) for epoch in epochs]
    for first, second in itertools.combinations(draws, 2):
        assert first[2]["support"] != second[2]["support"]
    # Tasks 3 and 4 both have 7 rows.
    pairs = [(draw[3]["support"], draw[4]["support"]) for draw in draws]
    assert any(third != fourth for third, fourth in pairs)


def test_every_row_is_drawn_as_support_about_equally_often(records):
    counts = collections.Counter()
    epochs = 60
    for epoch in drawn(task_batches(records, tasks=len(UNEVEN)), epochs=epochs):
        counts.update(dict(rows_in(epoch[0], "support"))[2])
    mean = epochs * S / 30
    assert set(counts) == set(range(30))
    assert max(counts.values()) < mean + 5 * mean**0.5
    assert min(counts.values()) > mean - 4 * mean**0.5 - 1


# Support and query ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"every_row": True}, {"every_query": True}], ids=str)
def test_in_time_order_tasks_adapt_on_earlier_rows(records, options):
    judged = 0
    for batch in drawn(task_batches(records, in_time_order=True, **options))[0]:
        parts = zip(rows_in(batch, "support"), rows_in(batch, "query"), strict=True)
        for (_, support), (_, query) in parts:
            assert [*support, *query] == sorted([*support, *query])
            judged += len(query)
    assert judged > 30


def test_support_and_query_are_disjoint_rows_of_the_task(epoch, rows_of):
    for batch in epoch:
        for (task, support), (_, query) in zip(
            rows_in(batch, "support"), rows_in(batch, "query"), strict=True
        ):
            if task < 0:
                assert support == query == []
                continue
            n = rows_of[task].shape[1]
            assert len(support) == min(S, n - 1)
            assert len(query) == min(Q, n - len(support))
            assert len({*support, *query}) == len(support) + len(query)
            assert {*support, *query} <= set(range(n))


def test_every_value_is_that_of_its_row(epoch, rows_of):
    """Labels and keys stand in the row whose dense value they were written with."""
    for batch, part in itertools.product(epoch, ("support", "query")):
        item_and_genre = keys_read(batch, part, "embedded")
        for slot, (task, rows) in enumerate(rows_in(batch, part)):
            for position, row in enumerate(rows):
                words = rows_of[task][:, row]
                assert batch[part]["label"][slot, position] == (words.view("<f4")[0] >= 4)
                assert words.view("<f4")[PRICE_PLANE] == price_of(task, row)
                genres = np.where(words[2:5] >= 0, words[2:5] + 17, -1)
                expected = [words[1], *genres, *words[5:7]]
                assert item_and_genre[slot, position].tolist() == expected


@pytest.mark.parametrize("size", [1, 3])
def test_every_query_judges_each_row_once_with_one_support(records, rows_of, size):
    support_of, judged, samples = {}, collections.defaultdict(list), 0
    for rank in range(size):
        world = gm.World(rank, size)
        batches = task_batches(records, every_query=True, tasks=3, query=4, world=world)
        for batch in drawn(batches)[0]:
            samples += sum(batch[part]["weight"].sum() for part in ("support", "query"))
            for (task, support), (_, query) in zip(
                rows_in(batch, "support"), rows_in(batch, "query"), strict=True
            ):
                assert support_of.setdefault(task, support) == support
                judged[task] += query
                assert (len(query) > 0) == (task >= 0)
    judged.pop(-1, None)
    assert samples == batches.samples_per_epoch
    assert set(judged) == set(rows_of)
    for task, query in judged.items():
        assert sorted([*support_of[task], *query]) == list(range(rows_of[task].shape[1]))


def test_chunks_of_a_task_follow_one_another(records):
    batches = task_batches(records, every_query=True, query=4)
    tasks = np.concatenate([batch["task"] for batch in drawn(batches)[0]])
    runs = [task for task, _ in itertools.groupby(tasks.tolist())]
    assert len(runs) == len(set(runs))
    assert (tasks == 2).sum() == -(-(30 - S) // 4)


def test_a_task_with_one_row_is_judged_unadapted(tmp_path):
    records = make_records(tmp_path, [1], num_files=1, splits=("train",))
    batches = task_batches(records, tasks=1)
    assert batches.samples_per_epoch == 1
    ((batch,),) = drawn(batches)
    assert rows_in(batch, "support") == [(0, [])]
    assert rows_in(batch, "query") == [(0, [0])]
    assert batch["query"]["weight"].tolist() == [[1] + [0] * (Q - 1)]


def test_padding_is_zero_everywhere(epoch):
    padded = 0
    for batch, part in itertools.product(epoch, ("support", "query")):
        missing = batch[part]["weight"] == 0
        padded += missing.sum()
        assert set(np.unique(batch[part]["weight"])) <= {0.0, 1.0}
        assert not batch[part]["label"][missing].any()
        assert not batch[part]["dense"][missing].any()
        assert not batch[part]["pairs"]["embedded"][missing].any()
    assert padded > 0


@pytest.mark.parametrize("positive_from", [None, 3.0, 4.0])
def test_positive_from(tmp_path, positive_from):
    schema = dataclasses.replace(SCHEMA, positive_from=positive_from)
    records = make_records(tmp_path, [30], num_files=1, splits=("train",), schema=schema)
    ((batch,),) = drawn(task_batches(records, tasks=1, support=10, query=20))
    labels = [batch[part]["label"][batch[part]["weight"] > 0] for part in ("support", "query")]
    ((_, words),) = records.read("train")
    ratings = words[0].view("<f4")
    expected = ratings if positive_from is None else ratings >= positive_from
    assert sorted(np.concatenate(labels)) == sorted(expected.astype(np.float32))


# Going on ------------------------------------------------------------------------------------


progresses = st.builds(
    gm.Progress,
    st.integers(0, 2**40),
    st.lists(st.builds(Segment, *[st.integers(1, 2**40)] * 3), max_size=3).map(tuple),
)


@quick
@given(progresses)
def test_progress_as_json(progress):
    assert gm.Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


GOING_ON = [
    {},
    {"every_row": True, "buckets": 3, "window_rows": 30, "world": gm.World(1, 2)},
    {"every_query": True, "window_rows": 30},
    {"in_time_order": True, "shuffle": False, "world": gm.World(0, 2)},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", GOING_ON)
def test_the_same_world_goes_on_with_the_batches_that_would_have_followed(records, options):
    options = {"tasks": 2, **options}
    batches = task_batches(records, **options)
    num_steps = batches.steps_per_epoch
    straight = picked(batches, 3 * num_steps)
    for epoch, step in ((1, 0), (1, 1), (1, num_steps // 2), (1, num_steps)):
        progress = batches.progress(epoch, step)
        again = task_batches(records, begin=progress, **options)
        assert again.steps_at_begin == num_steps - step
        expected = straight[epoch * num_steps + step :]
        assert same(picked(again, len(expected)), expected)
        # Stopped again, with or without a step in between: what is saved counts from the start.
        assert again.progress(epoch, 0) == progress
        if step < num_steps:
            assert again.progress(epoch, 1) == batches.progress(epoch, step + 1)
        assert again.progress(epoch + 1, 1) == batches.progress(epoch + 1, 1)


def samples_in(steps):
    """Every task of steps with its rows, as a multiset."""
    tasks = itertools.chain(*map(tasks_picked, steps))
    return collections.Counter(
        (task, tuple(support), tuple(query)) for task, support, query in tasks if task >= 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stops", "options"),
    [
        ([(2, 3, 1)], {}),
        ([(1, 3, 2), (3, 1, 1)], {"every_row": True, "buckets": 2, "window_rows": 30}),
        ([(3, 1, 2), (1, 2, 0), (1, 3, 1)], {"in_time_order": True}),
    ],
)
def test_another_world_goes_on_with_what_is_left(records, stops, options):
    """After stops at W, T and step: each sample once over all runs of the epoch, the same rows."""
    whole = task_batches(records, **options)
    expected = samples_in(picked(whole, whole.steps_per_epoch, 1))
    had, begin = collections.Counter(), gm.Progress(1)
    for size, tasks, num_steps in [*stops, (2, 2, None)]:
        ranks = [
            task_batches(records, tasks=tasks, world=gm.World(rank, size), begin=begin, **options)
            for rank in range(size)
        ]
        assert len({batches.steps_at_begin for batches in ranks}) == 1
        taken = ranks[0].steps_at_begin if num_steps is None else num_steps
        for batches in ranks:
            had += samples_in(picked(batches, taken))
        (begin,) = {batches.progress(1, taken) for batches in ranks}
    assert had == expected
    assert [(one.size, one.tasks) for one in begin.done] == [
        (size, tasks) for size, tasks, steps in [*stops, (2, 2, 1)] if steps
    ]
    # The epoch after it is whole again, and what it would have been.
    other = task_batches(records, tasks=2, world=gm.World(0, 2), **options)
    following = picked(ranks[0], taken + other.steps_per_epoch)[taken:]
    assert same(following, picked(other, other.steps_per_epoch, 2))


def test_an_epoch_that_was_over_is_not_gone_into_again(records):
    batches = task_batches(records, world=gm.World(0, 2), tasks=2)
    begin = batches.progress(0, batches.steps_per_epoch)
    for world in (gm.World(0, 2), gm.World()):
        again = task_batches(records, world=world, tasks=2, begin=begin)
        assert again.steps_at_begin == 0
        expected = picked(task_batches(records, world=world, tasks=2), 3, 1)
        assert same(picked(again, 3), expected)


# Waiting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [0, 2])
def test_a_step_waits_only_while_nobody_computes(buffer):
    """What steps waited and what they computed add up to no more than the time that passed."""

    def late(step):
        time.sleep(0.02)
        return step

    steps = tf.data.Dataset.range(12).map(
        lambda step: {"step": tf.ensure_shape(tf.numpy_function(late, [step], tf.int64), [])},
    )
    if buffer:
        steps = steps.prefetch(buffer)
    iterator = iter(timed(steps))
    began, waited, computed = time.perf_counter(), 0.0, 0.0
    for number, step in enumerate(iterator):
        assert step["step"].numpy() == number
        waited += step["waited"].numpy()
        first = time.perf_counter()
        time.sleep(0.015)
        computed += time.perf_counter() - first
    assert waited > 0
    assert waited + computed <= time.perf_counter() - began


# The keys of the step that follows ------------------------------------------------------------


def made_keys(sizes, read=None):
    """A batch for each size: that many keys, and a member that the pairs leave as it is."""

    def batch(step, size):
        if read is not None:
            tf.numpy_function(lambda number: read.append(int(number)), [step], [])
        return {"keys": {"embedded": tf.range(size) + step}, "task": tf.fill([3], step)}

    numbered = (tf.range(len(sizes), dtype=tf.int64), tf.constant(sizes, tf.int64))
    return tf.data.Dataset.from_tensor_slices(numbered).map(batch)


def test_each_batch_has_the_keys_of_the_next():
    read = []
    sizes = [4, 0, 2, 3]
    batches = made_keys(sizes, read)
    found = list(with_next_keys(batches))
    assert read == [0, 1, 2, 3]  # and none of them twice
    assert [bool(one["next"]["known"]) for one in found] == [True, True, True, False]
    for number, (one, batch) in enumerate(zip(found, made_keys(sizes), strict=True)):
        following = one.pop("next")["keys"]["embedded"]
        tf.nest.map_structure(np.testing.assert_array_equal, one, batch)
        expected = found[number + 1]["keys"]["embedded"] if number < 3 else []
        np.testing.assert_array_equal(following, expected)


def test_the_next_keys_leave_shapes_and_the_number_of_steps_as_they_are():
    batches = made_keys([2, 1])
    ahead = with_next_keys(batches)
    assert ahead.cardinality() == 2
    assert with_next_keys(batches.repeat()).cardinality() == tf.data.INFINITE_CARDINALITY
    following = {"keys": batches.element_spec["keys"], "known": tf.TensorSpec([], tf.bool)}
    assert ahead.element_spec == {**batches.element_spec, "next": following}
    assert list(with_next_keys(batches.take(0))) == []


# Shapes --------------------------------------------------------------------------------------


def test_no_batch_is_traced_anew(records):
    """Of one bucket no shape but the number of distinct keys differs, so steps trace once."""
    assembled = tf.function(functools.partial(assemble_batch, schema=records.schema, num_support=S))
    for options in ({}, {"every_row": True, "window_rows": 30}):
        for drawn_tasks in task_batches(records, **options).picked().take(9):
            assembled(drawn_tasks)
    assert assembled.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_a_step_is_traced_once_whatever_the_buckets(records):
    traced = []

    class Counted(gm.MetaModel):
        def train_step(self, batch):
            traced.append(batch["support"]["weight"].shape)
            return super().train_step(batch)

    keras.utils.set_random_seed(0)
    embedding = gm.ShardedEmbedding(records.schema, 3, world=ONE)
    model = Counted(gm.models.MeLU((4,)), embedding)
    model.compile()
    batches = task_batches(records, buckets=3, every_row=True, tasks=2)
    sizes = {batch["task"].shape for batch in drawn(batches)[0]}
    assert len(sizes) == 3
    model.fit(batches, epochs=2, verbose=0)
    assert len(traced) == 1


def test_shapes_of_buckets(records):
    batches = task_batches(records, buckets=3, every_row=True)
    shapes = {
        (*batch["support"]["weight"].shape, batch["query"]["weight"].shape[1])
        for batch in drawn(batches)[0]
    }
    assert shapes <= {(4, 5, 6), (7, 5, 1), (14, 2, 1)}
    assert (4, 5, 6) in shapes
    assert len(shapes) > 1
    spec = batches.dataset().element_spec
    assert spec["task"].shape == [None]
    assert spec["support"]["weight"].shape == [None, None]


@pytest.mark.parametrize("schema", [SCHEMA, TWO_WIDTHS], ids=["one_width", "two_widths"])
def test_static_shapes(tmp_path, schema):
    batches = task_batches(make_records(tmp_path, 8, schema=schema))
    slots = {"embedded": 3, "embedded_2": 3} if schema == TWO_WIDTHS else {"embedded": 6}

    def part(size):
        matrix = tf.TensorSpec([T, size], tf.float32)
        pairs = {group: tf.TensorSpec([T, size, n], tf.int32) for group, n in slots.items()}
        dense = tf.TensorSpec([T, size, 1], tf.float32)
        floats = dict.fromkeys(("label", "value", "weight"), matrix)
        return {"pairs": pairs, "dense": dense, **floats}

    assert batches.dataset().element_spec == {
        "task": tf.TensorSpec([T], tf.int64),
        "keys": {group: tf.TensorSpec([None], tf.int64) for group in slots},
        "pair_to_key": {group: tf.TensorSpec([None], tf.int32) for group in slots},
        "out_of_range": tf.TensorSpec([2], tf.int64),
        "support": part(S),
        "query": part(Q),
    }


def test_a_schema_without_dense_fields(tmp_path):
    schema = gm.Schema((gm.Field("item"),), "rating", "user").with_num_rows({"item": 9})
    records = opened(tmp_path, schema, [planes_of([5.0, 1.0, 2.0], [[8, 0, 8]])])
    ((batch,),) = drawn(task_batches(records, tasks=1))
    assert batch["support"]["dense"].shape == (1, S, 0)
    assert sorted(batch["keys"]["embedded"]) == [0, 8]
    assert batch["out_of_range"].tolist() == [-1]


# What is refused -----------------------------------------------------------------------------


def planes_of(label, keys):
    return np.concatenate([np.array([label], "<f4").view("<i4"), np.array(keys, "<i4")])


def opened(folder, schema, tasks, **options):
    """Records of tasks of these planes, in one file."""
    writer = EpisodeWriter(folder, "train", schema, num_files=1, **options)
    for task, words in enumerate(tasks):
        writer.write(np.full(words.shape[1], task), words)
    return gm.Records(str(folder), schema, {"train": writer.close()}, **options)


def test_keys_without_a_row_are_reported_and_read_nothing(tmp_path):
    fields = (gm.Field("item"), gm.Field("genre", "multi", max_values=2), gm.Field("shop"))
    tables = (gm.Table("item", 5), gm.Table("genre", 4, width=2), gm.Table("shop", 3))
    schema = gm.Schema(fields, "rating", "user", tables=tables)
    keys = [[4, 5, 9, 0], [3, -1, 0, 1], [-1, -1, 7, -6], [2, 0, 1, 2]]
    records = opened(tmp_path, schema, [planes_of([1.0, 2.0, 3.0, 4.0], keys)])
    ((batch,),) = drawn(task_batches(records, tasks=1))
    # The groups' order: item and shop of the model's width, then genre.
    assert batch["out_of_range"].tolist() == [9, -1, 7]
    assert sorted(batch["keys"]["embedded"]) == [0, 4, 5, 6, 7]  # shop's begin at 5
    assert sorted(batch["keys"]["embedded_2"]) == [0, 1, 3]
    parts = [keys_read(batch, part, "embedded")[0] for part in ("support", "query")]
    read = np.concatenate(parts)
    read = read[(read >= 0).any(axis=1)]
    assert sorted(map(tuple, read.tolist())) == [(-1, 5), (-1, 6), (0, 7), (4, 7)]


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_damaged_record_is_named(tmp_path, compression):
    records = make_records(tmp_path, UNEVEN, splits=("train",), compression=compression)
    path = tmp_path / "train-000-00001-of-00003.tfrecord"
    index = records.index("train")
    offsets = index["offset"][index["file"] == 1]
    content = path.read_bytes()
    for place in (offsets[1] + 3, offsets[2] + 9, offsets[2] + 40, len(content) - 2):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        offset = offsets[offsets <= place].max()
        with pytest.raises(tf.errors.OpError) as raised:
            picked(task_batches(records), 9)
        message = describe_damage(records, "train", raised.value)
        assert re.search(rf"{path}.*\b{offset}\b", message)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    records = make_records(tmp_path, UNEVEN, splits=("train",))
    path = tmp_path / "train-000-00001-of-00003.tfrecord"
    content = path.read_bytes()
    cut = int(records.index("train")["offset"][6])
    assert 0 < cut < len(content)
    for length in (0, 7, cut, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(tf.errors.OpError) as raised:
            picked(task_batches(records), 9)
        assert str(path) in describe_damage(records, "train", raised.value)
    path.unlink()
    with pytest.raises(tf.errors.OpError, match=path.name):
        picked(task_batches(records), 9)


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_records_in_the_place_of_others_are_named(tmp_path, compression):
    """Whole records, with right checksums, that are not those of the index."""
    options = {"num_files": 1, "splits": ("train",), "compression": compression}
    first = make_records(tmp_path / "first", [5, 6, 7], **options)
    make_records(tmp_path / "second", [5, 7, 6], **options)
    path = tmp_path / "first" / "train-000-00000-of-00001.tfrecord"
    path.write_bytes((tmp_path / "second" / path.name).read_bytes())
    offset = first.index("train")["offset"][1]
    with pytest.raises(tf.errors.OpError, match=rf"(?s){path}.*\b{offset}\b"):
        picked(task_batches(first, tasks=1, shuffle=False), 9)


def test_records_of_another_schema_raise(tmp_path):
    records = make_records(tmp_path, UNEVEN, splits=("train",))
    schema = dataclasses.replace(SCHEMA, fields=SCHEMA.fields[:-1])
    with pytest.raises(tf.errors.OpError, match=r"a record is not what the index says"):
        picked(task_batches(dataclasses.replace(records, schema=schema)), 9)


@pytest.mark.parametrize("name", ["tasks", "support", "query", "buckets", "window_rows"])
def test_sizes_below_one(records, name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        task_batches(records, **{name: 0})


@pytest.mark.parametrize("options", [{"every_row": True}, {"buckets": 2}])
def test_what_every_query_excludes(records, options):
    with pytest.raises(
        ValueError, match=r"expected every_row=False and buckets=1 with every_query=True, .* got"
    ):
        task_batches(records, every_query=True, **options)


def test_more_tasks_a_step_than_any_rank_has(records):
    task_batches(records, tasks=len(UNEVEN))
    with pytest.raises(
        ValueError,
        match=r"expected tasks of at most 13, .* of 1 rank\(s\) has of the split 'train', got 14\. "
        r"Lower tasks to 13 or less",
    ):
        task_batches(records, tasks=14)
    # The chunks of a task fill slots of a step too.
    assert task_batches(records, tasks=14, every_query=True).steps_per_epoch == 2
    with pytest.raises(ValueError, match=r"tasks of at most 5, .* any of 3 rank\(s\)"):
        task_batches(records, tasks=13, world=gm.World(2, 3))


def test_a_split_without_tasks(tmp_path):
    empty = make_records(tmp_path, tasks=[])
    with pytest.raises(ValueError, match=r"the split 'train' of .* has no tasks"):
        task_batches(empty, tasks=1)


def test_an_unknown_split(records):
    with pytest.raises(ValueError, match=r"has no split 'valid'; it has train, test"):
        task_batches(records, "valid")


def test_a_schema_without_num_rows(records):
    unsized = dataclasses.replace(
        records,
        schema=dataclasses.replace(SCHEMA, tables=(gm.Table("item"), gm.Table("genre", 7))),
    )
    with pytest.raises(ValueError, match=r"the table 'item' has no num_rows"):
        task_batches(unsized).dataset()


def test_an_epoch_goes_on_by_the_settings_that_drew_it(tmp_path):
    records = make_records(tmp_path, 12)
    begin = task_batches(records).progress(1, 2)
    assert gm.Progress.from_json(json.loads(json.dumps(begin.to_json()))) == begin
    assert task_batches(records, begin=begin).steps_at_begin > 0
    assert task_batches(records, begin=begin, tasks=2).steps_at_begin > 0
    with pytest.raises(ValueError, match=r"was drawn by, seed=0.*, got seed=5"):
        task_batches(records, begin=begin, seed=5)
    # Where nothing was drawn yet, anything may go on.
    task_batches(records, begin=gm.Progress(3), seed=5)


def test_a_window_of_too_many_words_is_refused(tmp_path):
    records = make_records(tmp_path, 5)
    with pytest.raises(ValueError, match=r"window_rows of at most 134217728 .* got 134217729"):
        task_batches(records, window_rows=(1 << 27) + 1)


def test_the_file_system_is_loaded_before_tensorflow_reads(tmp_path, monkeypatch):
    batches = task_batches(make_records(tmp_path, UNEVEN, splits=("train",)))
    required = []

    def is_opened(path):
        required.append(path)
        return True

    monkeypatch.setattr("gmeta_tf.meta_io.files.is_opened_by_tensorflow", is_opened)
    batches.picked()
    paths = batches.records.files("train")
    assert required == paths
    assert sum(1 for _ in batches.records.read("train")) == len(UNEVEN)
    assert required == paths  # which reads local files without TensorFlow
