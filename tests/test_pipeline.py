"""Task batches against plain NumPy: which rows stand where, on which rank, in which epoch."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import NEVER_READ, SCHEMA, TWO_WIDTHS, make_records, price_of

import gmeta_tf as gm
from gmeta_tf.meta_io import pipeline
from gmeta_tf.meta_io.pipeline import assemble_batch, distinct_keys, key_groups
from gmeta_tf.meta_io.records import encode_episode, write_split

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


@quick
@given(
    st.integers(0, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([-1, 0, 1, 2, 2**40]), min_size=width, max_size=width),
            min_size=1,
            max_size=4,
        )
    )
)
def test_distinct_keys_against_sets(keys):
    shape = (len(keys), len(keys[0]))
    found = distinct_keys(tf.constant(keys, tf.int64, shape))
    distinct, pair_to_key, positions = (value.numpy() for value in found)
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
    keys, pair_to_key, positions = distinct_keys(tf.constant([[7, 9, -1], [9, 9, 4]], tf.int64))
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
    num_tasks, _, num_rows = words.shape
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
        rating = words[task, :, row].view(np.float32)[0]
        label[task, row] = rating if schema.positive_from is None else rating >= 4
        dense[task, row] = words[task, :, row].view(np.float32)[PRICE_PLANE]
        for group, tables in key_groups(schema).items():
            slots = [slot for slot, table in enumerate(SLOT_TABLES) if table in tables]
            for column, slot in enumerate(slots):
                table, key = SLOT_TABLES[slot], int(words[task, 1 + slot, row])
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
    for episodes in batches.episodes().batch(T).take(5).as_numpy_iterator():
        batch = assemble_batch(tf.nest.map_structure(tf.constant, episodes), schema, S)
        batch = tf.nest.map_structure(lambda value: value.numpy(), batch)
        assert_batch_is(batch, slow_batch(episodes, schema, S), S)
        np.testing.assert_array_equal(batch["task"], episodes["task"])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_assemble_batch_of_any_words(seed, num_support, num_query):
    """Keys out of every range, and rubbish where rows are missing."""
    rng = np.random.default_rng(seed)
    words = rng.integers(-3, 20, [3, 8, num_support + num_query]).astype(np.int32)
    for plane in (0, PRICE_PLANE):
        words[:, plane] = rng.normal(3, 2, words[:, plane].shape).astype("<f4").view("<i4")
    episodes = {
        "words": words,
        "num_support": rng.integers(0, num_support + 1, 3).astype(np.int32),
        "num_query": rng.integers(0, num_query + 1, 3).astype(np.int32),
        "task": np.array([3, 1, -1]),
    }
    for schema in (SCHEMA, TWO_WIDTHS):
        batch = assemble_batch(tf.nest.map_structure(tf.constant, episodes), schema, num_support)
        batch = tf.nest.map_structure(lambda value: value.numpy(), batch)
        assert_batch_is(batch, slow_batch(episodes, schema, num_support), num_support)


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


@pytest.mark.parametrize(
    ("size", "num_files", "tasks", "shuffle"),
    [
        (1, 1, UNEVEN, True),
        (1, 7, UNEVEN, False),
        (2, 3, UNEVEN, True),
        (3, 2, UNEVEN, True),  # a rank without a file
        (2, 5, (30, 4, 1, 2), False),  # an empty file
        (3, 3, (30, 1, 1, 1, 1, 1), True),  # some ranks have many tasks, and one many rows
    ],
)
def test_every_task_once_an_epoch_and_equal_steps(tmp_path, size, num_files, tasks, shuffle):
    records = make_records(tmp_path, tasks, num_files=num_files, splits=("train",))
    ranks = [
        task_batches(records, tasks=2, shuffle=shuffle, world=gm.World(rank, size))
        for rank in range(size)
    ]
    assert len({batches.steps_per_epoch for batches in ranks}) == 1
    seen, weights, busy_steps = collections.Counter(), 0, []
    for batches in ranks:
        (epoch,) = drawn(batches)
        busy_steps.append(sum((batch["task"] >= 0).any() for batch in epoch))
        for batch in epoch:
            seen.update(batch["task"].tolist())
            weights += sum(batch[part]["weight"].sum() for part in ("support", "query"))
            for part in ("support", "query"):
                assert not batch[part]["weight"][batch["task"] < 0].any()
    padding = size * ranks[0].steps_per_epoch * 2 - len(tasks)
    assert seen.pop(-1, 0) == padding
    assert seen == dict.fromkeys(range(len(tasks)), 1)
    assert weights == ranks[0].samples_per_epoch
    # No step that every rank would run empty.
    assert max(busy_steps) == ranks[0].steps_per_epoch


def test_a_rank_without_a_file_runs_the_same_steps(tmp_path):
    records = make_records(tmp_path, UNEVEN, num_files=1, splits=("train",))
    ranks = [task_batches(records, world=gm.World(rank, 2)) for rank in range(2)]
    assert ranks[0].steps_per_epoch == ranks[1].steps_per_epoch == -(-len(UNEVEN) // T)
    for batch in drawn(ranks[1])[0]:
        assert (batch["task"] == -1).all()
        assert all(len(keys) == 0 for keys in batch["keys"].values())
        assert not batch["query"]["weight"].any()


@pytest.mark.parametrize("every_query", [False, True])
def test_the_same_seed_epoch_and_world_give_the_same_batches(records, every_query):
    settings = {"every_query": every_query, "world": gm.World(1, 2), "seed": 3, "tasks": 2}
    epochs = drawn(task_batches(records, **settings), epochs=4)
    assert same(epochs[3], drawn(task_batches(records, **settings), first_epoch=3)[0])
    assert not same(epochs[0], drawn(task_batches(records, **{**settings, "seed": 4}))[0])
    assert not same(epochs[2], epochs[3])


def test_a_dataset_read_twice_gives_the_same_batches(records):
    batches = task_batches(records)
    dataset = batches.dataset().take(batches.steps_per_epoch)
    first, second = list(dataset.as_numpy_iterator()), list(dataset.as_numpy_iterator())
    assert same(first, second)


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


def test_shuffle_changes_the_order_of_the_files_too(records, monkeypatch):
    """Seen where the buffer holds one episode, as it does not reach over a large split."""
    monkeypatch.setattr(pipeline, "_SHUFFLE_EPISODES", 1)
    first_tasks = {epoch[0]["task"][0] for epoch in drawn(task_batches(records), epochs=6)}
    assert len(first_tasks) > 1


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


# Shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [SCHEMA, TWO_WIDTHS], ids=["one_width", "two_widths"])
def test_static_shapes(tmp_path, schema):
    batches = task_batches(make_records(tmp_path, 8, schema=schema))
    slots = {"embedded": 3, "embedded_2": 3} if schema == TWO_WIDTHS else {"embedded": 6}

    def part(size):
        matrix = tf.TensorSpec([T, size], tf.float32)
        pairs = {group: tf.TensorSpec([T, size, n], tf.int32) for group, n in slots.items()}
        dense = tf.TensorSpec([T, size, 1], tf.float32)
        return {"pairs": pairs, "dense": dense, "label": matrix, "weight": matrix}

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
    write_episodes(tmp_path, [(0, [5.0, 1.0, 2.0], [[8, 0, 8]])])
    ((batch,),) = drawn(task_batches(opened(tmp_path, schema), tasks=1))
    assert batch["support"]["dense"].shape == (1, S, 0)
    assert sorted(batch["keys"]["embedded"]) == [0, 8]
    assert batch["out_of_range"].tolist() == [-1]


# What is refused -----------------------------------------------------------------------------


def write_episodes(folder, episodes):
    encoded = [
        (task, len(label), encode_episode(task, label, np.array(keys)))
        for task, label, keys in episodes
    ]
    write_split(folder, "train", encoded, 1)


def opened(folder, schema):
    return gm.Records(folder, schema, ("train",), 1, {})


def test_keys_without_a_row_are_reported_and_read_nothing(tmp_path):
    fields = (gm.Field("item"), gm.Field("genre", "multi", max_values=2), gm.Field("shop"))
    tables = (gm.Table("item", 5), gm.Table("genre", 4, width=2), gm.Table("shop", 3))
    schema = gm.Schema(fields, "rating", "user", tables=tables)
    keys = [[4, 5, 9, 0], [3, -1, 0, 1], [-1, -1, 7, -6], [2, 0, 1, 2]]
    write_episodes(tmp_path, [(0, [1.0, 2.0, 3.0, 4.0], keys)])
    ((batch,),) = drawn(task_batches(opened(tmp_path, schema), tasks=1))
    # The groups' order: item and shop of the model's width, then genre.
    assert batch["out_of_range"].tolist() == [9, -1, 7]
    assert sorted(batch["keys"]["embedded"]) == [0, 4, 5, 6, 7]  # shop's begin at 5
    assert sorted(batch["keys"]["embedded_2"]) == [0, 1, 3]
    parts = [keys_read(batch, part, "embedded")[0] for part in ("support", "query")]
    read = np.concatenate(parts)
    read = read[(read >= 0).any(axis=1)]
    assert sorted(map(tuple, read.tolist())) == [(-1, 5), (-1, 6), (0, 7), (4, 7)]


def test_a_flipped_bit_raises(tmp_path):
    records = make_records(tmp_path, UNEVEN)
    path = tmp_path / "train-00001-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        drawn(task_batches(records))


def test_records_of_another_schema_raise(tmp_path):
    make_records(tmp_path, UNEVEN, splits=("train",))
    schema = dataclasses.replace(SCHEMA, fields=SCHEMA.fields[:-1])
    records = gm.Records(tmp_path, schema, ("train",), 3, {})
    with pytest.raises(tf.errors.InvalidArgumentError, match="record is not of this schema"):
        drawn(task_batches(records))


@pytest.mark.parametrize("name", ["tasks", "support", "query"])
def test_sizes_below_one(records, name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        task_batches(records, **{name: 0})


def test_more_tasks_a_step_than_any_rank_has(records):
    task_batches(records, tasks=len(UNEVEN))
    with pytest.raises(
        ValueError,
        match=r"tasks=14 a step .* of 1 rank\(s\) has of the split 'train': at most 13. "
        r"Lower tasks to 13 or less",
    ):
        task_batches(records, tasks=14)
    # The chunks of a task fill slots of a step too.
    assert task_batches(records, tasks=14, every_query=True).steps_per_epoch == 2
    with pytest.raises(ValueError, match=r"any of 3 rank\(s\) .* at most 6"):
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
