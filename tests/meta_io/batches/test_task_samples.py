"""Draws and cuts against slow twins."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.meta_io.batches import task_samples as task_samples_module
from gmeta_tf.meta_io.batches.task_samples import Cut, TaskSamples, draw, drawn_rows

quick = settings(deadline=None, max_examples=60, derandomize=True)
MASK = 2**64 - 1


# Draws ---------------------------------------------------------------------------------------


def splitmix64(state):
    """One round, in Python's integers: the constants of the paper's Figure 17."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & MASK
    return state ^ state >> 31


def slow_draw(*coordinates):
    state = 0
    for coordinate in coordinates:
        state = splitmix64(state ^ coordinate & MASK)
    return state


def test_the_published_sequence():
    """Of the reference generator with the seed 1234567: its state grows by the golden gamma."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + gamma * place) & MASK for place in range(3)]
    assert [splitmix64(state) for state in states] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_draw_of_numbers(coordinates):
    assert draw(*coordinates).tolist() == [slow_draw(*coordinates)]


def test_draw_of_arrays():
    tasks = np.array([0, 1, 2**62, -1])
    parts = np.array([0, 7, 1, 2**31 - 1], np.int32)
    found = draw(3, tasks, parts)
    assert found.dtype == np.uint64
    assert found.tolist() == [slow_draw(3, *pair) for pair in zip(tasks.tolist(), parts.tolist())]
    assert draw(3, np.zeros(0, np.int64)).shape == (0,)
    assert draw(tasks, 3).tolist() == [slow_draw(task, 3) for task in tasks.tolist()]


def test_neighbouring_coordinates_have_nothing_in_common():
    """Over a grid of small numbers: no draw twice, and each bit is set about half of the time."""
    seeds, epochs, tasks = np.meshgrid(np.arange(8), np.arange(8), np.arange(64))
    found = draw(seeds.ravel(), epochs.ravel(), tasks.ravel())
    assert len(np.unique(found)) == len(found)
    bits = found[:, np.newaxis] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    spread = 5 * math.sqrt(len(found)) / 2
    assert (np.abs(bits.sum(axis=0) - len(found) / 2) < spread).all()
    # A step in any coordinate turns about half of the bits.
    cube = found.reshape(8, 8, 64)
    for axis in range(3):
        turned = np.take(cube, range(1, 8), axis) ^ np.take(cube, range(7), axis)
        ones = turned.ravel()[:, np.newaxis] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
        assert 30.5 < ones.sum(axis=1).mean() < 33.5


def slow_drawn_rows(rows, draws):
    """Each episode's rows in the order of 30 random bits of their own."""
    found = []
    for count, state in zip(rows, draws, strict=True):
        bits = [splitmix64((state + row) & MASK) >> 34 for row in range(count)]
        found += sorted(range(count), key=bits.__getitem__)
    return found


@quick
@given(st.lists(st.integers(0, 40), max_size=9), st.integers(0, 2**63 - 1))
def test_drawn_rows_against_a_sort_an_episode(rows, seed):
    draws = draw(seed, np.arange(len(rows)))
    found = drawn_rows(np.array(rows, np.int64), draws)
    assert found.dtype == np.int32
    assert found.tolist() == slow_drawn_rows(rows, draws.tolist())
    first = 0
    for count in rows:
        assert sorted(found[first : first + count]) == list(range(count))
        first += count


def test_an_episode_is_drawn_alike_beside_any_others():
    """What else is in the window does not matter: windows differ between numbers of ranks."""
    rows = np.array([1, 700, 3, 1, 64, 33])
    draws = draw(5, np.arange(len(rows)))
    alone = np.concatenate(
        [drawn_rows(rows[n : n + 1], draws[n : n + 1]) for n in range(len(rows))]
    ).tolist()
    assert drawn_rows(rows, draws).tolist() == alone
    many = np.concatenate([rows, np.full(3000, 9)])
    beside = drawn_rows(many, np.concatenate([draws, draw(6, np.arange(3000))]))
    assert beside[: rows.sum()].tolist() == alone


def test_episodes_too_many_or_too_long_for_one_integer_are_drawn_alike(monkeypatch):
    rows = np.array([1, 700, 3, 1, 64, 33])
    draws = draw(5, np.arange(len(rows)))
    expected = drawn_rows(rows, draws).tolist()
    for name, bits in (("_EPISODE_BITS", 2), ("_POSITION_BITS", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(task_samples_module, name, bits)
            assert drawn_rows(rows, draws).tolist() == expected


@pytest.mark.parametrize("num_rows", [2, 3, 4])
def test_every_permutation_is_about_as_likely(num_rows):
    episodes = 6000
    rows = np.full(episodes, num_rows)
    found = drawn_rows(rows, draw(11, np.arange(episodes))).reshape(episodes, num_rows)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == math.factorial(num_rows)
    assert_even(counts)


def test_every_row_is_about_as_likely_in_every_place():
    episodes, num_rows = 4000, 13
    found = drawn_rows(np.full(episodes, num_rows), draw(12, np.arange(episodes)))
    for column in found.reshape(episodes, num_rows).T:
        assert_even(np.bincount(column, minlength=num_rows))


def assert_even(counts):
    """Chi-square of even counts, 5 standard deviations above its mean at most."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


# Cuts ----------------------------------------------------------------------------------------


def samples_of(cut, rows, draws=None):
    draws = draw(1, np.arange(len(rows))) if draws is None else draws
    found = cut.samples(np.array(rows), draws)
    members = (
        found.record,
        found.chunk,
        found.first_support,
        found.num_support,
        found.first_query,
        found.num_query,
    )
    return found, [tuple(values) for values in np.stack(members, axis=1).tolist()]


def test_one_sample_an_episode():
    cut = Cut(2, 3)
    _, found = samples_of(cut, [1, 2, 3, 5, 9])
    assert found == [
        (0, 0, 0, 0, 0, 1),
        (1, 0, 0, 1, 1, 1),
        (2, 0, 0, 2, 2, 1),
        (3, 0, 0, 2, 2, 3),
        (4, 0, 0, 2, 2, 3),
    ]


def test_all_rows_in_even_samples():
    _, found = samples_of(Cut(2, 3, "all"), [5, 6, 11])
    assert found == [
        (0, 0, 0, 2, 2, 3),
        (1, 0, 0, 2, 2, 1),
        (1, 1, 3, 2, 5, 1),
        (2, 0, 0, 2, 2, 1),
        (2, 1, 3, 2, 5, 2),
        (2, 2, 7, 2, 9, 2),
    ]


def test_judged_rows_share_their_support():
    _, found = samples_of(Cut(2, 3, "evaluate"), [1, 2, 5, 6, 9])
    assert found == [
        (0, 0, 0, 0, 0, 1),
        (1, 0, 0, 1, 1, 1),
        (2, 0, 0, 2, 2, 3),
        (3, 0, 0, 2, 2, 3),
        (3, 1, 0, 2, 5, 1),
        (4, 0, 0, 2, 2, 3),
        (4, 1, 0, 2, 5, 3),
        (4, 2, 0, 2, 8, 1),
    ]


def test_the_one_sample_of_an_episode_in_order_begins_anywhere():
    cut = Cut(2, 3, in_order=True)
    starts = {
        samples_of(cut, [8], np.array([value], np.uint64))[1][0][2]
        for value in range(2**63, 2**63 + 9)
    }
    assert starts == {0, 1, 2, 3}
    found, _ = samples_of(cut, [8] * 4000)
    assert_even(np.bincount(found.first_support))
    assert (found.first_query == found.first_support + 2).all()


@quick
@given(
    rows=st.lists(st.integers(1, 90), max_size=12),
    support=st.integers(1, 9),
    query=st.integers(1, 9),
    coverage=st.sampled_from(["one", "all", "evaluate"]),
    in_order=st.booleans(),
    seed=st.integers(0, 9),
)
def test_cuts_keep_their_promises(rows, support, query, coverage, in_order, seed):
    cut = Cut(support, query, coverage, in_order)
    samples, found = samples_of(cut, rows, draw(seed, np.arange(len(rows))))
    assert len(samples) == len(found) == cut.num_samples(np.array(rows)).sum()
    assert samples.num_rows.tolist() == [one[3] + one[5] for one in found]
    for record, num_rows in enumerate(rows):
        own = [one[1:] for one in found if one[0] == record]
        assert [chunk for chunk, *_ in own] == list(range(len(own)))
        used = []
        for chunk, first_support, num_support, first_query, num_query in own:
            size = num_support + num_query
            whole = num_rows if coverage == "evaluate" else size
            assert num_support == min(support, whole - 1)
            assert num_query >= 1
            assert size <= cut.most_rows
            if coverage == "evaluate":
                assert num_query <= query
            query_rows = range(first_query, first_query + num_query)
            support_rows = range(first_support, first_support + num_support)
            # In order the support is earlier than the query; nothing is both.
            assert not support_rows or support_rows[-1] < first_query
            assert query_rows[-1] < num_rows
            if coverage == "evaluate" and chunk:
                assert support_rows == range(num_support)
                used += query_rows
            else:
                used += [*support_rows, *query_rows]
        if coverage == "one":
            assert len(own) == 1
            assert len(used) == min(num_rows, cut.most_rows)
            assert used == list(range(used[0], used[0] + len(used)))
            assert in_order or used[0] == 0
        else:
            assert used == list(range(num_rows))
        if coverage == "all":
            sizes = [one[2] + one[4] for one in own]
            assert max(sizes) - min(sizes) <= 1
            assert len(sizes) == -(-num_rows // cut.most_rows)


def test_take_by_mask_and_by_position():
    samples, found = samples_of(Cut(2, 3, "all"), [5, 6, 11])
    odd = samples.take(np.array([1, 3, 5]))
    assert odd.num_rows.tolist() == [one[3] + one[5] for one in found[1::2]]
    assert isinstance(odd, TaskSamples)
    assert samples.take(samples.record == 2).chunk.tolist() == [0, 1, 2]
