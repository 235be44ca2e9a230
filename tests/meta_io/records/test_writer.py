"""Rows to record files and back: nothing is lost, whatever the schema, the sizes and the calls."""

import collections
import itertools
import json
import math
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.meta_io.records.codec import num_planes, slot_ranges
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.writer import EpisodeWriter, episode_sizes
from gmeta_tf.schema import Field, Schema, Table

quick = settings(deadline=None, max_examples=40, derandomize=True)
SCHEMA = Schema((Field("item"), Field("price", "dense")), "rating", "user")

# A table of each kind of key, and whether its keys take two words.
TABLES = {
    "vocabulary": (Table("vocabulary", 9), False),
    "small hash": (Table("small hash", 2**31, keys="hash"), False),
    "large hash": (Table("large hash", 2**31 + 1, keys="hash"), True),
    "endless hash": (Table("endless hash", keys="hash"), True),
    "raw": (Table("raw", 2**62, keys="raw"), True),
}


@st.composite
def schemas(draw):
    """Fields of each kind in any order; several may read one table."""
    fields = []
    for number in range(draw(st.integers(1, 5))):
        table = draw(st.sampled_from([None, *TABLES]))
        if table is None:
            fields.append(Field(f"f{number}", "dense"))
        elif draw(st.booleans()):
            fields.append(Field(f"f{number}", table=table))
        else:
            slots = draw(st.integers(1, 3))
            fields.append(Field(f"f{number}", "multi", table=table, max_values=slots))
    read = {field.table: None for field in fields if field.table}
    return Schema(tuple(fields), "y", "t", tables=tuple(TABLES[name][0] for name in read))


def random_columns(schema, rows, rng):
    """The label, and each field's values `[slots, n]`: any float's bits, keys up to 2**63 - 1."""
    columns = {"": floats(rows, 1, rng)}
    for field in schema.fields:
        if field.kind == "dense":
            columns[field.name] = floats(rows, 1, rng)
        else:
            limit = 2**63 - 1 if TABLES[field.table][1] else 2**31 - 1
            keys = rng.integers(0, limit, [field.num_slots, rows], endpoint=True)
            # Short keys beside long ones, and padding: all the words of a key count.
            keys >>= rng.integers(0, 62, keys.shape)
            columns[field.name] = np.where(rng.random(keys.shape) < 0.2, -1, keys)
    return columns


def floats(rows, slots, rng):
    """Any 32 bits, NaN and -0.0 too, as int32: comparing floats would not tell them apart."""
    return rng.integers(-(2**31), 2**31, [slots, rows]).astype(np.int32)


def planes_of(schema, columns):
    """The planes as docs/meta_io.md tells them: the label, key fields, dense fields."""
    planes = [columns[""]]
    for field in schema.key_fields:
        keys = columns[field.name]
        if TABLES[field.table][1]:
            planes += [keys & 0xFFFFFFFF, keys >> 32]
        else:
            planes.append(keys)
    planes += [columns[field.name] for field in schema.dense_fields]
    return np.concatenate([plane.astype(np.int64) for plane in planes]).astype("<u4").view("<i4")


def columns_of(schema, words):
    """The opposite way, by `slot_ranges`."""
    columns = {"": words[:1]}
    for field, (first, last) in zip(schema.fields, slot_ranges(schema), strict=True):
        planes = words[first:last].astype(np.int64)
        if field.kind != "dense" and TABLES[field.table][1]:
            low, high = np.split(planes, 2)
            planes = (high << 32) + low % 2**32
        columns[field.name] = planes
    return columns


def written(folder, schema, rows_of, *, calls=(), seed=0, num_files=2, **options):
    """Writes random rows of tasks in calls that end at the places `calls`, and opens the folder.

    Args:
        rows_of: task -> its rows.

    Returns:
        The records, and task -> its columns.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    columns = {task: random_columns(schema, rows, rng) for task, rows in rows_of.items()}
    task = np.repeat(list(rows_of), list(rows_of.values())).astype(np.int64)
    empty = np.zeros([num_planes(schema), 0], np.int32)
    words = np.concatenate([empty, *(planes_of(schema, one) for one in columns.values())], axis=1)
    writer = EpisodeWriter(folder, "train", schema, num_files=num_files, **options)
    bounds = [0, *sorted(min(call, len(task)) for call in calls), len(task)]
    for first, last in itertools.pairwise(bounds):
        writer.write(task[first:last], words[:, first:last])
    split = writer.close()
    told = {name: options[name] for name in ("episode_rows", "compression") if name in options}
    records = Records(str(folder), schema, {"train": split}, **told)
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return Records.open(folder), columns


def content_of(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


# Round trips ---------------------------------------------------------------------------------


task_sizes = st.dictionaries(
    st.integers(0, 40) | st.integers(0, 2**63 - 1), st.integers(1, 26), max_size=7
).map(lambda rows_of: dict(sorted(rows_of.items())))


@quick
@given(
    schema=schemas(),
    rows_of=task_sizes,
    calls=st.lists(st.integers(0, 150), max_size=4),
    seed=st.integers(0, 99),
    num_files=st.integers(1, 3),
    episode_rows=st.integers(2, 12),
    compression=st.sampled_from(["none", "zlib"]),
)
def test_what_was_written_is_read_again(schema, rows_of, calls, seed, **options):
    with tempfile.TemporaryDirectory() as folder:
        records, columns = written(folder, schema, rows_of, calls=calls, seed=seed, **options)
        index = records.index("train")
        found = list(records.read("train"))
    assert [task for task, _ in found] == index["task"].tolist()
    rows = [words.shape[1] for _, words in found]
    assert rows == index["rows"].tolist()
    assert max(rows, default=0) <= options["episode_rows"]
    parts = collections.defaultdict(dict)
    for (task, words), part in zip(found, index["part"].tolist()):
        assert part not in parts[task]
        parts[task][part] = words
    assert parts.keys() == columns.keys()
    for task, expected in columns.items():
        of_task = parts[task]
        assert sorted(of_task) == list(range(len(of_task)))
        sizes = [of_task[part].shape[1] for part in range(len(of_task))]
        assert sizes == episode_sizes(rows_of[task], options["episode_rows"])
        whole = np.concatenate([of_task[part] for part in range(len(of_task))], axis=1)
        for name, values in columns_of(schema, whole).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    split = records.contents["train"]
    assert (split.tasks, split.episodes, split.rows) == (
        len(rows_of),
        len(found),
        sum(rows_of.values()),
    )


@quick
@given(
    rows_of=task_sizes,
    calls=st.lists(st.integers(0, 150), max_size=8),
    episode_rows=st.integers(2, 12),
    compression=st.sampled_from(["none", "zlib"]),
)
def test_the_calls_of_write_do_not_show(rows_of, calls, **options):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        written(folder / "one", SCHEMA_OF_ALL, rows_of, **options)
        written(folder / "many", SCHEMA_OF_ALL, rows_of, calls=calls, **options)
        assert content_of(folder / "one") == content_of(folder / "many")


SCHEMA_OF_ALL = Schema(
    tuple(Field(name, table=name) for name in TABLES),
    "y",
    "t",
    tables=tuple(table for table, _ in TABLES.values()),
)


def test_a_row_a_call(tmp_path):
    rows_of = {0: 1, 3: 25, 4: 7, 9: 10, 11: 21}
    written(tmp_path / "one", SCHEMA_OF_ALL, rows_of, episode_rows=10)
    written(tmp_path / "many", SCHEMA_OF_ALL, rows_of, calls=range(64), episode_rows=10)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "many")


def test_the_largest_key_of_two_words(tmp_path):
    schema = Schema((Field("a", table="raw"),), "y", "t", tables=(TABLES["raw"][0],))
    keys = np.array([[2**62 - 1, 2**32, 2**31, 2**31 - 1, 0, -1]])
    words = planes_of(schema, {"": np.zeros([1, 6], np.int32), "a": keys})
    writer = EpisodeWriter(tmp_path, "train", schema, num_files=1)
    writer.write(np.zeros(6), words)
    records = Records(str(tmp_path), schema, {"train": writer.close()})
    ((_, found),) = records.read("train")
    assert found[1].tolist() == [-1, 0, -(2**31), 2**31 - 1, 0, -1]
    assert found[2].tolist() == [2**30 - 1, 1, 0, 0, 0, -1]
    np.testing.assert_array_equal(columns_of(schema, found)["a"], keys)


# Episodes ------------------------------------------------------------------------------------


@quick
@given(st.integers(1, 5000), st.integers(2, 700))
def test_episode_sizes(num_rows, episode_rows):
    sizes = episode_sizes(num_rows, episode_rows)
    assert sum(sizes) == num_rows
    # As few as can be, in order, and none is a crumb.
    assert len(sizes) == math.ceil(num_rows / episode_rows)
    assert max(sizes) <= episode_rows
    assert sizes == sorted(sizes, reverse=True)
    if len(sizes) > 1:
        assert min(sizes) >= episode_rows // 2


def test_files_are_even_by_rows(tmp_path):
    rows_of = {task: 1 + 7 * task % 10 for task in range(100)}
    records, _ = written(tmp_path, SCHEMA_OF_ALL, rows_of, num_files=4, episode_rows=6)
    index = records.index("train")
    rows = np.bincount(index["file"], weights=index["rows"], minlength=4)
    assert rows.sum() == sum(rows_of.values())
    assert rows.max() - rows.min() <= 6


def test_compression_makes_files_smaller(tmp_path):
    sizes = {}
    for compression in ("none", "zlib"):
        folder = tmp_path / compression
        folder.mkdir()
        writer = EpisodeWriter(folder, "train", SCHEMA, num_files=1, compression=compression)
        writer.write(np.arange(900) // 300, np.ones([3, 900], np.int32))
        writer.close()
        sizes[compression] = (folder / "train-000-00000-of-00001.tfrecord").stat().st_size
    assert sizes["zlib"] < sizes["none"] / 10


# A folder that is appended to ----------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_append_leaves_the_old_and_numbers_on(tmp_path, compression):
    first = {0: 3, 2: 25, 5: 1}
    options = {"episode_rows": 10, "compression": compression}
    records, columns = written(tmp_path, SCHEMA_OF_ALL, first, **options)
    before, old_index = content_of(tmp_path), records.index("train").copy()
    old = records.contents["train"]
    first_part = np.zeros(6, np.int32)
    np.maximum.at(first_part, old_index["task"], old_index["part"] + 1)

    rng = np.random.default_rng(7)
    more = {2: 12, 3: 4, 5: 2, 8: 11, 9: 1}  # 2 and 5 have records already
    new_columns = {task: random_columns(SCHEMA_OF_ALL, rows, rng) for task, rows in more.items()}
    writer = EpisodeWriter(
        tmp_path,
        "train",
        SCHEMA_OF_ALL,
        num_files=3,
        generation=1,
        first_part=first_part,
        old=old,
        **options,
    )
    task = np.repeat(list(more), list(more.values()))
    words = np.concatenate([planes_of(SCHEMA_OF_ALL, c) for c in new_columns.values()], axis=1)
    for part in np.array_split(np.arange(len(task)), 4):
        writer.write(task[part], words[:, part])
    split = writer.close()

    assert split.files[:2] == old.files
    assert len(split.files) == 5
    assert (split.tasks, split.episodes, split.rows) == (6, 5 + 7, 29 + 30)
    now = content_of(tmp_path)
    assert {name: now[name] for name in before} == before
    new = Records(str(tmp_path), SCHEMA_OF_ALL, {"train": split}, generation=1, **options)
    (tmp_path / "schema.json").write_text(json.dumps(new.describe()))
    opened = Records.open(tmp_path)
    index = opened.index("train")
    np.testing.assert_array_equal(index[: len(old_index)], old_index)
    assert set(index["file"][len(old_index) :]) <= {2, 3, 4}
    parts_of = collections.defaultdict(list)
    for number, part in zip(index["task"].tolist(), index["part"].tolist()):
        parts_of[number].append(part)
    for number, parts in parts_of.items():
        assert sorted(parts) == list(range(len(parts))), number
    assert len(parts_of[2]) == 3 + 2
    found = {
        (number, part): words
        for (number, words), part in zip(opened.read("train"), index["part"].tolist())
    }
    for number in parts_of:
        whole = np.concatenate(
            [found[number, part] for part in range(len(parts_of[number]))], axis=1
        )
        expected = [
            part[number]["endless hash"] for part in (columns, new_columns) if number in part
        ]
        values = columns_of(SCHEMA_OF_ALL, whole)["endless hash"]
        np.testing.assert_array_equal(values, np.concatenate(expected, axis=1))


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_files": 0}, r"expected num_files of at least 1 .*, got 0 and 1024\."),
        ({"episode_rows": 1}, r"episode_rows of at least 2, got 1 and 1\."),
        ({"compression": "gzip"}, r"compression to be one of none, zlib, got 'gzip'"),
    ],
    ids=str,
)
def test_arguments_out_of_range(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        EpisodeWriter(tmp_path, "train", SCHEMA, **{"num_files": 1, **options})


@pytest.mark.parametrize(
    "calls", [[[1, 0]], [[0, 1, 0]], [[3], [2]], [[3, 4], [3]], [[-1, 0]], [[-1]]], ids=str
)
def test_tasks_out_of_order(calls, tmp_path):
    writer = EpisodeWriter(tmp_path, "train", SCHEMA, num_files=1)
    for tasks in calls[:-1]:
        writer.write(np.array(tasks), np.zeros([3, len(tasks)], np.int32))
    with pytest.raises(ValueError, match="expected tasks from 0 on and in ascending order"):
        writer.write(np.array(calls[-1]), np.zeros([3, len(calls[-1])], np.int32))
    writer.abandon()
    assert not list(tmp_path.glob("index*"))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3)])
def test_words_of_another_shape(shape, tmp_path):
    writer = EpisodeWriter(tmp_path, "train", SCHEMA, num_files=1)
    with pytest.raises(ValueError, match=r"expected words \[3, 4\], got"):
        writer.write(np.zeros(4), np.zeros(shape, np.int32))
    writer.abandon()
