"""The order in which keys give their rows up: exact, and found a little in every step."""

import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.embedding.dynamic import eviction_order
from gmeta_tf.embedding.dynamic.growing_arrays import Blocks
from gmeta_tf.embedding.dynamic.key_index import KeyIndex

LIMIT = 400
FIRST_ROW = 3
KEYS_A_STEP = 10


@pytest.fixture
def small(monkeypatch):
    """Lists and windows of a few rows, as a table of millions has them of thousands."""
    for name, value in {
        "_SAMPLED": 50,
        "_LEAST_WINDOW": 8,
        "_SHARE": 4,
        "_LONGEST_LIST": 80,
    }.items():
        monkeypatch.setattr(eviction_order, name, value)


def made_index(time_to_live=None):
    return KeyIndex(
        Blocks(FIRST_ROW + LIMIT),
        first_row=FIRST_ROW,
        limit=LIMIT,
        time_to_live=time_to_live,
        evicts=True,
        name="index",
    )


def stepper(index):
    """What a training step does with keys that all get rows, compiled."""

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)],
        autograph=False,
    )
    def step_with(keys, step):
        index.sweep(step, tf.size(keys, tf.int64))
        row_indices, _ = index.see(keys, step)
        new = tf.boolean_mask(keys, row_indices < 0)
        index.make_room(tf.size(new, tf.int64), step)
        index.add(new[: index.num_free_rows()], step)

    return lambda keys, step: step_with(tf.constant(list(keys), tf.int64), step)


def of(index):
    return set(index.keys_and_row_indices()[0].tolist())


class Twin:
    """A dict of when each key was last seen."""

    def __init__(self):
        self.seen = {}

    def step(self, keys, step):
        new = [key for key in keys if key not in self.seen]
        self.seen |= {key: step for key in keys if key in self.seen}
        missing = len(self.seen) + len(new) - LIMIT
        oldest = sorted((seen, key) for key, seen in self.seen.items() if seen < step)
        for _, key in oldest[: max(missing, 0)]:
            del self.seen[key]
        self.seen |= dict.fromkeys(new[: LIMIT - len(self.seen)], step)


def drawn_steps(num_steps, popular, seed):
    """Keys of steps: some come again and again, the others are mostly new."""
    rng = np.random.default_rng(seed)
    for step in range(num_steps):
        count = rng.integers(0, 2 * KEYS_A_STEP)
        keys = np.where(
            rng.random(count) < popular,
            rng.integers(0, LIMIT // 2, count),
            rng.integers(-(10**6), 10**6, count),
        )
        yield step, np.unique(rng.permutation(keys)).tolist()


@pytest.mark.parametrize("popular", [0.0, 0.5, 0.95])
def test_the_least_recently_seen_go_and_no_others(popular, small):
    index, twin = made_index(), Twin()
    a_step = stepper(index)
    for step, keys in drawn_steps(250, popular, seed=3):
        a_step(keys, step)
        twin.step(keys, step)
        assert of(index) == set(twin.seen), f"step {step}"
    assert int(index.used) == FIRST_ROW + LIMIT or popular == 0.95


def test_a_step_with_more_new_keys_than_lists_are_long(small):
    index, twin = made_index(), Twin()
    a_step = stepper(index)
    for step, first in enumerate([0, 390, 1000, 1300, 2000]):
        keys = list(range(first, first + 300))
        a_step(keys, step)
        twin.step(keys, step)
        assert of(index) == set(twin.seen), f"step {step}"


def test_nobody_goes_where_all_were_seen_in_this_step(small):
    index = made_index()
    a_step = stepper(index)
    a_step(range(LIMIT + 5), 0)
    assert of(index) == set(range(LIMIT))
    assert int(index.make_room(tf.constant(4, tf.int64), tf.constant(0, tf.int64))) == 0
    a_step([-1], 1)
    assert of(index) == {-1, *range(1, LIMIT)}


def test_who_goes_does_not_depend_on_where_the_rows_lie(small):
    """A run that resumes gives up the same keys."""
    index, steps = made_index(), list(drawn_steps(160, 0.5, seed=4))
    a_step = stepper(index)
    for step, keys in steps[:100]:
        a_step(keys, step)
    resumed = made_index()
    resumed_step = stepper(resumed)
    keys, row_indices = index.keys_and_row_indices()
    seen = index.last_seen.gather(tf.constant(row_indices)).numpy()
    order = np.random.default_rng(0).permutation(len(keys))
    resumed_step([7], 0)  # what it has looked at before is forgotten
    resumed.clear()
    resumed.restore(keys[order], seen[order])
    for step, keys in steps[100:]:
        a_step(keys, step)
        resumed_step(keys, step)
        assert of(index) == of(resumed), f"step {step}"


def test_no_step_looks_at_all_rows(small, monkeypatch):
    index = made_index()
    looked_at = tf.Variable(0)
    gather = index.last_seen.gather

    def counted(rows):
        looked_at.assign_add(tf.size(rows))
        return gather(rows)

    monkeypatch.setattr(index.last_seen, "gather", counted)
    a_step, of_step = stepper(index), []
    for step in range(150):
        looked_at.assign(0)
        a_step(range(KEYS_A_STEP * step, KEYS_A_STEP * (step + 1)), step)
        of_step.append(int(looked_at))
    full = of_step[LIMIT // KEYS_A_STEP :]
    assert max(full) <= LIMIT // 2
    assert min(full) >= KEYS_A_STEP  # counted at all: the rows that go are looked at


def test_keys_that_gave_their_rows_up_by_age_are_passed_over(small):
    index = made_index(time_to_live=20)
    a_step = stepper(index)
    held = {}
    for step, keys in drawn_steps(200, 0.5, seed=5):
        a_step(keys, step)
        held |= dict.fromkeys(keys, step)
        alive = {key for key, seen in held.items() if step - seen <= 20}
        assert alive <= of(index)
        assert int(index.num_keys) <= LIMIT
