"""Raw tables to a records folder: an engine checks, splits, encodes and sorts; this writes.

source -> engine (see `Job`) -> rows in the records' order -> episodes -> files -> schema.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from gmeta_tf.allowed import COMPRESSIONS, ENGINES, ON_BAD_ROW, check_word
from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.preparing.append import (
    append_of,
    check_layout,
    check_no_history,
    check_same,
    first_parts,
    move_in,
)
from gmeta_tf.meta_io.preparing.dense_fit import DenseFit
from gmeta_tf.meta_io.preparing.derived_fields import DerivedFields
from gmeta_tf.meta_io.preparing.duckdb_engine import encoded_by_duckdb
from gmeta_tf.meta_io.preparing.full_disk import told_of_a_full_disk
from gmeta_tf.meta_io.preparing.inputs import check_inputs, inputs_of, known_inputs
from gmeta_tf.meta_io.preparing.job import Encoded, Job
from gmeta_tf.meta_io.preparing.spark_engine import encoded_by_spark
from gmeta_tf.meta_io.preparing.split import Split
from gmeta_tf.meta_io.preparing.stages import Progress
from gmeta_tf.meta_io.preparing.summary import details_of, digests_of
from gmeta_tf.meta_io.preparing.work_folder import (
    check_output,
    claimed,
    replace_folder,
    work_folder,
)
from gmeta_tf.meta_io.records.records import Records, SplitFiles
from gmeta_tf.meta_io.records.writer import EpisodeWriter
from gmeta_tf.meta_io.sealed_json import sealed
from gmeta_tf.meta_io.sources.side_tables import joined
from gmeta_tf.meta_io.sources.sources import Source, give_table
from gmeta_tf.meta_io.sources.tables import as_source
from gmeta_tf.meta_io.sql import connect
from gmeta_tf.schema import Schema

__all__ = ["Split", "prepare"]

Engine = Callable[[Job], contextlib.AbstractContextManager[Encoded]]

_ENGINE_OF: dict[str, Engine] = {"duckdb": encoded_by_duckdb, "spark": encoded_by_spark}
"""What `prepare` can run on; all give the same records."""


def prepare(
    source: Source | Any,
    schema: Schema,
    output: str | os.PathLike[str],
    *,
    engine: str = "duckdb",
    split: Split | None = None,
    num_files: int = 16,
    episode_rows: int | None = None,
    compression: str | None = None,
    overwrite: bool = False,
    append: bool = False,
    memory_limit: str | None = None,
    spill_folder: str | os.PathLike[str] | None = None,
    on_bad_row: Literal["error", "drop"] = "error",
    max_bad_share: float = 0.1,
    allow_same_input: bool = False,
    progress: bool = False,
) -> Records:
    """Writes a records folder from raw rows, or appends to one.

    Tasks are numbered from 0 in the order of their values (as numbers where all are integers, as
    text otherwise). A task's rows are in the order of the time column, equal times and data
    without one in the order of the files. Vocabularies are those of the training rows.

    The folder is built under a hidden name beside `output` and renamed when it is whole; an older
    one stays until then. A process that is killed leaves at most that hidden folder, which the
    next `prepare` with this output removes.

    Appending adds a later log to a folder. Tasks keep their numbers and splits, and values their
    keys. New tasks and new values get the numbers after those, and `min_count` judges the new
    log's training rows alone. Each new task is drawn to a split on its own, with the split's
    fractions as probabilities. Splits by time keep their times, so that rows later than all others
    are rows of the test: to train on what was the test, prepare everything anew. A task's new rows
    are episodes of their own, after its old ones whatever their time. The new files appear in the
    folder beside the old ones, and count when `schema.json`, which is replaced last, names them; a
    process that is killed leaves the folder as it was, and the next appending removes the files.

    Args:
        source: the raw rows: a `Source` (`gm.files_source`), a pandas or Polars DataFrame, a
            pyarrow Table, or a mapping of names to NumPy arrays.
        schema: what a row is; the vocabularies' sizes are filled in, and its `tables_to_join` are
            joined.
        output: the records folder, local or of a remote file system (see `files`).
        engine: what does the work: "duckdb" on this machine, or "spark" (see docs/meta_io.md). Both
            write the same records.
        split: which rows are held out. None is `Split()`, or that of the folder to append to.
        num_files: the files of each split; at least the number of ranks that will read them.
        episode_rows: the most rows of an episode; tasks with more are cut into several. None is
            1024, or that of the folder to append to.
        compression: of each record, "none" or "zlib". None is "none", or that of the folder to
            append to.
        overwrite: replace `output` when it is a records folder and holds nothing else.
        append: add to `output`, a records folder of this schema.
        memory_limit: what the engine may take, such as "8GB"; the rest goes to disk. None is
            DuckDB's default, 80 % of the machine.
        spill_folder: a folder for what goes to disk; None is beside `output`, or the system's
            folder for temporary files where that is remote.
        on_bad_row: what to do about rows without a task, with a label or a dense value that is no
            finite number, with a time that cannot be read, or a raw key that is no integer or out
            of its table: "error" raises, "drop" leaves them out and counts them in
            `details["dropped_rows"]`. What makes a file unreadable (text that is not UTF-8, lines
            with other columns) raises in any case.
        max_bad_share: the largest share of bad rows that "drop" leaves out; with more it raises.
        allow_same_input: take a file that the records have already, or that stands twice in the
            source: its rows then count twice. Otherwise files of the same bytes are an error.
        progress: show the stages on stderr, if that is a terminal.

    Returns:
        The records, opened.

    Raises:
        ValueError: the output exists, or does not fit what is appended, or has it already; a column
            or all rows are missing, bad rows, nothing left to train on, or an argument out of its
            range.
        OSError: the disk is full; an older output is as it was.
    """
    _check_arguments(output, engine, overwrite, append, on_bad_row, max_bad_share)
    source = as_source(source)
    if source.table is not None and engine != "duckdb":
        raise ValueError(
            f"engine {engine!r} reads files: expected a source of files, got {source.description}."
            " Write it as Parquet, or leave the engine at 'duckdb'."
        )
    with contextlib.ExitStack() as stack:
        old = _claimed_records(stack, output) if append else None
        if old is not None:
            check_layout(old)
            check_same(old, schema, split, episode_rows, compression)
            check_no_history(old)
            schema, split = old.schema, Split(**old.details["split"])
            episode_rows, compression = old.episode_rows, old.compression
        split = Split() if split is None else split
        writing = _Writing(
            num_files,
            episode_rows=1024 if episode_rows is None else episode_rows,
            compression="none" if compression is None else compression,
            generation=0 if old is None else old.generation + 1,
        )
        _check_times(schema, split)
        shown = Progress(progress)
        with shown.stage("looking at the files"):
            inputs = inputs_of(source, writing.generation)
        before = [] if old is None else known_inputs(old.details.get("inputs"))
        if not allow_same_input:
            check_inputs(source, inputs, before, os.fspath(output))
        # From the first folder that is made on.
        stack.enter_context(told_of_a_full_disk(output))
        work, spilled = _work_folders(stack, output, spill_folder)
        if schema.tables_to_join:
            with (
                shown.stage("reading side tables"),
                contextlib.closing(connect(spilled, memory_limit)) as database,
            ):
                give_table(database, source)
                tables = spilled.parent / "side-tables"
                tables.mkdir()
                source = joined(source, schema, schema.columns, tables, database)
        built = work / "records"
        (built / "vocabulary").mkdir(parents=True)
        job = Job(
            source,
            schema,
            split,
            max_bad_share=max_bad_share if on_bad_row == "drop" else 0.0,
            tasks_file=built / f"tasks-{writing.generation:03d}.parquet",
            vocabulary_files={
                table.name: built / "vocabulary" / f"{table.name}-{writing.generation:03d}.parquet"
                for table in schema.tables
                if table.keys == "vocabulary"
            },
            spill_folder=spilled,
            memory_limit=memory_limit,
            previous=None if old is None else append_of(old, work),
            progress=shown,
        )
        described = _build(job, _ENGINE_OF[engine], built, writing, os.fspath(output), old)
        described.details["inputs"] = [*before, *inputs]
        text = sealed(described.describe())
        (built / "schema.json").write_text(text, encoding="utf-8")
        with job.progress.stage("moving into place"):
            if old is None:
                # Another process may have put something else there meanwhile.
                check_output(output, overwrite=overwrite, append=False)
            _commit(built, output, old, work)
    return Records.open(output)


@dataclasses.dataclass(frozen=True)
class _Writing:
    """How records are written, apart from what is in them."""

    num_files: int
    episode_rows: int
    compression: str
    generation: int

    def __post_init__(self) -> None:
        if self.num_files < 1:
            raise ValueError(f"expected num_files of at least 1, got {self.num_files}.")
        if self.episode_rows < 2:
            raise ValueError(f"expected episode_rows of at least 2, got {self.episode_rows}.")
        check_word("compression", self.compression, COMPRESSIONS)


def _claimed_records(stack: contextlib.ExitStack, output: str | os.PathLike[str]) -> Records:
    """The records to append to, which nobody else appends to until the stack ends."""
    records = Records.open(output)
    if files.is_remote(output):
        return records
    stack.enter_context(claimed(pathlib.Path(output)))
    return Records.open(output)  # again: until it was claimed, another process may have appended


def _work_folders(
    stack: contextlib.ExitStack,
    output: str | os.PathLike[str],
    spill_folder: str | os.PathLike[str] | None,
) -> tuple[pathlib.Path, pathlib.Path]:
    """The folder to build in, and an empty one for what does not fit into memory."""
    if files.is_remote(output):
        beside = pathlib.Path(spill_folder or tempfile.gettempdir()) / "gmeta-tf-prepare"
    else:
        beside = pathlib.Path(output).absolute()
    work = stack.enter_context(work_folder(beside))
    spilled = work
    if spill_folder is not None:
        spilled = stack.enter_context(work_folder(pathlib.Path(spill_folder) / "gmeta-tf-spilled"))
    (spilled / "spilled").mkdir()
    return work, spilled / "spilled"


def _build(
    job: Job, engine: Engine, built: pathlib.Path, writing: _Writing, path: str, old: Records | None
) -> Records:
    """Writes everything but `schema.json` to the folder `built`; the records as they will be."""
    contents = {}
    dense = DenseFit(job.schema)
    derived = DerivedFields(job)
    with engine(derived.job_of_engine()) as encoded:
        for name in derived.in_order(job.split.names):
            with job.progress.stage(f"writing {name}"):
                writer = EpisodeWriter(
                    built,
                    name,
                    job.schema,
                    **dataclasses.asdict(writing),
                    **first_parts(old, name, built),
                )
                chunks = derived.add(encoded.rows_of(name))
                contents[name] = _write(writer, dense.watch(chunks) if name == "train" else chunks)
                if old is not None:
                    (built / old.contents[name].index).unlink()
    contents = {name: contents[name] for name in job.split.names}
    sizes = {name: 1 + size for name, size in encoded.vocabulary_sizes.items()}
    schema = job.schema.with_num_rows(sizes)
    details = details_of(job, encoded, contents, old, derived.cut_values)
    if old is None:
        # What is appended later is transformed by the same numbers, as models were trained by them.
        schema = schema.with_fitted(dense.fitted())
        details["dense_values"] = dense.described()
    return Records(
        path,
        schema,
        contents,
        vocabularies={
            name: file.relative_to(built).as_posix() for name, file in job.vocabulary_files.items()
        },
        tasks=job.tasks_file.name,
        compression=writing.compression,
        episode_rows=writing.episode_rows,
        generation=writing.generation,
        details=details,
        digests=digests_of(job, contents),
    )


def _write(writer: EpisodeWriter, chunks: Iterator[tuple[np.ndarray, np.ndarray]]) -> SplitFiles:
    try:
        for task, words in chunks:
            writer.write(task, words)
        return writer.close()
    except BaseException:
        # The first error is the one to be told of: a full disk makes closing fail too.
        with contextlib.suppress(OSError):
            writer.abandon()
        raise


def _commit(
    built: pathlib.Path, output: str | os.PathLike[str], old: Records | None, work: pathlib.Path
) -> None:
    """Makes what was built the output; `schema.json` is the last to get there."""
    if files.is_remote(output):
        names = [path for path in built.rglob("*") if path.is_file() and not path.is_symlink()]
        for path in sorted(names, key=lambda path: path.name == "schema.json"):
            files.copy_in(path, files.join(output, path.relative_to(built).as_posix()))
    elif old is not None:
        move_in(built, old)
    else:
        replace_folder(built, pathlib.Path(output), work)


def _check_arguments(
    output: str | os.PathLike[str],
    engine: str,
    overwrite: bool,
    append: bool,
    on_bad_row: str,
    max_bad_share: float,
) -> None:
    check_word("engine", engine, ENGINES)
    check_word("on_bad_row", on_bad_row, ON_BAD_ROW)
    if not 0 < max_bad_share <= 1:
        raise ValueError(
            f"expected max_bad_share above 0 and at most 1, got {max_bad_share}. To stop at the "
            "first bad row, leave on_bad_row at 'error'."
        )
    if append and overwrite:
        raise ValueError("append and overwrite exclude each other: expected one, got both.")
    check_output(output, overwrite=overwrite, append=append)


def _check_times(schema: Schema, split: Split) -> None:
    if split.by_time and schema.time is None:
        raise ValueError(
            f"a split by {split.by!r} needs a time: expected a schema with `time`, got one without."
            " Name the column, or split by task."
        )
