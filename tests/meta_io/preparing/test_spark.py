"""prepare on Spark: byte for byte the records of the other engine, and its words about bad data.

All but the last class share one session, since one takes seconds to start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_crosses import SCHEMA as CROSSED_SCHEMA
from made_crosses import made_rows as crossed_rows
from made_dense import SCHEMA as DENSE_SCHEMA
from made_dense import write_dense_log
from made_histories import SCHEMA as HISTORY_SCHEMA
from made_histories import made_rows as rows_in_time
from made_log import SCHEMA as LOG_SCHEMA
from made_log import write_log
from made_movielens import GROUPLENS_100K, write_files
from made_tables import log_of, schema_of, write_tables
from prepare_twin import SCHEMA, made_rows, write_rows

from gmeta_tf.meta_io.preparing import spark_session
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.spark_run import SparkRun
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sources.movielens import movielens_schema, movielens_source
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.schema import Field, Schema, Table

ROOT = pathlib.Path(__file__).parents[3]
_OF_JAVA = "WARNING: Using incubator modules: jdk.incubator.vector"
SMALL = Schema((Field("item"), Field("price", "dense")), "rating", "user")
RAW = Schema(
    (Field("item"), Field("seen", "multi", table="item", max_values=2)),
    "rating",
    "user",
    tables=(Table("item", 100, keys="raw"),),
)

pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed")
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java"),
    # Py4J leaves its sockets to the collector of garbage.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def session():
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings_of_tests = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        # To compile for each of these small logs takes longer than to run; the command's test does.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.shuffle.partitions": "3",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Settings that another program may have made, and that must not show in the records.
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "true",
        "spark.sql.session.timeZone": "America/New_York",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings_of_tests.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()
    spark_session._end_java(pyspark.SparkContext)
    del os.environ["PYSPARK_PYTHON"]


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same_files(first: pathlib.Path, second: pathlib.Path) -> None:
    left, right = files_of(first), files_of(second)
    assert json.loads(left["schema.json"]) == json.loads(right["schema.json"])
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def both(source: Source, schema: Schema, folder: pathlib.Path, **options) -> Records:
    """The records by Spark, once they are those of the other engine."""
    options = {"num_files": 2, "episode_rows": 7, **options}
    for engine in ("duckdb", "spark"):
        records = prepare(source, schema, folder / engine, engine=engine, **options)
    assert_same_files(folder / "duckdb", folder / "spark")
    assert not list(folder.glob(".*"))
    return records


def test_dense_values_fit_the_same_numbers(tmp_path):
    paths = [write_dense_log(tmp_path / f"{seed}.csv", seed=seed) for seed in range(3)]
    records = both(files_source(paths), DENSE_SCHEMA, tmp_path)
    assert records.schema.num_dense_columns == 14
    assert records.details["dense_values"]["year"]["missing"] > 5


def test_crosses_are_alike(tmp_path):
    source = files_source(write_rows(tmp_path / "log.csv", crossed_rows()))
    records = both(source, CROSSED_SCHEMA, tmp_path, split=Split(0.3, 0.2))
    assert records.details["cut_values"]["tags_x_ids"] > 0


@pytest.mark.parametrize("by", ["task", "time", "both"])
def test_histories_are_alike(by, tmp_path):
    source = files_source(write_rows(tmp_path / "log.csv", rows_in_time()))
    records = both(source, HISTORY_SCHEMA, tmp_path, split=Split(0.3, 0.2, by=by))
    assert records.details["rows"] > 20


def test_weights_are_read_alike(tmp_path):
    rows = [row | {"importance": f" {n % 7}.25 "} for n, row in enumerate(made_rows(60))]
    rows[5]["importance"], rows[11]["importance"] = "-1", "none"
    source = files_source(write_rows(tmp_path / "rows.csv", rows))
    schema = dataclasses.replace(SCHEMA, weight="importance")
    records = both(source, schema, tmp_path, on_bad_row="drop")
    assert records.details["dropped_rows"] == {"weight": 2}


def test_side_tables_are_joined_alike(tmp_path):
    rows = write_tables(tmp_path)
    records = both(files_source(log_of(tmp_path)), schema_of(tmp_path), tmp_path)
    assert records.details["missed_rows"]["users"] == sum(row["age"] == "" for row in rows) > 0


def test_side_tables_of_a_query_are_joined_alike(tmp_path):
    write_tables(tmp_path)
    plain = files_source(log_of(tmp_path))
    query = f"SELECT row_number() OVER () AS at, * FROM ({plain.query})"
    both(Source("a query", query, row="at"), schema_of(tmp_path), tmp_path)


def test_a_separator_that_is_found_is_that_of_both(tmp_path):
    rows = "".join(f"u{row % 5};i{row % 3};{row % 2};{row}\n" for row in range(30))
    (tmp_path / "log.csv").write_text("user;item;rating;price\n" + rows)
    records = both(files_source(tmp_path / "log.csv"), SMALL, tmp_path)
    assert records.details["rows"] == 30


def write_rest(path: pathlib.Path, rows: list[dict[str, object]], delimiter: str = ",") -> str:
    return write_rows(path, [{k: str(v) for k, v in row.items()} for row in rows], delimiter)


def write_parquet(path: pathlib.Path, query: str) -> str:
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return str(path)


def small_rows() -> list[dict[str, str]]:
    return [
        {"user": str(task), "item": f"i{task}", "price": "1.5", "rating": str(row), "at": str(-row)}
        for row in range(2)
        for task in range(5)
    ]


class TestSameRecords:
    @pytest.mark.slow
    @pytest.mark.parametrize("layout", ["csv", "files", "jsonl", "parquet"])
    def test_of_every_format_and_kind_of_key(self, layout, tmp_path):
        rows = made_rows(120)
        backwards = [dict(reversed(list(row.items()))) for row in rows]
        splits = {"csv": "time", "files": "both"}
        split = Split(0.25, 0.2, seed=3, by=splits.get(layout, "task"))
        if layout == "files":
            write_rows(tmp_path / "part-0.csv.gz", rows[:50])
            write_rows(tmp_path / "part-10.csv.gz", rows[50:60])
            (tmp_path / "part-2.csv.gz").write_bytes(gzip.compress(b""))
            write_rows(tmp_path / "part-3.csv.gz", backwards[60:])
            source = files_source(str(tmp_path / "part-*.csv.gz"))
        elif layout == "jsonl":
            for number, part in enumerate((rows[:70], rows[70:])):
                lines = [json.dumps({k: v for k, v in row.items() if v}) for row in part]
                (tmp_path / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
            source = files_source(str(tmp_path / "*.jsonl"))
        elif layout == "parquet":
            path = write_rows(tmp_path / "rows.csv", rows)
            typed = (
                'CAST("at" AS TINYINT) AS "at", CAST(rating AS DECIMAL(4, 1)) AS rating, '
                "string_split(seen, '|') AS seen, CAST(price AS DOUBLE) AS price, "
                "CAST(age AS DOUBLE) / 8 AS city"
            )
            read = f"read_csv('{path}', all_varchar=true, header=true)"
            query = f"SELECT * REPLACE ({typed}) FROM {read}"
            write_parquet(tmp_path / "0.parquet", f"{query} LIMIT 50")
            write_parquet(tmp_path / "1.parquet", f"{query} OFFSET 50")
            source = files_source(str(tmp_path / "*.parquet"))
        else:
            source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = both(source, SCHEMA, tmp_path, split=split, compression="zlib")
        assert all(records.contents[name].rows for name in ("train", "valid", "test"))
        assert bool(records.details["left_out_rows"]) == (layout == "files")
        assert records.details["cut_values"]

    def test_of_a_query(self, tmp_path):
        source = movielens_source(write_files(tmp_path / "data", GROUPLENS_100K, "latin-1"))
        records = both(source, movielens_schema(), tmp_path, split=Split(0.0))
        assert records.details["rows"] == 3

    def test_of_a_query_with_integers_that_parquet_has_not(self, tmp_path):
        query = (
            "SELECT CAST(r % 3 AS HUGEINT) + 100000000000000000000 AS user, 10 - r AS number, "
            "CAST(r AS UHUGEINT) AS item, r AS price, r AS rating FROM range(9) t(r)"
        )
        both(Source("made", query, row="number"), SMALL, tmp_path)

    def test_of_a_log_without_times(self, tmp_path):
        write_log(tmp_path / "log.csv", seed=1)
        schema = dataclasses.replace(LOG_SCHEMA, time=None)
        both(files_source(tmp_path / "log.csv"), schema, tmp_path)

    def test_of_other_text_files(self, tmp_path):
        lines = [
            f"u{row % 4}::{quote}i{row}::{row % 5}::{price}"
            for row, (quote, price) in enumerate(
                [("", "1"), ('"', "2"), ("", "NULL"), ('"', "3")] * 4
            )
        ]
        (tmp_path / "log.dat").write_text("\n".join(lines) + "\n", encoding="utf-16")
        options = ReaderOptions(
            separator="::",
            quoting="none",
            columns=("user", "item", "rating", "price"),
            null_words=("NULL",),
            encoding="utf-16",
            format="csv",
        )
        source = files_source(tmp_path / "log.dat", options=options)
        records = both(
            source, SMALL, tmp_path, on_bad_row="drop", max_bad_share=0.25, split=Split(0.0)
        )
        assert records.details["dropped_rows"] == {"field price": 4}
        assert records.details["rows"] == 12

    def test_without_a_field_to_look_up(self, tmp_path):
        rows = [row | {"item": row["user"], "seen": "3|1|2|1"} for row in small_rows()]
        records = both(files_source(write_rows(tmp_path / "rows.csv", rows)), RAW, tmp_path)
        assert records.details["cut_values"] == {"seen": 10}

    def test_of_lists_that_are_all_empty(self, tmp_path):
        schema = Schema(
            (Field("item", "multi"), Field("hashed", "multi", column="price")),
            "rating",
            "user",
            tables=(Table("hashed", keys="hash"),),
        )
        rows = [
            row | {"item": " | ", "price": "" if row["rating"] == "1" else "|"}
            for row in small_rows()
        ]
        both(files_source(write_rows(tmp_path / "rows.csv", rows)), schema, tmp_path)

    def test_in_folders_with_letters_of_patterns(self, tmp_path):
        folder = tmp_path / "a [b] {c,d} *? it's é %20"
        folder.mkdir()
        write_log(folder / "log [1].csv", num_tasks=4)
        both(files_source(folder / "log [1].csv"), LOG_SCHEMA, folder)

    def test_with_a_spill_folder_and_a_limit(self, tmp_path):
        write_log(tmp_path / "log.csv", num_tasks=4)
        (tmp_path / "spill").mkdir()
        options = {"spill_folder": tmp_path / "spill", "memory_limit": "500MB"}
        both(files_source(tmp_path / "log.csv"), LOG_SCHEMA, tmp_path, **options)
        assert not list((tmp_path / "spill").iterdir())

    @pytest.mark.slow
    @pytest.mark.parametrize("by", ["task", "both"])
    def test_appended(self, by, tmp_path):
        """Either engine goes on with what the other one made."""
        logs = []
        for number in range(3):
            write_log(tmp_path / f"{number}.csv", seed=number, num_tasks=20 + 10 * number)
            logs.append(files_source(tmp_path / f"{number}.csv"))
        split = Split(0.3, 0.2, by=by)
        for engines in (("duckdb",) * 3, ("spark", "duckdb", "spark")):
            output = tmp_path / engines[0]
            for log, engine in zip(logs, engines, strict=True):
                again = {"append": True} if output.exists() else {"split": split, "num_files": 2}
                records = prepare(log, LOG_SCHEMA, output, engine=engine, **again)
        assert records.generation == 2
        assert_same_files(tmp_path / "duckdb", tmp_path / "spark")


NUMBERS = (
    *("1e3", "1_000", "0x10", "1d", "1f", "+1", ".5", "5.", "1e-400", "1e39", "nan", "inf"),
    *(" 1 ", "1,5", "３", "16777217", "0.1", "1.17549435e-38", "7.006492321624085e-46", "-0"),
    *("3.4028235677973366e38", "8388609.499999999999999999999", "1e", "--1", "1\t", "\u00a01"),
    *("true", "1/2", "NaN", "-Infinity", "1e+05", "1E5", "00012", "0b1", "9" * 50, "1.0000000596"),
)
TIMES = (
    *("2024-01-10", "2024-01-10 00:00:01", "2024-01-10T05:00:00+04:00", "2024-1-5", "2024-02-30"),
    *("2024-01-10T00:30:00Z", "0001-01-01", "infinity", "2024-01-10 01:00:00.123456789", "noon"),
    *("2024-03-10 02:30:00", "2024-01-10 00:00:00 America/New_York", "24-01-10", "1969-12-31"),
    *("1582-10-10", "2024-01-10 24:00:00", " 2024-01-11", "epoch", "2024/01/12", "20240113"),
)
TEXTS = (
    *("a", " a", "a\t", "\u00a0a", "\u3000a", "\ufeffa", "a\u200b", "\x0ba\x0c", "a\nb", "\r\n"),
    *('"', '""', 'say "hi"', "a,b", "NULL", "null", "\\N", "\\", "é", "e\u0301", "😀", "ß", "SS"),
    *(
        "日本",
        "\uffff",
        "\ue000",
        "𐀀",
        "A",
        "Z",
        "z",
        "1.0",
        "1",
        "01",
        "",
        " ",
        "'",
        "\x1f",
        "\x85",
    ),
)


class TestSameTexts:
    def test_of_numbers(self, tmp_path):
        rows = [
            {"user": "u", "item": str(n), "price": price, "rating": rating}
            for n, (price, rating) in enumerate(
                [(number, "1") for number in NUMBERS] + [("1", number) for number in NUMBERS]
            )
        ]
        path = write_rest(tmp_path / "rows.csv", rows)
        records = both(
            files_source(path),
            SMALL,
            tmp_path,
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.0),
        )
        dropped = records.details["dropped_rows"]
        assert dropped["label"] == dropped["field price"] > 10
        assert records.details["rows"] > 30

    @pytest.mark.parametrize("kind", ["integer", "nanoseconds", "number", "microseconds"])
    def test_of_times(self, kind, tmp_path):
        values = {
            "integer": [
                *("9223372036854775807", "-9223372036854775808", "007", "7", "-1", "1", "12", "3"),
                *("x", "1-2", "seven", ""),
            ],
            # 19 digits; as doubles they would be one time.
            "nanoseconds": [
                *(str(1609459200123456789 + n) for n in (2, 0, 3, 1)),
                "0.5",
                "1e3",
                "x",
            ],
            "number": [*NUMBERS, "0.0", "-0.0", "0", "0.5", "1.5", "2.5"],
            "microseconds": [*TIMES],
        }[kind]
        rows = [
            {"user": str(n % 2), "item": str(n), "price": "1", "rating": str(n), "at": value}
            for n, value in enumerate(values)
        ]
        schema = dataclasses.replace(SMALL, time="at")
        records = both(
            files_source(write_rows(tmp_path / "rows.csv", rows)),
            schema,
            tmp_path,
            on_bad_row="drop",
            max_bad_share=1.0,
            split=Split(0.2, by="time"),
        )
        expected = "integer" if kind == "nanoseconds" else kind
        assert records.details["time"]["kind"] == expected
        assert records.details["dropped_rows"]["time"] > 2

    @pytest.mark.parametrize("delimiter", [",", "\t"])
    def test_of_values_and_tasks(self, delimiter, tmp_path):
        rows = [
            {"user": user, "item": item, "price": "1", "seen": f"{item}|{user}|x", "rating": "1"}
            for user, item in zip(TEXTS, reversed(TEXTS), strict=True)
        ]
        schema = Schema(
            (Field("item"), Field("seen", "multi"), Field("hashed", column="item")),
            "rating",
            "user",
            tables=(Table("hashed", keys="hash"),),
        )
        path = tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv")
        source = files_source(write_rows(path, rows, delimiter))
        records = both(
            source, schema, tmp_path, on_bad_row="drop", max_bad_share=1.0, split=Split(0.0)
        )
        assert records.details["tasks"] > 30

    @pytest.mark.parametrize(
        "values",
        [["10", "9", "-2", "007", "7", "9" * 38], ["9" * 60, "10", "9"]],
    )
    def test_of_the_order_of_tasks(self, values, tmp_path):
        rows = [{"user": v, "item": "x", "price": "1", "rating": "1"} for v in values]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        both(source, SMALL, tmp_path, split=Split(0.0))

    def test_of_raw_keys(self, tmp_path):
        texts = ["007", "7", " 99 ", "100", "-1", "+1", "1.0", "x", "", "9" * 20, "１", "7 7"]
        rows = [
            {"user": "u", "item": item, "seen": f"{seen}|3||3", "rating": "1"}
            for item, seen in [(text, "1") for text in texts] + [("1", text) for text in texts]
        ]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        records = both(
            source, RAW, tmp_path, on_bad_row="drop", max_bad_share=1.0, split=Split(0.0)
        )
        assert records.details["dropped_rows"] == {"field item": 8, "field seen": 8}

    @pytest.mark.slow
    @settings(
        max_examples=4,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        database=None,
    )
    @given(data=st.data())
    def test_of_anything(self, tmp_path, data):
        letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")
        texts = st.text(letters, max_size=4) | st.sampled_from(TEXTS)
        columns = {"user": texts, "item": texts, "seen": st.lists(texts, max_size=5).map("|".join)}
        columns |= {"price": st.sampled_from(NUMBERS) | st.floats(width=32).map(str)}
        columns |= {"rating": st.integers(0, 5).map(str), "at": st.sampled_from(TIMES + NUMBERS)}
        rows = data.draw(st.lists(st.fixed_dictionaries(columns), min_size=8, max_size=40))
        fields = (*SMALL.fields, Field("seen", "multi", max_values=data.draw(st.integers(1, 4))))
        schema = dataclasses.replace(
            SMALL, fields=fields, time=data.draw(st.sampled_from([None, "at"]))
        )
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        outcomes = []
        for engine in ("duckdb", "spark"):
            try:
                prepare(
                    source,
                    schema,
                    tmp_path / engine,
                    engine=engine,
                    on_bad_row="drop",
                    max_bad_share=1.0,
                    num_files=1,
                    overwrite=True,
                )
                outcomes.append(files_of(tmp_path / engine))
            except ValueError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


class TestSameErrors:
    schema = dataclasses.replace(SMALL, time="at")

    def assert_same(self, source, schema, folder, match, **options):
        messages = []
        for engine in ("duckdb", "spark"):
            with pytest.raises(ValueError, match=match) as raised:
                prepare(source, schema, folder / "out", engine=engine, **options)
            messages.append(str(raised.value))
        assert messages[0] == messages[1]
        assert not list(folder.glob("*out*"))

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            ({"rating": "good"}, r"a label \(column 'rating'\).*the first is row 3 .*'good'"),
            ({"user": " "}, "expected a task.*row 3 .*' '"),
            ({"price": ""}, "a 'price' .*None"),
            ({"at": "noon"}, "a time .*'noon'"),
        ],
    )
    def test_about_bad_rows(self, changed, match, tmp_path):
        rows = small_rows()
        rows[2] |= changed
        rows[7] |= changed
        write_rows(tmp_path / "0.csv", rows[:4])
        write_rows(tmp_path / "1.csv", rows[4:])
        source = files_source(str(tmp_path / "*.csv"))
        self.assert_same(source, self.schema, tmp_path, match)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("user,item,price,rating,at\n", "has no rows"),
            ("user,item,price,rating\na,b,1,1\n", "no column 'at', which the time needs"),
            ("user,item,price,rating,at\na,b,1,1,1\na,b,1,1\n", "line 3: expected 5 cells, got 4"),
            ('user,item,price,rating,at\na,b,1,1,"1\n', "line 2: expected each quote to be closed"),
            (
                "user,item,price,rating,at\n" + "a,b,1,1,1\n" * 9998 + "a,caf\udce9,1,1,1\n",
                "line 10000: expected UTF-8",
            ),
            ("user,item,price,rating,at\na,b,1,x,1\n", "no row is left, all 1 are bad: label 1"),
            ("user,item,price,rating,at\na,b,1,1,1\n", r"of 1 task\(s\), 1 are for test"),
        ],
    )
    def test_about_a_file(self, text, match, tmp_path):
        path = tmp_path / "rows.csv"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        source = files_source(path)
        self.assert_same(source, self.schema, tmp_path, match, on_bad_row="drop", max_bad_share=1.0)

    def test_about_lines_that_a_quote_swallows(self, tmp_path):
        text = 'user,item,rating,price\na,x,1,1\na,"y,1,1\nb,y,1,1\nb,z",1,1\n'
        (tmp_path / "log.csv").write_text(text)
        source = files_source(tmp_path / "log.csv")
        self.assert_same(source, SMALL, tmp_path, r"log\.csv, line 3: .* 4 and not 2: ")

    def test_about_a_later_file(self, tmp_path):
        write_rows(tmp_path / "0.csv", small_rows())
        (tmp_path / "1.csv").write_text("user,item,price,rating,at\na,b\n")
        source = files_source(str(tmp_path / "*.csv"))
        self.assert_same(source, SMALL, tmp_path, "1.csv, line 2: expected 5 cells, got 2")

    def test_about_times(self, tmp_path):
        rows = [row | {"at": "1"} for row in small_rows()]
        source = files_source(write_rows(tmp_path / "rows.csv", rows))
        self.assert_same(
            source, self.schema, tmp_path, "no row is left to train on", split=Split(by="time")
        )
        path = write_parquet(
            tmp_path / "rows.parquet",
            "SELECT 'a' AS user, 'i' AS item, 1 AS price, 1 AS rating, TIME '10:00:00' AS at",
        )
        self.assert_same(files_source(path), self.schema, tmp_path, "a date or a text, got TIME")

    def test_about_a_file_that_changed(self, tmp_path):
        source = files_source(write_rows(tmp_path / "rows.csv", small_rows()))
        write_rows(tmp_path / "rows.csv", small_rows()[:5])
        self.assert_same(source, SMALL, tmp_path, r"rows\.csv changed while it was read")


class TestSpark:
    def test_tasks_import_neither_gmeta_tf_nor_tensorflow(self, session, tmp_path):
        spark_session.run_in_tasks(session, [[("SELECT 1", "")]], tmp_path, 1 << 30)

        def modules(_):
            import sys

            return {name.split(".")[0] for name in sys.modules}

        found = session.sparkContext.parallelize([0], 1).map(modules).collect()[0]
        assert "duckdb" in found
        assert not {"gmeta_tf", "tensorflow", "numpy"} & found - {"numpy"}

    def test_a_task_runs_twice(self, tmp_path):
        path = tmp_path / "x.parquet"
        task = spark_session._task([], str(tmp_path))
        for _ in range(2):
            error, found = task((0, [("SELECT 7 AS x", str(path)), ("SELECT 8", "")]))
            assert (error, found["rows"]) == ("", [1, [(8,)]])
        assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]

    def test_a_task_without_duckdb(self, session, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "duckdb", None)
        assert spark_session._task([], str(tmp_path))((0, []))[0] == "ImportError"

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (("ImportError", "no module (python9)"), r"no DuckDB: no module \(python9\).*Install"),
            (("", {"rows": [], "version": "0.1"}), "have DuckDB .* as this process, got 0.1"),
            (("", {"rows": [1], "version": duckdb.__version__}), "that all machines share"),
        ],
    )
    def test_machines_that_are_not_set_up(self, answer, message, session, tmp_path, monkeypatch):
        monkeypatch.setattr(spark_session, "_task", lambda *_: lambda _: answer)
        with pytest.raises(OSError, match=message):
            spark_session.run_in_tasks(
                session, [[("SELECT 1", str(tmp_path / "none.parquet"))]], tmp_path, 1 << 30
            )

    def test_what_spark_raises_names_the_cause(self, session):
        with (
            pytest.raises(OSError, match=r"Spark failed: .*TABLE_OR_VIEW_NOT_FOUND"),
            spark_session.told_of_spark(),
        ):
            session.sql("SELECT * FROM nowhere")

        def fail(_):
            raise ValueError("No space left on device")

        with (
            pytest.raises(OSError, match=r"Spark failed: ValueError: No space left on device$"),
            spark_session.told_of_spark(),
        ):
            session.sparkContext.parallelize([0], 1).map(fail).collect()
        with (
            pytest.raises(OSError, match=r"Spark failed: Caused by: .*Mkdirs failed to create"),
            spark_session.told_of_spark(),
        ):
            session.range(3).write.parquet("file:///proc/nowhere/x")

    def test_rows_that_get_lost_are_noticed(self, tmp_path, monkeypatch):
        from gmeta_tf.meta_io.preparing import spark_engine

        monkeypatch.setattr(spark_engine, "good_rows", _one_more(spark_engine.good_rows))
        source = files_source(write_rows(tmp_path / "rows.csv", small_rows()))
        with pytest.raises(OSError, match="Spark lost rows: expected 11, got 10"):
            prepare(source, SMALL, tmp_path / "out", engine="spark")

    @pytest.mark.slow
    def test_the_running_session_goes_on_and_has_no_new_tables(self, session, tmp_path):
        source = files_source(write_rows(tmp_path / "rows.csv", small_rows()))
        prepare(source, SMALL, tmp_path / "out", engine="spark")
        assert session.catalog.listTables() == []
        assert session.range(3).count() == 3
        assert session.conf.get("spark.sql.shuffle.partitions") == "3"

    def test_without_pyspark(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyspark", None)
        source = files_source(write_rows(tmp_path / "rows.csv", small_rows()))
        with pytest.raises(ImportError, match=r"needs pyspark.*pip install 'gmeta_tf\[spark\]'"):
            prepare(source, SMALL, tmp_path / "out", engine="spark")
        assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]

    @pytest.mark.parametrize("home", [None, "/nowhere"])
    def test_without_java(self, home, tmp_path, monkeypatch):
        monkeypatch.setattr(pyspark.SparkContext, "_active_spark_context", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        if home:
            monkeypatch.setenv("JAVA_HOME", home)
        where = "in JAVA_HOME=/nowhere" if home else "on PATH, and no JAVA_HOME"
        match = f"needs Java, got none {where}.*Java 17"
        with (
            pytest.raises(FileNotFoundError, match=match),
            spark_session.spark_session(tmp_path, 1),
        ):
            pass

    def test_files_are_in_the_order_of_their_numbers(self, tmp_path):
        run = SparkRun(types.SimpleNamespace(spill_folder=tmp_path), None, None, 0)
        names = ["part-99999-x-c000.parquet", "part-100000-x-c000.parquet"]
        for name in (*reversed(names), "_SUCCESS", ".part-1.parquet.crc"):
            (run.folder("made") / name).touch()
        assert run.files("made") == [str(tmp_path / "made" / name) for name in names]

    def test_half_of_the_memory_is_for_spark(self):
        with contextlib.closing(duckdb.connect()) as database:
            database.execute("SET memory_limit='4GiB'")
            assert spark_session.heap_bytes(database) == 2 << 30
            assert database.execute("SELECT current_setting('memory_limit')").fetchall() == [
                ("2.0 GiB",)
            ]
            database.execute("SET memory_limit='100MB'")
            assert spark_session.heap_bytes(database) == 512 << 20


def _one_more(good_rows):
    def changed(run):
        rows, num_good = good_rows(run)
        return rows, num_good + 1

    return changed


class TestCommand:
    @pytest.mark.slow
    def test_starts_spark_quietly_and_ends_it(self, tmp_path, tmp_path_factory):
        # Tasks run this Python, and not the first one on PATH.
        other_python = tmp_path_factory.mktemp("bin") / "python3"
        other_python.write_text("#!/bin/sh\nexit 1\n")
        other_python.chmod(0o755)
        write_log(tmp_path / "log.csv")
        schema = tmp_path / "schema.json"
        schema.write_text(json.dumps(LOG_SCHEMA.to_json()))
        source = files_source(tmp_path / "log.csv")
        prepare(source, LOG_SCHEMA, tmp_path / "duckdb", num_files=2)
        words = ["prepare", "--input", str(tmp_path / "log.csv"), "--schema", str(schema)]
        words += ["--output", str(tmp_path / "spark"), "--engine", "spark", "--num-files", "2"]
        code = (
            "import sys, subprocess\n"
            "from gmeta_tf.cli.main import main\n"
            "main(sys.argv[1:])\n"
            "import pyspark\n"
            "print(pyspark.SparkContext._active_spark_context, pyspark.SparkContext._gateway)\n"
        )
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK", "SPARK"))
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env={
                **environment,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PATH": f"{other_python.parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "PYSPARK_SUBMIT_ARGS": "--master local[2] "
                "--driver-java-options -XX:TieredStopAtLevel=1 pyspark-shell",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        # What `prepare` warns of in any engine, and nothing of Spark's. Spark 4 starts Java with a
        # module of which Java itself warns, before it runs anything that could be told not to.
        lines = [line for line in done.stderr.splitlines() if line != _OF_JAVA]
        (warning,) = lines
        assert warning.startswith("warning: 62% of the 24 training tasks have at most 10 rows")
        assert done.stdout.endswith("None None\n")
        assert_same_files(tmp_path / "duckdb", tmp_path / "spark")
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == ["duckdb", "log.csv", "schema.json", "spark"]
