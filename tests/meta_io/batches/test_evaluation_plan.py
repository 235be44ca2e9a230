"""An evaluation against a slow twin: every task once, from all its episodes, whatever the ranks."""

import itertools
import types

import numpy as np
import pytest
from made_data import SCHEMA, made_rows, made_words, price_of

import gmeta_tf as gm
from gmeta_tf.meta_io.batches.evaluated_tasks import EvaluatedTasks, splits_before
from gmeta_tf.meta_io.batches.evaluation_plan import EvaluationPlan
from gmeta_tf.meta_io.batches.plan import Segment
from gmeta_tf.meta_io.batches.task_samples import Cut, draw
from gmeta_tf.meta_io.records.codec import IndexEntry, num_planes
from gmeta_tf.meta_io.records.writer import EpisodeWriter, episode_sizes

S, Q = 3, 4
SEED = 5
EPISODE_ROWS = 8
PLANES = 6
# Rows of each task by split. Task 0 is new in the test, task 1 is only in training; task 5 has a
# single row anywhere, task 6 fewer earlier rows than S, task 7 many episodes in every split.
ROWS = {
    "train": (0, 9, 4, 30, 1, 0, 2, 40, 0),
    "valid": (0, 0, 2, 0, 1, 0, 0, 11, 3),
    "test": (12, 0, 1, 5, 2, 1, 6, 35, 0),
}
BY_TIME = {"split": {"by": "time"}}


def index_of(rows, num_files, appended):
    """The index of one split; with `appended` every task's later half came as a later log."""
    entries, offsets = [], {}
    logs = [rows] if not appended else [[-(-n // 2) for n in rows], [n // 2 for n in rows]]
    parts = [0] * len(rows)
    for log, counts in enumerate(logs):
        held = [0] * num_files
        for task, num_rows in enumerate(counts):
            for size in episode_sizes(num_rows, EPISODE_ROWS) if num_rows else []:
                at = held.index(min(held))
                file = log * num_files + at
                length = 4 * (5 + PLANES * size)
                offset = offsets.get(file, 0)
                entries.append((offset, task, file, length, size, parts[task]))
                offsets[file] = offset + length + 16
                held[at] += size
                parts[task] += 1
    index = np.array(entries, IndexEntry)
    return index[np.lexsort([index["offset"], index["file"]])]


def records_of(num_files=3, appended=False, details=None):
    """What an evaluation asks of records, of the rows above."""
    indexes = {split: index_of(rows, num_files, appended) for split, rows in ROWS.items()}
    return types.SimpleNamespace(
        splits=tuple(ROWS),
        details=BY_TIME if details is None else details,
        index=indexes.__getitem__,
        files=lambda split: [f"{split}-{n}" for n in range(num_files * (1 + appended))],
    )


def plan_of(records, split, *, in_order=False, size=1, **options):
    evaluated = EvaluatedTasks.of(records, split, S if in_order else None)
    options = {"tasks": 2, "seed": SEED, **options}
    cut = Cut(S, Q, "evaluate", in_order)
    return EvaluationPlan(evaluated.as_index(S), cut, size=size, evaluated=evaluated, **options)


def samples_of(plan, records, split, rank):
    """A rank's samples, in order: `(task, support, query)`, rows as `(split, place in it)`."""
    names = [*splits_before(records, split), split]
    owner = [name for name in names for _ in records.files(name)]
    first_row = {}
    for name in names:
        index = np.sort(records.index(name), order=["task", "part"])
        for task in np.unique(index["task"]):
            own = index[index["task"] == task]
            for part, first in zip(own["part"], np.cumsum(own["rows"]) - own["rows"], strict=True):
                first_row[name, int(task), int(part)] = int(first)
    found = []
    for window in plan.windows(rank):
        entries = plan.entries(window)
        assert_blocks_are(window, entries)
        ((record, row),) = plan.row_places(window)
        for sample, (records_of_rows, rows) in enumerate(zip(record, row, strict=True)):
            unit = window.samples[0].record[sample]
            task = int(plan.index["task"][window.records[unit]]) if unit >= 0 else -1
            places = []
            for position, place in zip(records_of_rows, rows, strict=True):
                if place < 0:
                    places.append(None)
                    continue
                entry = entries[position]
                assert entry["task"] == task
                assert place < entry["rows"]
                name = owner[entry["file"]]
                places.append((name, first_row[name, task, int(entry["part"])] + int(place)))
            halves = places[:S], places[S:]
            support, query = ([one for one in half if one is not None] for half in halves)
            assert (unit >= 0) == bool(query)
            found.append((task, support, query))
    return found


def assert_blocks_are(window, entries):
    """Each read is a run of records of one file, and together they are the window's entries."""
    first = 0
    for file, offset, num_bytes, num_records in window.blocks.tolist():
        own = entries[first : first + num_records]
        first += num_records
        lengths = own["length"] + 16
        assert set(own["file"]) == {file}
        assert own["offset"].tolist() == (offset + np.cumsum(lengths) - lengths).tolist()
        assert lengths.sum() == num_bytes
    assert first == len(entries)


def permuted(num_rows, kind, task):
    """The rows of a task in the order of their draws, as docs/meta_io.md has it."""
    first = draw(SEED, 0, kind, task, 0)[0]
    # draw(c) is splitmix64(c) of a single number.
    noise = [int(draw(int(np.int64(first + np.uint64(r))))[0]) >> 34 for r in range(num_rows)]
    return sorted(range(num_rows), key=noise.__getitem__)


def twin(split, in_order, by_time=True):
    """Task -> `(support, query)`: one task after the other, from lists of all its rows."""
    before = list(ROWS)[: list(ROWS).index(split)] if by_time else []
    expected = {}
    for task in range(len(ROWS[split])):
        own = [(split, row) for row in range(ROWS[split][task])]
        earlier = [(name, row) for name in before for row in range(ROWS[name][task])]
        if not own:
            continue
        if not in_order:
            earlier = [earlier[row] for row in permuted(len(earlier), 5, task)][:S]
            own = [own[row] for row in permuted(len(own), 2, task)]
        rows = earlier[-S:] + own
        num_support = min(S, len(rows) - 1)
        expected[task] = rows[:num_support], rows[num_support:]
    return expected


def together(samples):
    """Task -> `(support, query)` of all its samples, which must follow one another."""
    tasks = [task for task, _, _ in samples if task >= 0]
    assert [task for task, _ in itertools.groupby(tasks)] == list(dict.fromkeys(tasks))
    found = {}
    for task, support, query in samples:
        if task >= 0:
            known, so_far = found.setdefault(task, (support, []))
            assert known == support
            so_far += query
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("split", ["test", "valid", "train"])
@pytest.mark.parametrize("window_rows", [1, 30, 1 << 17])
def test_every_task_once_from_all_its_rows(size, in_order, split, window_rows):
    expected = twin(split, in_order)
    for num_files, appended, shuffle in ((1, False, True), (3, False, False), (2, True, True)):
        records = records_of(num_files, appended)
        plan = plan_of(
            records, split, in_order=in_order, size=size, window_rows=window_rows, shuffle=shuffle
        )
        ranks = [samples_of(plan, records, split, rank) for rank in range(size)]
        assert {len(samples) for samples in ranks} == {2 * plan.num_steps}
        tasks = [set(together(samples)) for samples in ranks]
        assert sum(map(len, tasks)) == len(set().union(*tasks))  # each on one rank
        found = {task: rows for samples in ranks for task, rows in together(samples).items()}
        assert found == expected


def test_only_a_split_by_time_has_earlier_rows():
    for details in ({}, {"split": {"by": "task"}}, {"split": {"by": "both"}}):
        records = records_of(details=details)
        plan = plan_of(records, "test")
        assert together(samples_of(plan, records, "test", 0)) == twin("test", False, by_time=False)
    assert splits_before(records_of(), "test") == ("train", "valid")
    assert splits_before(records_of(), "train") == ()
    assert splits_before(records_of(), "later") == ()


def test_in_order_no_episode_is_read_in_vain():
    records = records_of()
    every, some = (EvaluatedTasks.of(records, "test", most) for most in (None, S))
    assert every.num_earlier.tolist() == [0, 6, 30, 2, 0, 2, 51]
    # Task 3 keeps the last of its episodes in training, task 7 that of the validation.
    assert some.num_earlier.tolist() == [0, 6, 7, 2, 0, 2, 5]
    assert every.num_own.tolist() == some.num_own.tolist() == [12, 1, 5, 2, 1, 6, 35]


def test_windows_of_many_short_records_are_bounded():
    """Blocks are padded to the longest: 400 of one row beside one of 1,000 would be 400,000."""
    index = np.zeros(401, IndexEntry)
    index["task"] = np.arange(401)
    index["rows"] = np.where(np.arange(401) == 200, 1000, 1)
    index["length"] = 4 * (5 + PLANES * index["rows"])
    index["offset"] = 10_000_000 * np.arange(401)[::-1]
    records = types.SimpleNamespace(
        splits=("test",), details={}, index=lambda split: index, files=lambda split: ["f"]
    )
    plan = plan_of(records, "test", window_rows=2000)
    for window in plan.windows(0):
        rows = plan.entries(window)["rows"]
        assert len(window.blocks) * rows.max(initial=0) <= 5 * 2000
    assert sum(len(window.records) for window in plan.windows(0)) == 401


def test_what_is_left_of_an_evaluation():
    records = records_of()
    whole = plan_of(records, "test", size=2)
    had = [
        sample
        for rank in range(2)
        for sample in samples_of(whole, records, "test", rank)[: 2 * 3]
        if sample[0] >= 0
    ]
    rest = plan_of(records, "test", size=3, done=(Segment(2, 2, 3),))
    left = [
        sample
        for rank in range(3)
        for sample in samples_of(rest, records, "test", rank)
        if sample[0] >= 0
    ]
    one_rank = samples_of(plan_of(records, "test"), records, "test", 0)
    assert sorted(had + left) == sorted(sample for sample in one_rank if sample[0] >= 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The rows above as records on disk; a row's price names it, counted over the splits."""
    folder = tmp_path_factory.mktemp("by-time")
    rng = np.random.default_rng(0)
    contents, before = {}, [0] * len(ROWS["train"])
    for split, rows in ROWS.items():
        writer = EpisodeWriter(folder, split, SCHEMA, num_files=2, episode_rows=EPISODE_ROWS)
        for task, num_rows in enumerate(rows):
            if num_rows:
                label, keys, _ = made_rows(task, num_rows, rng)
                price = [[price_of(task, before[task] + row) for row in range(num_rows)]]
                words = made_words((label, keys, np.array(price)))
                writer.write(np.full(num_rows, task), words)
                before[task] += num_rows
        contents[split] = writer.close()
    return gm.Records(str(folder), SCHEMA, contents, episode_rows=EPISODE_ROWS, details=BY_TIME)


@pytest.mark.parametrize("in_time_order", [False, True])
def test_the_rows_that_are_read_are_those_of_the_plan(written, in_time_order):
    expected = {}
    for task, halves in twin("test", in_time_order).items():
        first = {"train": 0, "valid": ROWS["train"][task]}
        first["test"] = first["valid"] + ROWS["valid"][task]
        expected[task] = tuple([first[split] + row for split, row in half] for half in halves)
    found = {}
    plane = num_planes(SCHEMA) - 1
    for size, rank in ((1, 0), (2, 0), (2, 1)):
        batches = gm.TaskBatches(
            written,
            "test",
            tasks=2,
            support=S,
            query=Q,
            every_query=True,
            in_time_order=in_time_order,
            shuffle=size == 2,
            seed=SEED,
            window_rows=40,
            world=gm.World(rank, size),
        )
        samples = []
        for step in batches.picked(0).take(batches.steps_per_epoch).as_numpy_iterator():
            prices = 4096 * step["words"][..., plane].view("<f4").astype(float)
            for task, price, num_support, num_query in zip(
                step["task"].tolist(), prices, step["num_support"], step["num_query"], strict=True
            ):
                halves = price[:num_support], price[S : S + num_query]
                rows = [[round(value) - 64 * task for value in half] for half in halves]
                samples.append((task, *rows))
        found.setdefault(size, {}).update(together(samples))
    assert found == {1: expected, 2: expected}
    assert batches.splits_read == ("train", "valid", "test")
