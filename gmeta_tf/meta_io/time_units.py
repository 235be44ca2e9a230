"""Units of times since 1970: told by how large the numbers are, and shown as dates.

From 1973 to 2100 the numbers of the four usual units do not overlap, so that a number of one of
them tells its unit. Other numbers (a counter, a day's number, an hour as 14102100) tell none.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

__all__ = ["DATES", "NO_UNIT", "TICKS", "likely_unit", "plausible_span", "span_of", "span_text"]

TICKS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Unit -> how many of it a second has."""

NO_UNIT = "none"
DATES = "dates"
_FIRST_SECOND, _LAST_SECOND = 10**8, 4_102_444_800  # 1973-03-03 and 2100-01-01


def plausible_span(unit: str) -> tuple[int, int]:
    """The first and the last number of a unit that is likely to be a time, 1973 to 2100.

    >>> plausible_span("milliseconds")
    (100000000000, 4102444800000)
    """
    return _FIRST_SECOND * TICKS[unit], _LAST_SECOND * TICKS[unit]


def likely_unit(rows_of: Mapping[str, int], num_rows: int) -> str | None:
    """The unit that most times are of.

    Args:
        rows_of: unit -> the rows whose number lies in its span.
        num_rows: all rows.

    Returns:
        The unit; `"none"` where half of the rows or more are of no unit; None where more than half
        are of some unit and no unit has more than half.

    >>> likely_unit({"seconds": 9, "milliseconds": 1}, 10)
    'seconds'
    >>> likely_unit({"seconds": 5, "milliseconds": 5}, 10) is None
    True
    """
    most = max(rows_of, key=lambda unit: rows_of[unit])
    if 2 * rows_of[most] > num_rows:
        return most
    return None if 2 * sum(rows_of.values()) > num_rows else NO_UNIT


def span_of(time: Mapping[str, Any]) -> str | None:
    """What `details["time"]` of records tells, as `span_text`; None where it tells nothing.

    >>> span_of({"kind": "integer", "unit": "seconds", "earliest": 874724710, "latest": 893286638})
    'seconds, 1997-09-20 to 1998-04-22'
    """
    if not time.get("unit") or time.get("earliest") is None:
        return None
    ticks = TICKS.get(time["kind"])
    return span_text(time["unit"], time["earliest"], time["latest"], ticks)


def span_text(unit: str, earliest: float, latest: float, ticks: int | None = None) -> str:
    """What the times are, in a few words; dates are in UTC.

    Args:
        unit: of the numbers, `"dates"` or `"none"`.
        earliest: the smallest.
        latest: the largest.
        ticks: of dates, how many numbers a second has.

    >>> span_text("milliseconds", 874724710000, 893286638000)
    'milliseconds, 1997-09-20 to 1998-04-22'
    >>> span_text("none", 10, 18)
    'numbers without a unit, 10 to 18'
    """
    ticks = TICKS.get(unit, ticks)
    if unit == NO_UNIT or ticks is None:
        return f"numbers without a unit, {_number(earliest)} to {_number(latest)}"
    moments = [_moment(one, ticks) for one in (earliest, latest)]
    first, last = (moment[:10] for moment in moments)
    if first == last:
        first, last = moments
    return f"{unit}, {first} to {last}"


def _moment(number: float, ticks: int) -> str:
    try:
        found = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=number // ticks)
    except OverflowError:  # datetime ends at the years 1 and 9999
        return _number(number)
    return found.isoformat(" ")


def _number(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.10g}"
