"""What prepare should write, worked out with Python's lists and dicts; and made-up rows for it."""

from __future__ import annotations

import collections
import contextlib
import csv
import gzip
import math
import pathlib
from fractions import Fraction

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.meta_io.preparing.prepare import Split
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.schema import Field, Schema, Table

WHITE_SPACE = " \t\n\r\x0b\x0c"
NAMES = ("train", "test", "valid")

SCHEMA = Schema(
    (
        Field("item"),
        Field("price", "dense"),
        Field("history", "multi", table="item", column="seen", max_values=3, min_count=2),
        Field("tags", "multi", separator=", ", max_values=2),
        Field("city", min_count=2),
        Field("age", "dense"),
        Field("town", column="city"),
        Field("labels", "multi", table="town", column="tags", separator=", ", max_values=3),
        Field("wide", column="item", table="wide"),
        Field("number", "multi", column="numbers", max_values=2),
        Field("shop", column="shop"),
        Field("large", "multi", column="numbers", max_values=4),
    ),
    label="rating",
    task="user",
    time="at",
    tables=(
        Table("town", 50, keys="hash"),
        Table("wide", keys="hash"),
        Table("number", 100, keys="raw"),
        Table("shop", keys="raw"),
        Table("large", keys="raw"),
    ),
)
ITEMS = ("007", "7", "Zoë", "ß", "日本", 'say "hi"', "a,b", "tab\tbed", "it's", " 7 ", "", "😀")
TAGS = ("red", "green", "blue ", "red", "", "ünder")
CITIES = ("Köln", "Oslo", "Rome", "", "Lima")
NUMBERS = ("0", "7", "007", " 99", "", "31")
SHOPS = ("9223372036854775807", "4294967296", "0", "", " 12 ")


def made_rows(num_rows: int = 150, num_tasks: int = 14, seed: int = 7) -> list[dict[str, str]]:
    """Rows out of order, with equal times, repeated and empty values, and tasks of one row."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        task = number if number < num_tasks else int(rng.integers(num_tasks // 2))
        rows.append(
            {
                "user": f"user {task}" if task % 3 else f"Ünal {task}",
                "item": str(rng.choice(ITEMS)),
                "price": f"{rng.normal():.3f}",
                "seen": "|".join(rng.choice(ITEMS, size=rng.integers(6))),
                "tags": ", ".join(rng.choice(TAGS, size=rng.integers(5))),
                "city": str(rng.choice(CITIES)),
                "age": str(rng.integers(90)),
                "rating": str(rng.integers(1, 6)),
                "at": str(rng.integers(10)),
                "numbers": "|".join(rng.choice(NUMBERS, size=rng.integers(5))),
                "shop": str(rng.choice(SHOPS)),
                "ignored": "x",
            }
        )
    return rows


def write_rows(path: pathlib.Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        # Quoted, as a line with one empty cell alone would be none.
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


class Twin:
    """The state of a records folder: what each log adds to it."""

    def __init__(self, schema: Schema, split: Split) -> None:
        self.schema, self.split = schema, split
        self.generation = -1
        self.values: list[str] = []
        self.split_of: list[str] = []
        self.cuts: tuple[float, float] = (math.inf, math.inf)
        self.vocabularies: dict[str, list[str]] = {
            table.name: [] for table in schema.tables if table.keys == "vocabulary"
        }
        self.words: dict[str, dict[int, np.ndarray]] = {name: {} for name in split.names}
        self.left_out = 0
        self.cut_values: collections.Counter[str] = collections.Counter()

    def add(self, rows: list[dict[str, str]]) -> Twin:
        self.generation += 1
        self._add_tasks(rows)
        if self.generation == 0 and self.split.by != "task":
            self._cut(rows)
        placed: dict[tuple[str, int], list[dict[str, str]]] = collections.defaultdict(list)
        for row in rows:
            task = self.values.index(row[self.schema.task].strip(WHITE_SPACE))
            side = self._side(task, row)
            if side is None:
                self.left_out += 1
            else:
                placed[side, task].append(row)
        training = [row for (side, _), kept in placed.items() if side == "train" for row in kept]
        for table in self.vocabularies:
            self._grow(table, training)
        for (side, task), kept in sorted(placed.items()):
            if self.schema.time is not None:
                kept.sort(key=lambda row: float(row[self.schema.time]))
            words = self._words(kept)
            before = self.words[side].get(task, words[:, :0])
            self.words[side][task] = np.concatenate([before, words], axis=1)
        return self

    def _add_tasks(self, rows: list[dict[str, str]]) -> None:
        found = {row[self.schema.task].strip(WHITE_SPACE) for row in rows} - {*self.values}
        try:
            new = sorted(found, key=lambda value: (int(value), value))
        except ValueError:
            new = sorted(found, key=lambda value: value.encode())
        split_of = ["train"] * len(new)
        tests, valids = (
            Fraction(str(part)) for part in (self.split.test_fraction, self.split.valid_fraction)
        )
        if self.split.by != "time" and self.generation == 0:
            order = np.random.default_rng(self.split.seed).permutation(len(new))
            num_test = math.ceil(tests * len(new))
            num_valid = math.ceil(valids * len(new))
            for rank, task in enumerate(order[: num_test + num_valid]):
                split_of[task] = "test" if rank < num_test else "valid"
        elif self.split.by != "time":
            drawn = np.random.default_rng([self.split.seed, self.generation]).random(len(new))
            for task, number in enumerate(drawn):
                if number < self.split.test_fraction + self.split.valid_fraction:
                    split_of[task] = "test" if number < self.split.test_fraction else "valid"
        self.values += new
        self.split_of += split_of

    def _cut(self, rows: list[dict[str, str]]) -> None:
        times = sorted(float(row[self.schema.time]) for row in rows)
        num_test = math.ceil(Fraction(str(self.split.test_fraction)) * len(rows))
        num_valid = math.ceil(Fraction(str(self.split.valid_fraction)) * len(rows))
        test = times[-num_test] if num_test else math.inf
        self.cuts = (times[-num_test - num_valid] if num_valid else test, test)

    def _side(self, task: int, row: dict[str, str]) -> str | None:
        if self.split.by == "task":
            return self.split_of[task]
        time = float(row[self.schema.time])
        side = NAMES[1 if time >= self.cuts[1] else 2 if time >= self.cuts[0] else 0]
        return side if self.split.by == "time" or self.split_of[task] == side else None

    def _grow(self, table: str, rows: list[dict[str, str]]) -> None:
        fields = [field for field in self.schema.key_fields if field.table_name == table]
        counts = collections.Counter(
            part for row in rows for field in fields for part in parts_of(field, row)
        )
        least = min(field.min_count for field in fields)
        known = self.vocabularies[table]
        seen = [(-n, value.encode(), value) for value, n in counts.items() if n >= least]
        known += [value for _, _, value in sorted(seen) if value not in known]

    def _keys(self, field: Field, row: dict[str, str]) -> list[int]:
        table, parts = self.schema.table(field.table_name), parts_of(field, row)
        if table.keys == "hash":
            return hashed_keys(parts, table).tolist() if parts else []
        if table.keys == "raw":
            return [int(part) for part in parts]
        known = self.vocabularies[table.name]
        return [known.index(part) + 1 for part in parts if part in known]

    def _words(self, rows: list[dict[str, str]]) -> np.ndarray:
        of_rows = [one for one in (self.schema.label, self.schema.weight) if one is not None]
        planes = [
            np.array([row[name] for row in rows], np.float32).view(np.int32) for name in of_rows
        ]
        for field in self.schema.key_fields:
            slots = np.full([field.num_slots, len(rows)], -1, np.int64)
            for column, row in enumerate(rows):
                keys = self._keys(field, row)
                self.cut_values[field.name] += max(0, len(keys) - field.num_slots)
                keys = keys[: field.num_slots] or [0]
                slots[: len(keys), column] = keys
            planes.extend((slots & 0xFFFFFFFF).astype(np.uint32).view(np.int32))
            if self.schema.table(field.table_name).words_per_key == 2:
                planes.extend((slots >> 32).astype(np.int32))
        for field in self.schema.dense_fields:
            values = np.array([row[field.column_name] for row in rows], np.float32)
            planes.append(values.view(np.int32))
        return np.stack(planes)


def parts_of(field: Field, row: dict[str, str]) -> list[str]:
    text = row[field.column_name]
    parts = text.split(field.separator) if field.kind == "multi" else [text]
    parts = [part.strip(WHITE_SPACE) for part in parts]
    return [part for part in dict.fromkeys(parts) if part]


def tasks_of(records: Records, split: str) -> dict[int, np.ndarray]:
    """The words of each task, its episodes one after the other."""
    parts = [
        (task, int(entry["part"]), words)
        for entry, (task, words) in zip(records.index(split), records.read(split), strict=True)
    ]
    parts.sort(key=lambda part: part[:2])
    found: dict[int, np.ndarray] = {}
    for task, part, words in parts:
        assert 1 <= words.shape[1] <= records.episode_rows
        before = found.get(task, words[:, :0])
        assert (part > 0) == (before.shape[1] > 0)
        found[task] = np.concatenate([before, words], axis=1)
    return found


def task_table(records: Records) -> list[tuple[int, str, str | None, int]]:
    with contextlib.closing(duckdb.connect()) as database:
        return database.execute(
            f"SELECT task, value, split, rows FROM '{records.path}/{records.tasks}'"
        ).fetchall()


def assert_same(records: Records, expected: Twin) -> None:
    assert set(records.splits) == set(expected.words)
    for name, tasks in expected.words.items():
        found = tasks_of(records, name)
        assert found.keys() == tasks.keys()
        for task, words in tasks.items():
            np.testing.assert_array_equal(found[task], words, err_msg=f"{name} {task}")
        contents = records.contents[name]
        assert contents.tasks == len(tasks)
        assert contents.rows == sum(words.shape[1] for words in tasks.values())
    assert records.vocabularies.keys() == expected.vocabularies.keys()
    for table, values in expected.vocabularies.items():
        assert read_vocabulary(records.path, table).tolist() == values
        assert records.schema.table(table).num_rows == len(values) + 1
    for table in expected.schema.tables:
        if table.keys != "vocabulary":
            assert records.schema.table(table.name) == table
    rows_of = collections.Counter[int]()
    for tasks in expected.words.values():
        rows_of.update({task: words.shape[1] for task, words in tasks.items()})
    splits = [None] * len(expected.values) if expected.split.by == "time" else expected.split_of
    assert task_table(records) == [
        (task, value, splits[task], rows_of[task]) for task, value in enumerate(expected.values)
    ]
    details = records.details
    assert details["left_out_rows"] == expected.left_out
    assert details["cut_values"] == {n: count for n, count in expected.cut_values.items() if count}
    assert details["rows"] == rows_of.total()
    assert sum(details["rows_of_tasks"]) == details["tasks"] == len(+rows_of)
