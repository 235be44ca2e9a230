"""Raw rows on Spark: a task for each file, in which DuckDB reads, checks and trims.

What a quote, a number, a time or white space is, is said by the SQL of the other engine alone.
That is what makes the records of both the same.
"""

from __future__ import annotations

import glob
import pathlib
from collections.abc import Mapping

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.raw_rows import (
    Check,
    RawRows,
    check_some,
    checks_of,
    count_bad_rows,
    count_missed,
    dense_value,
    load_rows,
    loaded_columns,
    parts_of,
    problem_of,
)
from gmeta_tf.meta_io.preparing.spark_run import SparkRun
from gmeta_tf.meta_io.preparing.times import time_reading
from gmeta_tf.meta_io.preparing.vocabularies import is_mapped
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.plain_files import query_of_file
from gmeta_tf.meta_io.sources.side_tables import ROW
from gmeta_tf.meta_io.sources.sources import check_unchanged, joined_query, reading_error
from gmeta_tf.meta_io.sql import one_value, sql_text, trimmed
from gmeta_tf.schema import UNKNOWN_KEY

__all__ = ["good_rows"]


def good_rows(run: SparkRun) -> tuple[RawRows, int]:
    """Makes the folder `good`: row, task, time, label, weight, and `field_<i>` of each field.

    Texts are trimmed, labels, weights and dense values numbers, single raw keys keys, and
    multi-valued fields lists without empty parts.

    Returns:
        What is known of the rows, and how many there are.

    Raises:
        ValueError: as `load_rows`.
    """
    if run.job.source.format is None:
        return _good_rows_of_query(run)
    with run.job.progress.stage("reading"):
        type_of, counts = _load_files(run)
    missed = count_missed(run.database, run.job.source, run.sql("loaded"))
    with run.job.progress.stage("checking"):
        kind, time = _time_of(run, type_of)
        checks = checks_of(run.job.schema, type_of, f"{trimmed('task')} IS NULL", kind, time)
        found, num_good = _check_files(run, type_of, counts, checks, kind, time)
        dropped = count_bad_rows(run.database, run.job, checks, found)
    run.drop("loaded")
    return RawRows(type_of, "row", kind, "time", dropped, missed), num_good


def _good_rows_of_query(run: SparkRun) -> tuple[RawRows, int]:
    """A query that does more than to read files is for DuckDB, in this process."""
    rows = load_rows(run.database, run.job)
    columns = _good_columns(run, rows.types, rows.row, rows.time_kind, rows.time)
    run.copy(f"SELECT {columns} FROM loaded", "good")
    num_good = one_value(run.database, "SELECT count(*) FROM loaded")
    run.database.execute("DROP TABLE loaded")
    return rows, num_good


def _load_files(run: SparkRun) -> tuple[Mapping[str, str], list[int]]:
    """Makes `loaded`, a file for each of the source's; the columns' types, and the files' rows."""
    source = run.job.source
    described = run.database.execute(f"DESCRIBE {source.query}").fetchall()
    type_of = {column[0]: column[1] for column in described}
    columns = loaded_columns(source, run.job.schema, type_of)
    folder = run.folder("loaded")
    commands: list[list[tuple[str, str]]] = []
    for file in source.files:
        if source.format in ("csv", "tsv") and not file.columns:
            continue  # a file without a byte
        query = query_of_file(
            str(source.format),
            file.path,
            file.columns,
            source.columns,
            source.list_columns,
            source.options,
        )
        if source.joins:
            query = joined_query(query, source.joins, ROW if source.row == ROW else None)
        path = folder / f"{len(commands):05d}.parquet"
        commands.append([(f"SELECT {columns} FROM ({query})", str(path))])
    try:
        counts = [int(count) for (count,) in run.in_tasks(commands)]
        check_some(source, sum(counts))
        check_unchanged(source)
        check_every_line(run.database, source, sum(counts))
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise reading_error(source.description, error) from error
    return type_of, counts


def _time_of(run: SparkRun, type_of: Mapping[str, str]) -> tuple[str, str]:
    """The kind of the time and its SQL, by that column alone."""
    job = run.job
    if job.schema.time is None:
        return "", "0"
    expected = "" if job.previous is None else job.previous.time.kind
    run.database.execute(f"CREATE VIEW loaded AS SELECT time FROM {run.sql('loaded')}")
    found = time_reading(run.database, job.source, job.schema, type_of[job.schema.time], expected)
    run.database.execute("DROP VIEW loaded")
    return found


def _check_files(
    run: SparkRun,
    type_of: Mapping[str, str],
    counts: list[int],
    checks: list[Check],
    kind: str,
    time: str,
) -> tuple[list[tuple[int | None, int, int]], int]:
    """Makes `good` of `loaded`; the counts for `count_bad_rows`, and how many rows are good."""
    problem = problem_of(checks)
    folder, commands = run.folder("good"), []
    firsts = (np.cumsum(counts) - counts).tolist()
    for file, first in zip(run.files("loaded"), firsts, strict=True):
        loaded = f"read_parquet({sql_text(glob.escape(file))}, file_row_number=true)"
        row = "row" if run.job.source.row is not None else f"{first} + file_row_number"
        if run.job.source.row == ROW:
            row = f"{first} + row"  # each file's rows are numbered from 1
        counted = (
            f"SELECT {problem} AS problem, count(*), min({row}) FROM {loaded} GROUP BY problem"
        )
        columns = _good_columns(run, type_of, row, kind, time)
        good = f"SELECT {columns} FROM {loaded} WHERE {problem} IS NULL"
        commands.append([(counted, ""), (good, str(folder / pathlib.Path(file).name))])
    found: dict[int | None, tuple[int, int]] = {}
    num_good = 0
    for counted_rows, num_rows in run.in_tasks(commands):
        num_good += num_rows
        for number, count, first in counted_rows:
            before, earliest = found.get(number, (0, first))
            found[number] = before + count, min(earliest, first)
    in_order = sorted(found, key=lambda number: -1 if number is None else number)
    return [(number, *found[number]) for number in in_order], num_good


def _good_columns(run: SparkRun, type_of: Mapping[str, str], row: str, kind: str, time: str) -> str:
    """The SQL of the columns of `good`, out of those of `loaded`."""
    columns = [
        f"CAST({row} AS BIGINT) AS row",
        f"{trimmed('task')} AS task",
        f"CAST({time} AS {'DOUBLE' if kind == 'number' else 'BIGINT'}) AS time",
        "CAST(label AS FLOAT) AS label",
    ]
    if run.job.schema.weight is not None:
        columns.append("CAST(weight AS FLOAT) AS weight")
    for position, field in enumerate(run.job.schema.fields):
        name = f"field_{position}"
        if field.kind == "dense":
            value = dense_value(field, type_of[field.column_name], name)
        elif field.kind == "multi":
            parts = parts_of(field, type_of[field.column_name], name)
            part = trimmed("x")
            value = f"coalesce([{part} FOR x IN {parts} IF {part} IS NOT NULL], [])"
        elif is_mapped(field, run.job.schema):
            value = trimmed(name)
        else:
            value = f"coalesce(CAST({trimmed(name)} AS BIGINT), {UNKNOWN_KEY})"
        columns.append(f"{value} AS {name}")
    return ", ".join(columns)
