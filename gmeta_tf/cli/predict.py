"""`gmeta-tf predict`: raw rows through a SavedModel."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import duckdb
import numpy as np

from gmeta_tf.cli.first_checks import check_predict, reader_options
from gmeta_tf.cli.options import PredictOptions
from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.preparing.raw_rows import kept_value
from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.side_tables import ROW, joined
from gmeta_tf.meta_io.sources.sources import Source, files_source, missed_column
from gmeta_tf.meta_io.sql import connect, sql_name
from gmeta_tf.saving.serving.predictor import Predictor
from gmeta_tf.saving.writing import named_if_full
from gmeta_tf.schema import Schema

__all__ = ["predict", "read_rows", "read_source"]


def predict(options: PredictOptions) -> None:
    """`gmeta-tf predict`: the output appears when it is complete, or stays as it was.

    Raises:
        FileNotFoundError: no exported model, input or folder of the output.
        ValueError: the output is a folder or an input, an input cannot be read, or lacks a column.
        OSError: the disk is full; the output is as it was.
    """
    check_predict(options)
    predictor = Predictor.load(options.saved_model)
    reading = reader_options(options)
    schema = _with_tables(predictor.request_schema, options.tables or [])
    query, own_columns = _read(options.query, schema, reading)
    weight = [] if schema.weight is None else [schema.weight]
    support = (
        {name: values[:0] for name, values in query.items()}
        | dict.fromkeys([schema.label, *weight], np.zeros(0))
        if options.support is None
        else _read(options.support, schema, reading, weight)[0]
    )
    names = (options.query, options.support or "no support rows")
    predicted = {}
    if predictor.tells_deviation:
        predicted["prediction"], predicted["deviation"] = predictor.with_deviation(
            query, support, tasks=options.tasks, names=names
        )
    else:
        predicted["prediction"] = predictor(query, support, tasks=options.tasks, names=names)
    output = pathlib.Path(options.output)
    # A link is followed: what it points to is replaced, and the link stays.
    target = output.resolve()
    with named_if_full(output), work_folder(target) as work:
        with open(work / "predictions.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*own_columns, *predicted])
            values = (one.tolist() for one in predicted.values())
            own = (query[column].tolist() for column in own_columns)
            writer.writerows(zip(*own, *values, strict=True))
        to_disk(work / "predictions.csv")
        (work / "predictions.csv").replace(target)
        to_disk(target.parent)
    print(f"{output}: {len(predicted['prediction'])} rows")


def read_rows(
    path: str,
    schema: Schema,
    options: ReaderOptions = ReaderOptions(),  # noqa: B008, frozen
) -> dict[str, np.ndarray]:
    """Every column of a CSV, TSV or Parquet file, in the file's order; None is a missing value.

    The task and what is looked up are the texts that `prepare` makes of them. Columns that the file
    lacks and that the schema's tables give come after its own.
    """
    return _read(path, schema, options)[0]


def read_source(
    source: Source, schema: Schema, further: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """As `read_rows`, of any source.

    Args:
        source: the rows.
        schema: what they are; columns that it does not know are read as they are.
        further: columns of joined tables that are wanted, too.
    """
    return _read_source(source, schema, further)[0]


def _read(
    path: str, schema: Schema, options: ReaderOptions, further: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `read_rows` and `read_source`, and the names of the file's own columns."""
    return _read_source(files_source(path, options=options), schema, further)


def _read_source(
    source: Source, schema: Schema, further: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    fields = schema.given_fields
    wanted = [schema.task, *(field.column_name for field in fields), *further]
    looked_up = [schema.task, *(field.column_name for field in fields if field.kind != "dense")]
    with (
        tempfile.TemporaryDirectory(prefix="gmeta-tf-predict-") as folder,
        contextlib.closing(connect(pathlib.Path(folder), None)) as database,
    ):
        described = database.execute(f"DESCRIBE {source.query}").fetchall()
        own_columns = [column[0] for column in described]
        order = ""
        if schema.tables_to_join and not set(wanted) <= set(own_columns):
            tables = pathlib.Path(folder)
            source = joined(source, schema, wanted, tables, database, own_columns_first=True)
            order = f" ORDER BY {sql_name(ROW)}" if source.joins else ""
        described = database.execute(f"DESCRIBE {source.query}").fetchall()
        type_of = {column[0]: column[1] for column in described}
        kept = [
            f"{kept_value(name, type_of)} AS {sql_name(name)}"
            for name in looked_up
            if name in type_of
        ]
        replaced = f" REPLACE ({', '.join(dict.fromkeys(kept))})" if kept else ""
        given = [column for join in source.joins for column in join.columns]
        names = ", ".join(map(sql_name, [*own_columns, *given]))
        rows = f"(SELECT *{replaced} FROM ({source.query}){order})"
        columns = database.execute(f"SELECT {names} FROM {rows}").fetchnumpy()
        num_rows = len(next(iter(columns.values())))
        check_every_line(database, source, num_rows)
        _tell_missed(database, source)
    return {name: _with_none(values) for name, values in columns.items()}, own_columns


def _tell_missed(database: duckdb.DuckDBPyConnection, source: Source) -> None:
    for place, join in enumerate(source.joins):
        missed = sql_name(missed_column(place))
        count, num_rows = database.execute(
            f"SELECT count(*) FILTER ({missed}), count(*) FROM ({source.query})"
        ).fetchall()[0]
        if count:
            print(
                f"warning: {count:,} of {num_rows:,} rows of {source.description} found nothing in "
                f"the table {join.name!r}.",
                file=sys.stderr,
            )


def _with_tables(schema: Schema, named: Sequence[str]) -> Schema:
    """The schema with the paths of its tables that are named as NAME=PATH.

    Raises:
        ValueError: another form, or a table that the schema does not join.
    """
    known = [table.name for table in schema.tables_to_join]
    paths = {}
    for text in named:
        name, separator, path = text.partition("=")
        if not separator or not path or name not in known:
            raise ValueError(
                f"expected --tables to be NAME=PATH, with a table of {', '.join(known) or 'none'}, "
                f"got {text!r}."
            )
        paths[name] = os.path.abspath(path)
    tables = tuple(
        dataclasses.replace(table, path=paths.get(table.name, table.path))
        for table in schema.tables_to_join
    )
    return dataclasses.replace(schema, tables_to_join=tables)


def _with_none(values: np.ndarray) -> np.ndarray:
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return np.asarray(values)
    objects = np.ma.getdata(values).astype(object)
    objects[mask] = None
    return objects
