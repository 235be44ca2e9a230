"""What the times of good rows are: their unit, from when to when, and numbers of another unit."""

from __future__ import annotations

from typing import Any

import duckdb

from gmeta_tf.meta_io.preparing.job import Job, TimeCuts
from gmeta_tf.meta_io.preparing.raw_rows import RawRows
from gmeta_tf.meta_io.time_units import DATES, NO_UNIT, TICKS, likely_unit, plausible_span

__all__ = ["time_facts"]

_DATE_KINDS = ("microseconds", "nanoseconds")


def time_facts(database: duckdb.DuckDBPyConnection, job: Job, rows: RawRows) -> dict[str, Any]:
    """`unit`, `earliest`, `latest` and `others` of `TimeCuts`, of the records with the job's rows.

    Args:
        database: with `loaded` of good rows, at least one.
        job: its schema may state the unit, and records that are appended to have one.
        rows: how the time is read.

    Raises:
        ValueError: no unit has most of the numbers, or another one than was stated or appended to.
    """
    if not rows.time_kind:
        return {}
    is_date = rows.time_kind in _DATE_KINDS
    units = (rows.time_kind,) if is_date else tuple(TICKS)
    counts = ", ".join(
        f"count(*) FILTER ({rows.time} BETWEEN {first} AND {last})"
        for first, last in map(plausible_span, units)
    )
    total, earliest, latest, *of_units = database.execute(
        f"SELECT count(*), min({rows.time}), max({rows.time}), {counts} FROM loaded"
    ).fetchall()[0]
    rows_of = dict(zip(units, of_units, strict=True))
    if is_date:
        rows_of = {DATES: of_units[0]}
    unit = _unit(job, rows_of, total, is_date=is_date)
    rows_of[NO_UNIT] = total - sum(rows_of.values())
    others = {} if unit == NO_UNIT else {u: n for u, n in rows_of.items() if n and u != unit}
    if job.previous is not None:
        before = job.previous.time
        others = {
            unit: others.get(unit, 0) + before.others.get(unit, 0)
            for unit in {**before.others, **others}
        }
        earliest, latest = _wider(before, earliest, latest)
    return {"unit": unit, "earliest": earliest, "latest": latest, "others": others}


def _wider(before: TimeCuts, earliest: float, latest: float) -> tuple[float | None, float | None]:
    """From when to when older rows and new ones are; records of earlier versions do not tell."""
    if before.earliest is None or before.latest is None:
        return None, None
    return min(earliest, before.earliest), max(latest, before.latest)


def _unit(job: Job, rows_of: dict[str, int], total: int, *, is_date: bool) -> str:
    """The unit that was stated, or that of the records that are appended to, or the likely one."""
    source, column, stated = job.source.description, job.schema.time, job.schema.time_unit
    if is_date:
        if stated not in (None, NO_UNIT):
            raise ValueError(
                f"{source}: expected the time (column {column!r}) to be numbers, as the schema "
                f"states time_unit: {stated}, got dates. Leave time_unit out."
            )
        return DATES
    likely = likely_unit(rows_of, total)
    expected, by = stated, f"the schema states time_unit: {stated}"
    if stated is None and job.previous is not None and job.previous.time.unit in TICKS:
        expected = job.previous.time.unit
        by = f"the records that it is appended to have {expected}"
    if expected in TICKS and likely in TICKS and likely != expected:
        raise ValueError(
            f"{source}: expected the time (column {column!r}) to be {expected} since 1970, as {by},"
            f" but {rows_of[likely]:,} of {total:,} rows look like {likely} (1973 to 2100). Bring "
            "them to one unit, or correct time_unit in the schema."
        )
    if expected is not None:
        return expected
    if likely is None:
        seen = ", ".join(f"{count:,} like {unit}" for unit, count in rows_of.items() if count)
        raise ValueError(
            f"{source}: expected the time (column {column!r}) to be of one unit, but of {total:,} "
            f"rows {seen} since 1970: they cannot be put in order. Bring them to one unit; if the "
            "numbers count something else, state time_unit: none in the schema."
        )
    return likely
