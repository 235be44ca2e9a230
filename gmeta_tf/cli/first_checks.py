"""What a user may have got wrong and can be told before TensorFlow is imported.

The commands check everything again where it matters; these checks only make errors come fast.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from gmeta_tf.cli.options import (
    CandidatesOptions,
    EvaluateOptions,
    ExportOptions,
    PlayOptions,
    PredictOptions,
    PrepareOptions,
    ReaderFlags,
    ReportOptions,
    TrainOptions,
)
from gmeta_tf.cli.resuming import check_resumed
from gmeta_tf.cli.run_files import check_run_folder, read_config
from gmeta_tf.cli.yaml_file import read_yaml
from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.files import is_remote
from gmeta_tf.meta_io.preparing.work_folder import check_output
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.schema import Schema

__all__ = [
    "check_csv_output",
    "check_play",
    "check_predict",
    "check_prepare",
    "check_report",
    "check_run",
    "check_train",
    "read_schema",
    "reader_options",
    "report_path",
]

# Where a schema's file says how the raw files are written. It is no part of what a row is: records
# that were made of other files of the same rows are the same.
_READ = "read"


def check_prepare(options: PrepareOptions) -> None:
    """The schema, and whether the output may be written."""
    reader_options(options, options.schema)
    if options.schema is not None:
        _check_tables(read_schema(options.schema))
    if not is_remote(options.output):
        check_output(options.output, overwrite=options.overwrite, append=options.append)


def _check_tables(schema: Schema) -> None:
    for table in schema.tables_to_join:
        try:
            ReaderOptions.from_json(dict(table.read))
        except ValueError as error:
            raise ValueError(f"tables_to_join, {table.name}: {error}") from error
        if is_remote(table.path) or os.path.exists(table.path):
            continue
        if not glob.glob(table.path, recursive=True):
            raise FileNotFoundError(
                f"tables_to_join, {table.name}: no file {table.path}. Correct the path; it is "
                "relative to the schema's file."
            )


def check_train(options: TrainOptions) -> None:
    """Whether the run folder may be taken, and an earlier run may go on with the options."""
    # Of several ranks, rank 0 may have taken the folder before another one looks at it.
    if not World.detect().is_distributed:
        check_run_folder(options)
        check_resumed(options)


def check_run(options: CandidatesOptions | EvaluateOptions | ExportOptions) -> None:
    """Whether the run's folder is one."""
    read_config(options.run)


def check_report(options: ReportOptions) -> None:
    """Whether the runs are there, the page may be written, and pictures can be drawn.

    Raises:
        FileNotFoundError: no such run, or no folder for the page.
        ValueError: the page is to be a folder, or no HTML file.
        ImportError: Matplotlib is not installed.
    """
    for run in (options.run, options.against):
        if run is not None:
            read_config(run)
    page = report_path(options)
    if page.suffix not in (".html", ".htm") or page.is_dir():
        raise ValueError(f"expected --output to be an HTML file, such as report.html, got {page}.")
    if not page.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --output {page} does not exist. Make it first.")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "report draws with Matplotlib, which is not installed. Install it: "
            "pip install 'gmeta_tf[report]'"
        )


def report_path(options: ReportOptions) -> pathlib.Path:
    """The page that a report is."""
    return pathlib.Path(options.output or pathlib.Path(options.run) / "report.html")


def check_predict(options: PredictOptions) -> None:
    """How the inputs are read, and whether the output may be written."""
    reader_options(options)
    inputs = [path for path in (options.query, options.support) if path is not None]
    check_csv_output(options.output, inputs)


def check_play(options: PlayOptions) -> None:
    """How the names are read, whether there are any, and whether pages can be made.

    Raises:
        FileNotFoundError: no file of names.
        ValueError: how it is read does not fit.
        ImportError: Dash is not installed.
    """
    reader_options(options)
    names = options.names
    if names is not None and not is_remote(names) and not glob.glob(names):
        raise FileNotFoundError(f"no file {names}: expected --names to be a file with the items.")
    if importlib.util.find_spec("dash") is None:
        raise ImportError(
            "play makes its page with Dash, which is not installed. Install it: "
            "pip install 'gmeta_tf[play]'"
        )


def check_csv_output(output: str, inputs: Sequence[str]) -> None:
    """Checks that a file can be made, and is none of the files to be read.

    Raises:
        ValueError: the output is a folder or an input.
        FileNotFoundError: its folder does not exist.
    """
    path = pathlib.Path(output)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected --output to be a CSV file to write.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --output {path} does not exist. Make it first.")
    for name in inputs:
        if path.exists() and os.path.exists(name) and path.samefile(name):
            raise ValueError(f"{path} is read, too: expected another --output than the input.")


def read_schema(path: str) -> Schema:
    """Reads a schema from YAML or JSON.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not hold a schema.
    """
    values = _schema_values(path)
    values.pop(_READ, None)
    try:
        return _beside(Schema.from_json(values), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _beside(schema: Schema, path: str) -> Schema:
    """The schema with the paths of its tables, which are relative to its file, as absolute ones."""
    folder = os.path.dirname(os.path.abspath(path))
    tables = tuple(
        table
        if is_remote(table.path)
        else dataclasses.replace(table, path=os.path.join(folder, table.path))
        for table in schema.tables_to_join
    )
    return dataclasses.replace(schema, tables_to_join=tables)


def reader_options(flags: ReaderFlags, schema: str | None = None) -> ReaderOptions:
    """How files are read: what flags say, and else what a schema's file says under `read`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a value that does not fit.
    """
    values = {} if schema is None else _schema_values(schema)
    try:
        written = ReaderOptions.from_json(values[_READ]) if _READ in values else ReaderOptions()
    except ValueError as error:
        raise ValueError(f"{schema}: {error}") from error
    given = {
        field.name: value
        for field in dataclasses.fields(ReaderFlags)
        if (value := getattr(flags, field.name)) is not None
    }
    return dataclasses.replace(written, **given)


def _schema_values(path: str) -> dict[str, Any]:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"no schema {path}: expected a YAML or JSON file.")
    return read_yaml(path, "fields, label and task, each with its value")
