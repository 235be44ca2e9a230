"""prepare: against a plain Python twin on all of its output, and every error that it can raise."""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import fractions
import gzip
import json
import math
import pathlib
import stat

import duckdb
import numpy as np
import pytest

from gmeta_tf.meta_io import encode as encode_module
from gmeta_tf.meta_io import prepare as prepare_module
from gmeta_tf.meta_io.encode import read_vocabulary
from gmeta_tf.meta_io.prepare import Split, prepare
from gmeta_tf.meta_io.records import Records
from gmeta_tf.meta_io.sources import Source, files_source
from gmeta_tf.schema import Field, Schema, Table

WHITE_SPACE = " \t\n\r\x0b\x0c"

SCHEMA = Schema(
    (
        Field("item"),
        Field("price", "dense"),
        Field("history", "multi", table="item", column="seen", max_values=3, min_count=2),
        Field("tags", "multi", separator=", ", max_values=2),
        Field("city", min_count=2),
        Field("age", "dense"),
    ),
    label="rating",
    task="user",
    time="at",
)
COLUMNS = ("user", "item", "price", "seen", "tags", "city", "age", "rating", "at", "ignored")
ITEMS = ("007", "7", "Zoë", "ß", "日本", 'say "hi"', "a,b", "tab\tbed", "it's", " 7 ", "", "😀")
TAGS = ("red", "green", "blue ", "red", "", "ünder")
CITIES = ("Köln", "Oslo", "Rome", "", "Lima")


def made_rows(num_rows: int = 150, num_tasks: int = 14) -> list[dict[str, str]]:
    """Rows out of order, with equal times, repeated and empty values, and tasks of one row."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(num_rows):
        task = number if number < num_tasks else int(rng.integers(num_tasks // 2))
        values = (
            f"user {task}" if task % 3 else f"Ünal {task}",
            rng.choice(ITEMS),
            f"{rng.normal():.3f}",
            "|".join(rng.choice(ITEMS, size=rng.integers(6))),
            ", ".join(rng.choice(TAGS, size=rng.integers(5))),
            rng.choice(CITIES),
            str(rng.integers(90)),
            str(rng.integers(1, 6)),
            str(rng.integers(10)),
            "x",
        )
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return rows


def write_rows(path: pathlib.Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path: pathlib.Path, query: str) -> str:
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return str(path)


@dataclasses.dataclass
class Twin:
    """What prepare should write, worked out with dicts."""

    splits: dict[str, dict[int, np.ndarray]]
    vocabularies: dict[str, list[str]]
    tasks: list[tuple[int, str, str, int]]


def parts_of(field: Field, row: dict[str, str]) -> list[str]:
    text = row[field.column_name]
    parts = text.split(field.separator) if field.kind == "multi" else [text]
    parts = [part.strip(WHITE_SPACE) for part in parts]
    return [part for part in dict.fromkeys(parts) if part]


def twin_vocabulary(table: str, schema: Schema, rows: list[dict[str, str]]) -> list[str]:
    fields = [field for field in schema.key_fields if field.table_name == table]
    counts = collections.Counter(
        part for row in rows for field in fields for part in parts_of(field, row)
    )
    least = min(field.min_count for field in fields)
    seen = [(-count, value) for value, count in counts.items() if count >= least]
    return [value for _, value in sorted(seen)]


def twin_words(
    rows: list[dict[str, str]], schema: Schema, vocabularies: dict[str, list[str]]
) -> np.ndarray:
    planes = [np.array([row[schema.label] for row in rows], np.float32).view(np.int32)]
    for field in schema.key_fields:
        vocabulary = vocabularies[field.table_name]
        slots = np.full([field.num_slots, len(rows)], -1, np.int32)
        for column, row in enumerate(rows):
            known = [part for part in parts_of(field, row) if part in vocabulary]
            keys = [vocabulary.index(part) + 1 for part in known][: field.num_slots] or [0]
            slots[: len(keys), column] = keys
        planes.extend(slots)
    for field in schema.dense_fields:
        values = np.array([row[field.column_name] for row in rows], np.float32)
        planes.append(values.view(np.int32))
    return np.stack(planes)


def twin(rows: list[dict[str, str]], schema: Schema, split: Split) -> Twin:
    values = sorted({row[schema.task].strip(WHITE_SPACE) for row in rows})
    order = np.random.default_rng(split.seed).permutation(len(values))
    num_test = math.ceil(fractions.Fraction(str(split.test_fraction)) * len(values))
    num_valid = math.ceil(fractions.Fraction(str(split.valid_fraction)) * len(values))
    split_of = ["train"] * len(values)
    for rank, task in enumerate(order):
        if rank < num_test + num_valid:
            split_of[task] = "test" if rank < num_test else "valid"
    rows_of: dict[int, list[dict[str, str]]] = collections.defaultdict(list)
    for row in rows:
        rows_of[values.index(row[schema.task].strip(WHITE_SPACE))].append(row)
    if schema.time is not None:
        for of_task in rows_of.values():
            of_task.sort(key=lambda row: float(row[schema.time]))
    training = [row for task, kept in rows_of.items() if split_of[task] == "train" for row in kept]
    vocabularies = {
        table.name: twin_vocabulary(table.name, schema, training) for table in schema.tables
    }
    splits: dict[str, dict[int, np.ndarray]] = {name: {} for name in split.names}
    for task, of_task in sorted(rows_of.items()):
        splits[split_of[task]][task] = twin_words(of_task, schema, vocabularies)
    tasks = [(task, value, split_of[task], len(rows_of[task])) for task, value in enumerate(values)]
    return Twin(splits, vocabularies, tasks)


def assert_same(records: Records, expected: Twin) -> None:
    assert set(records.splits) == set(expected.splits)
    for name, episodes in expected.splits.items():
        found = dict(records.read(name))
        assert found.keys() == episodes.keys()
        for task, words in episodes.items():
            np.testing.assert_array_equal(found[task], words, err_msg=f"{name} {task}")
    for table, values in expected.vocabularies.items():
        assert read_vocabulary(records.path, table).tolist() == values
        assert records.schema.table(table).num_rows == len(values) + 1
    with contextlib.closing(duckdb.connect()) as database:
        tasks = database.execute(
            f"SELECT task, value, split, rows FROM '{records.path}/tasks.parquet'"
        ).fetchall()
    assert tasks == expected.tasks


SMALL = Schema((Field("item"), Field("price", "dense")), "rating", "user")


def small_rows(num_tasks: int = 5) -> list[dict[str, str]]:
    return [
        {"user": str(task), "item": f"i{task}", "price": "1.5", "rating": str(row), "at": str(-row)}
        for row in range(2)
        for task in range(num_tasks)
    ]


def small_source(folder: pathlib.Path, **changed: str) -> Source:
    """Ten rows; `changed` replaces values of the third one."""
    rows = small_rows()
    rows[2].update(changed)
    return files_source(write_rows(folder / "small.csv", rows))


def labels_of(records: Records, split: str = "train") -> dict[int, list[float]]:
    return {task: words[0].view(np.float32).tolist() for task, words in records.read(split)}


class TestAgainstTheTwin:
    split = Split(test_fraction=0.25, valid_fraction=0.15, seed=3)

    @pytest.mark.parametrize("layout", ["csv", "two csv.gz", "tsv", "tsv.gz", "parquet", "lists"])
    def test_every_word_is_the_same(self, layout, tmp_path, monkeypatch):
        # Chunks far smaller than the data, so that their borders are crossed.
        monkeypatch.setattr(encode_module, "_CHUNK_ROWS", 20)
        rows = made_rows()
        # The files' columns stand in different orders, and the later rows in the second file.
        backwards = [dict(reversed(list(row.items()))) for row in rows]
        if layout == "two csv.gz":
            write_rows(tmp_path / "part-0.csv.gz", rows[:60])
            write_rows(tmp_path / "part-1.csv.gz", backwards[60:])
            source = files_source(str(tmp_path / "part-*.csv.gz"))
        elif layout.startswith("tsv"):
            source = files_source(write_rows(tmp_path / f"rows.{layout}", rows, "\t"))
        else:
            path = write_rows(tmp_path / "rows.csv", rows)
            replaced = {
                "parquet": 'CAST("at" AS BIGINT) AS "at", CAST(rating AS SMALLINT) AS rating',
                "lists": "string_split(seen, '|') AS seen, CAST(price AS DOUBLE) AS price",
            }
            if layout in replaced:
                read = f"read_csv('{path}', all_varchar=true, header=true)"
                query = f"SELECT * REPLACE ({replaced[layout]}) FROM {read}"
                path = write_parquet(tmp_path / "rows.parquet", query)
            source = files_source(path)
        records = prepare(source, SCHEMA, tmp_path / "out", split=self.split, num_files=3)
        assert_same(records, twin(rows, SCHEMA, self.split))

    def test_the_data_is_worth_comparing(self):
        expected = twin(made_rows(), SCHEMA, self.split)
        assert all(expected.splits[name] for name in ("train", "test", "valid"))
        held_out = np.concatenate([*expected.splits["test"].values()], axis=1)
        item, history, city = held_out[1], held_out[2:5], held_out[7]
        assert (item == 0).any()
        assert (city == 0).any()
        assert (history[0] == 0).any()
        assert (history[2] > 0).any()
        assert {"007", "7", "日本", "😀"} <= set(expected.vocabularies["item"])

    def test_without_a_time_the_order_is_the_files(self, tmp_path):
        schema = dataclasses.replace(SCHEMA, time=None)
        rows = made_rows(60)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        assert_same(prepare(source, schema, tmp_path / "out"), twin(rows, schema, Split()))

    def test_a_value_of_held_out_tasks_alone_is_unknown(self, tmp_path):
        rows = [
            {"user": str(task), "item": f"only {task}", "price": "0", "rating": "1"}
            for task in range(4)
        ]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = prepare(source, SMALL, tmp_path / "out", split=Split(0.25))
        assert [words[1].tolist() for _, words in records.read("test")] == [[0]]
        assert sorted(words[1, 0] for _, words in records.read("train")) == [1, 2, 3]
        assert len(read_vocabulary(records.path, "item")) == 3


class TestOrder:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (["10", "9", "-2", "007", "7"], ["-2", "007", "7", "9", "10"]),
            (["10", "9", "a"], ["10", "9", "a"]),
            (["é", "z", "Z", "e"], ["Z", "e", "z", "é"]),
            (["9" * 60, "10"], ["10", "9" * 60]),
        ],
    )
    def test_of_tasks(self, values, expected, tmp_path):
        rows = [{"user": v, "item": "x", "price": "1", "rating": "1"} for v in values]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        prepare(source, SMALL, tmp_path / "out", split=Split(0.0))
        with contextlib.closing(duckdb.connect()) as database:
            query = f"SELECT value FROM '{tmp_path}/out/tasks.parquet' ORDER BY task"
            assert [value for (value,) in database.execute(query).fetchall()] == expected

    @pytest.mark.parametrize(
        "times",
        [
            ["-1", "9", "10"],
            ["-1.5", "1e1", "10.5"],
            ["1700000000000000001", "1700000000000000002", "1700000000000000003"],
            ["2024-01-10", "2024-01-10 00:00:01", "2024-01-11"],
            # Without a zone it is UTC.
            ["2024-01-10T00:30:00Z", "2024-01-10 01:00:00", "2024-01-10T01:30:00Z"],
            # 01:00, 02:00 and 03:00 of UTC
            ["2024-01-10T05:00:00+04:00", "2024-01-10T02:00:00+00:00", "2024-01-09T22:00:00-05:00"],
        ],
    )
    def test_of_times(self, times, tmp_path):
        order = (2, 0, 1)
        rows = [
            {"user": user, "item": "x", "price": "1", "rating": str(place), "at": times[place]}
            for user in ("a", "b")
            for place in order
        ]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        schema = dataclasses.replace(SMALL, time="at")
        records = prepare(source, schema, tmp_path / "out", split=Split(0.0))
        assert labels_of(records) == {0: [0, 1, 2], 1: [0, 1, 2]}

    def test_of_a_query_that_numbers_its_rows(self, tmp_path):
        query = (
            "SELECT 'u' AS user, 'i' AS item, 1 AS price, r AS rating, 10 - r AS number "
            "FROM range(4) t(r)"
        )
        records = prepare(
            Source("made", query, row="number"), SMALL, tmp_path / "out", split=Split(0.0)
        )
        assert labels_of(records) == {0: [3, 2, 1, 0]}


class TestVocabulary:
    def test_the_smallest_min_count_of_a_table_counts(self, tmp_path):
        schema = Schema(
            (
                Field("item", table="shared", min_count=3),
                Field("seen", "multi", table="shared", min_count=2),
                Field("alone", min_count=3),
            ),
            "rating",
            "user",
        )
        rows = [
            {
                "user": "a",
                "item": "once",
                "seen": "twice|twice|thrice",
                "alone": "x",
                "rating": "1",
            },
            {"user": "a", "item": "twice", "seen": "thrice", "alone": "x", "rating": "1"},
            {"user": "b", "item": "thrice", "seen": "", "alone": "y", "rating": "1"},
        ]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = prepare(source, schema, tmp_path / "out", split=Split(0.0))
        assert read_vocabulary(records.path, "shared").tolist() == ["thrice", "twice"]
        empty = read_vocabulary(str(records.path), "alone")
        assert (empty.shape, empty.dtype) == ((0,), object)
        assert records.schema.tables == (Table("shared", 3), Table("alone", 1))
        assert dict(records.read("train"))[0][1:].tolist()[:3] == [[0, 2], [2, 1], [1, -1]]

    def test_names_may_differ_by_case_alone(self, tmp_path):
        schema = Schema((Field("Item", column="price"), Field("item")), "rating", "user")
        records = prepare(small_source(tmp_path), schema, tmp_path / "out", split=Split(0.0))
        assert read_vocabulary(records.path, "Item").tolist() == ["1.5"]
        assert read_vocabulary(records.path, "item").tolist() == ["i0", "i1", "i2", "i3", "i4"]

    def test_of_an_unknown_table(self, tmp_path):
        prepare(small_source(tmp_path), SMALL, tmp_path / "out")
        with pytest.raises(FileNotFoundError, match=r"no vocabulary of the table 'x'.*found item"):
            read_vocabulary(tmp_path / "out", "x")
        with pytest.raises(FileNotFoundError, match="found none"):
            read_vocabulary(tmp_path / "nowhere", "item")

    def test_lists_may_hold_and_be_null(self, tmp_path):
        schema = Schema((Field("tags", "multi", max_values=2),), "rating", "user")
        lists = "(['b', NULL, 'a']), (NULL), ([]), ([NULL]), ([' a ', 'a'])"
        query = f"SELECT 'u' AS user, 1 AS rating, tags FROM (VALUES {lists}) t(tags)"
        path = write_parquet(tmp_path / "rows.parquet", query)
        records = prepare(files_source(path), schema, tmp_path / "out", split=Split(0.0))
        (_, words), *_ = records.read("train")
        assert words[1:].tolist() == [[2, 0, 0, 0, 1], [1, -1, -1, -1, -1]]


class TestBadRows:
    schema = dataclasses.replace(SMALL, time="at")

    @pytest.mark.parametrize(
        ("changed", "reason", "message"),
        [
            ({"rating": "good"}, "label", r"a label \(column 'rating'\).*row 3 .*'good'"),
            ({"rating": ""}, "label", "a label .* 1 row.s. have none; .*with None"),
            ({"rating": "nan"}, "label", "finite number.*'nan'"),
            ({"rating": "-inf"}, "label", "finite number.*'-inf'"),
            ({"rating": "1e300"}, "label", "finite number.*'1e300'"),
            ({"user": " "}, "task", r"expected a task \(column 'user'\).*row 3"),
            ({"price": "free"}, "field price", r"a 'price' \(column 'price'\).*'free'"),
            ({"price": ""}, "field price", "a 'price' .*None"),
            ({"at": "noon"}, "time", r"a time \(column 'at'\) to sort by.*'noon'"),
            ({"at": "", "price": "free"}, "time", "a time .*None"),
        ],
    )
    def test_raise_or_are_dropped_and_counted(self, changed, reason, message, tmp_path):
        source = small_source(tmp_path, **changed)
        with pytest.raises(ValueError, match=message) as raised:
            prepare(source, self.schema, tmp_path / "out")
        assert "on_bad_row='drop'" in str(raised.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["small.csv"]
        records = prepare(
            source, self.schema, tmp_path / "out", on_bad_row="drop", split=Split(0.0)
        )
        assert records.details["dropped_rows"] == {reason: 1}
        assert records.details["rows"] == 9
        assert labels_of(records) == {0: [1, 0], 1: [1, 0], 2: [1], 3: [1, 0], 4: [1, 0]}

    def test_of_every_reason_are_counted_apart(self, tmp_path):
        rows = small_rows()
        for row, changed in enumerate([{"rating": "x"}, {"rating": "x"}, {"user": ""}]):
            rows[row].update(changed)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        with pytest.raises(ValueError, match="expected a task"):
            prepare(source, SMALL, tmp_path / "out")
        records = prepare(source, SMALL, tmp_path / "out", on_bad_row="drop")
        assert records.details["dropped_rows"] == {"task": 1, "label": 2}

    def test_and_no_other(self, tmp_path):
        rows = [dict(row, rating="x") for row in small_rows()]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        with pytest.raises(ValueError, match="no row is left, all 10 are bad: label 10"):
            prepare(source, SMALL, tmp_path / "out", on_bad_row="drop")


class TestSources:
    def test_without_a_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.csv"):
            files_source(tmp_path / "nothing.csv")
        with pytest.raises(FileNotFoundError, match=r"no file .*\*\.csv: expected"):
            files_source([str(tmp_path / "*.csv")])
        with pytest.raises(ValueError, match="at least one path, got none"):
            files_source([])

    def test_of_other_or_mixed_formats(self, tmp_path):
        paths = [tmp_path / name for name in ("a.csv", "b.parquet", "c.txt")]
        for path in paths:
            path.write_text("user\n1\n")
        with pytest.raises(ValueError, match=r"c\.txt: expected a name that ends in \.csv"):
            files_source(paths[2])
        with pytest.raises(ValueError, match=r"files of one format.*csv, parquet"):
            files_source(paths[:2])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"f\.csv has no rows"),
            (b"user,item,price,rating\n", r"f\.csv has no rows"),
            (
                b"user,item,rating\n1,2,3\n",
                "no column 'price', which the field 'price' needs; its ",
            ),
            (b"item,price,rating\n1,2,3\n", "'user', which the task needs; .*are item, price, rat"),
            (b"user,item,price\n1,2,3\n", "no column 'rating', which the label needs"),
            (b"1,2,3,4\n1,2,3,4\n", "its columns are 1, 2, 3, 4. .*give the file its header"),
            (b"user,item,price,rating\n1,2\n", r"f\.csv cannot be read: .*sniffing"),
            ("user,item,price,rating\né,2,3,4\n".encode("latin-1"), "cannot be read.*not utf-8"),
        ],
    )
    def test_that_cannot_be_used(self, content, message, tmp_path):
        (tmp_path / "f.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            prepare(files_source(tmp_path / "f.csv"), SMALL, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]

    def test_without_the_time(self, tmp_path):
        schema = dataclasses.replace(SMALL, time="when")
        with pytest.raises(ValueError, match="no column 'when', which the time needs"):
            prepare(small_source(tmp_path), schema, tmp_path / "out")

    def test_whose_later_file_lacks_a_column(self, tmp_path):
        write_rows(tmp_path / "0.csv", small_rows())
        (tmp_path / "1.csv").write_text("user,item,rating\n1,2,3\n")
        with pytest.raises(ValueError, match=r'cannot be read: .*"price" is missing'):
            prepare(files_source(tmp_path / "*.csv"), SMALL, tmp_path / "out")

    def test_that_only_look_like_parquet(self, tmp_path):
        (tmp_path / "f.parquet").write_text("no parquet at all, but long enough to be one")
        with pytest.raises(ValueError, match=r"f\.parquet cannot be read"):
            prepare(files_source(tmp_path / "f.parquet"), SMALL, tmp_path / "out")

    def test_with_odd_names_and_many_files(self, tmp_path):
        folder = tmp_path / "it's [1] * folder"
        folder.mkdir()
        paths = [write_rows(folder / f"{n}.csv", small_rows()) for n in range(5)]
        source = files_source(paths)
        assert source.description.endswith("2.csv and 2 more")
        records = prepare(source, SMALL, folder / "out [2]")
        assert records.details["rows"] == 50
        assert read_vocabulary(records.path, "item").size == 4


class TestSplit:
    @pytest.mark.parametrize("seed", [0, 5])
    def test_shares_are_rounded_up_as_decimals(self, seed):
        splits = Split(0.07, 0.101, seed).assign(100)
        assert np.bincount(splits).tolist() == [82, 7, 11]
        np.testing.assert_array_equal(splits, Split(0.07, 0.101, seed).assign(100))
        assert (splits != Split(0.07, 0.101, seed + 1).assign(100)).any()

    @pytest.mark.parametrize("name", ["test_fraction", "valid_fraction"])
    @pytest.mark.parametrize("fraction", [-0.1, 1.0, math.nan])
    def test_fractions_outside(self, name, fraction):
        with pytest.raises(ValueError, match=f"expected {name} to be at least 0 and below 1"):
            Split(**{name: fraction})

    def test_no_training_task(self, tmp_path):
        with pytest.raises(ValueError, match=r"of 5 task\(s\), 4 are for test and 1 for valid"):
            prepare(small_source(tmp_path), SMALL, tmp_path / "out", split=Split(0.8, 0.2))

    def test_valid_is_written_when_it_was_asked_for(self, tmp_path):
        source = small_source(tmp_path)
        with_valid = prepare(source, SMALL, tmp_path / "a", split=Split(0.2, 0.2))
        without = prepare(source, SMALL, tmp_path / "b", split=Split(0.0))
        assert (with_valid.splits, without.splits) == (
            ("train", "test", "valid"),
            ("train", "test"),
        )
        assert len(without.index("test")) == 0


class TestOutput:
    def test_details_say_what_was_done(self, tmp_path):
        records = prepare(small_source(tmp_path), SMALL, tmp_path / "deep" / "out", num_files=2)
        described = json.loads((records.path / "schema.json").read_text(encoding="utf-8"))
        assert described == records.describe()
        assert described["details"] == {
            "source": str(tmp_path / "small.csv"),
            "rows": 10,
            "tasks": 5,
            "splits": {"train": {"tasks": 4, "rows": 8}, "test": {"tasks": 1, "rows": 2}},
            "dropped_rows": {},
            "split": {"test_fraction": 0.2, "valid_fraction": 0.0, "seed": 0},
        }
        assert records.num_files == 2
        assert records.path == tmp_path / "deep" / "out"

    def test_is_the_same_twice_and_leaves_nothing_beside(self, tmp_path):
        source = small_source(tmp_path)
        first = prepare(source, SMALL, tmp_path / "first", memory_limit="200MB").path
        second = prepare(source, SMALL, tmp_path / "second").path
        names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
        assert len(names) == 2 * 16 + 5
        for name in names:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == ["first", "second", "small.csv"]

    def test_can_be_read_by_whom_the_umask_lets(self, tmp_path):
        (tmp_path / "plain").mkdir()
        path = prepare(small_source(tmp_path), SMALL, tmp_path / "out").path
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

    def test_that_exists(self, tmp_path):
        source, output = small_source(tmp_path), tmp_path / "out"
        prepare(source, SMALL, output, num_files=2)
        with pytest.raises(ValueError, match=r"out exists\. Pass overwrite=True"):
            prepare(source, SMALL, output)
        assert prepare(source, SMALL, output, num_files=3, overwrite=True).num_files == 3
        assert not list(output.glob("*-of-00002*"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.csv"]

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_that_is_something_else_is_not_overwritten(self, kind, tmp_path):
        output = tmp_path / "precious"
        if kind == "folder":
            output.mkdir()
            (output / "thesis.tex").write_text("x")
        else:
            output.write_text("x")
        with pytest.raises(ValueError, match=r"precious is no records folder .*not overwritten"):
            prepare(small_source(tmp_path), SMALL, output, overwrite=True)
        assert (output / "thesis.tex" if kind == "folder" else output).read_text() == "x"

    @pytest.mark.parametrize("step", ["encode_rows", "save_tables", "_replace"])
    def test_of_before_survives_a_failure(self, step, tmp_path, monkeypatch):
        source, output = small_source(tmp_path), tmp_path / "out"
        prepare(source, SMALL, output)
        before = (output / "schema.json").read_bytes()

        def fail(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(prepare_module, step, fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, SMALL, output, overwrite=True, split=Split(0.4))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.csv"]
        assert Records.open(output).schema.table("item").num_rows == 5
        assert (output / "schema.json").read_bytes() == before

    def test_of_before_comes_back_when_the_renaming_fails(self, tmp_path):
        output = tmp_path / "out"
        output.mkdir()
        with pytest.raises(FileNotFoundError):
            prepare_module._replace(tmp_path / "not built", output, tmp_path / "aside")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_files": 0}, "num_files of at least 1, got 0"),
        ({"on_bad_row": "ignore"}, "on_bad_row of 'error' or 'drop', got 'ignore'"),
        ({"memory_limit": "much"}, "memory_limit to be a size such as '8GB', got 'much'"),
        (
            {"schema": Schema((Field("item", table="../x"),), "rating", "user")},
            "'../x' names a fil",
        ),
    ],
)
def test_arguments_out_of_range(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare(
            **{"source": small_source(tmp_path), "schema": SMALL, "output": tmp_path / "out"}
            | arguments
        )
    assert [path.name for path in tmp_path.iterdir()] == ["small.csv"]
