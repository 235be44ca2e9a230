"""`gmeta-tf predict`: raw rows through a SavedModel."""

from __future__ import annotations

import contextlib
import csv
import pathlib

import duckdb
import numpy as np

from gmeta_tf.cli.first_checks import check_predict
from gmeta_tf.cli.options import PredictOptions
from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.predictor import Predictor
from gmeta_tf.saving.writing import named_if_full

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
    query = read_rows(options.query)
    support = (
        {name: values[:0] for name, values in query.items()} | {predictor.schema.label: np.zeros(0)}
        if options.support is None
        else read_rows(options.support)
    )
    predictions = predictor(query, support, tasks=options.tasks)
    output = pathlib.Path(options.output)
    # A link is followed: what it points to is replaced, and the link stays.
    target = output.resolve()
    with named_if_full(output), work_folder(target) as work:
        with open(work / "predictions.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*query, "prediction"])
            writer.writerows(zip(*query.values(), predictions.tolist(), strict=True))
        (work / "predictions.csv").replace(target)
    print(f"{output}: {len(predictions)} rows")


def read_rows(path: str) -> dict[str, np.ndarray]:
    """Every column of a CSV, TSV or Parquet file, text as text, in the file's order."""
    with contextlib.closing(duckdb.connect()) as database:
        columns = database.execute(files_source(path).query).fetchnumpy()
    return {
        name: np.ma.filled(values, "") if values.dtype == object else np.asarray(values)
        for name, values in columns.items()
    }
