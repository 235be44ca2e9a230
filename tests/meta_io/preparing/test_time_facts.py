"""Units of times: told, shown, kept with the records, and minded by what is appended."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_twin import write_rows

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.summary import describe
from gmeta_tf.meta_io.records.findings import findings
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.meta_io.time_units import TICKS, likely_unit, plausible_span
from gmeta_tf.schema import Field, Schema

SECONDS = [874724710, 893286638, 880000000, 880000001, 890000000]
FIELDS = (Field("item"),)


def prepared(folder, times, name="log", time_unit=None, **options):
    rows = [
        {"user": f"u{number % 2}", "item": "i", "rating": "1", "at": str(time)}
        for number, time in enumerate(times)
    ]
    source = files_source(write_rows(folder / f"{name}.csv", rows))
    schema = Schema(FIELDS, "rating", "user", time="at", time_unit=time_unit)
    return prepare(source, schema, folder / "records", split=Split(0.0), **options)


def told(records):
    """The line on the time, and the warnings of it."""
    (line,) = [line for line in describe(records).splitlines() if "time:" in line]
    return line.strip(), [text for text in findings(records) if "time" in text]


@pytest.mark.parametrize("unit", TICKS)
def test_each_unit_is_told(unit, tmp_path):
    records = prepared(tmp_path, [second * TICKS[unit] for second in SECONDS])
    assert told(records) == (f"time: {unit}, 1997-09-20 to 1998-04-22", [])
    assert records.details["time"]["unit"] == unit
    assert records.details["time"]["latest"] == SECONDS[1] * TICKS[unit]


def test_fractions_of_seconds(tmp_path):
    records = prepared(tmp_path, [f"{second}.25" for second in SECONDS])
    assert told(records) == ("time: seconds, 1997-09-20 to 1998-04-22", [])


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%f"]
)
def test_dates(form, tmp_path):
    utc = datetime.timezone.utc
    texts = [datetime.datetime.fromtimestamp(one, utc).strftime(form) for one in SECONDS]
    assert told(prepared(tmp_path, texts)) == ("time: dates, 1997-09-20 to 1998-04-22", [])


def test_one_day_is_shown_with_its_hours(tmp_path):
    records = prepared(tmp_path, [874724710, 874724719])
    assert told(records)[0] == "time: seconds, 1997-09-20 03:05:10 to 1997-09-20 03:05:19"


@pytest.mark.parametrize(
    ("times", "shown"), [([10, 18, 11], "10 to 18"), ([0.5, 2, 3], "0.5 to 3")]
)
def test_a_counter_has_no_unit(times, shown, tmp_path):
    records = prepared(tmp_path, times)
    assert told(records) == (f"time: numbers without a unit, {shown}", [])


def test_a_mix_is_warned_of(tmp_path):
    records = prepared(tmp_path, [*SECONDS, 1000 * SECONDS[0]])
    _, (warning,) = told(records)
    assert "most times (column 'at') are seconds, but of the others 1 look like mill" in warning
    assert records.details["time"]["others"] == {"milliseconds": 1}


@pytest.mark.parametrize(("odd", "shown"), [("0", "1970-01-01"), ("9999999999", "2286-11-20")])
def test_an_implausible_time_is_warned_of(odd, shown, tmp_path):
    _, (warning,) = told(prepared(tmp_path, [*SECONDS, odd]))
    assert "1 times (column 'at') are not between 1973 and 2100: seconds, " in warning
    assert shown in warning
    assert "--null-words" in warning


def test_an_implausible_date_is_warned_of(tmp_path):
    _, (warning,) = told(prepared(tmp_path, ["1997-09-20", "1998-04-23", "1970-01-01"]))
    assert "dates, 1970-01-01 to 1998-04-23" in warning


def test_what_cannot_be_told_is_an_error(tmp_path):
    times = [*SECONDS[:2], *(1000 * second for second in SECONDS[:2])]
    message = r"of 4 rows 2 like seconds, 2 like milliseconds .* state time_unit: none"
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, times)
    assert not (tmp_path / "records").exists()
    assert told(prepared(tmp_path, times, time_unit="none"))[1] == []


def test_texts_that_are_no_time_are_an_error(tmp_path):
    message = r"\(column 'at'\) to be numbers, or dates .* no row has one: '20/09/1997'"
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, ["20/09/1997", "23/04/1998"], on_bad_row="drop")


def test_a_unit_that_is_stated(tmp_path):
    records = prepared(tmp_path, [7, 5, 6], time_unit="seconds")
    line, (warning,) = told(records)
    assert line == "time: seconds, 1970-01-01 00:00:05 to 1970-01-01 00:00:07"
    assert "3 times (column 'at') are not between 1973 and 2100" in warning
    assert Schema.from_json(records.schema.to_json()) == records.schema


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (SECONDS, "states time_unit: milliseconds, but 5 of 5 rows look like seconds"),
        (["1997-09-20", "1998-04-23"], "as the schema states time_unit: milliseconds, got dates"),
    ],
)
def test_a_unit_that_is_not_the_stated_one(times, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, times, time_unit="milliseconds")


def test_an_appended_log_has_the_unit_of_the_first(tmp_path):
    prepared(tmp_path, SECONDS)
    later = [second + 10**7 for second in SECONDS]
    message = "the records that it is appended to have seconds, but 5 of 5 rows look like mill"
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, [1000 * second for second in later], "ms", append=True)
    records = prepared(tmp_path, [*later, 5], "later", append=True)
    assert told(records)[0] == "time: seconds, 1970-01-01 to 1998-08-16"
    assert records.details["time"]["others"] == {"none": 1}


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"time_unit": "days"}, "time_unit"), ({"time": None}, "expected a time with time_unit")],
)
def test_what_a_schema_may_not_state(changed, message):
    with pytest.raises(ValueError, match=message):
        Schema(FIELDS, "rating", "user", **{"time": "at", "time_unit": "seconds"} | changed)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_is_of_one_unit_at_most(number):
    spans = {unit: plausible_span(unit) for unit in TICKS}
    rows_of = {unit: int(first <= number <= last) for unit, (first, last) in spans.items()}
    assert sum(rows_of.values()) <= 1
    expected = [
        unit for unit, ticks in TICKS.items() if 10**8 * ticks <= number <= 4_102_444_800 * ticks
    ]
    assert likely_unit(rows_of, 1) == (expected or ["none"])[0]
