"""Raw rows in DuckDB: loaded once and checked; bad ones are rejected, or dropped and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import duckdb

from gmeta_tf.meta_io.preparing.job import Job
from gmeta_tf.meta_io.preparing.times import (
    INTEGERS,
    LARGE_INTEGERS,
    READ_INTEGER,
    expected_time,
    time_reading,
)
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.side_tables import ROW
from gmeta_tf.meta_io.sources.sources import (
    Source,
    check_unchanged,
    joined_query,
    missed_column,
    reading_error,
)
from gmeta_tf.meta_io.sql import number_of, one_value, sql_name, sql_parquet, sql_text, trimmed
from gmeta_tf.schema import LARGEST_KEY, Field, Schema

__all__ = [
    "Check",
    "RawRows",
    "check_some",
    "checks_of",
    "count_bad_rows",
    "count_missed",
    "dense_value",
    "kept_value",
    "load_rows",
    "loaded_columns",
    "parts_of",
    "problem_of",
]


@dataclasses.dataclass(frozen=True)
class RawRows:
    """The table `loaded` of good rows: task, label, time, weight, and `field_<i>` of each field.

    Task and key fields are as the source has them, text or integer, or a list.

    Attributes:
        types: DuckDB's types of the source's columns.
        row: the SQL of a row's place in the source.
        time_kind: what the time's numbers are, see `TimeCuts`; empty without a time.
        time: the SQL of the time, a number.
        dropped: the rows that were left out, by reason.
        missed: the rows that found nothing in a table that is joined, by the table's name.
    """

    types: Mapping[str, str]
    row: str
    time_kind: str
    time: str
    dropped: dict[str, int]
    missed: dict[str, int]


def load_rows(database: duckdb.DuckDBPyConnection, job: Job) -> RawRows:
    """Makes `loaded` from the job's source, in one pass over it, without its bad rows.

    Raises:
        ValueError: the source cannot be read, lacks a column or changed meanwhile; bad rows, or
            nothing but those.
    """
    source, schema = job.source, job.schema
    with job.progress.stage("reading", lambda: database.query_progress() / 100):
        try:
            type_of = _load(database, source, schema)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise reading_error(source.description, error) from error
    row = "rowid" if source.row is None else "row"
    missed = count_missed(database, source, "loaded")
    with job.progress.stage("checking", lambda: database.query_progress() / 100):
        kind, reading = "", "0"
        if schema.time is not None:
            expected = "" if job.previous is None else job.previous.time.kind
            kind, reading = time_reading(database, source, schema, type_of[schema.time], expected)
        checks = checks_of(schema, type_of, _no_task(database), kind, reading)
        dropped = _check_rows(database, job, checks, row)
    time = READ_INTEGER if kind == "integer" else reading
    return RawRows(type_of, row, kind, time, dropped, missed)


def _load(database: duckdb.DuckDBPyConnection, source: Source, schema: Schema) -> Mapping[str, str]:
    described = database.execute(f"DESCRIBE {source.query}").fetchall()
    type_of = {column[0]: column[1] for column in described}
    columns = loaded_columns(source, schema, type_of)
    if source.joins and source.row == ROW:
        _load_and_join(database, source, schema, columns)
    else:
        database.execute(f"CREATE TABLE loaded AS SELECT {columns} FROM ({source.query})")
    num_rows = one_value(database, "SELECT count(*) FROM loaded")
    check_some(source, num_rows)
    check_unchanged(source)
    check_every_line(database, source, num_rows)
    return type_of


def _load_and_join(
    database: duckdb.DuckDBPyConnection, source: Source, schema: Schema, columns: str
) -> None:
    """Makes `loaded` of the rows first and then their joins: numbers of a window come one by one,
    and all that is joined to them would, too.
    """
    described = database.execute(f"DESCRIBE {source.unjoined}").fetchall()
    needed = {*schema.columns, *(join.on for join in source.joins)}
    names = ", ".join(sql_name(column[0]) for column in described if column[0] in needed)
    database.execute(f"CREATE TABLE unjoined AS SELECT {names} FROM ({source.unjoined})")
    rows = f"SELECT rowid + 1 AS {sql_name(ROW)}, * FROM unjoined"
    query = joined_query(rows, source.joins, None)
    database.execute(f"CREATE TABLE loaded AS SELECT {columns} FROM ({query})")
    database.execute("DROP TABLE unjoined")


def loaded_columns(source: Source, schema: Schema, type_of: Mapping[str, str]) -> str:
    """The SQL of the columns of `loaded`.

    Raises:
        ValueError: the source lacks one.
    """
    _check_columns(source, schema, type_of)
    columns = [f"{kept_value(schema.task, type_of)} AS task", f"{sql_name(schema.label)} AS label"]
    if source.row is not None:
        columns.append(f"{sql_name(source.row)} AS row")
    if schema.time is not None:
        columns.append(f"{sql_name(schema.time)} AS time")
    if schema.weight is not None:
        columns.append(f"{sql_name(schema.weight)} AS weight")
    for position, field in enumerate(schema.fields):
        kept = sql_name(field.column_name)
        if field.kind != "dense":
            kept = kept_value(field.column_name, type_of)
        columns.append(f"{kept} AS field_{position}")
    columns += [f"{sql_name(missed_column(i))} AS missed_{i}" for i in range(len(source.joins))]
    return ", ".join(columns)


def check_some(source: Source, num_rows: int) -> None:
    """Checks that there are rows.

    Raises:
        ValueError: there are none.
    """
    if num_rows == 0:
        raise ValueError(f"{source.description} has no rows.")


def count_missed(
    database: duckdb.DuckDBPyConnection, source: Source, loaded: str
) -> dict[str, int]:
    """How many rows of `loaded` found nothing in each of the tables that were joined.

    Args:
        database: that can run the source's query.
        source: the rows.
        loaded: the SQL of the table of all rows, good and bad.

    Raises:
        ValueError: no row at all found anything, as with keys of another kind.
    """
    if not source.joins:
        return {}
    counts = ", ".join(f"count(*) FILTER (missed_{i})" for i in range(len(source.joins)))
    num_rows, *missed = database.execute(f"SELECT count(*), {counts} FROM {loaded}").fetchall()[0]
    for join, count in zip(source.joins, missed, strict=True):
        if count == num_rows:
            on = sql_name(join.on)
            value = database.execute(
                f"SELECT {on} FROM ({source.query}) WHERE {on} IS NOT NULL LIMIT 1"
            ).fetchall()
            key = one_value(database, f"SELECT min(key) FROM {sql_parquet(join.path)}")
            raise ValueError(
                f"the table {join.name!r}: expected some of the {num_rows} rows of "
                f"{source.description} to find their {join.on!r} in it, but none does: the first "
                f"of them is {str(value[0][0]) if value else 'missing'!r}, and a key of the table "
                f"{key!r}. Correct `on` and `key`, or write the keys alike."
            )
    return {join.name: count for join, count in zip(source.joins, missed, strict=True)}


def kept_value(column: str, type_of: Mapping[str, str]) -> str:
    """A column whose values are looked up: its values are equal where their texts are."""
    kind, name = type_of[column], sql_name(column)
    if kind in (*INTEGERS, *LARGE_INTEGERS, "VARCHAR"):
        return name
    # -0.0 equals 0.0, and in DuckDB's groups only one of them would be left.
    return f"CAST({name} AS VARCHAR{'[]' if kind.endswith(']') else ''})"


def _check_columns(source: Source, schema: Schema, columns: Iterable[str]) -> None:
    wanted = [(schema.task, "the task"), (schema.label, "the label")]
    wanted += [] if schema.time is None else [(schema.time, "the time")]
    wanted += [] if schema.weight is None else [(schema.weight, "the weight")]
    wanted += [(field.column_name, f"the field {field.name!r}") for field in schema.fields]
    for column, by in wanted:
        if column not in columns:
            raise ValueError(
                f"{source.description} has no column {column!r}, which {by} needs; its columns "
                f"are {', '.join(columns)}. Correct the schema, or give the file its header"
                f"{_other_reading(source, list(columns))}."
            )


def _other_reading(source: Source, columns: list[str]) -> str:
    """Which options may be missing where the columns are those of a file that is read wrongly."""
    if source.format not in ("csv", "tsv"):
        return ""
    marks = {"::": "::", ";": ";", "|": "|", "\t": "\\t", ",": ","}
    found = [shown for mark, shown in marks.items() if len(columns) == 1 and mark in columns[0]]
    if found:
        return f" (the separator may be '{found[0]}': say --separator '{found[0]}')"
    return " (a file without one takes --columns NAME ...)"


def parts_of(field: Field, type_name: str, value: str) -> str:
    """The SQL of the parts of a multi-valued field, a list of untrimmed texts."""
    if type_name.endswith("]"):
        return value
    return f"string_split(CAST({value} AS VARCHAR), {sql_text(field.separator)})"


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that a row must have: an SQL condition that is true of a bad row."""

    reason: str
    expected: str
    column: str
    is_bad: str


def _no_task(database: duckdb.DuckDBPyConnection) -> str:
    """The SQL of whether a row has no task.

    Trimming is slow. The distinct values, which are fewer, tell whether it is needed.
    """
    blank = f"{trimmed('task')} IS NULL"
    # A table of its own: DuckDB would trim first and look for the distinct ones then.
    database.execute("CREATE TABLE distinct_tasks AS SELECT DISTINCT task FROM loaded")
    query = f"SELECT count(*) FROM distinct_tasks WHERE task IS NOT NULL AND {blank}"
    num_blank = one_value(database, query)
    database.execute("DROP TABLE distinct_tasks")
    return blank if num_blank else "task IS NULL"


def checks_of(
    schema: Schema, type_of: Mapping[str, str], no_task: str, time_kind: str, time: str
) -> list[Check]:
    """What each row of `loaded` must have; `no_task` and `time` are SQL."""
    checks = [
        Check("task", f"a task (column {schema.task!r})", schema.task, no_task),
        Check(
            "label",
            f"a label (column {schema.label!r}) that is a finite number",
            schema.label,
            _is_no_number("label", type_of[schema.label]),
        ),
    ]
    if schema.time is not None:
        checks.append(
            Check(
                "time",
                f"a time (column {schema.time!r}) to sort by{expected_time(time_kind)}",
                schema.time,
                f"({time}) IS NULL",
            )
        )
    if schema.weight is not None:
        checks.append(
            Check(
                "weight",
                f"a weight (column {schema.weight!r}) that is a finite number of at least 0",
                schema.weight,
                _is_no_number("weight", type_of[schema.weight], least=0),
            )
        )
    for position, field in enumerate(schema.fields):
        name, column = f"field_{position}", field.column_name
        if field.kind == "dense":
            expected = f"a {field.name!r} (column {column!r}) that is a finite number"
            bad = _is_no_number(name, type_of[column])
            if field.missing != "error":
                expected += ", or none,"
                # Trimming is slow: only what is no number is trimmed.
                bad = f"CASE WHEN {bad} THEN NOT {_is_absent(name, type_of[column])} ELSE false END"
            checks.append(Check(f"field {field.name}", expected, column, bad))
        elif (table := schema.table(field.table_name)).keys == "raw":
            largest = LARGEST_KEY if table.num_rows is None else table.num_rows - 1
            expected = (
                f"a {field.name!r} (column {column!r}) of integers from 0 to {largest}, as the "
                f"keys of the table {table.name!r} are raw,"
            )
            bad = _is_bad_key(field, type_of[column], name, largest)
            checks.append(Check(f"field {field.name}", expected, column, bad))
    return checks


def _is_no_number(name: str, type_name: str, least: int | None = None) -> str:
    is_text = type_name == "VARCHAR"
    number = number_of(name, "FLOAT") if is_text else f"TRY_CAST({name} AS FLOAT)"
    is_enough = "" if least is None else f" AND {number} >= {least}"
    return f"NOT coalesce(isfinite({number}){is_enough}, false)"


def _is_absent(name: str, type_name: str) -> str:
    """The SQL of whether a number is missing; pandas writes a missing one as NaN."""
    if type_name == "VARCHAR":
        return f"({trimmed(name)} IS NULL)"
    if type_name in ("FLOAT", "DOUBLE"):
        return f"coalesce(isnan({name}), true)"
    return f"({name} IS NULL)"


def dense_value(field: Field, type_name: str, name: str) -> str:
    """The SQL of a dense value of a good row, a FLOAT; NaN where it is missing."""
    value = f"CAST({name} AS FLOAT)"
    if field.missing == "error":
        return value
    if type_name in ("FLOAT", "DOUBLE"):
        value = f"CASE WHEN NOT isnan({name}) THEN {value} END"
    elif type_name == "VARCHAR":
        value = f"TRY_CAST({name} AS FLOAT)"  # what is no number in a good row is blank
    return f"coalesce({value}, CAST('nan' AS FLOAT))"


def _is_bad_key(field: Field, type_name: str, name: str, largest: int) -> str:
    if type_name in (*INTEGERS, *LARGE_INTEGERS):
        return f"NOT coalesce({name} BETWEEN 0 AND {largest}, true)"
    is_bad = (
        f"({trimmed('{0}')} IS NOT NULL AND NOT coalesce(regexp_full_match({trimmed('{0}')}, "
        f"'[0-9]+') AND TRY_CAST({trimmed('{0}')} AS BIGINT) <= {largest}, false))"
    )
    if field.kind == "categorical":
        return is_bad.replace("{0}", name)
    parts = parts_of(field, type_name, name)
    return f"coalesce(list_bool_or([{is_bad.replace('{0}', 'x')} FOR x IN {parts}]), false)"


def _check_rows(
    database: duckdb.DuckDBPyConnection, job: Job, checks: list[Check], row: str
) -> dict[str, int]:
    """Takes bad rows out of `loaded` and counts them by reason, or raises."""
    problem = problem_of(checks)
    counts = database.execute(
        f"SELECT {problem} AS problem, count(*), min({row}) FROM loaded GROUP BY problem "
        "ORDER BY problem"
    ).fetchall()
    dropped = count_bad_rows(database, job, checks, counts)
    if dropped:
        database.execute(f"DELETE FROM loaded WHERE {problem} IS NOT NULL")
    return dropped


def problem_of(checks: Sequence[Check]) -> str:
    """The SQL of the first check that a row of `loaded` fails, by position; NULL for a good row."""
    cases = " ".join(f"WHEN {check.is_bad} THEN {i}" for i, check in enumerate(checks))
    return f"CASE {cases} END"


def count_bad_rows(
    database: duckdb.DuckDBPyConnection,
    job: Job,
    checks: Sequence[Check],
    counts: Sequence[tuple[int | None, int, int]],
) -> dict[str, int]:
    """Counts the bad rows by reason, or raises.

    Args:
        database: that can run the source's query.
        job: what to do about bad rows.
        checks: what the rows were checked for.
        counts: the failed check (None is of good rows), its rows and the place of the first one,
            in the order of the checks.

    Raises:
        ValueError: bad rows, more of them than may be, or nothing but those.
    """
    bad = [
        (checks[problem], count, first) for problem, count, first in counts if problem is not None
    ]
    description = job.source.description
    if bad and not job.max_bad_share:
        check, count, first = bad[0]
        place, value = _place_and_value(database, job.source, check.column, first)
        raise ValueError(
            f"{description}: expected {check.expected} in every row, but {count} row(s) "
            f"have none; the first is row {place} (counted from 1, without headers) with "
            f"{value!r}. Correct them, or leave such rows out with on_bad_row='drop'."
        )
    num_bad, num_rows = sum(count for _, count, _ in bad), sum(count for _, count, _ in counts)
    by_reason = ", ".join(f"{check.reason} {count}" for check, count, _ in bad)
    if len(bad) == len(counts):
        raise ValueError(f"{description}: no row is left, all {num_bad} are bad: {by_reason}.")
    if num_bad > job.max_bad_share * num_rows:
        raise ValueError(
            f"{description}: expected at most {job.max_bad_share:.4g} of the rows to be bad, but "
            f"{num_bad} of {num_rows} ({num_bad / num_rows:.1%}) are: {by_reason}. Look whether "
            "the file is what you think; to leave so many out, raise max_bad_share."
        )
    return {check.reason: count for check, count, _ in bad}


def _place_and_value(
    database: duckdb.DuckDBPyConnection, source: Source, column: str, first: int
) -> tuple[int, object]:
    """The place of a row, counted from 1, and what its source has in a column."""
    name = sql_name(column)
    if source.row is None:
        query = f"SELECT {name} FROM ({source.query}) LIMIT 1 OFFSET {first}"
        return first + 1, one_value(database, query)
    query = f"SELECT {name} FROM ({source.query}) WHERE {sql_name(source.row)} = {first}"
    return first, one_value(database, query)
