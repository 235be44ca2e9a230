"""What a served graph knows of an item: fields that a request leaves out, found by another field.

request: film ["3", "5"]
film -> year, genres of the look-up; a film that it does not have -> missing values
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.number_texts import WHITE_SPACE
from gmeta_tf.saving.exports.raw_columns import numbers_of, texts_of
from gmeta_tf.saving.exports.served_keys import KeysOf, ServedKeys
from gmeta_tf.schema import Field, Schema

__all__ = ["LOOKED_UP", "LookUp", "LookUpTable", "look_ups_of"]

LOOKED_UP = "assets.extra/looked_up.json"
"""Of an export: field -> the fields that are found by it."""

_NOT_FOUND = 0  # the row of what the table does not have
_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class LookUp:
    """Values of fields by the value of another one.

    Attributes:
        by: the field that is looked up, categorical.
        texts: its values, each once, str objects `[n]`.
        values: field -> its values in the order of `texts`, as `predict` takes them: texts, or
            float32 with NaN for a missing one.
    """

    by: Field
    texts: np.ndarray
    values: Mapping[str, np.ndarray]


def look_ups_of(schema: Schema, tables: Mapping[str, Mapping[str, Any]]) -> tuple[LookUp, ...]:
    """Checks tables of raw values, and makes of each the values of fields.

    Args:
        schema: the model's.
        tables: field -> columns of raw values, a row for each value of the field: its own column
            and those of the fields to find. Values are as `gm.Predictor` takes them.

    Raises:
        ValueError: no such field or column, a value that stands twice or is missing, columns that
            no field reads, or a field that two tables give.
    """
    found = [_look_up(schema, name, columns) for name, columns in tables.items()]
    given: dict[str, str] = {}
    for one in found:
        for name in one.values:
            if name in given:
                raise ValueError(
                    f"the field {name!r} is looked up by {given[name]!r} and by {one.by.name!r}: "
                    "expected one of them. Leave its column out of one of the tables."
                )
            given[name] = one.by.name
    for one in found:
        if one.by.name in given:
            raise ValueError(
                f"the field {one.by.name!r} is looked up by {given[one.by.name]!r}: expected a "
                "field that requests have. Join the tables, and look both up by "
                f"{given[one.by.name]!r}."
            )
    return tuple(found)


def _look_up(schema: Schema, name: str, columns: Mapping[str, Any]) -> LookUp:
    what = f"the look-up by {name!r}"
    by = next((field for field in schema.key_fields if field.name == name), None)
    if by is None or by.kind != "categorical":
        known = ", ".join(f.name for f in schema.key_fields if f.kind == "categorical") or "none"
        raise ValueError(f"{what}: expected a categorical field of the model ({known}).")
    lengths = {column: len(values) for column, values in columns.items()}
    if by.column_name not in columns or len(set(lengths.values())) != 1:
        raise ValueError(
            f"{what}: expected a column {by.column_name!r} and others of the same length, got "
            f"{lengths}."
        )
    place = f"{what}, column {by.column_name!r}"
    texts = texts_of(np.asarray(columns[by.column_name]), place)
    texts = np.array([text.strip(WHITE_SPACE) for text in texts], object)
    distinct, counts = np.unique(texts.astype(str), return_counts=True)
    if "" in texts or (counts > 1).any():
        odd = distinct[counts > 1].tolist() or [""]
        raise ValueError(
            f"{place}: expected each value once, got {odd[0]!r} "
            f"{'several times' if odd[0] else 'in a row'}. Leave one row of each."
        )
    values = {
        field.name: _values(field, columns[field.column_name], what)
        for field in schema.read_fields
        if field.column_name in columns and field.column_name != by.column_name
    }
    if not values:
        raise ValueError(
            f"{what}: no field reads one of its columns ({', '.join(columns)}). Expected one at "
            "least that requests can then leave out."
        )
    return LookUp(by, texts, values)


def _values(field: Field, values: Any, what: str) -> np.ndarray:
    place = f"{what}, column {field.column_name!r}"
    if field.kind == "dense":
        return numbers_of(np.asarray(values), place, may_miss=True)
    raw = _objects(values) if field.kind == "multi" else np.asarray(values)
    return texts_of(raw, place, field.separator if field.kind == "multi" else None)


def _objects(values: Any) -> np.ndarray:
    """A column of lists or texts, which NumPy would make a matrix of where all are as long."""
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column


class LookUpTable(tf.Module):
    """A look-up in the graph: keys and numbers, made once of its values."""

    def __init__(self, look_up: LookUp, keys: ServedKeys, fields: Sequence[Field]) -> None:
        """Makes the keys that requests with these values would have.

        Args:
            look_up: what it finds.
            keys: makes them.
            fields: the schema's.
        """
        super().__init__(name="look_up")
        self.texts = tf.Variable(tf.constant(look_up.texts.tolist(), tf.string), trainable=False)
        self._table = tf.lookup.StaticHashTable(KeysOf(self.texts), _NOT_FOUND, name="look_up")
        self._names = tuple(field.name for field in fields if field.name in look_up.values)
        self.columns = [
            tf.Variable(_column(field, look_up.values[field.name], keys), trainable=False)
            for field in fields
            if field.name in look_up.values
        ]

    def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The values of fields.

        Args:
            text: of the field that is looked up, string `[T, R]`.

        Returns:
            field -> its keys, int64 `[T, R, slots]`, or its numbers, float32 `[T, R]`.
        """
        rows = self._table.lookup(tf.strings.strip(text))
        found = [tf.gather(column, rows) for column in self.columns]
        return dict(zip(self._names, found, strict=True))


def _column(field: Field, values: np.ndarray, keys: ServedKeys) -> tf.Tensor:
    """A row for what is not found, which has missing values, and then those of the values."""
    if field.kind == "dense":
        return tf.constant(np.concatenate([[np.nan], values]).astype(np.float32))
    texts = ["", *values.tolist()]
    # Some at a time: the values of a list are compared with each other.
    blocks = [texts[first : first + _BLOCK] for first in range(0, len(texts), _BLOCK)]
    made = [keys(field, tf.constant(block, tf.string)[tf.newaxis])[0] for block in blocks]
    return tf.concat(made, axis=0)
