"""Times to sort by: a column's kind, and the SQL that reads it without losing the order.

A double holds about 16 digits, and times in nanoseconds have 19: read as doubles, different times
become one, and rows silently stand in the order of the file. So a column is read as doubles, or as
microseconds, only where that keeps different times apart; otherwise what does not fit is a bad row.
"""

from __future__ import annotations

import re

import duckdb

from gmeta_tf.meta_io.sources.sources import Source
from gmeta_tf.meta_io.sql import number_of, one_value, trimmed
from gmeta_tf.schema import Schema

__all__ = ["INTEGERS", "LARGE_INTEGERS", "READ_INTEGER", "expected_time", "time_reading"]

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
LARGE_INTEGERS = ("UBIGINT", "HUGEINT", "UHUGEINT")
_TIMESTAMPS = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE")

READ_INTEGER = "CAST(time AS BIGINT)"
"""The SQL of times of which every one was seen to be an integer."""

_NUMBER, _MOMENT = number_of("time"), "TRY_CAST(time AS TIMESTAMPTZ)"
# Integers come first since a float would run nanoseconds together. DECIMAL would serve both, but
# DuckDB takes hundreds of times longer to cast text to it.
_TEXT_TIMES = {
    "integer": "CASE WHEN regexp_full_match(time, '-?[0-9]+') THEN TRY_CAST(time AS BIGINT) END",
    "number": f"CASE WHEN isfinite({_NUMBER}) THEN {_NUMBER} END",
    "microseconds": f"CASE WHEN isfinite({_MOMENT}) THEN epoch_us({_MOMENT}) END",
}
_EXPECTED = {
    "integer": ", a whole number of 64 bits as most are",
    "number": ", a number that a double tells from the others",
    "microseconds": ", a date or time of at most 6 decimals of a second",
}


def expected_time(kind: str) -> str:
    """What a time of a kind has to be, to go on a message with."""
    return _EXPECTED.get(kind, "")


def time_reading(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    schema: Schema,
    type_name: str,
    expected: str,
) -> tuple[str, str]:
    """The kind of the time and its SQL, which is NULL where a time cannot be read.

    Texts are of the kind that most of them can be read as; integers are not read as doubles where
    that would make one time of several.

    Args:
        database: its table `loaded` has the column `time`.
        source: of the rows.
        schema: of the rows.
        type_name: DuckDB's type of the column.
        expected: the kind that it must be, of the records that are appended to; or empty.

    Raises:
        ValueError: a type that is no time, or of another kind than was expected, or texts of
            which none is a time.
    """
    if type_name == "VARCHAR":
        return _text_reading(database, source, schema, expected)
    decimals = re.fullmatch(r"DECIMAL\([0-9]+,([0-9]+)\)", type_name)
    whole = decimals is not None and decimals[1] == "0" and expected != "number"
    if whole or type_name in (*INTEGERS, *LARGE_INTEGERS):
        kind, reading = "integer", "TRY_CAST(time AS BIGINT)"
    elif type_name in ("FLOAT", "DOUBLE") or decimals:
        number = "CAST(time AS DOUBLE)"
        kind, reading = "number", f"CASE WHEN isfinite({number}) THEN {number} END"
    elif type_name in _TIMESTAMPS:
        kind, reading = "microseconds", "CASE WHEN isfinite(time) THEN epoch_us(time) END"
    elif type_name == "TIMESTAMP_NS":
        kind, reading = "nanoseconds", "epoch_ns(time)"
    else:
        raise ValueError(
            f"{source.description}: expected the time (column {schema.time!r}) to be a number, a "
            f"date or a text, got {type_name}. Cast it, or choose another column."
        )
    if expected and kind != expected:
        raise ValueError(
            f"{source.description}: expected the time (column {schema.time!r}) to be of the kind "
            f"{expected!r} as in the records that it is appended to, got {kind!r}. Cast it."
        )
    if decimals and kind == "number":
        lost = f"coalesce(TRY_CAST(CAST(time AS DOUBLE) AS {type_name}) <> time, true)"
        reading = _in_order(database, reading, lost, "time")
    return kind, reading


def _text_reading(
    database: duckdb.DuckDBPyConnection, source: Source, schema: Schema, expected: str
) -> tuple[str, str]:
    kind, all_of_them = expected, False
    if expected not in _TEXT_TIMES:
        kind, all_of_them = _most_readable(database)
        if not kind:
            text = one_value(database, f"SELECT min({trimmed('time')}) FROM loaded")
            raise ValueError(
                f"{source.description}: expected the time (column {schema.time!r}) to be numbers, "
                "or dates and times such as 1997-09-20, 1997-09-20 12:30:00 or "
                f"1997-09-20T12:30:00Z, but no row has one: {text!r}. Write them so (in DuckDB "
                "strptime reads other forms), or leave `time` out of the schema."
            )
    if kind == "integer":
        # The look at all the letters is slow, and is over.
        return kind, READ_INTEGER if all_of_them else _TEXT_TIMES[kind]
    if kind == "number":
        lost, told_apart = _LOST_DIGITS, _digits("time")
    else:
        lost, told_apart = r"regexp_matches(time, '\.[0-9]{6}[0-9]*[1-9]')", "time"
    return kind, _in_order(database, _TEXT_TIMES[kind], lost, told_apart)


def _most_readable(database: duckdb.DuckDBPyConnection) -> tuple[str, bool]:
    """The kind that most texts are of, and whether all are; "" where none is of any."""
    total = one_value(database, "SELECT count(*) FROM loaded")
    counts: dict[str, int] = {}
    for kind, reading in _TEXT_TIMES.items():
        counts[kind] = one_value(database, f"SELECT count({reading}) FROM loaded")
        if counts[kind] == total:
            break
    found = max(counts, key=lambda kind: counts[kind])
    if not counts[found]:
        return "", False
    if found == "number" and 2 * counts["integer"] > counts["number"]:
        integer = _TEXT_TIMES["integer"]
        query = f"SELECT count(*) FROM loaded WHERE {integer} IS NOT NULL AND {_LOST_DIGITS}"
        if one_value(database, query):
            return "integer", False
    return found, counts[found] == total


def _in_order(database: duckdb.DuckDBPyConnection, reading: str, lost: str, told_apart: str) -> str:
    """The reading; where it makes one time of several, NULL for those that it does not hold.

    Args:
        database: with the table `loaded`.
        reading: SQL of a time.
        lost: SQL of whether a time has more digits than the reading holds.
        told_apart: SQL that differs where times differ.
    """
    if not one_value(
        database, f"SELECT count(*) FROM loaded WHERE ({reading}) IS NOT NULL AND {lost}"
    ):
        return reading
    num_ties = one_value(
        database,
        f"SELECT count(*) FROM (SELECT {reading} AS read FROM loaded GROUP BY read HAVING "
        f"read IS NOT NULL AND bool_or({lost}) AND count(DISTINCT {told_apart}) > 1)",
    )
    return f"CASE WHEN NOT {lost} THEN {reading} END" if num_ties else reading


def _digits(number: str) -> str:
    """The SQL of a number's significant digits, whatever its sign, point and exponent."""
    mantissa = f"regexp_replace({number}, '[eE].*$', '')"
    return f"trim(regexp_replace({mantissa}, '[^0-9]', '', 'g'), '0')"


# The digits of a double are the fewest that tell it from all others.
_LOST_DIGITS = (
    f"(length(time) > 15 AND {_digits('time')} <> {_digits(f'CAST({_NUMBER} AS VARCHAR)')})"
)
