"""Times are told apart, or the row is told: whatever the column holds."""

import contextlib

import duckdb
import numpy as np
import pytest
from prepare_twin import tasks_of, write_rows

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.times import time_reading
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.schema import Field, Schema

SCHEMA = Schema((Field("item"),), "rating", "user", time="at")
# In nanoseconds since 1970: 19 digits, and a double holds 16 of them.
NANOSECONDS = [str(1609459200123456789 + step) for step in (3, 0, 2, 1, 5, 4)]
ROUNDED = ["1609459200.12345678901", "1609459200.12345678902"]


def read(texts, type_name="VARCHAR", expected=""):
    """The kind of a column, and what is read of each of its cells."""
    with contextlib.closing(duckdb.connect()) as database:
        database.execute("SET TimeZone='UTC'")
        database.execute(f"CREATE TABLE loaded (time {type_name})")
        database.executemany("INSERT INTO loaded VALUES (?)", [[text] for text in texts])
        source = Source("some.csv", "SELECT 1")
        kind, sql = time_reading(database, source, SCHEMA, type_name, expected)
        return kind, [row[0] for row in database.execute(f"SELECT {sql} FROM loaded").fetchall()]


@pytest.mark.parametrize(
    "odd", ["1609459200.5", "1e18", "99999999999999999999", "nan", "", "x", "1_000", "2021-01-01"]
)
def test_one_odd_cell_among_integers_is_a_bad_row(odd):
    kind, found = read([*NANOSECONDS, odd])
    assert kind == "integer"
    assert found == [*map(int, NANOSECONDS), None]


def test_integers_that_a_double_holds_are_read_beside_fractions():
    assert read(["7", "1.5", "1609459200000000000", "3"]) == (
        "number",
        [7.0, 1.5, 1609459200000000000.0, 3.0],
    )


@pytest.mark.parametrize("more", [["0.5", "1.5", "x"], ["1609459200.5", "1.50000000000000000"]])
def test_fractions_that_a_double_tells_apart_are_read(more):
    kind, found = read([ROUNDED[0], *more])
    assert kind == "number"
    assert found == [float(text) if text != "x" else None for text in (ROUNDED[0], *more)]


def test_fractions_that_a_double_runs_together_are_bad_rows():
    assert float(ROUNDED[0]) == float(ROUNDED[1])
    assert read([*ROUNDED, "0.5", "1609459200.25"]) == (
        "number",
        [None, None, 0.5, 1609459200.25],
    )


def test_the_same_time_twice_is_no_fault():
    assert read([ROUNDED[0], ROUNDED[0], "0.5"]) == ("number", [float(ROUNDED[0])] * 2 + [0.5])


def test_moments_beyond_microseconds():
    moments = ["2024-01-10 01:00:00.123456789", "2024-01-10 01:00:00.1234560"]
    assert read(moments[:1]) == ("microseconds", [1704848400123456])
    assert read(moments) == ("microseconds", [None, 1704848400123456])


@pytest.mark.parametrize(
    ("type_name", "values", "expected"),
    [
        ("DECIMAL(19,0)", NANOSECONDS, ("integer", [*map(int, NANOSECONDS)])),
        ("DECIMAL(38,0)", ["1" + "0" * 30, "7"], ("integer", [None, 7])),
        ("DECIMAL(18,6)", ["1.500000", "1609459200.123456"], ("number", [1.5, 1609459200.123456])),
        ("DECIMAL(38,11)", [*ROUNDED, "0.5"], ("number", [None, None, 0.5])),
        ("DECIMAL(38,11)", [ROUNDED[0], "0.5"], ("number", [float(ROUNDED[0]), 0.5])),
        ("HUGEINT", ["1" + "0" * 30, "7"], ("integer", [None, 7])),
    ],
)
def test_decimals_and_large_integers(type_name, values, expected):
    assert read(values, type_name) == expected


def test_whole_decimals_are_appended_as_they_were_read():
    assert read(["7", "8"], "DECIMAL(19,0)", "number") == ("number", [7.0, 8.0])


def test_of_records_of_numbers_that_are_appended_to():
    """They keep their kind, so what a double does not tell apart is bad."""
    assert read([*NANOSECONDS, "0.5"], expected="number") == ("number", [None] * 6 + [0.5])


@pytest.mark.parametrize("odd", ["1609459200.5", "x"])
def test_prepare_keeps_the_order_and_tells_the_row(odd, tmp_path):
    times = [*NANOSECONDS[:3], odd, *NANOSECONDS[3:]]
    rows = [
        {"user": "u", "item": "i", "rating": str(number), "at": at}
        for number, at in enumerate(times)
    ]
    source = files_source(write_rows(tmp_path / "rows.csv", rows))
    message = (
        rf"rows.csv: expected a time \(column 'at'\) to sort by, a whole number of 64 bits as most "
        rf"are in every row, but 1 row\(s\) have none; the first is row 4 .* with '{odd}'"
    )
    with pytest.raises(ValueError, match=message):
        prepare(source, SCHEMA, tmp_path / "out", split=Split(0.0))
    assert not (tmp_path / "out").exists()
    options = {"on_bad_row": "drop", "max_bad_share": 0.5, "split": Split(0.0)}
    records = prepare(source, SCHEMA, tmp_path / "out", **options)
    assert records.details["dropped_rows"] == {"time": 1}
    (words,) = tasks_of(records, "train").values()
    good = [(int(at), number) for number, at in enumerate(times) if at != odd]
    assert words[0].view(np.float32).tolist() == [number for _, number in sorted(good)]
