"""Raw rows through an exported SavedModel, as a serving client does, for files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.exports.export_digests import check_export
from gmeta_tf.saving.exports.input_names import input_names
from gmeta_tf.saving.exports.look_ups import LOOKED_UP
from gmeta_tf.saving.exports.raw_columns import numbers_of, tasks_of, texts_of
from gmeta_tf.schema import Field, Schema

__all__ = ["Predictor", "Rows"]

Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """An exported model that takes columns of raw rows, whatever tasks they are of.

    Attributes:
        schema: what a row is.
        predict: the SavedModel's signature `predict`.
        looked_up: field -> the fields that the model finds by it, so that rows need not have them.

    Example (docs/training.md has it as a whole):
        predictor = gm.Predictor.load("run/saved_model")
        support = {"user": [7, 7], "item": [3, 5], "liked": [1, 0]}
        query = {"user": [7, 8], "item": [4, 4]}
        predictor(query, support)    # float32 [2]: user 7 adapted, user 8 not
    """

    schema: Schema
    predict: Any
    looked_up: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Predictor:
        """Loads what `export_saved_model` wrote.

        Raises:
            FileNotFoundError: no such export.
            ValueError: one of its files is not a file in the folder, is missing or was changed.
        """
        path = pathlib.Path(path)
        description = path / "assets.extra" / "schema.json"
        if not description.exists():
            raise FileNotFoundError(
                f"{path} is not an exported model: expected {description}. "
                "Make one with `gmeta-tf export`."
            )
        for name in ("assets.extra/schema.json", LOOKED_UP, "saved_model.pb"):
            check_inside(path, name)
        check_export(path)
        schema = Schema.from_json(json.loads(description.read_text()))
        loaded = tf.saved_model.load(str(path))
        # The function keeps no hold of the loaded object, whose variables it reads.
        predict = loaded.signatures["predict"]
        predict.keep_alive = loaded
        has_look_ups = (path / LOOKED_UP).exists()
        return cls(
            schema, predict, json.loads((path / LOOKED_UP).read_text()) if has_look_ups else {}
        )

    def __call__(
        self,
        query: Rows,
        support: Rows,
        *,
        tasks: int = 64,
        names: tuple[str, str] = ("the query rows", "the support rows"),
    ) -> np.ndarray:
        """Adapts to each task's support rows and predicts its query rows.

        Values are read as `prepare` reads them: tasks and values to be looked up may be texts,
        integers or truth values, a multi-valued field's lists too; None is a missing value; white
        space around a task or value does not count.

        Args:
            query: column -> array `[n]`: the task's column and each field's.
            support: the same, the label's, and the weight's where the schema has one; may have no
                rows. Tasks that only one of the two has
                are allowed.
            tasks: how many tasks to predict at once.
            names: what messages call the query and the support rows, such as their files.

        Returns:
            float32 `[n]`, in the order of the query rows.

        Raises:
            ValueError: a column that is missing or of another length, a row without a task, a label
                or dense value that is no finite number, a weight that is none of at least 0, a
                value of a type that `prepare` does not know. It names the row.
        """
        return self._outputs(query, support, tasks, names)["prediction"]

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that rows have to have: all but those that the model looks up itself."""
        found = {name for names in self.looked_up.values() for name in names}
        return tuple(field for field in self.schema.given_fields if field.name not in found)

    @property
    def request_schema(self) -> Schema:
        """What rows have to have: the schema without what the model looks up itself."""
        read = {field.table_name for field in self.fields if field.kind != "dense"}
        by = {field.column_name for field in self.fields if field.name in self.looked_up}
        return dataclasses.replace(
            self.schema,
            # A history is a list like others here, whatever it is of.
            fields=tuple(dataclasses.replace(one, of=None, last=None) for one in self.fields),
            tables=tuple(table for table in self.schema.tables if table.name in read),
            tables_to_join=tuple(one for one in self.schema.tables_to_join if one.on not in by),
        )

    @property
    def tells_deviation(self) -> bool:
        """Whether the model's tasks adapt in closed form, so that `with_deviation` is possible."""
        return "deviation" in self.predict.structured_outputs

    def vocabulary(self, table: str) -> list[str] | None:
        """The values that a table has rows for, the most frequent in training first.

        None for a table whose keys have no list of values. KeyError for an unknown table.
        """
        if self.schema.table(table).keys != "vocabulary":
            return None
        looked_up = [one.name for one in self.schema.tables if one.keys == "vocabulary"]
        values = self.predict.keep_alive.keys.values[looked_up.index(table)]
        return [value.decode() for value in values.numpy().tolist()]

    def with_deviation(
        self,
        query: Rows,
        support: Rows,
        *,
        tasks: int = 64,
        names: tuple[str, str] = ("the query rows", "the support rows"),
    ) -> tuple[np.ndarray, np.ndarray]:
        """The predictions of a call, and how sure they are.

        Args:
            query: as in a call.
            support: as in a call.
            tasks: as in a call.
            names: as in a call.

        Returns:
            The predictions and the standard deviation of each row's label about its prediction, in
            units of the label (ratings, where the prediction is the probability of a click); each
            float32 `[n]`.

        Raises:
            ValueError: as in a call, or tasks adapt by gradient steps, which tell none.
        """
        if not self.tells_deviation:
            raise ValueError(
                "Predictor.with_deviation: expected a model whose tasks adapt in closed form, got "
                "one of gradient steps, which tell no deviation. Call the predictor itself."
            )
        outputs = self._outputs(query, support, tasks, names)
        return outputs["prediction"], outputs["deviation"]

    def _outputs(
        self, query: Rows, support: Rows, tasks: int, names: tuple[str, str]
    ) -> dict[str, np.ndarray]:
        """Each output of the model, float32 `[n]`."""
        query_tasks, query_inputs = self._inputs(query, names[0], labelled=False)
        support_tasks, support_inputs = self._inputs(support, names[1], labelled=True)
        rows_of_query = _rows_of_tasks(query_tasks)
        rows_of_support = _rows_of_tasks(support_tasks)
        found = {
            name: np.zeros(len(query_tasks), np.float32) for name in self.predict.structured_outputs
        }
        nothing = np.zeros(0, np.int64)
        for batch in _batches(list(rows_of_query), tasks):
            query_rows = [rows_of_query[task] for task in batch]
            support_rows = [rows_of_support.get(task, nothing) for task in batch]
            inputs = {
                f"{part}_{name}": _padded(values, rows_of)
                for part, columns, rows_of in (
                    ("query", query_inputs, query_rows),
                    ("support", support_inputs, support_rows),
                )
                for name, values in columns.items()
            }
            inputs["support_count"] = tf.constant([len(rows) for rows in support_rows], tf.int32)
            for name, output in self.predict(**inputs).items():
                for rows, values in zip(query_rows, output.numpy(), strict=True):
                    found[name][rows] = values[: len(rows)]
        return found

    def _inputs(
        self, rows: Rows, what: str, *, labelled: bool
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The task of each row, and the values of each input: texts or float32, `[n]`."""
        schema = self.schema
        fields = self.fields
        known = [one for one in (schema.label, schema.weight) if labelled and one is not None]
        columns = [schema.task, *(field.column_name for field in fields), *known]
        _check_columns(what, rows, columns)
        place = {column: f"{what}, column {column!r}" for column in columns}
        names = input_names(schema)
        inputs = {}
        for field in fields:
            values, where = rows[field.column_name], place[field.column_name]
            inputs[names.fields[field.name]] = (
                numbers_of(values, where, may_miss=field.missing != "error")
                if field.kind == "dense"
                else texts_of(values, where, field.separator if field.kind == "multi" else None)
            )
        if labelled:
            inputs[names.label] = numbers_of(rows[schema.label], place[schema.label])
        if labelled and schema.weight is not None and names.weight is not None:
            weights = rows[schema.weight]
            inputs[names.weight] = numbers_of(weights, place[schema.weight], least=0.0)
        return tasks_of(rows[schema.task], place[schema.task]), inputs


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
            f"{what}: no column {missing[0]!r}; expected {', '.join(expected)}, "
            f"got {', '.join(rows)}."
        )
    lengths = {column: len(rows[column]) for column in expected}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{what}: expected columns of one length, got {lengths}.")
