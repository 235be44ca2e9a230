"""Raw tables to a records folder: checked, split by task, encoded, sorted and grouped by DuckDB.

source -> raw -> checked -> tasks, splits -> vocabularies -> encoded, task by task -> episodes
"""

from __future__ import annotations

import contextlib
import dataclasses
import fractions
import json
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any, Literal

import duckdb
import numpy as np

from gmeta_tf.meta_io.encode import (
    encode_rows,
    episodes_of_split,
    make_vocabulary,
    save_tables,
)
from gmeta_tf.meta_io.raw_rows import check_rows, load_rows
from gmeta_tf.meta_io.records import Records, write_split
from gmeta_tf.meta_io.sources import Source
from gmeta_tf.meta_io.sql import one_value, sql_text
from gmeta_tf.schema import Schema

__all__ = ["Split", "prepare"]

_WHITE_SPACE = " \t\n\r\x0b\x0c"
_SPLITS = ("train", "test", "valid")


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
            load_rows(database, source, schema)
            dropped = check_rows(database, source, schema, drop=on_bad_row == "drop")
            make_tasks(database, split)
            num_rows = {
                table.name: make_vocabulary(database, schema, table.name) for table in schema.tables
            }
            encode_rows(database, schema)
            counts = {
                name: _write_episodes(database, schema, built, name, num_files)
                for name in split.names
            }
            save_tables(database, schema, built)
        details = _details(source, split, counts, dropped)
        written = Records(built, schema.with_num_rows(num_rows), split.names, num_files, details)
        (built / "schema.json").write_text(
            json.dumps(written.describe(), indent=2, ensure_ascii=False), encoding="utf-8"
        )
        _replace(built, output, aside=work / "previous")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Records.open(output)


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
    database.execute(f"SET temp_directory={sql_text(work / 'spilled')}")
    database.execute(
        f"CREATE MACRO trimmed(x) AS nullif(trim(CAST(x AS VARCHAR), {sql_text(_WHITE_SPACE)}), '')"
    )
    if memory_limit is not None:
        try:
            database.execute(f"SET memory_limit={sql_text(memory_limit)}")
        except duckdb.Error as error:
            database.close()
            raise ValueError(
                f"expected memory_limit to be a size such as '8GB', got {memory_limit!r}: {error}"
            ) from error
    return database


def make_tasks(database: duckdb.DuckDBPyConnection, split: Split) -> None:
    """Makes `tasks` (task, value, split, rows) and `grouped`, the good rows with task and split."""
    database.execute(
        "CREATE TABLE counted AS SELECT task AS value, count(*) AS rows FROM checked GROUP BY task"
    )
    all_integers = one_value(
        database,
        "SELECT bool_and(regexp_full_match(value, '-?[0-9]+') "
        "AND TRY_CAST(value AS HUGEINT) IS NOT NULL) FROM counted",
    )
    order = "CAST(value AS HUGEINT), value" if all_integers else "value"
    assigned = split.assign(one_value(database, "SELECT count(*) FROM counted"))
    database.register("assigned", {"task": np.arange(len(assigned)), "position": assigned})
    names = ", ".join(sql_text(name) for name in _SPLITS)
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


def _write_episodes(
    database: duckdb.DuckDBPyConnection,
    schema: Schema,
    folder: pathlib.Path,
    split: str,
    num_files: int,
) -> dict[str, int]:
    index = write_split(folder, split, episodes_of_split(database, schema, split), num_files)
    return {"tasks": len(index), "rows": int(index["rows"].sum(dtype=np.int64))}


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
