"""One message of several tensors and sums brings what a collective for each would."""

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.distributed import collectives, packed_alltoall
from gmeta_tf.distributed.packed_alltoall import Payload, exchange_payloads

WORLD = gm.World.detect()
RANK, SIZE = WORLD.rank, WORLD.size
RANKS = range(SIZE)


@pytest.fixture(scope="module", autouse=True)
def _ranks():
    collectives.start(WORLD)
    collectives.barrier(WORLD, name="parcel_tests_begin")
    yield
    collectives.barrier(WORLD, name="parcel_tests_end")


# Rows of each type that travels; those of int64 look like NaNs and denormal numbers on the way.
KINDS = {
    "float32": lambda rng, n: rng.normal(size=[n, 3]).astype(np.float32),
    "int64": lambda rng, n: rng.integers(-(2**63), 2**63 - 1, size=n),
    "nans": lambda rng, n: np.full(n, 0x7FA00001FF800001) + rng.integers(0, 9, size=n),
    "int32": lambda rng, n: rng.integers(-(2**31), 2**31 - 1, size=[n, 1, 2], dtype=np.int32),
    "float64": lambda rng, n: rng.normal(size=[n, 2, 2]),
    "bfloat16": lambda rng, n: tf.cast(rng.normal(size=[n, 3]), tf.bfloat16).numpy(),
    "float16": lambda rng, n: rng.normal(size=[n, 3]).astype(np.float16),
}


def run_for(kind, sender, receiver, salt):
    """The rows that a rank sends to another; between some there are none."""
    rng = np.random.default_rng([sender, receiver, salt])
    return KINDS[kind](rng, (sender + 2 * receiver + salt) % 4)


def part_of(kind, salt, told):
    sent = [run_for(kind, RANK, receiver, salt) for receiver in RANKS]
    came = [len(run_for(kind, sender, RANK, salt)) for sender in RANKS]
    return Payload(
        tf.constant(np.concatenate(sent)),
        tf.constant([len(run) for run in sent], tf.int32),
        None if told else tf.constant(came, tf.int32),
    )


def totals_of(rank):
    rng = np.random.default_rng(rank)
    return [rng.normal(size=shape).astype(np.float32) for shape in ([2, 3], [], [0], [5])]


CASES = {
    "one known": ["float32"],
    "one told": ["int64?"],
    "bfloat16 alone": ["bfloat16"],
    "float16 alone": ["float16"],
    "known and told": ["float32", "int64?", "nans?", "int32"],
    "every kind": [*KINDS],
    "two told of one kind": ["bfloat16?", "bfloat16?"],
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("with_totals", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_parts_and_totals(case, with_totals, compiled):
    kinds = CASES[case]
    parts = [part_of(kind.strip("?"), salt, "?" in kind) for salt, kind in enumerate(kinds)]
    totals = [tf.constant(one) for one in totals_of(RANK)] if with_totals else []

    def exchange(parts, totals):
        name = f"parcel_{case}_{with_totals}_{compiled}".replace(" ", "_")
        return exchange_payloads(parts, WORLD, name=name, totals=totals)

    came, sums = (tf.function(exchange) if compiled else exchange)(parts, totals)
    for salt, (kind, found) in enumerate(zip(kinds, came, strict=True)):
        runs = [run_for(kind.strip("?"), sender, RANK, salt) for sender in RANKS]
        expected = np.concatenate(runs)
        assert found.values.dtype == expected.dtype
        # Bit for bit: NaNs are not equal to themselves.
        assert found.values.numpy().tobytes() == expected.tobytes()
        assert found.values.shape == expected.shape
        assert found.counts.numpy().tolist() == [len(run) for run in runs]
    assert len(sums) == len(totals)
    for index, found in enumerate(sums):
        expected = np.sum([totals_of(rank)[index] for rank in RANKS], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    if with_totals:
        flat = tf.concat([tf.reshape(one, [1, -1]) for one in sums], axis=1)
        everywhere = collectives.allgather_rows(flat, WORLD, name="all_sums").numpy()
        assert (everywhere == everywhere[0]).all()


def horovod_ops(totals, num_parts=1):
    parts = [part_of("float32", 0, told=False)][:num_parts]

    @tf.function(autograph=False)
    def exchange():
        return exchange_payloads(parts, WORLD, name="counted_parcel", totals=totals)

    nodes = exchange.get_concrete_function().graph.as_graph_def().node
    return sorted(node.op for node in nodes if node.op.startswith("Horovod"))


def test_totals_ride_where_that_costs_few_bytes():
    alone, along = ["HorovodAlltoall", "HorovodGroupedAllreduce"], ["HorovodAlltoall"]
    assert horovod_ops([tf.zeros([20_000])]) == along
    # Of two ranks each sends as much as in a ring; of three 1.5 times as much.
    assert horovod_ops([tf.zeros([200_000])]) == (along if SIZE == 2 else alone)
    assert horovod_ops([tf.zeros([2_000_000])]) == alone
    assert horovod_ops([tf.zeros([2], tf.float64)]) == alone


def test_totals_without_parts_are_an_alltoall_of_their_own_where_that_is_quicker():
    apart, together = ["HorovodGroupedAllreduce"], ["HorovodAlltoall"]
    # Of three ranks each sends 400 kB more than in a ring, and then 1.3 MB.
    assert horovod_ops([tf.zeros([150_000])], num_parts=0) == together
    assert horovod_ops([tf.zeros([500_000])], 0) == (together if SIZE == 2 else apart)
    assert horovod_ops([tf.zeros([2_000_000])], 0) == apart
    assert horovod_ops([tf.zeros([2], tf.float64)], 0) == apart


def test_totals_that_do_not_ride_are_summed_too(monkeypatch):
    monkeypatch.setattr(packed_alltoall, "_MOST_PIGGYBACKED_BYTES", 0)
    _, sums = exchange_payloads(
        [part_of("float32", 0, told=False)],
        WORLD,
        name="parcel_apart",
        totals=[tf.constant([1.0, 10.0]) * (RANK + 1)],
    )
    assert sums[0].numpy().tolist() == [sum(range(SIZE + 1)), 10 * sum(range(SIZE + 1))]


def test_a_message_of_too_many_numbers(monkeypatch):
    """All ranks refuse here: one that refused alone would be left by the others' `fit`."""
    monkeypatch.setattr(packed_alltoall, "_MOST_WORDS", 5)
    part = Payload(tf.zeros([2 * SIZE, 3]), tf.fill([SIZE], 2))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"too_long of this rank's step has more"
    ):
        exchange_payloads([part], WORLD, name="too_long")


@pytest.mark.parametrize("most_riding", [0, 1 << 22])
def test_totals_without_parts_are_summed(monkeypatch, most_riding):
    monkeypatch.setattr(packed_alltoall, "_MOST_PIGGYBACKED_BYTES", most_riding)
    totals = [tf.constant([2.0]), tf.constant([[0.1 + RANK, 3.0]])]
    came, sums = exchange_payloads([], WORLD, name=f"no_parts_{most_riding}", totals=totals)
    assert came == []
    assert sums[0].numpy().tolist() == [2.0 * SIZE]
    everywhere = collectives.allgather_rows(sums[1], WORLD, name="no_parts_sums").numpy()
    assert (everywhere == everywhere[0]).all()
    np.testing.assert_allclose(everywhere[0], [sum(0.1 + r for r in RANKS), 3.0 * SIZE], rtol=1e-6)


def test_the_example_of_the_docstring():
    """Further ranks send and get nothing but the totals."""
    first, second, total = {
        0: ((["a", "b", "c"], [2, 1]), (["x"], [1, 0]), 1),
        1: ((["d", "e", "f"], [1, 2]), (["y", "z"], [1, 1]), 2),
    }.get(RANK, (([], [0, 0]), ([], [0, 0]), 0))
    got = {0: ("abd", "xy"), 1: ("cef", "z")}.get(RANK, ("", ""))

    def part(letters, counts):
        codes = tf.constant([ord(letter) for letter in letters], tf.int32, [len(letters)])
        return Payload(codes, tf.constant(counts + [0] * (SIZE - 2), tf.int32))

    came, (summed,) = exchange_payloads(
        [part(*first), part(*second)],
        WORLD,
        name="parcel_letters",
        totals=[tf.constant(float(total))],
    )
    assert tuple("".join(map(chr, one.values.numpy())) for one in came) == got
    assert summed == 3.0
