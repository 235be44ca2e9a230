"""Raw tables to a records folder: checked, split by task, encoded, sorted and grouped by DuckDB.

source -> raw -> checked -> tasks, splits -> vocabularies -> encoded, task by task -> episodes

How a value becomes a key (serving has to do the same):

1. White space (space, tab, line feed, carriage return, vertical tab, form feed) is cut off both
   ends of every value, the task's included; what is then empty is missing.
2. A categorical value is looked up in its table's vocabulary; unknown or missing is key 0.
3. A multi-valued text is cut at the separator (a list is taken as it is) and its parts are looked
   up. Empty, unknown and repeated parts are left out, the first `max_values` of the rest are kept
   in their order, and -1 fills up. A row with none left has the single key 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fractions
import glob
import itertools
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import duckdb
import numpy as np

from gmeta_tf.meta_io.records import Records, encode_episode, write_split
from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY, Field, Schema

__all__ = ["Source", "Split", "files_source", "prepare", "read_vocabulary"]

# Everything is read as text, so that the key "007" stays "007", and nothing of the layout is left
# to DuckDB's guess, so that two files of one data set are never read in two ways.
_TEXT_OPTIONS = "header=true, all_varchar=true, quote='\"', escape='\"', skip=0, comment=''"
_READERS = {
    "csv": f"read_csv({{paths}}, delim=',', {_TEXT_OPTIONS})",
    "tsv": f"read_csv({{paths}}, delim='\t', {_TEXT_OPTIONS})",
    "parquet": "read_parquet({paths}, binary_as_string=true)",
}
_ENDINGS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
}
_WHITE_SPACE = " \t\n\r\x0b\x0c"
_SPLITS = ("train", "test", "valid")
_CHUNK_ROWS = 1 << 18


@dataclasses.dataclass(frozen=True)
class Source:
    """Where raw rows come from: a query that DuckDB runs.

    Attributes:
        description: what error messages and the records' `details` call it.
        query: a SELECT that gives the raw columns under their names.
        row: the query's column that numbers the rows in the order of the files, for a query that
            does not keep that order (a join). None numbers the rows as they come, from 1.
    """

    description: str
    query: str
    row: str | None = None


def files_source(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Source:
    """CSV, TSV or Parquet files, read one after the other as if they were one.

    CSV and TSV files are UTF-8 with a header, plain or gzipped. Columns go by their names.

    Args:
        paths: a path or a glob pattern (its files in the order of their names), or several.
            The endings tell the format: .csv, .csv.gz, .tsv, .tsv.gz, .parquet.

    Raises:
        FileNotFoundError: no such file, or nothing matches.
        ValueError: no path, another ending, or endings of different formats.
    """
    patterns = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [file for pattern in patterns for file in _matches(os.fspath(pattern))]
    if not files:
        raise ValueError("the source has no file: expected at least one path, got none.")
    formats = {file: _format_of(file) for file in files}
    if len(set(formats.values())) > 1:
        raise ValueError(
            f"expected files of one format, got {_shown(formats)} of "
            f"{', '.join(sorted(set(formats.values())))}. Prepare them apart or convert them."
        )
    names = ", ".join(_text(glob.escape(file)) for file in files)
    reader = _READERS[formats[files[0]]].format(paths=f"[{names}]")
    return Source(_shown(files), f"SELECT * FROM {reader}")


@dataclasses.dataclass(frozen=True)
class Split:
    """Which tasks are held out. Whole tasks are, so that a held-out task is a cold one.

    Attributes:
        test_fraction: the share of the tasks in the split "test", rounded up.
        valid_fraction: the share in the split "valid", rounded up; with 0 there is no such split.
        seed: of the permutation that draws them.

    Raises:
        ValueError: a fraction outside [0, 1).
    """

    test_fraction: float = 0.2
    valid_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("test_fraction", "valid_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"Split: expected {name} to be at least 0 and below 1, "
                    f"got {getattr(self, name)}."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that are written."""
        return _SPLITS if self.valid_fraction > 0 else _SPLITS[:2]

    def assign(self, num_tasks: int) -> np.ndarray:
        """The split of each task, int8 `[num_tasks]`: a position in train, test, valid.

        Raises:
            ValueError: no task is left to train on.
        """
        # As decimals: in floats 0.07 of 100 tasks is more than 7, which would round up to 8.
        num_test, num_valid = (
            math.ceil(fractions.Fraction(str(fraction)) * num_tasks)
            for fraction in (self.test_fraction, self.valid_fraction)
        )
        if num_test + num_valid >= num_tasks:
            raise ValueError(
                f"no task is left to train on: of {num_tasks} task(s), {num_test} are for test and "
                f"{num_valid} for valid. Lower the fractions or bring more tasks."
            )
        order = np.random.default_rng(self.seed).permutation(num_tasks)
        splits = np.zeros(num_tasks, np.int8)
        splits[order[:num_test]] = 1
        splits[order[num_test : num_test + num_valid]] = 2
        return splits


def prepare(
    source: Source,
    schema: Schema,
    output: str | os.PathLike[str],
    *,
    split: Split = Split(),
    num_files: int = 16,
    overwrite: bool = False,
    memory_limit: str | None = None,
    on_bad_row: Literal["error", "drop"] = "error",
) -> Records:
    """Writes a records folder from raw rows.

    Tasks are numbered from 0 in the order of their values (as numbers where all are integers, as
    text otherwise). A task's rows are in the order of the time column, equal times and data
    without one in the order of the files. Vocabularies are those of the training tasks.

    The folder is built under a hidden name beside `output` and renamed when it is whole; an older
    one stays until then. A process that is killed leaves at most that hidden folder.

    Args:
        source: the raw rows.
        schema: what a row is; the tables' sizes are filled in.
        output: the records folder.
        split: which tasks are held out.
        num_files: the files of each split; at least the number of ranks that will read them.
        overwrite: replace `output` when it is a records folder.
        memory_limit: what DuckDB may take, such as "8GB"; the rest goes to disk beside `output`.
            None is its default, 80 % of the machine.
        on_bad_row: what to do about rows without a task, with a label or a dense value that is no
            finite number, or with a time that cannot be read: "error" raises, "drop" leaves them
            out and counts them in `details["dropped_rows"]`.

    Returns:
        The records, opened.

    Raises:
        ValueError: the output exists, a column or all rows are missing, bad rows, nothing left to
            train on, or an argument out of its range.
    """
    output = pathlib.Path(output)
    _check_arguments(schema, output, num_files, overwrite, on_bad_row)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        built = work / "records"
        built.mkdir()
        with contextlib.closing(_connect(work, memory_limit)) as database:
            _load(database, source, schema)
            dropped = _check_rows(database, source, schema, drop=on_bad_row == "drop")
            _make_tasks(database, split)
            num_rows = {
                table.name: _make_vocabulary(database, schema, table.name)
                for table in schema.tables
            }
            _encode(database, schema)
            counts = {
                name: _write_episodes(database, schema, built, name, num_files)
                for name in split.names
            }
            _save_tables(database, schema, built)
        details = _details(source, split, counts, dropped)
        written = Records(built, schema.with_num_rows(num_rows), split.names, num_files, details)
        (built / "schema.json").write_text(
            json.dumps(written.describe(), indent=2, ensure_ascii=False), encoding="utf-8"
        )
        _replace(built, output, aside=work / "previous")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Records.open(output)


def read_vocabulary(records: str | os.PathLike[str], table: str) -> np.ndarray:
    """The values of a table of a records folder, str `[num_rows - 1]`: entry i has key i + 1.

    Raises:
        FileNotFoundError: no such table or folder.
    """
    folder = pathlib.Path(records) / "vocabulary"
    path = folder / f"{table}.parquet"
    if not path.is_file():
        there = sorted(file.stem for file in folder.glob("*.parquet"))
        raise FileNotFoundError(
            f"{records} has no vocabulary of the table {table!r}: expected {path}, "
            f"found {', '.join(there) or 'none'}."
        )
    with contextlib.closing(duckdb.connect()) as database:
        query = f"SELECT value FROM {_parquet(path)} ORDER BY key"
        return np.asarray(database.execute(query).fetchnumpy()["value"], object)


def _matches(pattern: str) -> list[str]:
    if pathlib.Path(pattern).is_file():
        return [pattern]
    files = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
    if not files:
        raise FileNotFoundError(
            f"no file {pattern}: expected the path of a file, or a pattern that matches one."
        )
    return files


def _format_of(file: str) -> str:
    for ending, name in _ENDINGS.items():
        if file.lower().endswith(ending):
            return name
    raise ValueError(
        f"{file}: expected a name that ends in {', '.join(_ENDINGS)}. "
        "Rename or convert the file, or write a Source with its own query."
    )


def _shown(files: Any) -> str:
    names = list(files)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_arguments(
    schema: Schema, output: pathlib.Path, num_files: int, overwrite: bool, on_bad_row: str
) -> None:
    if num_files < 1:
        raise ValueError(f"expected num_files of at least 1, got {num_files}.")
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"expected on_bad_row of 'error' or 'drop', got {on_bad_row!r}.")
    for table in schema.tables:
        if pathlib.PurePath(table.name).name != table.name or "\\" in table.name:
            raise ValueError(
                f"the table {table.name!r} names a file of the records folder: expected a name "
                "without slashes. Rename the table."
            )
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise ValueError(
            f"{output} exists. Pass overwrite=True to replace it, or choose another output."
        )
    if not (output / "schema.json").is_file():
        raise ValueError(
            f"{output} is no records folder (it has no schema.json), so it is not overwritten. "
            "Move it away or choose another output."
        )


def _connect(work: pathlib.Path, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(str(work / "work.duckdb"))
    # With UTC a text time without a zone means the same on every machine. The insertion order is
    # what "the order of the files" and the reading of sorted chunks rest on.
    database.execute("SET TimeZone='UTC'")
    database.execute("SET preserve_insertion_order=true")
    database.execute(f"SET temp_directory={_text(work / 'spilled')}")
    database.execute(
        f"CREATE MACRO trimmed(x) AS nullif(trim(CAST(x AS VARCHAR), {_text(_WHITE_SPACE)}), '')"
    )
    if memory_limit is not None:
        try:
            database.execute(f"SET memory_limit={_text(memory_limit)}")
        except duckdb.Error as error:
            database.close()
            raise ValueError(
                f"expected memory_limit to be a size such as '8GB', got {memory_limit!r}: {error}"
            ) from error
    return database


def _load(database: duckdb.DuckDBPyConnection, source: Source, schema: Schema) -> None:
    """Makes `raw`: row, task, label, time and a column `field_<i>` for each field of the schema."""
    try:
        query = f"SELECT * FROM ({source.query})"
        described = database.execute(f"DESCRIBE {query}").fetchall()
        type_of = {column[0]: column[1] for column in described}
        if database.execute(f"{query} LIMIT 1").fetchone() is None:
            raise ValueError(f"{source.description} has no rows.")
        _check_columns(source, schema, type_of)
        row = "row_number() OVER ()" if source.row is None else _name(source.row)
        time = "0" if schema.time is None else _name(schema.time)
        fields = [
            f"{_loaded(field, type_of[field.column_name])} AS field_{position}"
            for position, field in enumerate(schema.fields)
        ]
        database.execute(
            f"CREATE TABLE raw AS SELECT {row} AS row, trimmed({_name(schema.task)}) AS task, "
            f"{_name(schema.label)} AS label, {time} AS time, {', '.join(fields)} "
            f"FROM ({source.query})"
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        first_lines = " ".join(str(error).split("\n")[:4])
        raise ValueError(f"{source.description} cannot be read: {first_lines}") from error


def _loaded(field: Field, type_name: str) -> str:
    """A field's column as `raw` holds it: text, a list of texts, or a number to be."""
    column = _name(field.column_name)
    if field.kind == "categorical":
        return f"trimmed({column})"
    if field.kind == "dense":
        return column
    if type_name.endswith("]"):
        return f"CAST({column} AS VARCHAR[])"
    return f"string_split(CAST({column} AS VARCHAR), {_text(field.separator)})"


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


def _check_rows(
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
        value = _only(database, f"SELECT {check.column} FROM raw WHERE row = {row}")
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
    if _only(database, "SELECT any_value(typeof(time)) FROM raw") != "VARCHAR":
        return "time"
    # Integers come first since a float would run nanoseconds together. DECIMAL would serve both,
    # but DuckDB takes hundreds of times longer to cast text to it.
    readings = (
        "CASE WHEN regexp_full_match(time, '-?[0-9]+') THEN TRY_CAST(time AS BIGINT) END",
        "CASE WHEN isfinite(TRY_CAST(time AS DOUBLE)) THEN TRY_CAST(time AS DOUBLE) END",
        "TRY_CAST(time AS TIMESTAMPTZ)",
    )
    counts = [_only(database, f"SELECT count({reading}) FROM raw") for reading in readings]
    return readings[int(np.argmax(counts))]


def _make_tasks(database: duckdb.DuckDBPyConnection, split: Split) -> None:
    """Makes `tasks` (task, value, split, rows) and `grouped`, the good rows with task and split."""
    database.execute(
        "CREATE TABLE counted AS SELECT task AS value, count(*) AS rows FROM checked GROUP BY task"
    )
    all_integers = _only(
        database,
        "SELECT bool_and(regexp_full_match(value, '-?[0-9]+') "
        "AND TRY_CAST(value AS HUGEINT) IS NOT NULL) FROM counted",
    )
    order = "CAST(value AS HUGEINT), value" if all_integers else "value"
    assigned = split.assign(_only(database, "SELECT count(*) FROM counted"))
    database.register("assigned", {"task": np.arange(len(assigned)), "position": assigned})
    names = ", ".join(_text(name) for name in _SPLITS)
    database.execute(
        f"CREATE TABLE tasks AS SELECT task, value, [{names}][position + 1] AS split, rows FROM "
        f"(SELECT row_number() OVER (ORDER BY {order}) - 1 AS task, value, rows FROM counted) "
        "JOIN assigned USING (task) ORDER BY task"
    )
    database.unregister("assigned")
    database.execute(
        "CREATE VIEW grouped AS SELECT checked.* REPLACE (tasks.task AS task), split "
        "FROM checked JOIN tasks ON checked.task = tasks.value"
    )


def _make_vocabulary(database: duckdb.DuckDBPyConnection, schema: Schema, table: str) -> int:
    """Makes a table's `vocabulary` and its fields' `keys`; returns the table's num_rows."""
    readers = [
        (position, field)
        for position, field in enumerate(schema.fields)
        if field.kind != "dense" and field.table_name == table
    ]
    values = " UNION ALL ".join(
        f"SELECT part AS value, count FROM {_parts(field, position, 'training')}"
        for position, field in readers
    )
    vocabulary = _vocabulary_name(schema, table)
    min_count = min(field.min_count for _, field in readers)
    database.execute(
        f"CREATE TABLE {vocabulary} AS SELECT value, row_number() OVER (ORDER BY count DESC, "
        f"value) AS key FROM (SELECT value, sum(count) AS count FROM (WITH training AS (SELECT * "
        f"FROM grouped WHERE split = 'train') {values}) GROUP BY value) WHERE count >= {min_count} "
        "ORDER BY key"
    )
    for position, field in readers:
        # A column a slot and not one list: DuckDB puts aggregates of a fixed size on disk when
        # memory runs out, and lists it cannot.
        slots = ", ".join(
            f"max(key) FILTER (place = {slot}) AS slot_{slot}" for slot in range(field.num_slots)
        )
        database.execute(
            f"CREATE TABLE keys_{position} AS SELECT text, {slots} FROM (SELECT text, "
            "CAST(key AS INTEGER) AS key, "
            "row_number() OVER (PARTITION BY text ORDER BY place) - 1 AS place "
            f"FROM {_parts(field, position, 'grouped')} JOIN {vocabulary} ON part = value) "
            f"WHERE place < {field.num_slots} GROUP BY text"
        )
    return 1 + _only(database, f"SELECT count(*) FROM {vocabulary}")


def _vocabulary_name(schema: Schema, table: str) -> str:
    # By number: the names of DuckDB's tables do not tell "Item" from "item".
    return f"vocabulary_{[one.name for one in schema.tables].index(table)}"


def _parts(field: Field, position: int, rows: str) -> str:
    """A field's distinct texts cut in parts: (text, part, place of the first, count of rows).

    Texts and not rows are cut, since there are far fewer of them in most data.
    """
    text = f"field_{position}"
    texts = f"SELECT {text} AS text, count(*) AS count FROM {rows} GROUP BY {text}"
    parts = "[text]" if field.kind == "categorical" else "text"
    return (
        f"(SELECT text, trimmed(part) AS part, min(place) AS place, any_value(count) AS count FROM "
        f"(SELECT text, count, unnest({parts}) AS part, generate_subscripts({parts}, 1) AS place "
        f"FROM ({texts})) WHERE trimmed(part) IS NOT NULL GROUP BY text, trimmed(part))"
    )


def _encode(database: duckdb.DuckDBPyConnection, schema: Schema) -> None:
    """Makes `encoded`: split, task, then a record's planes, in the order of the records."""
    planes = ["CAST(label AS FLOAT) AS plane_0"]
    joins = []
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            continue
        joins.append(f"LEFT JOIN keys_{position} ON field_{position} = keys_{position}.text")
        for slot in range(field.num_slots):
            missing = UNKNOWN_KEY if slot == 0 else PADDING_KEY
            planes.append(
                f"coalesce(keys_{position}.slot_{slot}, {missing}) AS plane_{len(planes)}"
            )
    for position, field in enumerate(schema.fields):
        if field.kind == "dense":
            planes.append(f"CAST(field_{position} AS FLOAT) AS plane_{len(planes)}")
    database.execute(
        f"CREATE TABLE encoded AS SELECT split, task, {', '.join(planes)} FROM grouped "
        f"{' '.join(joins)} ORDER BY split, task, time_key, row"
    )


def _write_episodes(
    database: duckdb.DuckDBPyConnection,
    schema: Schema,
    folder: pathlib.Path,
    split: str,
    num_files: int,
) -> dict[str, int]:
    index = write_split(folder, split, _episodes(database, schema, split), num_files)
    return {"tasks": len(index), "rows": int(index["rows"].sum(dtype=np.int64))}


def _episodes(
    database: duckdb.DuckDBPyConnection, schema: Schema, split: str
) -> Iterator[tuple[int, int, bytes]]:
    """A split's episodes, `(task, rows, record)`, fetched in chunks of whole tasks."""
    num_slots = sum(field.num_slots for field in schema.key_fields)
    planes = [f"plane_{plane}" for plane in range(1 + num_slots + len(schema.dense_fields))]
    for tasks, rows_of in _chunks(database, split):
        columns = database.execute(
            f"SELECT {', '.join(planes)} FROM encoded WHERE split = {_text(split)} "
            f"AND task BETWEEN {tasks[0]} AND {tasks[-1]}"
        ).fetchnumpy()
        label = columns["plane_0"]
        keys = np.reshape([columns[plane] for plane in planes[1 : 1 + num_slots]], [-1, len(label)])
        dense = np.reshape([columns[plane] for plane in planes[1 + num_slots :]], [-1, len(label)])
        for task, rows, end in zip(tasks, rows_of, np.cumsum(rows_of), strict=True):
            part = slice(end - rows, end)
            record = encode_episode(int(task), label[part], keys[:, part], dense[:, part])
            yield int(task), int(rows), record


def _chunks(
    database: duckdb.DuckDBPyConnection, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A split's tasks in order and their rows, cut where the chunk's number of rows is reached."""
    found = database.execute(
        f"SELECT task, rows FROM tasks WHERE split = {_text(split)} ORDER BY task"
    ).fetchnumpy()
    tasks, rows = found["task"], found["rows"]
    chunk_of = (np.cumsum(rows) - rows) // _CHUNK_ROWS
    cuts = [0, *np.flatnonzero(np.diff(chunk_of)) + 1, len(tasks)]
    for first, last in itertools.pairwise(cuts):
        if first < last:
            yield tasks[first:last], rows[first:last]


def _save_tables(database: duckdb.DuckDBPyConnection, schema: Schema, folder: pathlib.Path) -> None:
    (folder / "vocabulary").mkdir()
    saved = {"tasks": folder / "tasks.parquet"}
    for table in schema.tables:
        path = folder / "vocabulary" / f"{table.name}.parquet"
        saved[_vocabulary_name(schema, table.name)] = path
    for name, path in saved.items():
        database.execute(f"COPY {name} TO {_text(path)} (FORMAT parquet)")


def _details(
    source: Source, split: Split, counts: dict[str, dict[str, int]], dropped: dict[str, int]
) -> dict[str, Any]:
    return {
        "source": source.description,
        "rows": sum(count["rows"] for count in counts.values()),
        "tasks": sum(count["tasks"] for count in counts.values()),
        "splits": counts,
        "dropped_rows": dropped,
        "split": dataclasses.asdict(split),
    }


def _replace(built: pathlib.Path, output: pathlib.Path, aside: pathlib.Path) -> None:
    """Renames `built` to `output`; what stood there goes aside, and back if that fails."""
    if not os.path.lexists(output):
        built.rename(output)
        return
    output.rename(aside)
    try:
        built.rename(output)
    except OSError:
        aside.rename(output)
        raise


def _only(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value that a query gives."""
    row = database.execute(query).fetchone()
    if row is None:
        raise RuntimeError(f"expected one value, got no row: {query}")
    return row[0]


def _name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: object) -> str:
    """An SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def _parquet(path: pathlib.Path) -> str:
    return f"read_parquet({_text(glob.escape(str(path)))})"
