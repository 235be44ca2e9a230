"""Raw rows through an exported SavedModel, as a serving client does, for files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.schema import Schema

__all__ = ["Predictor", "Rows"]

Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """An exported model that takes columns of raw rows, whatever tasks they are of.

    Attributes:
        schema: what a row is.
        predict: the SavedModel's signature `predict`.
    """

    schema: Schema
    predict: Any

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Predictor:
        """Loads what `export_saved_model` wrote.

        Raises:
            FileNotFoundError: no such export.
            ValueError: one of its files is not a file in the folder.
        """
        path = pathlib.Path(path)
        description = path / "assets.extra" / "schema.json"
        if not description.exists():
            raise FileNotFoundError(
                f"{path} is not an exported model: expected {description}. "
                "Make one with `gmeta-tf export`."
            )
        for name in ("assets.extra/schema.json", "saved_model.pb"):
            check_inside(path, name)
        schema = Schema.from_json(json.loads(description.read_text()))
        loaded = tf.saved_model.load(str(path))
        # The function keeps no hold of the loaded object, whose variables it reads.
        predict = loaded.signatures["predict"]
        predict.keep_alive = loaded
        return cls(schema, predict)

    def __call__(self, query: Rows, support: Rows, *, tasks: int = 64) -> np.ndarray:
        """Adapts to each task's support rows and predicts its query rows.

        Args:
            query: column -> array `[n]`: the task's column and each field's.
            support: the same and the label's; may have no rows. Tasks that only one of the two has
                are allowed.
            tasks: how many tasks to predict at once.

        Returns:
            float32 `[n]`, in the order of the query rows.

        Raises:
            ValueError: a column that is missing.
        """
        schema = self.schema
        columns = [schema.task, *(field.column_name for field in schema.fields)]
        _check_columns("query", query, columns)
        _check_columns("support", support, [*columns, schema.label])
        rows_of_query = _rows_of_tasks(query[schema.task])
        rows_of_support = _rows_of_tasks(support[schema.task])
        predictions = np.zeros(len(query[schema.task]), np.float32)
        nothing = np.zeros(0, np.int64)
        for batch in _batches(list(rows_of_query), tasks):
            query_rows = [rows_of_query[task] for task in batch]
            support_rows = [rows_of_support.get(task, nothing) for task in batch]
            inputs = {
                **self._inputs("query", query, query_rows),
                **self._inputs("support", support, support_rows),
                f"support_{schema.label}": _padded(
                    np.asarray(support[schema.label], np.float32), support_rows
                ),
                "support_count": tf.constant([len(rows) for rows in support_rows], tf.int32),
            }
            output = self.predict(**inputs)["prediction"].numpy()
            for rows, values in zip(query_rows, output, strict=True):
                predictions[rows] = values[: len(rows)]
        return predictions

    def _inputs(self, part: str, rows: Rows, rows_of: Sequence[np.ndarray]) -> dict[str, tf.Tensor]:
        inputs = {}
        for field in self.schema.fields:
            column = rows[field.column_name]
            dtype = np.float32 if field.kind == "dense" else object
            inputs[f"{part}_{field.name}"] = _padded(np.asarray(column, dtype), rows_of)
        return inputs


def _padded(column: np.ndarray, rows_of: Sequence[np.ndarray]) -> tf.Tensor:
    """The column's values of each task, `[T, most rows]`; tasks with fewer are filled up."""
    width = max((len(rows) for rows in rows_of), default=0)
    empty: Any = "" if column.dtype == object else 0.0
    filled = np.full([len(rows_of), width], empty, column.dtype)
    for task, rows in enumerate(rows_of):
        filled[task, : len(rows)] = column[rows]
    return tf.constant(filled, tf.string if column.dtype == object else tf.float32)


def _rows_of_tasks(tasks: np.ndarray) -> dict[Any, np.ndarray]:
    """The rows of each task, tasks in the order of their first row."""
    rows: dict[Any, list[int]] = {}
    for row, task in enumerate(tasks):
        rows.setdefault(task, []).append(row)
    return {task: np.array(numbers) for task, numbers in rows.items()}


def _batches(tasks: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _check_columns(what: str, rows: Rows, expected: Sequence[str]) -> None:
    missing = [column for column in expected if column not in rows]
    if missing:
        raise ValueError(
            f"the {what} rows lack the column {missing[0]!r}: expected {', '.join(expected)}, "
            f"got {', '.join(rows)}."
        )
