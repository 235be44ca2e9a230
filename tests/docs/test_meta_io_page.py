"""docs/meta_io.md is true: its reader runs, its numbers are those of the library."""

import dataclasses
import json
import pathlib
import re

import made_data
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta_io.batches import plan, task_samples
from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.meta_io.records.codec import IndexEntry, slot_ranges
from gmeta_tf.meta_io.records.word_checks import keys_of

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "meta_io.md").read_text(encoding="utf-8")

HASHED = gm.Schema(
    (
        gm.Field("price", "dense"),
        gm.Field("ad"),
        gm.Field("seen", "multi", table="ad", max_values=2),
        gm.Field("item"),
    ),
    "clicked",
    "user",
    tables=(gm.Table("ad", keys="hash"), gm.Table("item", 9)),
)


def reader():
    """The page's Python block."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    return names


def decoded(schema, words):
    """The columns of planes, as the page's reader gives them."""
    columns = {schema.label: words[0].view("<f4").tolist()}
    if schema.weight is not None:
        columns[schema.weight] = words[1].view("<f4").tolist()
    for field, (first, last) in zip(schema.fields, slot_ranges(schema), strict=True):
        if field.kind == "dense":
            columns[field.name] = words[first].view("<f4").tolist()
        else:
            keys = keys_of(words[first:last], schema.table(field.table_name).words_per_key)
            columns[field.name] = [[key for key in row if key != -1] for row in keys.T.tolist()]
    return columns


def agree(folder, split):
    records = gm.Records.open(folder)
    read = list(reader()["read_records"](str(folder), split))
    expected = list(records.read(split))
    assert [task for task, _, _ in read] == [task for task, _ in expected]
    assert [part for _, part, _ in read] == records.index(split)["part"].tolist()
    for (_, _, values), (_, words) in zip(read, expected, strict=True):
        assert values == decoded(records.schema, words)
    return read


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_the_reader(compression, tmp_path):
    made_data.make_records(tmp_path, 8, episode_rows=12, compression=compression)
    read = agree(tmp_path, "train") + agree(tmp_path, "test")
    assert max(part for _, part, _ in read) == 2


def test_the_reader_with_weights(tmp_path):
    schema = dataclasses.replace(made_data.SCHEMA, weight="importance")
    words = made_data.made_words(made_data.made_rows(0, 9, np.random.default_rng(0)))
    weights = np.arange(9, dtype="<f4") / 4
    writer = made_data.EpisodeWriter(tmp_path, "train", schema, num_files=1)
    writer.write([0] * 9, np.insert(words, 1, weights.view("<i4"), axis=0))
    records = gm.Records(str(tmp_path), schema, {"train": writer.close()})
    (tmp_path / "schema.json").write_text(json.dumps(records.describe()))
    [(_, _, values)] = agree(tmp_path, "train")
    assert values["importance"] == weights.tolist()


def test_the_reader_with_keys_of_two_words(tmp_path):
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**63 - 1, [3, 10])
    keys[2, ::2] = keys[1:, 1] = -1
    low, high = (keys & 0xFFFFFFFF).astype("<u4").view("<i4"), (keys >> 32).astype("<i4")
    floats = rng.normal(size=[2, 10]).astype("<f4").view("<i4")
    item = rng.integers(0, 9, [1, 10])
    words = [floats[:1], low[:1], high[:1], low[1:], high[1:], item, floats[1:]]
    writer = made_data.EpisodeWriter(tmp_path, "train", HASHED, num_files=1)
    writer.write([0] * 6 + [2**40] * 4, np.concatenate(words).astype("<i4"))
    records = gm.Records(str(tmp_path), HASHED, {"train": writer.close()})
    (tmp_path / "schema.json").write_text(json.dumps(records.describe()))
    read = agree(tmp_path, "train")
    assert [task for task, _, _ in read] == [0, 2**40]
    assert [row for _, _, values in read for row in values["ad"]] == keys[0][:, None].tolist()


def test_the_reader_sees_damage(tmp_path):
    made_data.make_records(tmp_path, 3, num_files=1)
    path = tmp_path / "train-000-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    for at in (2, 40):
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(AssertionError):
            list(reader()["read_records"](tmp_path, "train"))
        content[at] ^= 1


def test_the_reader_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.splitlines()) <= 60
    assert max(len(line) for line in code.splitlines()) <= 100
    assert "tensorflow" not in code
    assert "gmeta_tf" not in code


def test_the_checksums():
    checksum = reader()["checksum"]
    assert f"{checksum(b'123456789'):#010x}" == "0xc78ab0e5"
    assert "0xC78AB0E5" in PAGE
    assert f"{checksum((68).to_bytes(8, 'little')):#x}" == "0x9a2e5943"
    assert "0x9A2E5943" in PAGE


def test_the_index():
    rows = re.findall(r"\| (\d+) to (\d+) \| (int\d+) \| `(\w+)`", PAGE)
    found = [(name, np.dtype(kind), int(first)) for first, _, kind, name in rows]
    expected = [(name, *IndexEntry.fields[name][:2]) for name in IndexEntry.names]
    assert found == expected
    assert [int(last) + 1 for _, last, _, _ in rows] == [8, 16, 20, 24, 28, 32]


def test_the_hashes():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for value, fingerprint, *keys in rows:
        found = tf.fingerprint([value.encode()]).numpy()[0].tobytes()
        assert int.from_bytes(found, "little") == int(fingerprint)
        for size, key in zip((100, 1000003, None), keys, strict=True):
            table = gm.Table("t", size, keys="hash")
            assert hashed_keys([value], table).tolist() == [int(key)]
            assert 1 + int(fingerprint) % ((size or 2**63 - 1) - 1) == int(key)


# ---- The plan, again, after the page's words -----------------------------------------------------

MASK = 2**64 - 1


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def draw(*integers):
    x = 0
    for integer in integers:
        x = splitmix64(x ^ integer & MASK)
    return x


def ceil(a, b):
    return -(-a // b)


class Page:
    """Steps as the page has them: each a list of (task, part, support rows, query rows)."""

    def __init__(self, index, epoch, world, batches, used=(), block_bytes=2**20):
        self.index = [{name: int(entry[name]) for name in index.dtype.names} for entry in index]
        for entry in self.index:
            entry["counts"] = entry["rows"]
        if batches.every_query:
            self.index = self.whole_tasks()
        self.s, self.q, self.world, self.of = batches.support, batches.query, world, batches
        self.draw = lambda k, *more: draw(batches.seed, epoch, k, *more)
        self.in_order, self.used = batches.in_time_order, used
        z = max(batches.window_rows // 16, block_bytes // (4 * 8))
        self.z = min(batches.window_rows, z)
        most, buckets = self.s + self.q, range(batches.buckets)
        self.room = [max(2, ceil(most, 2**b)) for b in buckets]
        self.tasks = [batches.tasks * most // room for room in self.room]

    def whole_tasks(self):
        """The record that stands for each task; these have no rows in earlier splits."""
        least = max(entry["rows"] for entry in self.index) // 4
        tasks = {}
        for entry in self.index:
            name, rows = entry["task"], entry["rows"]
            whole = {"task": name, "part": 0, "file": 0, "rows": 0, "counts": 0}
            whole = tasks.setdefault(name, whole)
            whole["rows"] += rows
            whole["counts"] += max(rows, least)
        return [tasks[name] for name in sorted(tasks)]

    def samples(self, i):
        """Of a record: (record, sample, positions of support, positions of query)."""
        n, s, q = self.index[i]["rows"], self.s, self.q
        found = []
        if self.of.every_query:
            s = min(s, n - 1)
            for c in range(ceil(n - s, q)):
                query = range(s + c * q, min(n, s + c * q + q))
                found.append((i, c, range(s), query))
        else:
            k = ceil(n, s + q) if self.of.every_row else 1
            for c in range(k):
                first, last = c * n // k, (c + 1) * n // k
                if not self.of.every_row:
                    u = min(n, s + q)
                    first = self.draw(3, *self.name(i)) % (n - u + 1) if self.in_order else 0
                    last = first + u
                middle = first + min(s, last - first - 1)
                found.append((i, c, range(first, middle), range(middle, last)))
        return [sample for sample in found if sample[:2] not in self.used]

    def name(self, i):
        return self.index[i]["task"], self.index[i]["part"]

    def bucket(self, sample):
        rows = len(sample[2]) + len(sample[3])
        return max(b for b, room in enumerate(self.room) if rows <= room)

    def shares(self):
        costs = [
            sum(self.room[self.bucket(sample)] for sample in self.samples(i))
            for i in range(len(self.index))
        ]
        shares = [[] for _ in range(self.world)]
        for i in range(len(costs)):
            rank = sum(costs[:i]) * self.world // max(1, sum(costs))
            shares[min(rank, self.world - 1)].append(i)
        return shares

    def num_steps(self):
        needed = []
        for share in self.shares():
            counts = [0] * len(self.room)
            for i in share:
                for sample in self.samples(i):
                    counts[self.bucket(sample)] += 1
            needed.append(sum(ceil(m, t) for m, t in zip(counts, self.tasks, strict=True)))
        return max(needed)

    def windows(self, rank):
        blocks, rows_before, key = [], 0, None
        for i in self.shares()[rank]:
            entry = self.index[i]
            if (entry["file"], rows_before // self.z) != key:
                blocks.append([])
            key = entry["file"], rows_before // self.z
            blocks[-1].append(i)
            rows_before += entry["counts"]
        blocks = [block for block in blocks if any(self.samples(i) for i in block)]
        if self.of.shuffle:
            blocks.sort(key=lambda block: self.draw(0, block[0]))
        windows, rows_before, last = [], 0, None
        for block in blocks:
            if rows_before // self.of.window_rows != last:
                windows.append([])
            last = rows_before // self.of.window_rows
            windows[-1] += block
            rows_before += sum(self.index[i]["counts"] for i in block)
        return windows or [[]]

    def permutations(self, window):
        found = {}
        for i in window:
            d = self.draw(2, *self.name(i))
            number = {r: splitmix64(d + r & MASK) >> 34 for r in range(self.index[i]["rows"])}
            found[i] = sorted(number) if self.in_order else sorted(number, key=number.get)
        return found

    def steps(self, rank):
        queues = [[] for _ in self.room]
        steps, keys = [], []
        windows = self.windows(rank)
        for number, window in enumerate(windows):
            permutation = self.permutations(window)
            samples = [sample for i in window for sample in self.samples(i)]
            if self.of.shuffle:
                judge = self.of.every_query
                samples.sort(
                    key=lambda sample: self.draw(
                        1, *self.name(sample[0]), 0 if judge else sample[1]
                    )
                )
            for sample in samples:
                i, c, support, query = sample
                rows = [[permutation[i][at] for at in part] for part in (support, query)]
                queues[self.bucket(sample)].append(((i, c), (*self.name(i), *rows)))
            is_last = number == len(windows) - 1
            order = [
                b
                for b, (queue, t) in enumerate(zip(queues, self.tasks, strict=True))
                for _ in range(ceil(len(queue), t) if is_last else len(queue) // t)
            ]
            if self.of.shuffle:
                draws = [self.draw(4, rank, number, place) for place in range(len(order))]
                order = [order[at] for at in sorted(range(len(order)), key=draws.__getitem__)]
            for b in order:
                step, queues[b] = queues[b][: self.tasks[b]], queues[b][self.tasks[b] :]
                steps.append([value for _, value in step])
                keys.append([key for key, _ in step])
        missing = self.num_steps() - len(steps)
        return steps + [[]] * missing, keys + [[]] * missing


def steps_of(batches, epoch, count):
    """The library's: the price of a row says of which task and which row it is."""
    found = []
    for step in batches.picked(epoch).take(count).as_numpy_iterator():
        tasks = []
        for task, words, s, q in zip(
            step["task"], step["words"], step["num_support"], step["num_query"], strict=True
        ):
            if task < 0:
                continue
            at = min(batches.support, len(words) - 1)
            rows = words[:, 7].view("<f4") * 4096 - 64 * task
            rows = [half.astype(int).tolist() for half in (rows[:s], rows[at : at + q])]
            tasks.append((int(task), *rows))
        found.append(tasks)
    return found


SETTINGS = [
    {},
    {"shuffle": False, "every_query": True},
    {"every_query": True, "query": 3},
    {"every_row": True, "buckets": 3},
    {"in_time_order": True, "buckets": 2},
    {"every_row": True, "in_time_order": True, "tasks": 5},
]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return made_data.make_records(tmp_path_factory.mktemp("plan"), 60, episode_rows=14)


def batches_of(records, world, rank, settings, **more):
    settings = {"tasks": 3, "support": 3, "query": 5, "window_rows": 150} | settings
    world = gm.World(rank=rank, size=world)
    return gm.TaskBatches(records, "train", **settings, **more, seed=7, world=world)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("world", "block_bytes"), [(1, 64), (3, 64), (2, 2**20)])
def test_the_plan(records, world, block_bytes, settings, monkeypatch):
    monkeypatch.setattr(plan, "_BLOCK_BYTES", block_bytes)
    index = records.index("train")
    # Which row of its task the first row of an episode is.
    first = {}
    for entry in index[np.argsort(index["part"], kind="stable")]:
        task = int(entry["task"])
        before = first.setdefault((task, int(entry["part"])), first.get((task, "next"), 0))
        first[task, "next"] = before + int(entry["rows"])
    for rank in range(world):
        batches = batches_of(records, world, rank, settings)
        page = Page(index, 1, world, batches, block_bytes=block_bytes)
        assert page.num_steps() == batches.steps_per_epoch
        expected = [
            [
                (task, *([first[task, part] + row for row in rows] for rows in (support, query)))
                for task, part, support, query in step
            ]
            for step in page.steps(rank)[0]
        ]
        assert steps_of(batches, 1, batches.steps_per_epoch) == expected
        assert sum(len(step) for step in expected) > 10


def test_resuming(records):
    index = records.index("train")
    settings = {"every_row": True, "buckets": 2}
    before = [batches_of(records, 2, rank, settings) for rank in range(2)]
    used = {
        key
        for rank in range(2)
        for step in Page(index, 3, 2, before[rank]).steps(rank)[1][:4]
        for key in step
    }
    progress = before[0].progress(3, 4)
    saved = progress.to_json()
    assert saved["done"] == [{"size": 2, "tasks": 3, "steps": 4}]
    assert saved["epoch"] == 3
    rest = []
    for rank in range(3):
        batches = batches_of(records, 3, rank, settings, begin=progress)
        page = Page(index, 3, 3, batches, used)
        assert page.num_steps() == batches.steps_at_begin
        steps, keys = page.steps(rank)
        rest += [key for step in keys for key in step]
        found = steps_of(batches, None, batches.steps_at_begin)
        assert [[one[0] for one in step] for step in found] == [
            [one[0] for one in step] for step in steps
        ]
    everything = [sample[:2] for i in range(len(index)) for sample in page.samples(i)]
    assert sorted(rest) == sorted(everything)
    assert not used & set(rest)


def test_the_draws():
    shown = re.findall(r"draw\(([-\d, ]+)\)\s+is\s+(\d+)", PAGE)
    assert len(shown) == 3
    for integers, value in shown:
        integers = [int(one) for one in integers.split(",")]
        assert draw(*integers) == int(value) == int(task_samples.draw(*integers)[0])
    alone = task_samples.drawn_rows(np.array([5]), task_samples.draw(7, 0, 2, 3, 0)).tolist()
    assert f"5 rows: {' '.join(str(row) for row in alone)}." in PAGE
