"""Epoch plans over grids of ranks, files, sizes and settings; nothing is read."""

import collections
import dataclasses
import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import steps_of

from gmeta_tf.meta_io.batches.plan import EpochPlan, Segment
from gmeta_tf.meta_io.batches.task_samples import Cut
from gmeta_tf.meta_io.records import index_checks
from gmeta_tf.meta_io.records.codec import IndexEntry
from gmeta_tf.meta_io.records.writer import episode_sizes

quick = settings(deadline=None, max_examples=60, derandomize=True)
S, Q = 3, 5
PLANES = 8
UNEVEN = (1, 2, 30, 7, 7, 1, 19, 3, 12, 6, 28, 4, 5)
ONE_LARGE = (90, 1, 1, 2, 1, 1, 3)
SOME_RANKS_STARVE = (8, 8, 8, 8, 1)


def index_of(rows, num_files=1, episode_rows=1024):
    """The index of tasks of so many rows, dealt to files as the writer does."""
    entries, rows_of, offsets = [], [0] * num_files, [0] * num_files
    for task, num_rows in enumerate(rows):
        for part, size in enumerate(episode_sizes(num_rows, episode_rows)):
            file = rows_of.index(min(rows_of))
            length = 4 * (5 + PLANES * size)
            entries.append((offsets[file], task, file, length, size, part))
            offsets[file] += length + 16
            rows_of[file] += size
    index = np.array(entries, IndexEntry)
    return index[np.lexsort([index["offset"], index["file"]])]


def plan_of(rows=UNEVEN, *, num_files=3, episode_rows=1024, coverage="one", **options):
    in_order = options.pop("in_order", False)
    cut = Cut(options.pop("support", S), options.pop("query", Q), coverage, in_order)
    options = {"tasks": 2, "size": 1, **options}
    return EpochPlan(index_of(rows, num_files, episode_rows), cut, **options)


def tasks_in(steps):
    return [one for _, step in steps for one in step if one is not None]


def assert_epoch_is_whole(plan):
    """Everything that a plan promises about one epoch of all ranks."""
    ranks = [steps_of(plan, rank) for rank in range(plan.size)]
    rows_of = {(entry["task"], entry["part"]): entry["rows"] for entry in plan.index}

    assert {len(steps) for steps in ranks} == {plan.num_steps}
    busy = [[any(step) for _, step in steps] for steps in ranks]
    # No step that every rank would run empty; a rank that has run dry stays so.
    assert max(sum(steps) for steps in busy) == plan.num_steps
    assert all(steps == sorted(steps, reverse=True) for steps in busy)

    drawn = [one for steps in ranks for one in tasks_in(steps)]
    assert sum(len(one.support) + len(one.query) for one in drawn) == plan.num_rows
    assert sum(map(len, map(tasks_in, ranks))) == plan.samples_of_ranks.sum()
    padded = [
        plan.tasks_of_buckets[bucket] * plan.capacities[bucket]
        for steps in ranks
        for bucket, step in steps
        if any(step)
    ]
    assert sum(padded) == plan.num_padded_rows

    assert_rows_are_covered(plan, drawn, rows_of)
    for bucket, step in itertools.chain(*ranks):
        for one in filter(None, step):
            num_rows = len(one.support) + len(one.query)
            assert num_rows <= plan.capacities[bucket]
            later = plan.capacities[bucket + 1 :]
            assert not later or num_rows > later[0]
    assert_reads_are_runs(plan)
    assert_balanced(plan, ranks)


def assert_rows_are_covered(plan, drawn, rows_of):
    cut, of_episode = plan.cut, collections.defaultdict(list)
    for one in drawn:
        of_episode[one[:2]].append(one)
    assert of_episode.keys() == rows_of.keys()
    for episode, samples in of_episode.items():
        samples.sort(key=lambda one: one.chunk)
        assert [one.chunk for one in samples] == list(range(len(samples)))
        num_rows = int(rows_of[episode])
        for one in samples:
            whole = num_rows if cut.coverage == "evaluate" else len(one.support) + len(one.query)
            assert len(one.support) == min(cut.support, whole - 1)
            assert 1 <= len(one.query) <= max(cut.query, cut.most_rows - len(one.support))
            assert not {*one.support} & {*one.query}
        rows = [row for one in samples for row in one.query]
        if cut.coverage == "evaluate":
            assert len({one.support for one in samples}) == 1
            rows += samples[0].support
        else:
            rows += [row for one in samples for row in one.support]
        if cut.coverage == "one":
            assert len(samples) == 1
            assert len(rows) == len(set(rows)) == min(num_rows, cut.most_rows)
            assert {*rows} <= set(range(num_rows))
        else:
            assert sorted(rows) == list(range(num_rows))


def assert_reads_are_runs(plan):
    """The blocks of the ranks' windows are whole runs of records, and all of them once."""
    read = []
    for rank in range(plan.size):
        for window in plan.windows(rank):
            first = 0
            for file, offset, num_bytes, num_records in window.blocks.tolist():
                entries = plan.index[window.records[first : first + num_records]]
                first += num_records
                assert set(entries["file"]) == {file}
                ends = entries["offset"] + entries["length"] + 16
                assert entries["offset"].tolist() == [offset, *ends[:-1]]
                assert num_bytes == ends[-1] - offset
            assert first == len(window.records)
            rows = plan.index[window.records]["rows"]
            most = max(plan.index["rows"])
            assert rows.sum() <= 2 * (plan.window_rows + most)
            read += window.records.tolist()
    assert sorted(read) == list(range(len(plan.index)))


def assert_balanced(plan, ranks):
    """No rank's steps have room for more rows than the mean, by more than one episode's."""
    costs = [
        [(one[:2], plan.capacities[bucket]) for bucket, step in steps for one in step if one]
        for steps in ranks
    ]
    of_episode = collections.Counter()
    for episode, cost in itertools.chain(*costs):
        of_episode[episode] += cost
    loads = [sum(cost for _, cost in of_rank) for of_rank in costs]
    assert max(loads) - sum(loads) / plan.size <= max(of_episode.values())


# Epochs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("coverage", "buckets"), [("one", 1), ("one", 3), ("all", 1), ("all", 3), ("evaluate", 1)]
)
@pytest.mark.parametrize(
    ("window_rows", "row_bytes"), [(1, 64), (40, 64), (40, 1 << 20), (1 << 17, 64)]
)
@pytest.mark.parametrize(
    ("rows", "num_files", "episode_rows"),
    [
        (UNEVEN, 1, 1024),
        (UNEVEN, 3, 7),
        (ONE_LARGE, 2, 1024),
        (ONE_LARGE, 12, 20),
        (SOME_RANKS_STARVE, 7, 1024),  # files without a record, ranks without one
    ],
)
def test_an_epoch_is_whole(
    rows, num_files, episode_rows, size, coverage, buckets, window_rows, row_bytes
):
    options = {"num_files": num_files, "episode_rows": episode_rows, "coverage": coverage}
    options |= {"size": size, "buckets": buckets}
    plan = plan_of(rows, window_rows=window_rows, row_bytes=row_bytes, **options)
    assert_epoch_is_whole(plan)


plans = st.fixed_dictionaries(
    {
        "rows": st.lists(st.integers(1, 70), min_size=1, max_size=25),
        "num_files": st.integers(1, 4),
        "episode_rows": st.integers(2, 80),
        "tasks": st.integers(1, 4),
        "support": st.integers(1, 6),
        "query": st.integers(1, 6),
        "window_rows": st.sampled_from([1, 16, 64, 400]),
        "row_bytes": st.sampled_from([64, 1 << 20]),
        "shuffle": st.booleans(),
        "in_order": st.booleans(),
        "seed": st.integers(-3, 2**40),
        "epoch": st.integers(0, 5),
    }
)
coverages = st.one_of(
    st.tuples(st.sampled_from(["one", "all"]), st.integers(1, 4)), st.just(("evaluate", 1))
)


@quick
@given(options=plans, size=st.integers(1, 9), coverage=coverages)
def test_an_epoch_of_anything_is_whole(options, size, coverage):
    coverage, buckets = coverage
    assert_epoch_is_whole(plan_of(**options, size=size, coverage=coverage, buckets=buckets))


def test_an_index_of_several_chunks(monkeypatch):
    whole = plan_of(size=3, coverage="all", buckets=2)
    expected = (whole.num_steps, whole.num_rows, whole.samples_of_ranks.tolist())
    monkeypatch.setattr(index_checks, "_INDEX_CHUNK", 4)
    plan = plan_of(size=3, coverage="all", buckets=2)
    assert_epoch_is_whole(plan)
    assert (plan.num_steps, plan.num_rows, plan.samples_of_ranks.tolist()) == expected


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("coverage", ["one", "all"])
def test_ranks_are_even_to_a_step(size, coverage):
    """Episodes of at most a step's rows: no rank is a step's worth above the mean."""
    rows = np.random.default_rng(size).zipf(1.5, 300).clip(1, 60)
    plan = plan_of(rows, size=size, tasks=8, coverage=coverage)
    capacity = S + Q
    loads = plan.samples_of_ranks[:, 0] * capacity
    assert loads.max() - loads.mean() < plan.tasks * capacity
    assert plan.num_steps <= -(-int(np.ceil(loads.mean() / capacity)) // plan.tasks) + 1


def test_sizes_of_buckets():
    plan = plan_of(buckets=4, tasks=6, support=3, query=5)
    assert plan.capacities == (8, 4, 2, 2)
    assert plan.tasks_of_buckets == (6, 12, 24, 24)
    odd = plan_of(buckets=3, tasks=2, support=4, query=7)
    assert odd.capacities == (11, 6, 3)
    assert odd.tasks_of_buckets == (2, 3, 7)


def test_buckets_save_padding():
    rows = np.random.default_rng(0).integers(1, 9, 400)
    whole, cut = plan_of(rows, tasks=16), plan_of(rows, tasks=16, buckets=3)
    assert whole.num_rows == cut.num_rows
    assert whole.num_padded_rows / whole.num_rows > 1.6
    assert cut.num_padded_rows / cut.num_rows < 1.3


def test_every_epoch_has_the_same_sizes():
    plans = [plan_of(size=3, coverage="all", buckets=2, epoch=epoch) for epoch in range(4)]
    assert len({(plan.num_steps, plan.num_rows, plan.num_padded_rows) for plan in plans}) == 1


# Draws ---------------------------------------------------------------------------------------


def draws_of(plan):
    """`(task, part, chunk)` -> its support and query rows, over all ranks."""
    drawn = [one for rank in range(plan.size) for one in tasks_in(steps_of(plan, rank))]
    return {one[:3]: one[3:] for one in drawn}


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("coverage", ["one", "all", "evaluate"])
def test_rows_are_drawn_by_seed_epoch_and_episode_alone(coverage, in_order):
    base = {"episode_rows": 12, "coverage": coverage, "in_order": in_order, "seed": 5, "epoch": 2}
    expected = draws_of(plan_of(**base))
    for other in (
        {"size": 2},
        {"size": 3, "num_files": 1},
        {"size": 9},
        {"tasks": 5},
        {"window_rows": 1},
        {"window_rows": 30, "size": 2},
        {"shuffle": False},
    ):
        assert draws_of(plan_of(**base, **other)) == expected, other
    if coverage != "evaluate":
        assert draws_of(plan_of(**base, buckets=3, size=2)) == expected


def test_other_seeds_and_epochs_draw_other_rows_and_another_order():
    settings = itertools.product(range(3), range(3))
    plans = [plan_of(seed=seed, epoch=epoch) for seed, epoch in settings]
    draws = [draws_of(plan) for plan in plans]
    orders = [[one.task for one in tasks_in(steps_of(plan, 0))] for plan in plans]
    for first, second in itertools.combinations(range(len(plans)), 2):
        assert orders[first] != orders[second]
        # Of the episodes with something to draw all but a few are drawn anew.
        drawn = [draws[first][name] != draws[second][name] for name in draws[first]]
        assert sum(drawn) >= 9


def test_episodes_of_a_task_draw_for_themselves():
    draws = draws_of(plan_of([90] * 3, episode_rows=30, num_files=1))
    assert len(draws) == 9
    assert len(set(draws.values())) == 9


@pytest.mark.parametrize("coverage", ["one", "all", "evaluate"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_in_time_order_the_support_is_earlier(coverage, shuffle):
    plan = plan_of(coverage=coverage, in_order=True, shuffle=shuffle, size=2)
    for support, query in draws_of(plan).values():
        assert list(support) == sorted(support)
        assert list(query) == sorted(query)
        assert max(support, default=-1) < min(query)
        if coverage != "evaluate" and support:
            assert query[0] == support[-1] + 1
    # The sample of a long episode begins at another row in another epoch.
    begins = {draws_of(plan_of(in_order=True, epoch=epoch))[2, 0, 0][0][0] for epoch in range(12)}
    assert len(begins) > 4


def test_every_row_is_drawn_about_equally_often():
    counts, epochs = np.zeros([2, 30]), 300
    for epoch in range(epochs):
        support, query = draws_of(plan_of([30], num_files=1, tasks=1, epoch=epoch))[0, 0, 0]
        counts[0, list(support)] += 1
        counts[1, list(query)] += 1
    for part, size in zip(counts, (S, Q)):
        mean = epochs * size / 30
        assert (np.abs(part - mean) < 4.5 * mean**0.5).all()


# Order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", ["one", "all", "evaluate"])
@pytest.mark.parametrize("window_rows", [1, 1 << 17])
def test_without_shuffle_the_order_is_that_of_the_index(coverage, window_rows):
    options = {"shuffle": False, "coverage": coverage, "window_rows": window_rows}
    for size in (1, 3):
        plan = plan_of(size=size, **options)
        order = [one[:3] for rank in range(size) for one in tasks_in(steps_of(plan, rank))]
        counts = plan.cut.num_samples(plan.index["rows"])
        assert order == [
            (entry["task"], entry["part"], chunk)
            for entry, count in zip(plan.index, counts)
            for chunk in range(count)
        ]


def test_shuffle_reaches_over_the_whole_shard():
    """Also where a window is a small part of it: the blocks come in another order each epoch."""
    rows = [4] * 200
    firsts = collections.Counter()
    for epoch in range(40):
        plan = plan_of(rows, window_rows=40, row_bytes=1 << 20, num_files=4, epoch=epoch)
        order = [one.task for one in tasks_in(steps_of(plan, 0))]
        firsts.update(task // 50 for task in order[:10])
        assert sorted(order) == list(range(200))
    assert min(firsts[quarter] for quarter in range(4)) > 40


def test_samples_of_an_episode_part_when_shuffled_but_not_when_judged():
    order = [one.task for one in tasks_in(steps_of(plan_of(coverage="all"), 0))]
    runs = [task for task, _ in itertools.groupby(order)]
    assert len(runs) > len(set(runs))
    for size, window_rows in itertools.product((1, 2), (1, 1 << 17)):
        plan = plan_of(coverage="evaluate", size=size, window_rows=window_rows)
        for rank in range(size):
            drawn = tasks_in(steps_of(plan, rank))
            runs = [task for task, _ in itertools.groupby(one.task for one in drawn)]
            assert len(runs) == len(set(runs))
            assert all(
                second.chunk == first.chunk + 1
                for first, second in itertools.pairwise(drawn)
                if first.task == second.task
            )


def test_steps_of_buckets_are_mixed():
    rows = np.random.default_rng(0).integers(1, 9, 400)
    shuffled, kept = (
        [bucket for bucket, _ in steps_of(plan_of(rows, buckets=3, shuffle=shuffle), 0)]
        for shuffle in (True, False)
    )
    assert sorted(shuffled) == sorted(kept)
    assert len(list(itertools.groupby(shuffled))) > len(shuffled) / 3
    assert kept == sorted(kept)


# Going on ------------------------------------------------------------------------------------


def first_steps(plan, num_steps):
    """What all ranks have had after some steps."""
    return [one for rank in range(plan.size) for one in tasks_in(steps_of(plan, rank)[:num_steps])]


segments = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.floats(0, 1)), min_size=1, max_size=3
)


@quick
@given(options=plans, coverage=coverages, segments=segments, size=st.integers(1, 4))
def test_what_is_left_of_an_epoch_is_what_was_not_had(options, coverage, segments, size):
    options = {**options, "coverage": coverage[0], "buckets": coverage[1]}
    had, done = [], ()
    for other_size, tasks, share in segments:
        plan = plan_of(**{**options, "tasks": tasks}, size=other_size, done=done)
        num_steps = round(share * plan.num_steps)
        had += first_steps(plan, num_steps)
        done += (Segment(other_size, tasks, num_steps),)
    rest = plan_of(**options, size=size, done=done)
    assert {len(steps_of(rest, rank)) for rank in range(size)} == {rest.num_steps}
    had += first_steps(rest, rest.num_steps)
    expected = draws_of(plan_of(**options, size=1))
    assert len(had) == len(expected)
    assert {one[:3]: one[3:] for one in had} == expected


@pytest.mark.parametrize(("coverage", "buckets"), [("one", 1), ("all", 3), ("evaluate", 1)])
def test_going_on_after_each_step(coverage, buckets):
    options = {"coverage": coverage, "buckets": buckets, "window_rows": 40}
    before = plan_of(size=2, **options)
    expected = draws_of(before)
    for num_steps in range(before.num_steps + 1):
        rest = plan_of(size=3, tasks=3, done=(Segment(2, 2, num_steps),), **options)
        had = first_steps(before, num_steps) + first_steps(rest, rest.num_steps)
        assert sorted(one[:3] for one in had) == sorted(expected)
        # Blocks of which nothing is left are not read again.
        left = {one[:2] for one in first_steps(rest, rest.num_steps)}
        for window in itertools.chain(*(rest.windows(rank) for rank in range(3))):
            first = 0
            for *_, num_records in window.blocks.tolist():
                entries = rest.index[window.records[first : first + num_records]]
                first += num_records
                assert left & set(zip(entries["task"].tolist(), entries["part"].tolist()))
    assert rest.num_steps == 0
    assert all(len(list(rest.windows(rank))) == 1 for rank in range(3))


def test_what_is_left_is_balanced_too():
    rows = [8] * 300
    rest = plan_of(rows, size=3, tasks=2, done=(Segment(2, 4, 20),))
    assert rest.samples_of_ranks.sum() == 300 - 2 * 4 * 20
    assert np.ptp(rest.samples_of_ranks) <= 1


def test_a_plan_is_a_function_of_its_arguments():
    plans = [plan_of(size=2, coverage="all", buckets=2, seed=4, epoch=3) for _ in range(2)]
    first, second = ([steps_of(plan, rank) for rank in range(2)] for plan in plans)
    assert first == second
    again = functools.partial(dataclasses.replace, plans[0])
    for other in ({"seed": 5}, {"epoch": 4}):
        assert [steps_of(again(**other), rank) for rank in range(2)] != first
