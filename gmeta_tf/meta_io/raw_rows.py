"""Raw rows in DuckDB: loaded as text, checked, and bad ones refused or dropped and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import duckdb
import numpy as np

from gmeta_tf.meta_io.sources import Source
from gmeta_tf.meta_io.sql import one_value, sql_name, sql_text
from gmeta_tf.schema import Field, Schema

__all__ = ["check_rows", "load_rows"]


def load_rows(database: duckdb.DuckDBPyConnection, source: Source, schema: Schema) -> None:
    """Makes `raw`: row, task, label, time and a column `field_<i>` for each field of the schema."""
    try:
        query = f"SELECT * FROM ({source.query})"
        described = database.execute(f"DESCRIBE {query}").fetchall()
        type_of = {column[0]: column[1] for column in described}
        if database.execute(f"{query} LIMIT 1").fetchone() is None:
            raise ValueError(f"{source.description} has no rows.")
        _check_columns(source, schema, type_of)
        row = "row_number() OVER ()" if source.row is None else sql_name(source.row)
        time = "0" if schema.time is None else sql_name(schema.time)
        fields = [
            f"{_loaded(field, type_of[field.column_name])} AS field_{position}"
            for position, field in enumerate(schema.fields)
        ]
        database.execute(
            f"CREATE TABLE raw AS SELECT {row} AS row, trimmed({sql_name(schema.task)}) AS task, "
            f"{sql_name(schema.label)} AS label, {time} AS time, {', '.join(fields)} "
            f"FROM ({source.query})"
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        first_lines = " ".join(str(error).split("\n")[:4])
        raise ValueError(f"{source.description} cannot be read: {first_lines}") from error


def _loaded(field: Field, type_name: str) -> str:
    """A field's column as `raw` holds it: text, a list of texts, or a number to be."""
    column = sql_name(field.column_name)
    if field.kind == "categorical":
        return f"trimmed({column})"
    if field.kind == "dense":
        return column
    if type_name.endswith("]"):
        return f"CAST({column} AS VARCHAR[])"
    return f"string_split(CAST({column} AS VARCHAR), {sql_text(field.separator)})"


def _check_columns(source: Source, schema: Schema, columns: Iterable[str]) -> None:
    wanted = [(schema.task, "the task"), (schema.label, "the label")]
    wanted += [] if schema.time is None else [(schema.time, "the time")]
    wanted += [(field.column_name, f"the field {field.name!r}") for field in schema.fields]
    for column, by in wanted:
        if column not in columns:
            raise ValueError(
                f"{source.description} has no column {column!r}, which {by} needs; its columns "
                f"are {', '.join(columns)}. Correct the schema, or give the file its header."
            )


@dataclasses.dataclass(frozen=True)
class _Check:
    """Something that a row must have: an SQL condition that is true of a bad row."""

    reason: str
    expected: str
    column: str
    is_bad: str


def _checks(schema: Schema) -> list[_Check]:
    no_number = "NOT coalesce(isfinite(TRY_CAST({} AS FLOAT)), false)"
    checks = [
        _Check("task", f"a task (column {schema.task!r})", "task", "task IS NULL"),
        _Check(
            "label",
            f"a label (column {schema.label!r}) that is a finite number",
            "label",
            no_number.format("label"),
        ),
        _Check("time", f"a time (column {schema.time!r}) to sort by", "time", "time_key IS NULL"),
    ]
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            checks.append(
                _Check(
                    f"field {field.name}",
                    f"a {field.name!r} (column {field.column_name!r}) that is a finite number",
                    f"field_{position}",
                    no_number.format(f"field_{position}"),
                )
            )
    return checks


def check_rows(
    database: duckdb.DuckDBPyConnection, source: Source, schema: Schema, drop: bool
) -> dict[str, int]:
    """Makes `checked`, the rows of `raw` that are good, and counts the others by reason."""
    checks = _checks(schema)
    cases = " ".join(f"WHEN {check.is_bad} THEN {i}" for i, check in enumerate(checks))
    database.execute(
        f"CREATE VIEW judged AS SELECT *, CASE {cases} END AS problem "
        f"FROM (SELECT *, {_time_key(database)} AS time_key FROM raw)"
    )
    database.execute("CREATE VIEW checked AS SELECT * FROM judged WHERE problem IS NULL")
    counts = database.execute(
        "SELECT problem, count(*), min(row) FROM judged GROUP BY problem ORDER BY problem"
    ).fetchall()
    bad = [(checks[problem], count, row) for problem, count, row in counts if problem is not None]
    if bad and not drop:
        check, count, row = bad[0]
        value = one_value(database, f"SELECT {check.column} FROM raw WHERE row = {row}")
        raise ValueError(
            f"{source.description}: expected {check.expected} in every row, but {count} row(s) "
            f"have none; the first is row {row} (counted from 1, without headers) with {value!r}. "
            "Correct them, or leave such rows out with on_bad_row='drop'."
        )
    if len(bad) == len(counts):
        raise ValueError(
            f"{source.description}: no row is left, all {sum(count for _, count, _ in bad)} are "
            f"bad: {', '.join(f'{check.reason} {count}' for check, count, _ in bad)}."
        )
    return {check.reason: count for check, count, _ in bad}


def _time_key(database: duckdb.DuckDBPyConnection) -> str:
    """What to sort by: the time column, or what most of its texts can be read as."""
    if one_value(database, "SELECT any_value(typeof(time)) FROM raw") != "VARCHAR":
        return "time"
    # Integers come first since a float would run nanoseconds together. DECIMAL would serve both,
    # but DuckDB takes hundreds of times longer to cast text to it.
    readings = (
        "CASE WHEN regexp_full_match(time, '-?[0-9]+') THEN TRY_CAST(time AS BIGINT) END",
        "CASE WHEN isfinite(TRY_CAST(time AS DOUBLE)) THEN TRY_CAST(time AS DOUBLE) END",
        "TRY_CAST(time AS TIMESTAMPTZ)",
    )
    counts = [one_value(database, f"SELECT count({reading}) FROM raw") for reading in readings]
    return readings[int(np.argmax(counts))]
