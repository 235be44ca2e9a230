"""prepare: against a plain Python twin on all of its output, and every error that it can raise."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import pathlib
import re
import stat
import sys

import duckdb
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from prepare_twin import SCHEMA, Twin, assert_same, made_rows, task_table, tasks_of, write_rows

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.digest import digest_of
from gmeta_tf.meta_io.preparing import duckdb_engine, vocabularies, work_folder
from gmeta_tf.meta_io.preparing import encode as encode_module
from gmeta_tf.meta_io.preparing import prepare as prepare_module
from gmeta_tf.meta_io.preparing import stages as progress
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.summary import describe
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sealed_json import fault_of_seal
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.stores import tensorflow_store
from gmeta_tf.schema import Field, Schema, Table


def write_parquet(path: pathlib.Path, query: str) -> str:
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return str(path)


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
    return {
        task: words[0].view(np.float32).tolist() for task, words in tasks_of(records, split).items()
    }


class TestAgainstTheTwin:
    split = Split(test_fraction=0.25, valid_fraction=0.15, seed=3)

    @pytest.mark.parametrize("layout", ["csv", "two csv.gz", "tsv", "tsv.gz", "parquet", "lists"])
    def test_every_word_is_the_same(self, layout, tmp_path, monkeypatch):
        # Chunks far smaller than the data, so that their borders are crossed.
        monkeypatch.setattr(encode_module, "_CHUNK_WORDS", 1)
        monkeypatch.setattr(encode_module, "_LEAST_ROWS", 20)
        monkeypatch.setattr(vocabularies, "_CHUNK_VALUES", 5)
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
        records = prepare(
            source, SCHEMA, tmp_path / "out", split=self.split, num_files=3, episode_rows=5
        )
        assert_same(records, Twin(SCHEMA, self.split).add(rows))

    def test_the_data_is_worth_comparing(self):
        expected = Twin(SCHEMA, self.split).add(made_rows())
        assert all(expected.words[name] for name in ("train", "test", "valid"))
        held_out = np.concatenate([*expected.words["test"].values()], axis=1)
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
        assert_same(prepare(source, schema, tmp_path / "out"), Twin(schema, Split()).add(rows))

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
        records = prepare(source, SMALL, tmp_path / "out", split=Split(0.0))
        assert [value for _, value, _, _ in task_table(records)] == expected

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
            source,
            self.schema,
            tmp_path / "out",
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.0),
        )
        assert records.details["dropped_rows"] == {reason: 1}
        assert records.details["rows"] == 9
        assert labels_of(records) == {0: [1, 0], 1: [1, 0], 2: [1], 3: [1, 0], 4: [1, 0]}

    @pytest.mark.parametrize("bad", ["-1", "100", "1.0", "x", "99999999999999999999", "+1"])
    @pytest.mark.parametrize("kind", ["categorical", "multi"])
    def test_of_raw_keys(self, bad, kind, tmp_path):
        schema = dataclasses.replace(
            SMALL,
            fields=(Field("item", kind),),
            tables=(Table("item", 100, keys="raw"),),
        )
        rows = [row | {"item": "99| 0 |7" if kind == "multi" else " 99 "} for row in small_rows()]
        rows[3]["item"] = ""
        rows[2]["item"] = f"7|{bad}" if kind == "multi" else bad
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        match = r"a 'item' \(column 'item'\) of integers from 0 to 99, .*; the first is row 3 "
        with pytest.raises(ValueError, match=match):
            prepare(source, schema, tmp_path / "out")
        records = prepare(
            source, schema, tmp_path / "out", on_bad_row="drop", max_bad_share=1.0, split=Split(0.0)
        )
        assert records.details["dropped_rows"] == {"field item": 1}
        assert {tuple(words[1]) for words in tasks_of(records, "train").values()} == {
            (99, 99),
            (99,),
            (0, 99),
        }

    @pytest.mark.parametrize("kind", ["TINYINT", "BIGINT", "UBIGINT"])
    def test_of_raw_keys_that_are_integers(self, kind, tmp_path):
        values = "(7), (NULL), (100)" + ("" if kind.startswith("U") else ", (-1)")
        path = write_parquet(
            tmp_path / "rows.parquet",
            f"SELECT 1 AS user, 1 AS rating, CAST(item AS {kind}) AS item "
            f"FROM (VALUES {values}) t(item)",
        )
        tables = (Table("item", 100, keys="raw"),)
        schema = Schema((Field("item"),), "rating", "user", tables=tables)
        records = prepare(
            files_source(path),
            schema,
            tmp_path / "out",
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.0),
        )
        assert tasks_of(records, "train")[0][1].tolist() == [7, 0]
        assert records.details["dropped_rows"] == {"field item": 1 + (not kind.startswith("U"))}

    def test_of_every_reason_are_counted_apart(self, tmp_path):
        rows = small_rows()
        for row, changed in enumerate([{"rating": "x"}, {"rating": "x"}, {"user": ""}]):
            rows[row].update(changed)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        with pytest.raises(ValueError, match="expected a task"):
            prepare(source, SMALL, tmp_path / "out")
        records = prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=1.0)
        assert records.details["dropped_rows"] == {"task": 1, "label": 2}

    def test_of_more_than_the_largest_share_raise(self, tmp_path):
        rows = small_rows()
        for row, changed in enumerate([{"rating": "x"}, {"user": ""}]):
            rows[row].update(changed)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        match = r"at most 0.19 of the rows to be bad, but 2 of 10 \(20.0%\) are: task 1, label 1"
        with pytest.raises(ValueError, match=match):
            prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=0.19)
        assert not (tmp_path / "out").exists()
        records = prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=0.2)
        assert records.details["rows"] == 8

    @pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
    def test_a_share_that_is_none(self, share, tmp_path):
        source = small_source(tmp_path)
        with pytest.raises(ValueError, match="max_bad_share above 0 and at most 1, got"):
            prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=share)

    def test_and_no_other(self, tmp_path):
        rows = [dict(row, rating="x") for row in small_rows()]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        with pytest.raises(ValueError, match="no row is left, all 10 are bad: label 10"):
            prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=1.0)


class TestWeights:
    schema = dataclasses.replace(SMALL, weight="importance")

    @pytest.mark.parametrize("by", ["task", "both"])
    def test_every_word_is_the_same(self, by, tmp_path):
        rows = [row | {"importance": f" {n % 7}.25 "} for n, row in enumerate(made_rows())]
        schema = dataclasses.replace(SCHEMA, weight="importance")
        split = Split(test_fraction=0.25, valid_fraction=0.15, seed=3, by=by)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = prepare(source, schema, tmp_path / "out", split=split, episode_rows=5)
        assert_same(records, Twin(schema, split).add(rows))
        assert Records.open(records.path).schema.weight == "importance"

    @pytest.mark.parametrize("bad", ["-0.5", "", "heavy", "inf", "nan", "1e39", "1_0"])
    def test_that_are_none_raise_or_are_counted(self, bad, tmp_path):
        rows = [row | {"importance": "2"} for row in small_rows()]
        rows[3]["importance"], rows[4]["importance"] = "0", "1e-3"
        rows[2]["importance"] = bad
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        told = (
            r"a weight \(column 'importance'\) that is a finite number of at least 0 in every row, "
            rf"but 1 row\(s\) have none; the first is row 3 .* {re.escape(repr(bad or None))}"
        )
        with pytest.raises(ValueError, match=told):
            prepare(source, self.schema, tmp_path / "out")
        records = prepare(
            source,
            self.schema,
            tmp_path / "out",
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.0),
        )
        assert records.details["dropped_rows"] == {"weight": 1}
        weights = [words[1].view(np.float32) for words in tasks_of(records, "train").values()]
        expected = [[2, 2], [2, 2], [2], [0, 2], [1e-3, 2]]
        assert [one.tolist() for one in weights] == [np.float32(one).tolist() for one in expected]

    def test_of_a_column_of_numbers(self, tmp_path):
        path = write_parquet(
            tmp_path / "rows.parquet",
            "SELECT 1 AS user, 1 AS rating, 'a' AS item, 0.5 AS price, importance FROM "
            "(VALUES (1.5::DOUBLE), ('nan'::DOUBLE), (-1), (-0.0), (NULL), (7)) t(importance)",
        )
        records = prepare(
            files_source(path),
            self.schema,
            tmp_path / "out",
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.0),
        )
        assert tasks_of(records, "train")[0][1].view(np.float32).tolist() == [1.5, 0, 7]
        assert records.details["dropped_rows"] == {"weight": 3}

    def test_may_be_what_another_entry_reads(self, tmp_path):
        schema = dataclasses.replace(SMALL, weight="price", label="price")
        records = prepare(small_source(tmp_path), schema, tmp_path / "out", split=Split(0.0))
        for words in tasks_of(records, "train").values():
            np.testing.assert_array_equal(words[[0, 1, 3]].view(np.float32), 1.5)

    def test_without_the_column(self, tmp_path):
        match = r"no column 'importance', which the weight needs; its columns are user, item"
        with pytest.raises(ValueError, match=match):
            prepare(small_source(tmp_path), self.schema, tmp_path / "out")

    def test_of_other_records_are_not_appended(self, tmp_path):
        source = small_source(tmp_path)
        prepare(source, SMALL, tmp_path / "out")
        rows = [row | {"importance": "2"} for row in small_rows()]
        more = files_source(write_rows(tmp_path / "more.csv", rows))
        with pytest.raises(ValueError, match=r"expected the schema to be .* got .*importance"):
            prepare(more, self.schema, tmp_path / "out", append=True)


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
            (b"user,item,price,rating\n1,2\n", r"f\.csv, line 2: expected 4 cells, got 2"),
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
        records = prepare(source, SMALL, folder / "out [2]", allow_same_input=True)
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

    def test_by_something_else(self):
        with pytest.raises(ValueError, match="by to be one of task, time, both, got 'user'"):
            Split(by="user")

    @pytest.mark.parametrize("by", ["time", "both"])
    @pytest.mark.parametrize("fractions", [(0.2, 0.0), (0.15, 0.3), (0.0, 0.25)])
    def test_by_time(self, by, fractions, tmp_path):
        split = Split(*fractions, seed=1, by=by)
        rows = made_rows()
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = prepare(source, SCHEMA, tmp_path / "out", split=split)
        expected = Twin(SCHEMA, split).add(rows)
        assert expected.words["train"]
        assert expected.words["test" if fractions[0] else "valid"]
        assert (expected.left_out > 0) == (by == "both")
        assert_same(records, expected)
        assert records.details["time"]["kind"] == "integer"

    @pytest.mark.parametrize(
        ("kind", "sql"),
        [
            ("microseconds", "TIMESTAMP '2024-01-01' + INTERVAL (r) MINUTE"),
            ("microseconds", "DATE '2024-01-01' + CAST(r AS INTEGER)"),
            ("microseconds", "CAST(TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_days(r) AS VARCHAR)"),
            ("nanoseconds", "make_timestamp_ns(r)"),
            ("number", "r / 2.0"),
            ("number", "CAST(r AS VARCHAR) || '.5'"),
            ("integer", "CAST(r AS UBIGINT)"),
        ],
    )
    def test_by_times_of_every_kind(self, kind, sql, tmp_path):
        query = f"SELECT 'u' AS user, 'i' AS item, 1 AS price, r AS rating, {sql} AS at "
        path = write_parquet(tmp_path / "rows.parquet", f"{query} FROM range(9, -1, -1) t(r)")
        schema = dataclasses.replace(SMALL, time="at")
        records = prepare(
            files_source(path), schema, tmp_path / "out", split=Split(0.2, 0.1, by="time")
        )
        assert records.details["time"]["kind"] == kind
        found = {name: labels_of(records, name) for name in records.splits}
        assert found == {"train": {0: [*range(7)]}, "valid": {0: [7]}, "test": {0: [8, 9]}}

    def test_of_one_time_stays_together(self, tmp_path):
        rows = [
            {"user": "u", "item": "x", "price": "1", "rating": str(n), "at": at}
            for n, at in enumerate("0112")
        ]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        schema = dataclasses.replace(SMALL, time="at")
        records = prepare(source, schema, tmp_path / "out", split=Split(0.5, by="time"))
        assert labels_of(records, "train") == {0: [0]}
        assert labels_of(records, "test") == {0: [1, 2, 3]}

    @pytest.mark.parametrize("fractions", [(0.8, 0.0), (0.5, 0.5), (0.1, 0.8)])
    def test_no_training_row(self, fractions, tmp_path):
        rows = [row | {"at": "0" if row["rating"] == "0" else "1"} for row in small_rows()]
        rows[0]["at"] = "1"
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        schema = dataclasses.replace(SMALL, time="at")
        with pytest.raises(ValueError, match=r"no row is left to train on: of 10 row\(s\)"):
            prepare(source, schema, tmp_path / "out", split=Split(*fractions, by="time"))

    def test_by_a_time_that_is_none(self, tmp_path):
        path = write_parquet(
            tmp_path / "rows.parquet",
            "SELECT 'u' AS user, 'i' AS item, 1 AS price, 1 AS rating, TIME '10:00:00' AS at",
        )
        schema = dataclasses.replace(SMALL, time="at")
        with pytest.raises(ValueError, match="to be a number, a date or a text, got TIME"):
            prepare(files_source(path), schema, tmp_path / "out")

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
        output = tmp_path / "deep" / "out"
        records = prepare(small_source(tmp_path), SMALL, output, num_files=2)
        content = (output / "schema.json").read_bytes()
        assert fault_of_seal(content) is None
        described = json.loads(content)
        del described["digest"]
        assert described == records.describe()
        assert described["details"] == {
            "sources": [str(tmp_path / "small.csv")],
            "rows": 10,
            "tasks": 5,
            "rows_of_tasks": [0, 5],
            "dropped_rows": {},
            "left_out_rows": 0,
            "cut_values": {},
            "split": {"test_fraction": 0.2, "valid_fraction": 0.0, "seed": 0, "by": "task"},
            "time": {"kind": "", "valid": None, "test": None},
            "dense_values": {
                "price": {
                    "rows": 8,
                    "missing": 0,
                    "mean": 1.5,
                    "deviation": 0.0,
                    "smallest": 1.5,
                    "largest": 1.5,
                }
            },
            "inputs": [{"name": "small.csv", **digest_of(tmp_path / "small.csv"), "generation": 0}],
        }
        assert len(records.contents["train"].files) == 2
        assert records.path == str(output)

    def test_is_described(self, tmp_path):
        rows = [row | {"seen": "a|b|c|d"} for row in small_rows()] + small_rows()[:1] * 5
        rows = [{"seen": ""} | row for row in rows]
        rows += [rows[0] | {"rating": "x"}, rows[0] | {"user": ""}, rows[0] | {"user": "new"}]
        fields = (Field("item"), Field("seen", "multi", max_values=3), Field("city", column="item"))
        tables = (Table("seen", keys="raw"), Table("city", 9, keys="hash"))
        fields = (*fields, Field("letters", "multi", column="seen", max_values=3))
        rows = [
            row | {"seen": row["seen"].translate(str.maketrans("abcd", "1234"))} for row in rows
        ]
        schema = Schema(fields, "rating", "user", tables=tables)
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = prepare(source, schema, tmp_path / "out", on_bad_row="drop", max_bad_share=1.0)
        assert records.details["cut_values"] == {"seen": 11, "letters": 11}
        assert describe(records).splitlines() == [
            f"{tmp_path}/out: 16 rows of 6 tasks",
            "  train: 4 tasks, 12 rows, 4 episodes",
            "  test: 2 tasks, 4 rows, 2 episodes",
            "  of 18 rows in the files 16 were kept",
            "  dropped, task: 1 rows",
            "  dropped, label: 1 rows",
            "  field seen: 11 values beyond its max_values cut off",
            "  field letters: 11 values beyond its max_values cut off",
            "  table item: 4 rows (vocabulary)",
            "  table seen: keys without a limit (raw)",
            "  table city: 9 rows (hash)",
            "  table letters: 5 rows (vocabulary)",
            "  rows a task, and how many tasks have so many:",
            f"{'1':>26} {1:>12} {'#' * 8}",
            f"{'2 to 3':>26} {4:>12} {'#' * 30}",
            f"{'4 to 7':>26} {1:>12} {'#' * 8}",
        ]

    def test_is_the_same_twice_and_leaves_nothing_beside(self, tmp_path):
        source = small_source(tmp_path)
        first, second = tmp_path / "first", tmp_path / "second"
        prepare(source, SMALL, first, memory_limit="200MB", spill_folder=tmp_path)
        prepare(source, SMALL, second)
        names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
        assert len(names) == 2 * 16 + 5
        for name in names:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == ["first", "second", "small.csv"]

    def test_can_be_read_by_whom_the_umask_lets(self, tmp_path):
        (tmp_path / "plain").mkdir()
        path = pathlib.Path(prepare(small_source(tmp_path), SMALL, tmp_path / "out").path)
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

    def test_that_exists(self, tmp_path):
        source, output = small_source(tmp_path), tmp_path / "out"
        prepare(source, SMALL, output, num_files=2)
        with pytest.raises(ValueError, match=r"out exists\. Pass overwrite=True"):
            prepare(source, SMALL, output)
        records = prepare(source, SMALL, output, num_files=3, overwrite=True)
        assert len(records.contents["train"].files) == 3
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
        with pytest.raises(ValueError, match=r"precious is not a folder of .*not overwritten"):
            prepare(small_source(tmp_path), SMALL, output, overwrite=True)
        assert (output / "thesis.tex" if kind == "folder" else output).read_text() == "x"

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("schema.json", '{"type": "record"}', r"its schema\.json is not one of records"),
            ("schema.json", "damaged", r"its schema\.json is not one of records"),
            ("notes/thesis.tex", "x", "it holds notes"),
            ("vocabulary/thesis.tex", "x", "it holds vocabulary/thesis.tex"),
            (".git/HEAD", "x", r"it holds \.git"),
        ],
    )
    def test_that_holds_something_else_is_not_overwritten(self, name, content, problem, tmp_path):
        output = tmp_path / "precious"
        if name != "schema.json":
            prepare(small_source(tmp_path), SMALL, output)
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(content)
        before = {path: path.is_file() and path.read_bytes() for path in output.rglob("*")}
        with pytest.raises(ValueError, match=rf"records and nothing else \({problem}\)"):
            prepare(small_source(tmp_path), SMALL, output, overwrite=True)
        assert before == {path: path.is_file() and path.read_bytes() for path in output.rglob("*")}

    def test_that_is_damaged_is_overwritten(self, tmp_path):
        output = tmp_path / "out"
        prepare(small_source(tmp_path), SMALL, output)
        (output / "schema.json").write_text("{")
        prepare(small_source(tmp_path), SMALL, output, overwrite=True)
        assert Records.open(output).details["rows"] > 0

    def test_that_appears_meanwhile_is_not_replaced(self, tmp_path, monkeypatch):
        output, details_of = tmp_path / "out", prepare_module.details_of

        def meanwhile(*arguments):
            output.mkdir()
            (output / "thesis.tex").write_text("x")
            return details_of(*arguments)

        monkeypatch.setattr(prepare_module, "details_of", meanwhile)
        with pytest.raises(ValueError, match=r"out exists\. Pass overwrite=True"):
            prepare(small_source(tmp_path), SMALL, output)
        assert [path.name for path in output.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize(
        ("module", "step"),
        [
            (duckdb_engine, "encode_rows"),
            (duckdb_engine, "save_tasks"),
            (prepare_module, "details_of"),
            (prepare_module, "replace_folder"),
        ],
    )
    def test_of_before_survives_a_failure(self, module, step, tmp_path, monkeypatch):
        source, output = small_source(tmp_path), tmp_path / "out"
        prepare(source, SMALL, output)
        before = (output / "schema.json").read_bytes()

        def fail(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(module, step, fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, SMALL, output, overwrite=True, split=Split(0.4))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.csv"]
        assert Records.open(output).schema.table("item").num_rows == 5
        assert (output / "schema.json").read_bytes() == before

    def test_of_before_comes_back_when_the_renaming_fails(self, tmp_path):
        output, work = tmp_path / "out", tmp_path / "work"
        output.mkdir()
        work.mkdir()
        with pytest.raises(FileNotFoundError):
            work_folder.replace_folder(tmp_path / "not built", output, work)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


class TestRemote:
    """On the file system in memory that TensorFlow has; the real ones are tested in test_files."""

    @pytest.fixture
    def folder(self, monkeypatch, request):
        monkeypatch.setattr(files, "SCHEMES", (*files.SCHEMES, "ram"))
        monkeypatch.setattr(tensorflow_store, "_load", lambda scheme: None)
        return f"ram://{request.node.name}/records"

    def test_output_is_the_same_and_schema_json_comes_last(self, folder, tmp_path, monkeypatch):
        written = []
        copy_in = files.copy_in
        monkeypatch.setattr(
            files, "copy_in", lambda local, path: written.append(path) or copy_in(local, path)
        )
        source = small_source(tmp_path)
        records = prepare(source, SMALL, folder, num_files=2, spill_folder=tmp_path)
        local = prepare(source, SMALL, tmp_path / "out", num_files=2)
        assert len(written) == len(set(written)) == 2 * (2 + 1) + 3
        assert written[-1] == f"{folder}/schema.json"
        assert dataclasses.replace(records, path=local.path) == local
        assert labels_of(records) == labels_of(local)
        assert read_vocabulary(folder, "item").tolist() == ["i0", "i1", "i3", "i4"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.csv"]
        with pytest.raises(ValueError, match="A remote folder is not overwritten"):
            prepare(source, SMALL, folder, overwrite=True)

    def test_appending(self, folder, tmp_path, monkeypatch):
        source = small_source(tmp_path)
        copy_in = files.copy_in

        def copy_over(local, path):
            # This file system goes on at the end of a file that is there; only one may be.
            if files.exists(path):
                assert path.endswith("schema.json")
                files.remove(path)
            copy_in(local, path)

        monkeypatch.setattr(files, "copy_in", copy_over)
        prepare(source, SMALL, folder, num_files=2)
        records = prepare(source, SMALL, folder, append=True, num_files=1, allow_same_input=True)
        assert labels_of(records)[0] == [0, 1, 0, 1]
        assert len(records.contents["train"].files) == 3


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"caf\xe9"])
@pytest.mark.parametrize("policy", ["error", "drop"])
def test_text_that_is_not_utf8_is_an_error_always(bad, policy, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"user,item,price,rating\na,b,1,1\n" + bad + b",b,1,1\n")
    with pytest.raises(ValueError, match=r"rows\.csv, line 3: expected UTF-8"):
        prepare(files_source(path), SMALL, tmp_path / "out", on_bad_row=policy)


def test_a_file_that_changes_while_it_is_read(tmp_path):
    source = small_source(tmp_path)
    with open(tmp_path / "small.csv", "r+") as file:
        file.truncate(60)
    with pytest.raises(ValueError, match=r"small\.csv changed while it was read"):
        prepare(source, SMALL, tmp_path / "out", on_bad_row="drop", max_bad_share=1.0)


class TestProgress:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def test_is_shown_on_a_terminal(self, tmp_path, monkeypatch, capsys):
        terminal = self.Terminal()
        monkeypatch.setattr(progress, "_PAUSE_SECONDS", 0.001)
        monkeypatch.setattr(sys, "stderr", terminal)
        prepare(small_source(tmp_path), SMALL, tmp_path / "out", progress=True)
        lines = [line.split("\r")[-1] for line in terminal.getvalue().split("\n") if line]
        stages = [
            "looking at the files",
            "reading",
            "checking",
            "numbering tasks",
            "counting values",
        ]
        stages += ["making vocabularies", "encoding and sorting", "writing train", "writing test"]
        stages += ["moving into place"]
        assert [line.split("[")[0].strip() for line in lines] == stages
        assert all(line.endswith(" s") and "[####" in line for line in lines)

    def test_a_stage_that_fails_is_not_shown_as_done(self):
        terminal = self.Terminal()
        shown = progress.Progress(True, terminal)
        with pytest.raises(KeyError), shown.stage("reading", lambda: 0.5):
            raise KeyError
        assert "#" not in terminal.getvalue()

    @pytest.mark.parametrize("asked", [False, True])
    def test_is_not_shown_elsewhere(self, asked, tmp_path, capsys):
        prepare(small_source(tmp_path), SMALL, tmp_path / "out", progress=asked)
        assert capsys.readouterr() == ("", "")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6)
WORDS = st.sampled_from(["a", "b", "7", "07", " a", "", "é", "Z"]) | TEXTS
KEY_NUMBERS = st.sampled_from(["0", "1", "99", " 5", "", "007"])


@st.composite
def key_fields(draw, name):
    """A key field with a table of its own, or the shared one."""
    keys = draw(st.sampled_from(["vocabulary", "hash", "raw"]))
    sizes = {"vocabulary": [None], "hash": [None, 2, 5], "raw": [None, 100]}[keys]
    kind = draw(st.sampled_from(["categorical", "multi"]))
    separator = draw(st.sampled_from(["|", ", "]))
    field = Field(
        name,
        kind,
        separator=separator,
        max_values=draw(st.integers(1, 3)),
        min_count=draw(st.integers(1, 2)),
    )
    if keys == "vocabulary" and draw(st.booleans()):
        return dataclasses.replace(field, table="shared"), Table("shared")
    return field, Table(name, draw(st.sampled_from(sizes)), keys=keys)


@st.composite
def logs(draw):
    """A schema, a split, and the rows of one or two logs."""
    made = [draw(key_fields(f"key {number}")) for number in range(draw(st.integers(1, 3)))]
    dense = [Field(f"dense {number}", "dense") for number in range(draw(st.integers(0, 2)))]
    fields = draw(st.permutations([*(field for field, _ in made), *dense]))
    schema = Schema(
        tuple(fields),
        "label",
        "task",
        draw(st.sampled_from(["time", None])),
        tables=tuple({table.name: table for _, table in made}.values()),
    )
    numbers = st.floats(-1e6, 1e6, width=32).map(str)
    columns = {"task": st.sampled_from(["u", "v", "10", "9", "é"]), "label": numbers}
    columns |= {"time": st.integers(-3, 3).map(str)}
    columns |= {field.name: numbers for field in dense}
    for field, table in made:
        one = KEY_NUMBERS if table.keys == "raw" else WORDS
        many = st.lists(one, max_size=4).map(field.separator.join)
        columns[field.name] = many if field.kind == "multi" else one
    log = st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=12)
    split = Split(draw(st.sampled_from([0.0, 0.2])), draw(st.sampled_from([0.0, 0.1])), seed=1)
    return schema, split, draw(st.lists(log, min_size=1, max_size=2))


@pytest.mark.slow
@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
    derandomize=True,
)
@hypothesis.given(logs())
def test_any_log_is_what_the_twin_says(tmp_path_factory, made):
    schema, split, written = made
    folder = tmp_path_factory.mktemp("log")
    twin = Twin(schema, split)
    num_tasks = len({row["task"] for row in written[0]})
    hypothesis.assume(sum(split.counts(num_tasks)) < num_tasks)
    for number, rows in enumerate(written):
        source = files_source(write_rows(folder / f"{number}.csv", rows))
        # Two logs that are drawn may be one.
        appending = {"append": True, "allow_same_input": True}
        settings = appending if number else {"split": split, "episode_rows": 3}
        records = prepare(source, schema, folder / "out", num_files=2, **settings)
        assert_same(records, twin.add(rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_files": 0}, "num_files of at least 1, got 0"),
        ({"on_bad_row": "ignore"}, "on_bad_row to be one of error, drop, got 'ignore'"),
        ({"engine": "spork"}, "engine to be one of duckdb, spark, got 'spork'"),
        ({"episode_rows": 1}, "episode_rows of at least 2, got 1"),
        ({"compression": "lzma"}, "compression to be one of none, zlib, got 'lzma'"),
        ({"append": True, "overwrite": True}, "append and overwrite exclude each other"),
        ({"split": Split(by="time")}, "a split by 'time' needs a time"),
        ({"split": Split(by="both")}, "a split by 'both' needs a time"),
        ({"memory_limit": "much"}, "memory_limit to be a size such as '8GB', got 'much'"),
    ],
)
def test_arguments_out_of_range(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare(
            **{"source": small_source(tmp_path), "schema": SMALL, "output": tmp_path / "out"}
            | arguments
        )
    assert [path.name for path in tmp_path.iterdir()] == ["small.csv"]
