"""Tasks in DuckDB: numbered, and drawn to the splits."""

from __future__ import annotations

import dataclasses

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.job import Job, TimeCuts
from gmeta_tf.meta_io.preparing.raw_rows import RawRows
from gmeta_tf.meta_io.preparing.split import SPLITS, Split
from gmeta_tf.meta_io.preparing.time_facts import time_facts
from gmeta_tf.meta_io.sql import one_value, sql_parquet, sql_text, trimmed

__all__ = ["make_tasks", "save_tasks", "side_of_row", "time_cuts"]


def make_tasks(database: duckdb.DuckDBPyConnection, job: Job) -> None:
    """Makes `tasks` (task, value, split, rows so far) and `task_of` (raw value, task, side).

    A side is a position in `SPLITS`. Tasks are numbered in the order of their values, as numbers
    where all are integers; those of an appended log after the ones that are there.
    """
    database.execute(
        f"CREATE TABLE task_texts AS SELECT raw, {trimmed('raw')} AS value "
        "FROM (SELECT DISTINCT task AS raw FROM loaded)"
    )
    known = "SELECT 0 AS task, '' AS value, '' AS split, 0 AS rows LIMIT 0"
    if job.previous is not None:
        known = f"SELECT task, value, split, rows FROM {sql_parquet(job.previous.tasks)}"
    database.execute(f"CREATE TABLE known_tasks AS {known}")
    database.execute(
        "CREATE TABLE new_tasks AS SELECT DISTINCT value FROM task_texts "
        "ANTI JOIN known_tasks USING (value)"
    )
    all_integers = one_value(
        database,
        "SELECT bool_and(regexp_full_match(value, '-?[0-9]+') "
        "AND TRY_CAST(value AS HUGEINT) IS NOT NULL) FROM new_tasks",
    )
    order = "CAST(value AS HUGEINT), value" if all_integers else "value"
    num_known = one_value(database, "SELECT count(*) FROM known_tasks")
    num_new = one_value(database, "SELECT count(*) FROM new_tasks")
    if job.previous is None:
        sides = job.split.assign(num_new)
    else:
        sides = job.split.assign_more(num_new, job.previous.generation)
    database.register("drawn", {"place": np.arange(num_new), "side": sides})
    names = f"[{', '.join(map(sql_text, SPLITS))}]"
    split = f"{names}[side + 1]" if job.split.by_task else "CAST(NULL AS VARCHAR)"
    database.execute(
        "CREATE TABLE tasks AS SELECT CAST(task AS BIGINT) AS task, value, "
        "CAST(split AS VARCHAR) AS split, CAST(rows AS BIGINT) AS rows FROM known_tasks "
        f"UNION ALL SELECT {num_known} + place, value, {split}, 0 FROM (SELECT value, "
        f"row_number() OVER (ORDER BY {order}) - 1 AS place FROM new_tasks) "
        "JOIN drawn USING (place)"
    )
    database.unregister("drawn")
    database.execute(
        "CREATE TABLE task_of AS SELECT raw, task, "
        f"CAST(coalesce(list_position({names}, split) - 1, 0) AS TINYINT) AS side "
        "FROM task_texts JOIN tasks USING (value)"
    )
    for table in ("task_texts", "known_tasks", "new_tasks"):
        database.execute(f"DROP TABLE {table}")


def save_tasks(database: duckdb.DuckDBPyConnection, job: Job, rows_of_tasks: str) -> None:
    """Writes the tasks with their rows.

    Args:
        database: with `tasks`.
        job: says where to.
        rows_of_tasks: the SQL of the rows that are new (task, more).
    """
    database.execute(
        "COPY (SELECT task, value, split, rows + coalesce(more, 0) AS rows FROM tasks LEFT JOIN "
        f"({rows_of_tasks}) USING (task) ORDER BY task) "
        f"TO {sql_text(job.tasks_file)} (FORMAT parquet)"
    )


def time_cuts(database: duckdb.DuckDBPyConnection, job: Job, rows: RawRows) -> TimeCuts:
    """How the times are read, and where the splits begin: as in records that are appended to.

    Raises:
        ValueError: nothing to train on is before the first cut, or the times are of another unit.
    """
    facts = time_facts(database, job, rows)
    if job.previous is not None:
        return dataclasses.replace(job.previous.time, **facts)
    split = job.split
    if not split.by_time:
        return TimeCuts(rows.time_kind, **facts)
    total = one_value(database, "SELECT count(*) FROM loaded")
    num_test, num_valid = split.counts(total)
    test = _time_at(database, rows, total - num_test) if num_test else None
    first = total - num_test - num_valid
    valid = _time_at(database, rows, max(first, 0)) if num_valid else None
    cuts = TimeCuts(rows.time_kind, valid, test, **facts)
    earliest = one_value(database, f"SELECT min({rows.time}) FROM loaded")
    if cuts.first is not None and (first <= 0 or cuts.first <= earliest):
        raise ValueError(
            f"no row is left to train on: of {total} row(s), the latest {num_test} are for test "
            f"and {num_valid} for valid, and the rows of one time stay together. Lower the "
            "fractions or split by task."
        )
    return cuts


def _time_at(database: duckdb.DuckDBPyConnection, rows: RawRows, place: int) -> int | float:
    query = f"SELECT {rows.time} AS time FROM loaded ORDER BY time LIMIT 1 OFFSET {place}"
    return one_value(database, query)


def side_of_row(split: Split, cuts: TimeCuts, time: str) -> str:
    """The SQL of a row's side, a position in `SPLITS`; NULL for a row that is left out.

    Args:
        split: which rows are held out.
        cuts: where the time is cut.
        time: the SQL of the row's time.
    """
    if not split.by_time:
        return "side"
    cases = [
        f"WHEN {time} >= {_number(cut)} THEN {side}"
        for cut, side in ((cuts.test, 1), (cuts.valid, 2))
        if cut is not None
    ]
    stretch = f"CASE {' '.join(cases)} ELSE 0 END" if cases else "0"
    if split.by == "time":
        return f"CAST({stretch} AS TINYINT)"
    return f"CAST(CASE WHEN {stretch} = side THEN side END AS TINYINT)"


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"CAST({sql_text(repr(value))} AS DOUBLE)"
