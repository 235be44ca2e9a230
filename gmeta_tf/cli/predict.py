"""`gmeta-tf predict`: raw rows through a SavedModel."""

from __future__ import annotations

import contextlib
import csv
import pathlib

import duckdb
import numpy as np

from gmeta_tf.cli.options import (
    PredictOptions,
)
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.predictor import Predictor

__all__ = ["predict", "read_rows"]


def predict(options: PredictOptions) -> None:
    """`gmeta-tf predict`."""
    predictor = Predictor.load(options.saved_model)
    query = read_rows(options.query)
    support = (
        {name: values[:0] for name, values in query.items()} | {predictor.schema.label: np.zeros(0)}
        if options.support is None
        else read_rows(options.support)
    )
    predictions = predictor(query, support, tasks=options.tasks)
    output = pathlib.Path(options.output)
    partial = output.with_name(output.name + ".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*query, "prediction"])
        writer.writerows(zip(*query.values(), predictions.tolist(), strict=True))
    partial.rename(output)
    print(f"{output}: {len(predictions)} rows")


def read_rows(path: str) -> dict[str, np.ndarray]:
    """Every column of a CSV, TSV or Parquet file, text as text, in the file's order."""
    with contextlib.closing(duckdb.connect()) as database:
        columns = database.execute(files_source(path).query).fetchnumpy()
    return {
        name: np.ma.filled(values, "") if values.dtype == object else np.asarray(values)
        for name, values in columns.items()
    }
