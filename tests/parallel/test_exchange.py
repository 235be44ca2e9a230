"""Collectives and the exchange of rows between ranks, against what one process would compute.

    HOROVOD_CYCLE_TIME=2 horovodrun -np 2 python -m pytest tests/parallel -q -x

Every rank runs every test, and each knows what all ranks hold: data is a function of the rank.
"""

import numpy as np
import pytest
import tensorflow as tf
from made_data import SCHEMA, TWO_WIDTHS

import gmeta_tf as gm
from gmeta_tf.distributed import collectives, packed_alltoall
from gmeta_tf.embedding.exchange import (
    Route,
    departure_of,
    fetch,
    return_gradients,
    send_keys,
)
from gmeta_tf.meta.validation import nonfinite_tables

WORLD = gm.World.detect()
RANK, SIZE = WORLD.rank, WORLD.size
RANKS = range(SIZE)
WIDTH = 3


@pytest.fixture(scope="module", autouse=True)
def _ranks():
    collectives.start(WORLD)
    collectives.start(WORLD)  # again does no harm
    collectives.barrier(WORLD, name="exchange_tests_begin")
    yield
    collectives.barrier(WORLD, name="exchange_tests_end")


# Collectives ---------------------------------------------------------------------------------


def test_start_refuses_another_world():
    message = f"expected Horovod to have rank {RANK} of {SIZE + 1}, it has {RANK} of {SIZE}"
    with pytest.raises(RuntimeError, match=message):
        collectives.start(gm.World(RANK, SIZE + 1))


def run_for(sender, receiver):
    """The rows that a rank sends to another; between some there are none."""
    count = (sender + 2 * receiver) % 3
    return np.array([[100 * sender + 10 * receiver + row, row] for row in range(count)], float)


@pytest.mark.parametrize("compiled", [False, True])
def test_alltoall_sends_each_rank_its_run_of_rows(compiled):
    sent = [run_for(RANK, receiver).reshape(-1, 2) for receiver in RANKS]
    expected = [run_for(sender, RANK).reshape(-1, 2) for sender in RANKS]

    def send(tensor, splits):
        return collectives.alltoall(tensor, splits, WORLD, name=f"runs_{compiled}")

    rows, splits = (tf.function(send) if compiled else send)(
        tf.constant(np.concatenate(sent)), tf.constant([len(run) for run in sent], tf.int32)
    )
    np.testing.assert_array_equal(rows, np.concatenate(expected))
    assert splits.dtype == tf.int32
    assert splits.numpy().tolist() == [len(run) for run in expected]


def test_alltoall_as_its_docstring_says():
    """Further ranks send and get nothing."""
    sent = {0: (["a", "b", "c"], [2, 1]), 1: (["d", "e", "f"], [1, 2])}
    got = {0: (["a", "b", "d"], [2, 1]), 1: (["c", "e", "f"], [1, 2])}
    letters, splits = sent.get(RANK, ([], [0, 0]))
    codes = tf.constant([ord(letter) for letter in letters], tf.int64, [len(letters)])
    rows, arrived = collectives.alltoall(
        codes, tf.constant(splits + [0] * (SIZE - 2), tf.int32), WORLD, name="letters"
    )
    letters, splits = got.get(RANK, ([], [0, 0]))
    assert [chr(code) for code in rows.numpy()] == letters
    assert arrived.numpy().tolist() == splits + [0] * (SIZE - 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_allreduce_sum_is_a_sum_of_each_tensor(compiled):
    def reduce(*tensors):
        return collectives.allreduce_sum(tensors, WORLD, name=f"sums_{compiled}")

    mine = [tf.constant([1.0, 2.0]) * 10.0**RANK, tf.fill([2, 3], float(RANK)), tf.constant(1.0)]
    pair, matrix, scalar = (tf.function(reduce) if compiled else reduce)(*mine)
    ones = sum(10.0**rank for rank in RANKS)  # on two ranks [11 22], as the docstring says
    assert pair.numpy().tolist() == [ones, 2 * ones]
    np.testing.assert_array_equal(matrix, np.full([2, 3], sum(RANKS)))
    assert scalar.numpy() == SIZE


def test_broadcast_gives_rank_0s_tensor():
    mine = tf.constant([[1.5, 2.5]]) + 10.0 * RANK
    received = collectives.broadcast(mine, WORLD, name="from_0")
    assert received.numpy().tolist() == [[1.5, 2.5]]


def test_allgather_rows_of_uneven_ranks():
    """Rank r gives r rows, so rank 0 gives none."""
    gathered = collectives.allgather_rows(
        tf.fill([RANK, 2], float(RANK)), WORLD, name="uneven_rows"
    )
    expected = [[float(rank)] * 2 for rank in RANKS for _ in range(rank)]
    assert gathered.numpy().tolist() == expected


def test_broadcast_json_gives_rank_0s_value():
    value = {"rank": RANK, "text": "é" * (1 + RANK), "list": [None] * RANK}
    received = collectives.broadcast_json(value, WORLD, name="a_value")
    assert received == {"rank": 0, "text": "é", "list": []}


def test_agree_passes_over_equal_values():
    # Written in another order, but the same.
    value = {"width": 8, "seed": 1} if RANK == 0 else {"seed": 1, "width": 8}
    assert collectives.agree(value, WORLD, name="the same settings") is None


@pytest.mark.parametrize("differing", [0, SIZE - 1])
def test_agree_raises_on_every_rank_when_one_differs(differing):
    value = {"model": {"width": 16 if differing == RANK else 8, "seed": 1}, "alpha": 0.5}
    first, other = (16, 8) if differing == 0 else (8, 16)
    with pytest.raises(
        ValueError,
        match=rf"the ranks disagree on settings {differing}: model.width is {first} on rank 0 "
        rf"and {other} on rank {1 if differing == 0 else differing}",
    ):
        collectives.agree(value, WORLD, name=f"settings {differing}")


def test_agree_names_a_value_that_only_one_rank_has():
    value = {"alpha": 0.5} if RANK else {"alpha": 0.5, "steps": 3}
    with pytest.raises(ValueError, match=r"steps is 3 on rank 0 and None on rank 1"):
        collectives.agree(value, WORLD, name="entries")


# Keys to their owners, rows back, gradients to the owners -------------------------------------

NUM_ROWS = 23


def row_of(key):
    return np.array([key, key / 2, -key], np.float32)


def gradient_of(rank, key):
    """What a rank sends for a key; powers of two, so that sums are exact in any order."""
    return np.array([2.0**rank, key, 2.0**rank * key], np.float32)


# Which keys each rank wants, by the name of the case; distinct within a rank.
CASES = {
    "overlapping": lambda rank: [3, 4, 22, 7 + rank, 0] if rank % 2 else [22, 4, 2, 3],
    "all_the_same": lambda rank: list(range(NUM_ROWS)),
    "one_rank_is_empty": lambda rank: [] if rank == SIZE - 1 else [5, 6, 0, 8],
    "rank_0_is_empty": lambda rank: [] if rank == 0 else [5, 1, 8],
    "all_are_empty": lambda rank: [],
    "one_owner_only": lambda rank: [key * SIZE for key in (4, 1, rank + 2)][: 3 - (rank == 1)],
    "only_from_others": lambda rank: [key for key in range(9) if key % SIZE != rank],
    "only_from_oneself": lambda rank: [key for key in range(9) if key % SIZE == rank],
    "random": lambda rank: np.random.default_rng(rank).permutation(NUM_ROWS)[:11].tolist(),
}


def exchanged(keys, name, gathered, *, sorted_before=False):
    """Fetches rows and returns gradients; `gathered` gets the keys that this rank was asked for."""

    def gather(owned):
        gathered.append(owned.numpy().tolist())
        values = [row_of(key) for key in owned.numpy()]
        return tf.constant(np.array(values, np.float32).reshape(-1, WIDTH))

    counts = None
    if sorted_before:
        keys = tf.sort(keys)
        keys = tf.concat([keys[keys % SIZE == rank] for rank in RANKS], axis=0)
        counts = tf.constant([np.sum(keys.numpy() % SIZE == rank) for rank in RANKS], tf.int32)
    departure = departure_of(keys, counts, WORLD)
    (arrival,) = send_keys([departure], WORLD, name=f"{name}_keys")
    route = Route(departure, arrival)
    (rows,) = fetch([route], [gather(route.owned)], WORLD, name=f"{name}_rows")
    gradients = np.array([gradient_of(RANK, key) for key in keys.numpy()], np.float32)
    (sums,), _, _ = return_gradients(
        [tf.constant(gradients.reshape(-1, WIDTH))], [route], WORLD, name=f"{name}_gradients"
    )
    return keys, rows, route.owned, sums


@pytest.mark.parametrize("sorted_before", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_exchange_against_one_process(case, sorted_before):
    wanted = [CASES[case](rank) for rank in RANKS]
    gathered = []
    keys = tf.constant(wanted[RANK], tf.int64, [len(wanted[RANK])])
    name = f"exchange_{case}_{sorted_before}"
    keys, rows, owned, sums = exchanged(keys, name, gathered, sorted_before=sorted_before)

    assert sorted(keys.numpy()) == sorted(wanted[RANK])
    expected_rows = np.array([row_of(key) for key in keys.numpy()], np.float32)
    np.testing.assert_array_equal(rows, expected_rows.reshape(-1, WIDTH))

    expected_sums = {}
    for rank in RANKS:
        for key in wanted[rank]:
            if key % SIZE == RANK:
                expected_sums[key] = expected_sums.get(key, 0) + gradient_of(rank, key)
    # Each key once, though several ranks want it, and gathered once.
    assert sorted(owned.numpy()) == sorted(expected_sums)
    assert [sorted(keys) for keys in gathered] == [sorted(expected_sums)]
    assert sums.shape == (len(expected_sums), WIDTH)
    for key, summed in zip(owned.numpy(), sums.numpy(), strict=True):
        np.testing.assert_array_equal(summed, expected_sums[key])


def test_fetch_as_its_docstring_says():
    """Two ranks' example; on three, the owner of a key is another, and the rows are the same."""
    wanted = {0: [3, 4], 1: [4, 2, 3]}.get(RANK, [])
    gathered = []
    _, rows, owned, _ = exchanged(
        tf.constant(wanted, tf.int64, [len(wanted)]), "docstring_example", gathered
    )
    np.testing.assert_array_equal(rows, np.array([row_of(k) for k in wanted]).reshape(-1, WIDTH))
    if SIZE == 2:
        assert owned.numpy().tolist() == {0: [4, 2], 1: [3]}[RANK]
        assert gathered == [owned.numpy().tolist()]


# ShardedEmbedding ----------------------------------------------------------------------------

OPTIMIZERS = {
    "momentum": gm.SGD(0.5, momentum=0.9, nesterov=True),
    "adagrad": gm.Adagrad(0.5),
    "row_wise_adagrad": gm.RowWiseAdagrad(0.5),
    "lazy_adam": gm.LazyAdam(0.05),
    "ftrl": gm.Ftrl(0.3, l1=0.01),
}
NUM_STEPS = 3


def wanted_in(step, rank, group):
    """The distinct keys that a rank wants in a step; some ranks want none in some steps."""
    num_rows = {"embedded": 17, "embedded_2": 7}[group]
    count = 0 if (step + rank) % 3 == 2 else 5
    order = np.random.default_rng([step, rank]).permutation(num_rows - 1)
    return order[:count]


def gradients_in(step, rank, keys, width):
    rng = np.random.default_rng([step, rank, 1])
    return rng.normal(size=[len(keys), width]).astype(np.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_on_all_ranks_equal_steps_on_one(name):
    optimizer, widths = OPTIMIZERS[name], {"embedded": 4, "embedded_2": 2}
    sharded = gm.ShardedEmbedding(TWO_WIDTHS, 4, replicate=False, world=WORLD)
    whole = gm.ShardedEmbedding(TWO_WIDTHS, 4, world=gm.World())
    for embedding in (sharded, whole):
        embedding.make_slots(optimizer)

    def step_of_all(keys, gradients, step):
        routes = sharded.routes(keys)
        located = sharded.locate(routes, step, training=True)
        rows = sharded.fetch(routes, located)
        updates = sharded.return_gradients(gradients, routes, located).updates
        sharded.apply_gradients(updates, optimizer, step)
        return rows

    if name == "momentum":  # a trace takes longer than all steps, and the exchange is the same
        step_of_all = tf.function(step_of_all, reduce_retracing=True)
    for step in range(NUM_STEPS):
        number = tf.constant(step, tf.int64)
        before = {group: whole.all_rows(group).numpy() for group in widths}
        wanted = {group: [wanted_in(step, rank, group) for rank in RANKS] for group in widths}
        gradients = {
            group: [gradients_in(step, rank, wanted[group][rank], width) for rank in RANKS]
            for group, width in widths.items()
        }
        rows = step_of_all(
            {group: tf.constant(wanted[group][RANK], tf.int64) for group in widths},
            {group: tf.constant(gradients[group][RANK]) for group in widths},
            number,
        )
        for group, width in widths.items():
            np.testing.assert_allclose(rows[group], before[group][wanted[group][RANK]], atol=1e-6)
            touched = np.unique(np.concatenate(wanted[group]))
            sums = np.zeros([len(before[group]), width], np.float32)
            for keys, of_rank in zip(wanted[group], gradients[group], strict=True):
                np.add.at(sums, keys, of_rank)
            shard = whole.shards[group]
            row_indices = shard.locate(tf.constant(touched, tf.int64)).row_indices
            shard.update(row_indices, tf.constant(sums[touched]), optimizer, number)
    for group in widths:
        np.testing.assert_allclose(sharded.all_rows(group), whole.all_rows(group), atol=2e-6)
        for slot, values in whole.shards[group].slots.items():
            own = np.arange(RANK, values.shape[0], SIZE)
            mine = sharded.shards[group].slots[slot]
            np.testing.assert_allclose(mine, values.numpy()[own], atol=2e-6)


@pytest.mark.parametrize("sizes", [{"item": 17, "genre": 7}, {"item": 1, "genre": 1}], ids=str)
def test_all_rows_are_the_table_of_one_rank(sizes):
    """Of two rows on three ranks, one rank has none."""
    schema = SCHEMA.with_num_rows(sizes)
    sharded = gm.ShardedEmbedding(schema, 4, seed=3, replicate=False, world=WORLD)
    whole = gm.ShardedEmbedding(schema, 4, seed=3, world=gm.World())
    rows = sharded.all_rows("embedded")
    assert rows.shape == (sum(sizes.values()), 4)
    np.testing.assert_array_equal(rows, whole.shards["embedded"].rows)


@pytest.mark.parametrize("differing", [0, SIZE - 1])
@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        (SCHEMA.with_num_rows({"item": 18, "genre": 7}), {"width": 4}, "tables is .*1[78].*rank 0"),
        (TWO_WIDTHS, {"width": 4}, "tables is .*'width': (None|2).*rank 0"),
        (SCHEMA, {"width": 8}, "width is [48] on rank 0 and [48] on rank"),
        (SCHEMA, {"width": 4, "seed": 1}, "seed is [01] on rank 0 and [01] on rank"),
        (SCHEMA, {"width": 4, "wire": "bfloat16"}, "wire is '(float32|bfloat16)' on rank 0 and"),
        (SCHEMA, {"width": 4, "scale": 0.5}, r"scale is 0\.0?5 on rank 0 and 0\.0?5 on rank"),
        (SCHEMA, {"width": 4, "replicate": True}, "replicate is ('auto'|True) on rank 0 and"),
    ],
    ids=["num_rows", "table_width", "width", "seed", "wire", "scale", "replicate"],
)
def test_unequal_tables_raise_on_every_rank(differing, schema, settings, message):
    mine = (schema, settings) if differing == RANK else (SCHEMA, {"width": 4})
    with pytest.raises(ValueError, match=f"the ranks disagree on the embedding tables: {message}"):
        gm.ShardedEmbedding(mine[0], **mine[1], world=WORLD)


# What travels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_rows_of_one_width_travel_rounded(wire):
    embedding = gm.ShardedEmbedding(SCHEMA, 3, wire=wire, replicate=False, world=WORLD, scale=0.9)
    keys = tf.range(10, dtype=tf.int64)
    routes = embedding.routes({"embedded": keys})
    rows = embedding.fetch(routes, embedding.locate(routes))["embedded"]
    exact = embedding.all_rows("embedded").numpy()[:10]
    np.testing.assert_array_equal(rows, tf.cast(tf.cast(exact, wire), tf.float32))


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_rows_and_gradients_travel_rounded_and_add_up_in_float32(wire):
    """A rank's own rows are rounded as those of the others are."""
    embedding = gm.ShardedEmbedding(
        TWO_WIDTHS, 3, wire=wire, replicate=False, world=WORLD, scale=0.9
    )
    keys = {"embedded": np.arange(5) + RANK, "embedded_2": np.arange(7)}
    routes = embedding.routes({group: tf.constant(k, tf.int64) for group, k in keys.items()})
    located = embedding.locate(routes)
    rows = embedding.fetch(routes, located)
    for group, wanted in keys.items():
        exact = embedding.all_rows(group).numpy()[wanted]
        rounded = tf.cast(tf.cast(exact, wire), tf.float32).numpy()
        assert (rounded != exact).any()
        assert rows[group].dtype == tf.float32
        np.testing.assert_array_equal(rows[group], rounded)
    thirds = {group: tf.fill(tf.shape(value), (1 + RANK) / 3) for group, value in rows.items()}
    updates = embedding.return_gradients(thirds, routes, located).updates
    each = [float(tf.cast(tf.cast((1 + rank) / 3, wire), tf.float32)) for rank in RANKS]
    _, summed = updates["embedded_2"]
    assert sorted(routes["embedded_2"].owned.numpy()) == [
        key for key in range(7) if key % SIZE == RANK
    ]
    # Exact, where adding in the type of the wire would round.
    expected = np.float32(sum(np.float32(one) for one in each))
    np.testing.assert_array_equal(summed, np.full(summed.shape, expected))


def test_gradients_that_are_infinite_on_the_wire_are_told():
    keys = {"embedded": tf.constant([1, 2], tf.int64), "embedded_2": tf.constant([3], tf.int64)}
    gradients = {"embedded": tf.fill([2, 3], 7e4), "embedded_2": tf.ones([1, 2])}
    for wire, expected in (("float32", [0, 0]), ("bfloat16", [0, 0]), ("float16", [1, 0])):
        embedding = gm.ShardedEmbedding(TWO_WIDTHS, 3, wire=wire, replicate=False, world=WORLD)
        assert nonfinite_tables(gradients, {"keys": keys}, embedding).numpy().tolist() == expected


@pytest.mark.parametrize(("num_rows", "key_type"), [(2**31, "int32"), (2**31 + 1, "int64")])
def test_keys_travel_as_the_narrowest_integers_that_fit(monkeypatch, num_rows, key_type):
    sent = []

    def alltoall(tensor, splits, world, *, name):
        sent.append(tensor.dtype.name)
        return collectives.alltoall(tensor, splits, world, name=name)

    monkeypatch.setattr(packed_alltoall, "alltoall", alltoall)
    embedding = gm.ShardedEmbedding(SCHEMA, 3, replicate=False, world=WORLD)
    rows = embedding.all_rows("embedded").numpy()
    # A table that says it has so many: to make them would take their memory.
    monkeypatch.setattr(embedding.shards["embedded"], "num_rows", num_rows)
    keys = tf.range(RANK, 10 + RANK, dtype=tf.int64)
    routes = embedding.routes({"embedded": keys})
    assert sent == [key_type]
    assert routes["embedded"].owned.dtype == tf.int64
    fetched = embedding.fetch(routes, embedding.locate(routes))
    np.testing.assert_array_equal(fetched["embedded"], rows[keys])


def test_keys_of_any_sign_find_their_owners():
    keys = np.array([-1, -2, -(2**63), 2**63 - 1, 0, 5 - 2**62, -7 + RANK])
    keys = np.unique(keys)
    gathered = []

    def gather(owned):
        gathered.extend(owned.numpy())
        return tf.cast(owned[:, tf.newaxis] % 1000, tf.float32) + tf.zeros([1, 3])

    departure = departure_of(tf.constant(keys), None, WORLD)
    (arrival,) = send_keys([departure], WORLD, name="signed_keys")
    owned = gather(arrival.owned)
    (rows,) = fetch([Route(departure, arrival)], [owned], WORLD, name="signed_rows")
    np.testing.assert_array_equal(rows[:, 0], keys % 1000)
    everyones = np.unique(np.concatenate([keys, -7 + np.arange(SIZE)]))
    assert sorted(gathered) == [key for key in everyones if key % SIZE == RANK]
