"""Dynamic tables against a dictionary that does the same, one key at a time."""

import functools
import resource

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.embedding.dynamic import key_index
from gmeta_tf.embedding.dynamic import shard as dynamic
from gmeta_tf.embedding.dynamic.admission import buckets_of, fractions_of
from gmeta_tf.embedding.dynamic.growing_arrays import Blocks
from gmeta_tf.embedding.dynamic.key_index import KeyIndex
from gmeta_tf.embedding.dynamic.rules import DynamicTable
from gmeta_tf.embedding.dynamic.shard import NO_PROBLEM, DynamicShard
from gmeta_tf.embedding.dynamic.state import export, load
from gmeta_tf.embedding.row_optimizers import SGD, Adagrad
from gmeta_tf.embedding.static_shard import initial_rows

WIDTH, SEED, SCALE = 3, 77, 0.05
RATE, START = 0.1, 0.2
ADAGRAD = Adagrad(RATE, initial_accumulator=START)
ZERO = np.zeros(WIDTH, np.float32)
EXTREMES = [-(2**63), 2**63 - 1, -(2**63) + 1, -1, 0, 1]


@functools.cache
def initial_row(key):
    return initial_rows(tf.constant([key], tf.int64), WIDTH, SEED, SCALE).numpy()[0]


@functools.cache
def fraction_of(key):
    return float(fractions_of(tf.constant([key], tf.int64), SEED)[0])


def oldest(seen_of, step):
    """The keys seen before `step`, the one seen longest ago first, then the smallest."""
    return sorted(
        (key for key, seen in seen_of.items() if seen < step),
        key=lambda key: (seen_of[key], key),
    )


class Twin:
    """A shard in a dictionary. Its sweeps see every key, as a shard of few keys does."""

    def __init__(self, options, num_ranks=1):
        self.options = options
        self.limit = options.capacity and -(-options.capacity // num_ranks)
        self.max_waiting = -(-options.max_waiting // num_ranks)
        self.rows, self.accumulators, self.seen = {}, {}, {}
        self.sightings, self.waiting_seen = {}, {}
        self.counts = dict.fromkeys(dynamic.COUNTS, 0)

    def leave(self, key):
        for kept in (self.rows, self.accumulators, self.seen):
            del kept[key]

    def forget(self, key):
        del self.sightings[key], self.waiting_seen[key]

    def sight(self, keys, step):
        """The sightings of waiting keys."""
        for key, seen in list(self.waiting_seen.items()):
            if step - seen > self.options.forget_after:
                self.forget(key)
        known = [key for key in keys if key in self.sightings]
        for key in known:
            self.sightings[key] += 1
            self.waiting_seen[key] = step
        new = [key for key in keys if key not in known]
        missing = len(self.sightings) + len(new) - self.max_waiting
        if missing > 0:
            for key in oldest(self.waiting_seen, step)[:missing]:
                self.forget(key)
        for key in new[: self.max_waiting - len(self.sightings)]:
            self.sightings[key] = 1
            self.waiting_seen[key] = step
        return [self.sightings.get(key, 1) for key in keys]

    def see(self, keys, step):
        """One training step's keys."""
        for key, seen in list(self.seen.items()):
            if self.options.time_to_live and step - seen > self.options.time_to_live:
                self.leave(key)
                self.counts["expirations"] += 1
        for key in keys:
            if key in self.rows:
                self.seen[key] = step
        unknown = [key for key in keys if key not in self.rows]
        if not unknown:
            return
        able = [key for key in unknown if fraction_of(key) < self.options.admit_probability]
        if self.options.admit_after > 1:
            counts = self.sight(able, step)
            able = [k for k, n in zip(able, counts, strict=True) if n >= self.options.admit_after]
        if self.limit and self.options.when_full == "evict":
            missing = len(able) + len(self.rows) - self.limit
            if missing > 0:
                for key in oldest(self.seen, step)[:missing]:
                    self.leave(key)
                    self.counts["evictions"] += 1
        new = able[: self.limit - len(self.rows)] if self.limit else able
        for key in new:
            self.rows[key] = initial_row(key).copy()
            self.accumulators[key] = np.full(WIDTH, START, np.float32)
            self.seen[key] = step
            if key in self.sightings:
                self.forget(key)
        self.counts["insertions"] += len(new)
        self.counts["not_admitted"] += len(unknown) - len(able)
        self.counts["refused_when_full"] += len(able) - len(new)

    def update(self, keys, gradients):
        for key, gradient in zip(keys, gradients, strict=True):
            if key in self.rows:
                self.accumulators[key] += gradient**2
                self.rows[key] -= RATE * gradient / np.sqrt(self.accumulators[key] + 1e-7)


def made_shard(options, world=None, optimizer=ADAGRAD):
    shard = DynamicShard(
        options,
        table="item",
        width=WIDTH,
        seed=SEED,
        world=world or gm.World(),
        scale=SCALE,
        name="item",
    )
    shard.make_slots(optimizer)
    return shard


def step_of(shard, keys, gradients, step):
    """One training step; its row indices, its problem and the rows that it read."""
    row_indices, problem = shard.locate(keys, step, training=True)
    rows = shard.gather(row_indices)
    shard.update(row_indices, gradients, ADAGRAD, step)
    return row_indices, problem, rows


def training_step(shard):
    """A step in a graph, for any number of keys."""
    return tf.function(
        functools.partial(step_of, shard),
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, WIDTH], tf.float32),
            tf.TensorSpec([], tf.int64),
        ],
        autograph=False,
    )


def run(shard, *batches):
    """Steps 0, 1, 2 ... of lists of keys with gradients of 1; the row indices of the last.

    Few steps run op by op, since tracing them takes longer.
    """
    step = training_step(shard) if len(batches) > 20 else functools.partial(step_of, shard)
    for number, keys in enumerate(batches):
        ones = tf.ones([len(keys), WIDTH])
        row_indices, _, _ = step(tensor(keys), ones, tf.constant(number, tf.int64))
    return row_indices.numpy().tolist()


def tensor(keys):
    return tf.constant(np.array(keys, np.int64).reshape(-1))


def held(shard, step=0):
    """Key -> row, accumulator and last step, and key -> sightings and last step, of its export."""
    rows, waiting = {}, {}
    for state in export(shard, step, keys_at_a_time=7):
        for i, key in enumerate(state.keys.tolist()):
            rows[key] = (state.rows[i], state.slots["accumulator"][i], int(state.last_seen[i]))
        for i, key in enumerate(state.waiting_keys.tolist()):
            waiting[key] = (int(state.sightings[i]), int(state.waiting_last_seen[i]))
    return rows, waiting


def assert_same(shard, twin, step):
    rows, waiting = held(shard, step)
    assert set(rows) == set(twin.rows)
    for key, (row, accumulator, seen) in rows.items():
        np.testing.assert_allclose(row, twin.rows[key], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(accumulator, twin.accumulators[key], rtol=1e-4)
        assert seen == twin.seen[key]
    assert waiting == {k: (n, twin.waiting_seen[k]) for k, n in twin.sightings.items()}


def metrics(shard):
    return {name: int(value) for name, value in shard.metrics().items()}


def batches(num_steps, seed, universe=120):
    """Distinct keys of each step: hot and cold ones, none at times and a great many at others."""
    others = np.random.default_rng(0).integers(-(2**62), 2**62, universe - len(EXTREMES))
    rng = np.random.default_rng(seed)
    keys = rng.permutation(np.append(others, np.array(EXTREMES, np.int64)))
    share = 1.0 / np.arange(1, universe + 1)
    for _ in range(num_steps):
        count = rng.choice([0, 1, 6, 12, 60], p=[0.1, 0.2, 0.4, 0.25, 0.05])
        chosen = rng.choice(keys, count, replace=False, p=share / share.sum())
        yield chosen.tolist(), rng.normal(size=[count, WIDTH]).astype(np.float32)


RULES = {
    "no limit": DynamicTable(),
    "evict": DynamicTable(capacity=40),
    "evict, few": DynamicTable(capacity=7),
    "full": DynamicTable(capacity=40, when_full="default"),
    "time to live": DynamicTable(time_to_live=9),
    "admission": DynamicTable(admit_after=3, forget_after=20, admit_probability=0.7),
    "few wait": DynamicTable(admit_after=2, max_waiting=20, time_to_live=30),
    "all": DynamicTable(
        capacity=30, time_to_live=15, admit_after=2, admit_probability=0.8, forget_after=12
    ),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Tables without a limit begin with few row_indices, and grow over several blocks."""
    monkeypatch.setattr(dynamic, "_unlimited_rows", lambda width, at_once: Blocks(16, 4))
    monkeypatch.setattr(dynamic, "_FIRST_KEYS", 4)


@functools.cache
def as_dictionaries(rules, num_ranks):
    """The ranks' shards after 400 steps, each of which was compared with that of its twin."""
    options = RULES[rules]
    shards = [made_shard(options, gm.World(rank, num_ranks)) for rank in range(num_ranks)]
    twins = [Twin(options, num_ranks) for _ in shards]
    steps = [training_step(shard) for shard in shards]
    for step, (keys, gradients) in enumerate(batches(400, seed=num_ranks)):
        for rank, (shard, twin, trained) in enumerate(zip(shards, twins, steps, strict=True)):
            which = [i for i, key in enumerate(keys) if key % num_ranks == rank]
            own = [keys[i] for i in which]
            _, problem, rows = trained(tensor(own), gradients[which], step)
            twin.see(own, step)
            expected = [twin.rows.get(key, ZERO) for key in own]
            np.testing.assert_allclose(
                rows, np.reshape(expected, [-1, WIDTH]), rtol=1e-4, atol=1e-6
            )
            twin.update(own, gradients[which])
            assert metrics(shard) == {"occupancy": len(twin.rows), **twin.counts}
            assert tuple(problem.numpy()) == NO_PROBLEM
            if step % 40 == 39:
                assert_same(shard, twin, step)
        if step == 200:
            # What left must have come back, or the run would not test what is new of it.
            assert rules == "no limit" or any(sum(t.counts.values()) > 50 for t in twins)
    assert all(trained.experimental_get_tracing_count() == 1 for trained in steps)
    return shards, twins


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "num_ranks"),
    [*((rules, 1) for rules in RULES), ("all", 2), ("few wait", 2), ("all", 3), ("no limit", 3)],
)
def test_a_shard_is_a_dictionary(rules, num_ranks, small_blocks):
    as_dictionaries(rules, num_ranks)


def test_the_same_calls_give_the_same_row_indices():
    def row_indices():
        shard = made_shard(RULES["all"])
        trained = training_step(shard)
        return [
            trained(tensor(keys), gradients, step)[0].numpy().tolist()
            for step, (keys, gradients) in enumerate(batches(100, seed=4))
        ]

    assert row_indices() == row_indices()


# Places --------------------------------------------------------------------------------------


def test_a_table_without_limit_grows_and_keeps_its_rows(small_blocks):
    shard = made_shard(DynamicTable())
    keys = list(range(-50, 50))
    trained = training_step(shard)
    ones = np.ones([1, WIDTH], np.float32)
    for step, key in enumerate(keys):
        trained(tensor([key]), ones, step)
    assert int(shard.store.group.num_blocks) == 4
    assert int(shard.index.group.num_blocks) == 3
    rows, _ = held(shard)
    change = RATE / np.sqrt(START + 1 + 1e-7)
    for key in keys:
        np.testing.assert_allclose(rows[key][0], initial_row(key) - change, rtol=1e-5, atol=1e-7)


def test_slots_that_are_made_late_start_like_others(small_blocks):
    shard = made_shard(DynamicTable(), optimizer=SGD())
    for key in range(30):
        shard.locate(tensor([key]), tf.constant(0, tf.int64), training=True)
    shard.make_slots(ADAGRAD)
    rows, _ = held(shard)
    assert len(rows) == 30
    assert all((accumulator == np.float32(START)).all() for _, accumulator, _ in rows.values())


def test_reserved_rows_are_not_resident():
    def resident_bytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    made_shard(DynamicTable(capacity=10))
    before = resident_bytes()
    capacity = 4_000_000
    shard = made_shard(DynamicTable(capacity=capacity))
    run(shard, range(1000), range(1000))
    # Rows and accumulators alone are 96 MB.
    assert resident_bytes() - before < capacity * WIDTH * 4 * 2 / 2
    assert metrics(shard)["occupancy"] == 1000


def test_unlimited_tables_have_as_many_rows_as_fit_into_memory():
    shard = made_shard(DynamicTable())
    assert shard.index.limit > 2**23
    assert shard.store.group.blocks.num_rows - 1 == shard.index.limit
    assert shard.index.group.blocks.num_rows >= shard.store.group.blocks.num_rows


# Policies ------------------------------------------------------------------------------------


def test_a_step_with_more_keys_than_the_capacity():
    shard = made_shard(DynamicTable(capacity=3))
    assert run(shard, [7, 8], [1, 2, 3, 4, 5]) == [1, 2, 3, 0, 0]
    assert metrics(shard)["refused_when_full"] == 2
    assert metrics(shard)["evictions"] == 2


def test_eviction_takes_the_smallest_keys_seen_longest_ago():
    shard = made_shard(DynamicTable(capacity=64))
    run(shard, list(range(31, -1, -1)), list(range(32, 64)), [0], [100], [101, 102, 103])
    rows, _ = held(shard)
    assert set(range(64)) - set(rows) == {1, 2, 3, 4}
    assert metrics(shard)["evictions"] == 4


def test_an_evicted_key_begins_anew():
    shard = made_shard(DynamicTable(capacity=1))
    run(shard, [5], [5], [6], [5])
    row, accumulator, _ = held(shard)[0][5]
    np.testing.assert_allclose(row, initial_row(5) - RATE / np.sqrt(START + 1 + 1e-7), rtol=1e-5)
    np.testing.assert_allclose(accumulator, START + 1)


def test_the_default_row_is_zero_and_stays():
    shard = made_shard(DynamicTable(unknown_in_training="default"))
    assert run(shard, [4, 5], [4]) == [0]
    np.testing.assert_array_equal(shard.gather(tensor([0])), [ZERO])
    assert metrics(shard)["occupancy"] == 0


@pytest.mark.parametrize("time_to_live", [None, 2])
def test_evaluation_changes_nothing(time_to_live):
    shard = made_shard(DynamicTable(time_to_live=time_to_live, admit_after=1))
    run(shard, [1, 2], [2])
    before, counted = held(shard), metrics(shard)
    located = shard.locate(tensor([1, 2, 3]), tf.constant(3, tf.int64), training=False)
    # Key 1 was seen in step 0: more than 2 steps before step 3.
    assert located.row_indices.numpy().tolist() == [0 if time_to_live else 1, 2, 0]
    assert tuple(located.problem.numpy()) == NO_PROBLEM
    np.testing.assert_equal(held(shard), before)
    assert metrics(shard) == counted


def test_buckets_are_shared_and_trained_with_summed_gradients():
    options = DynamicTable(unknown_in_training="bucket", unknown_otherwise="bucket", num_buckets=4)
    shard = made_shard(options)
    keys = tensor(EXTREMES)
    buckets = buckets_of(keys, SEED, 4).numpy()
    assert len(set(buckets)) < len(EXTREMES)
    row_indices = shard.locate(keys, tf.constant(0, tf.int64), training=False).row_indices
    assert row_indices.numpy().tolist() == (buckets + 1).tolist()
    before = shard.gather(row_indices).numpy()
    assert len({row.tobytes() for row in before}) == len(set(buckets))
    gradients = np.random.default_rng(0).normal(size=[len(EXTREMES), WIDTH]).astype(np.float32)
    training_step(shard)(keys, gradients, 0)
    for i, bucket in enumerate(buckets):
        total = gradients[buckets == bucket].sum(axis=0)
        expected = before[i] - RATE * total / np.sqrt(START + total**2 + 1e-7)
        np.testing.assert_allclose(shard.gather(row_indices)[i], expected, rtol=1e-4, atol=1e-6)
    assert metrics(shard)["bucket_collisions"] == len(EXTREMES) - len(set(buckets))
    assert metrics(shard)["occupancy"] == 0


def test_unknown_keys_as_errors():
    options = DynamicTable(unknown_in_training="error", unknown_otherwise="error")
    shard = made_shard(options)
    for training in (True, False):
        located = shard.locate(tensor([4, -9]), tf.constant(0, tf.int64), training=training)
        assert located.problem.numpy().tolist() == [2, 4, 0, -(2**63)]
        located = shard.locate(tensor([]), tf.constant(0, tf.int64), training=training)
        assert tuple(located.problem.numpy()) == NO_PROBLEM


def test_a_full_table_as_an_error():
    options = DynamicTable(capacity=2, when_full="error")
    shard = made_shard(options)
    located = shard.locate(tensor([4, -9, 3, 8]), tf.constant(0, tf.int64), training=True)
    assert located.row_indices.numpy().tolist() == [1, 2, 0, 0]
    assert located.problem.numpy().tolist() == [0, -(2**63), 2, 8]


def test_chance_is_of_the_key_and_near_its_share():
    keys = tf.range(-5000, 5000, dtype=tf.int64)
    fractions = fractions_of(keys, SEED).numpy()
    assert fractions.min() >= 0
    assert fractions.max() < 1
    assert (fractions < 0.3).mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(fractions_of(keys[7:9], SEED), fractions[7:9])
    assert (fractions_of(keys, SEED + 1).numpy() != fractions).mean() > 0.99
    counts = np.bincount(buckets_of(keys, SEED, 10).numpy(), minlength=10)
    assert counts.min() > 800
    assert len(counts) == 10


# The hand that sweeps ------------------------------------------------------------------------


@pytest.mark.parametrize("swept", [1, 3, 50])
def test_a_row_is_free_after_one_round_of_the_hand(monkeypatch, swept):
    monkeypatch.setattr(key_index, "_SWEPT_A_STEP", swept)
    index = KeyIndex(Blocks(64), first_row=2, limit=62, time_to_live=5, evicts=False, name="swept")
    step = tf.constant(0, tf.int64)
    index.add(tf.range(40, dtype=tf.int64), step)
    none = tf.constant(0, tf.int64)
    for step in range(1, 6):
        assert int(index.sweep(tf.constant(step, tf.int64), none)) == 0
    index.see(tensor([7, 20]), tf.constant(5, tf.int64))
    assert index.find(tensor([6, 7]), tf.constant(6, tf.int64)).numpy().tolist() == [-1, 9]
    rounds = -(-40 // swept)
    for step in range(6, 6 + rounds):
        given_up = int(index.sweep(tf.constant(min(step, 10), tf.int64), none))
        assert given_up <= swept
    assert int(index.num_keys) == 2
    again = index.add(tensor([900]), tf.constant(11, tf.int64))
    assert 2 <= int(again[0]) < 42


def test_keys_that_come_faster_than_the_hand_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(key_index, "_SWEPT_A_STEP", 1)
    shard = made_shard(DynamicTable(capacity=2000, when_full="error", time_to_live=4))
    run(shard, *(range(20 * step, 20 * step + 20) for step in range(120)))
    # Alive are the keys of the last 5 steps.
    assert 100 <= metrics(shard)["occupancy"] <= 100 * 4 / 3 + 20


# Export and load -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "before", "after"),
    [("no limit", 1, 2), ("no limit", 3, 1), ("all", 2, 3), ("all", 3, 2), ("few wait", 1, 1)],
)
def test_states_are_read_at_another_number_of_ranks(rules, before, after, small_blocks):
    options = RULES[rules]
    old, twins = as_dictionaries(rules, before)
    for rank in range(after):
        shard = made_shard(options, gm.World(rank, after))
        run(shard, [rank + 5 * after])
        states = [state for one in old for state in export(one, 399, keys_at_a_time=5)]
        load(shard, states)
        twin = merged(options, twins, rank, after)
        assert_same(shard, twin, 399)
        trained = training_step(shard)
        for step, (keys, gradients) in enumerate(batches(60, seed=10), 400):
            which = [i for i, key in enumerate(keys) if key % after == rank]
            own = [keys[i] for i in which]
            trained(tensor(own), gradients[which], step)
            twin.see(own, step)
            twin.update(own, gradients[which])
        assert_same(shard, twin, 459)
        assert metrics(shard) == {"occupancy": len(twin.rows), **twin.counts}


def merged(options, twins, rank, num_ranks):
    """The twin of a rank that loads what other twins hold."""
    twin = Twin(options, num_ranks)
    for name in ("rows", "accumulators", "seen", "sightings", "waiting_seen"):
        for other in twins:
            for key, value in getattr(other, name).items():
                if key % num_ranks == rank:
                    getattr(twin, name)[key] = np.copy(value) if name != "seen" else value
    twin.waiting_seen = {key: int(seen) for key, seen in twin.waiting_seen.items()}
    twin.sightings = {key: int(count) for key, count in twin.sightings.items()}
    for key in oldest(twin.seen, 2**31)[: max(len(twin.rows) - (twin.limit or 2**31), 0)]:
        twin.leave(key)
    surplus = max(len(twin.sightings) - twin.max_waiting, 0)
    for key in oldest(twin.waiting_seen, 2**31)[:surplus]:
        twin.forget(key)
    return twin


def test_a_smaller_capacity_keeps_the_keys_seen_last():
    shard = made_shard(DynamicTable())
    run(shard, [1, 2, 3], [4, 2], [1])
    small = made_shard(DynamicTable(capacity=2))
    load(small, export(shard, 2, keys_at_a_time=1))
    assert set(held(small, 2)[0]) == {1, 4}


def test_given_up_rows_are_not_exported():
    shard = made_shard(DynamicTable(time_to_live=1))
    run(shard, [1, 2], [2])
    assert set(held(shard, 2)[0]) == {2}


def test_buckets_of_the_same_rank_or_the_mean():
    options = DynamicTable(unknown_in_training="bucket", num_buckets=2)
    old = [made_shard(options, gm.World(rank, 2)) for rank in range(2)]
    for rank, shard in enumerate(old):
        run(shard, [rank, rank + 2, rank + 4], [rank])
    states = [state for shard in old for state in export(shard, 2)]
    rows = [state.bucket_rows for state in states]
    assert (rows[0] != rows[1]).any()
    same, other = made_shard(options, gm.World(1, 2)), made_shard(options)
    load(same, states)
    load(other, states)
    row_indices = tensor([1, 2])
    np.testing.assert_array_equal(same.gather(row_indices), rows[1])
    np.testing.assert_allclose(other.gather(row_indices), (rows[0] + rows[1]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(
        same.store.slots["accumulator"].gather(row_indices), states[1].bucket_slots["accumulator"]
    )


def test_what_can_not_be_loaded():
    shard = made_shard(DynamicTable())
    run(shard, [1, 2])
    (state,) = export(shard, 1)
    with pytest.raises(ValueError, match="the key 1 comes twice among the keys to load"):
        load(shard, [state, state])
    with pytest.raises(ValueError, match="expected rows of width 3 to load, got 2"):
        load(shard, [state._replace(rows=state.rows[:, :2])])
    with pytest.raises(ValueError, match=r"expected slots \{'accumulator': 3\} to load"):
        load(shard, [state._replace(slots={})])


# Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "expected capacity of at least 1, or None for no limit, got 0"),
        ({"time_to_live": 0}, "expected time_to_live of at least 1, or None for no limit, got 0"),
        ({"admit_after": 0}, "expected admit_after of at least 1, got 0"),
        ({"forget_after": -3}, "expected forget_after of at least 1, got -3"),
        ({"max_waiting": 0}, "expected max_waiting of at least 1, got 0"),
        ({"num_buckets": 0}, "expected num_buckets of at least 1, got 0"),
        ({"admit_probability": 0.0}, "an admit_probability above 0 and at most 1, got 0.0"),
        ({"admit_probability": 1.5}, "an admit_probability above 0 and at most 1, got 1.5"),
        (
            {"when_full": "stop"},
            "when_full to be one of evict, default, error, got 'stop'",
        ),
        ({"unknown_in_training": "x"}, "to be one of insert, default, bucket, error, got 'x'"),
        ({"unknown_otherwise": "insert"}, "to be one of default, bucket, error, got 'insert'"),
    ],
)
def test_options_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DynamicTable(**settings)


def test_an_index_that_takes_no_row_away_can_not_be_asked_to():
    index = KeyIndex(Blocks(1), first_row=0, limit=1, time_to_live=None, evicts=False, name="kept")
    index.add(tensor([5]), tf.constant(0, tf.int64))
    with pytest.raises(ValueError, match="expected evicts=True or a time_to_live"):
        index.make_room(tf.constant(1, tf.int64), tf.constant(1, tf.int64))
