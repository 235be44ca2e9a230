"""The forms in which a signature takes the values of rows: texts, integers beside texts, keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import tensorflow as tf

from gmeta_tf.saving.exports.served_keys import ServedKeys, given_keys
from gmeta_tf.schema import LARGEST_KEY, Field, Schema

__all__ = ["WireForm", "as_integers", "as_keys", "as_texts"]


@dataclasses.dataclass(frozen=True)
class WireForm:
    """How a signature takes the values of key fields; dense fields are float32 in all.

    Attributes:
        spec: of a field's input, `[T, R]`, or `[T, R, L]`.
        keys: a field and its input -> int64 `[T, R, L]`, -1 after the last.
        text: a field and its input -> string `[T, R]`; None where a signature has no texts.
    """

    spec: Callable[[Field], tf.TensorSpec]
    keys: Callable[[Field, tf.Tensor], tf.Tensor]
    text: Callable[[Field, tf.Tensor], tf.Tensor] | None


def as_texts(keys: ServedKeys) -> WireForm:
    """Values as `prepare` reads them from text files."""
    return WireForm(lambda _: tf.TensorSpec([None, None], tf.string), keys, lambda _, value: value)


def as_integers(keys: ServedKeys, fields: Collection[str]) -> WireForm:
    """Texts, but of some fields int64.

    Args:
        keys: makes keys.
        fields: the names of those fields.
    """

    def spec(field: Field) -> tf.TensorSpec:
        return tf.TensorSpec([None, None], tf.int64 if field.name in fields else tf.string)

    def keys_of(field: Field, value: tf.Tensor) -> tf.Tensor:
        return keys.of_integers(field, value) if field.name in fields else keys(field, value)

    def text_of(field: Field, value: tf.Tensor) -> tf.Tensor:
        return tf.strings.as_string(value) if field.name in fields else value

    return WireForm(spec, keys_of, text_of)


def as_keys(schema: Schema) -> WireForm:
    """Keys themselves, of servers that encode values on their own: no text, no vocabulary."""

    def spec(field: Field) -> tf.TensorSpec:
        slots = [field.num_slots] if field.kind == "multi" else []
        return tf.TensorSpec([None, None, *slots], tf.int64)

    def keys_of(field: Field, value: tf.Tensor) -> tf.Tensor:
        num_rows = schema.table(field.table_name).num_rows
        largest = LARGEST_KEY if num_rows is None else num_rows - 1
        return given_keys(value if field.kind == "multi" else value[:, :, tf.newaxis], largest)

    return WireForm(spec, keys_of, None)
