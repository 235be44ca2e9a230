"""`gmeta-tf predict`: raw rows through a SavedModel."""

from __future__ import annotations

import contextlib
import csv
import pathlib

import duckdb
import numpy as np

from gmeta_tf.cli.first_checks import check_predict, reader_options
from gmeta_tf.cli.options import PredictOptions
from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.preparing.raw_rows import kept_value
from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.meta_io.sql import sql_name
from gmeta_tf.saving.predictor import Predictor
from gmeta_tf.saving.writing import named_if_full
from gmeta_tf.schema import Schema

__all__ = ["predict", "read_rows"]


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
    query = read_rows(options.query, predictor.schema, reading)
    support = (
        {name: values[:0] for name, values in query.items()} | {predictor.schema.label: np.zeros(0)}
        if options.support is None
        else read_rows(options.support, predictor.schema, reading)
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
            writer.writerow([*query, *predicted])
            values = (one.tolist() for one in predicted.values())
            writer.writerows(zip(*query.values(), *values, strict=True))
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

    The task and what is looked up are the texts that `prepare` makes of them.
    """
    source = files_source(path, options=options)
    looked_up = [schema.task, *(field.column_name for field in schema.key_fields)]
    with contextlib.closing(duckdb.connect()) as database:
        database.execute("SET TimeZone='UTC'")
        described = database.execute(f"DESCRIBE {source.query}").fetchall()
        type_of = {column[0]: column[1] for column in described}
        kept = [
            f"{kept_value(name, type_of)} AS {sql_name(name)}"
            for name in looked_up
            if name in type_of
        ]
        replaced = f" REPLACE ({', '.join(dict.fromkeys(kept))})" if kept else ""
        columns = database.execute(f"SELECT *{replaced} FROM ({source.query})").fetchnumpy()
        check_every_line(database, source, len(next(iter(columns.values()))))
    return {name: _with_none(values) for name, values in columns.items()}


def _with_none(values: np.ndarray) -> np.ndarray:
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return np.asarray(values)
    objects = np.ma.getdata(values).astype(object)
    objects[mask] = None
    return objects
