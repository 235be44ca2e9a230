"""Raw values to keys in TensorFlow ops: the rules of `meta_io.preparing.encode`, in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io.preparing.crosses import combinations
from gmeta_tf.meta_io.preparing.hashing import hash_buckets
from gmeta_tf.schema import LARGEST_KEY, PADDING_KEY, UNKNOWN_KEY, Field, Schema, Table

__all__ = [
    "KeysOf",
    "ServedKeys",
    "crossed_keys",
    "first_distinct",
    "given_keys",
    "raw_keys",
]

_LOW_DIGITS = 18  # every number of so many digits is an int64
_HIGH, _LOW = divmod(LARGEST_KEY, 10**_LOW_DIGITS)


class ServedKeys(tf.Module):
    """Makes the keys that `prepare` makes, of texts.

    A value that no row was prepared with has a key too: one outside the vocabulary and one that is
    no key of a table with raw keys read row 0; in a multi-valued field they are left out.
    """

    def __init__(self, schema: Schema, vocabularies: Mapping[str, np.ndarray]) -> None:
        """Puts the vocabularies into the graph.

        Args:
            schema: what a row is.
            vocabularies: table -> its values, str `[num_rows - 1]`; value i has the key i + 1.
        """
        super().__init__(name="keys")
        self._schema = schema
        # In variables: as constants they would be in the graph, which is limited to 2 GB and goes
        # to servers anew with each delta.
        self.values = [
            tf.Variable(_texts(values), shape=[len(values)], trainable=False, name="values")
            for values in vocabularies.values()
        ]
        # TensorFlow makes no table of nothing: of a field without a value in all of the data.
        self.vocabularies = {
            table: tf.lookup.StaticHashTable(
                KeysOf(values), UNKNOWN_KEY, name=f"vocabulary_{place}"
            )
            for place, (table, values) in enumerate(zip(vocabularies, self.values, strict=True))
            if len(vocabularies[table])
        }

    def __call__(self, field: Field, text: tf.Tensor) -> tf.Tensor:
        """The keys of a field's values.

        Args:
            field: categorical or multi-valued.
            text: string `[T, R]`; several values share one string, with the field's separator.

        Returns:
            int64 `[T, R, L]`, -1 after the last.
        """
        table = self._schema.table(field.table_name)
        if field.kind == "categorical":
            keys, is_known = self._looked_up(table, tf.strings.strip(text))
            # What a vocabulary does not have is key 0 already.
            known = keys if table.keys == "vocabulary" else tf.where(is_known, keys, UNKNOWN_KEY)
            return known[:, :, tf.newaxis]
        parts = tf.strings.split(tf.reshape(text, [-1]), field.separator)
        parts = tf.strings.strip(parts).to_tensor("")
        if field.last is not None:
            # As `histories.distinct_known`: of the last rows first, and by their keys.
            keys, is_known = self._looked_up(table, parts[:, : field.last])
            keys = first_distinct(keys, keys, is_known & (keys != UNKNOWN_KEY), field.num_slots)
            return tf.reshape(keys, [tf.shape(text)[0], tf.shape(text)[1], field.num_slots])
        keys, is_known = self._looked_up(table, parts)
        # Of a vocabulary, values are distinct where their keys are, and numbers compare faster.
        values = keys if table.keys == "vocabulary" else parts
        keys = first_distinct(values, keys, is_known, field.num_slots)
        return tf.reshape(keys, [tf.shape(text)[0], tf.shape(text)[1], field.num_slots])

    def of_integers(self, field: Field, value: tf.Tensor) -> tf.Tensor:
        """The keys of a field's integers: those that their texts have.

        Args:
            field: categorical.
            value: int64 `[T, R]`.

        Returns:
            int64 `[T, R, 1]`.
        """
        table = self._schema.table(field.table_name)
        if table.keys != "raw":
            return self(field, tf.strings.as_string(value))
        largest = LARGEST_KEY if table.num_rows is None else table.num_rows - 1
        is_key = (value >= 0) & (value <= largest)
        return tf.where(is_key, value, UNKNOWN_KEY)[:, :, tf.newaxis]

    def takes_integers(self, field: Field) -> bool:
        """Whether all values of a field are integers, as far as its table tells.

        That is so of raw keys, and of a vocabulary of nothing else, each written as Python writes
        an integer of 64 bits. Of hashed keys nobody knows.
        """
        table = self._schema.table(field.table_name)
        if field.kind != "categorical" or table.keys == "hash":
            return False
        if table.keys == "raw":
            return True
        looked_up = [one.name for one in self._schema.tables if one.keys == "vocabulary"]
        values = self.values[looked_up.index(table.name)].numpy().tolist()
        return all(_is_integer(value) for value in values)

    def _looked_up(self, table: Table, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The keys of single stripped values, int64, and which of the values have one."""
        if table.keys == "vocabulary":
            if table.name in self.vocabularies:
                keys = self.vocabularies[table.name].lookup(value)
            else:
                keys = tf.fill(tf.shape(value), tf.constant(UNKNOWN_KEY, tf.int64))
            return keys, keys != UNKNOWN_KEY
        if table.keys == "hash":
            return 1 + tf.strings.to_hash_bucket_fast(value, hash_buckets(table)), value != ""
        return raw_keys(value, LARGEST_KEY if table.num_rows is None else table.num_rows - 1)


def crossed_keys(parts: Sequence[tf.Tensor], table: Table, num_slots: int) -> tf.Tensor:
    """The keys of a cross, by the rule of `meta_io.preparing.crosses`.

    Args:
        parts: the keys of each of its fields, int64 `[T, R, slots of the field]`, -1 after the
            last.
        table: of the cross.
        num_slots: L, how many combinations of a row are kept.

    Returns:
        int64 `[T, R, L]`, -1 after the last.
    """
    slots = combinations([part.shape[2] for part in parts])
    keys = [tf.gather(part, slots[:, place], axis=2) for place, part in enumerate(parts)]
    there = tf.reduce_all(tf.stack([one > PADDING_KEY for one in keys]), axis=0)
    texts = tf.strings.join([tf.strings.as_string(one) for one in keys], ",")
    hashed = 1 + tf.strings.to_hash_bucket_fast(texts, hash_buckets(table))
    hashed = tf.where(there, hashed, PADDING_KEY)
    if len(slots) == num_slots == 1:
        return hashed
    order = tf.argsort(tf.cast(~there, tf.int32), axis=2, stable=True)[:, :, :num_slots]
    first = tf.gather(hashed, order, axis=2, batch_dims=2)
    return tf.pad(
        first,
        [[0, 0], [0, 0], [0, max(0, num_slots - len(slots))]],
        constant_values=PADDING_KEY,
    )


def given_keys(keys: tf.Tensor, largest: int) -> tf.Tensor:
    """Keys as a server gives them, with what is none in its place.

        largest 9, of a multi-valued field: [3 12 -1] -> [3 0 -1];  [-1 -1 -1] -> [0 -1 -1]

    Args:
        keys: int64 `[T, R, L]`, -1 after the last.
        largest: the table's largest key.

    Returns:
        The same, with the key 0 (the unknown value's) for a key that the table does not have, and
        for the first of a row without any.
    """
    is_first = tf.constant([[[True] + [False] * (keys.shape[2] - 1)]])
    nothing = tf.where(is_first, tf.constant(UNKNOWN_KEY, tf.int64), PADDING_KEY)
    known = tf.where(keys <= largest, keys, UNKNOWN_KEY)
    return tf.where(keys >= 0, known, nothing)


def raw_keys(value: tf.Tensor, largest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Texts that are keys themselves.

    Args:
        value: strings.
        largest: the largest key, at most 2^63 - 1.

    Returns:
        The keys, int64; and which texts are integers from 0 to the largest.
    """
    # The last 18 digits are read alone: a number that no int64 holds would fail the request.
    digits = tf.strings.regex_replace(value, "^0+([0-9])", r"\1")
    is_number = tf.strings.regex_full_match(digits, "[0-9]{1,19}")
    digits = tf.where(is_number, digits, "0")
    low = tf.strings.to_number(
        tf.strings.regex_replace(digits, "^[0-9]*?([0-9]{1,18})$", r"\1"), tf.int64
    )
    high = tf.strings.regex_replace(digits, "^([0-9]*?)[0-9]{1,18}$", r"0\1")
    high = tf.strings.to_number(high, tf.int64)
    fits = (high < _HIGH) | ((high == _HIGH) & (low <= _LOW))
    keys = tf.where(fits, high, 0) * 10**_LOW_DIGITS + low
    return keys, is_number & fits & (keys <= largest)


def first_distinct(
    values: tf.Tensor, keys: tf.Tensor, is_known: tf.Tensor, count: int
) -> tf.Tensor:
    """The keys of each row's first `count` distinct known values, as `prepare` writes them.

        count 3, keys of the values: [5 _ 5 2] -> [5 2 -1];  [_ _ _ _] -> [0 -1 -1]

    Args:
        values: what is to be distinct, `[N, M]`.
        keys: of the values, int64 `[N, M]`.
        is_known: which of the values have a key, bool `[N, M]`; equal values all or none.
        count: L.

    Returns:
        `[N, L]`, -1 after the last; a row without a known value holds one 0.
    """
    same = values[:, :, tf.newaxis] == values[:, tf.newaxis, :]
    earlier = tf.linalg.band_part(tf.cast(same, tf.int32), -1, 0) - tf.eye(
        tf.shape(values)[1], dtype=tf.int32
    )
    new = (tf.reduce_sum(earlier, axis=2) == 0) & is_known
    keys = tf.where(new, keys, PADDING_KEY)
    order = tf.argsort(tf.cast(~new, tf.int32), axis=1, stable=True)
    picked = tf.gather(keys, order, batch_dims=1)
    picked = tf.pad(picked, [[0, 0], [0, count]], constant_values=PADDING_KEY)[:, :count]
    none = tf.reduce_all(picked == PADDING_KEY, axis=1, keepdims=True)
    only_unknown = tf.one_hot(0, count, UNKNOWN_KEY, PADDING_KEY, dtype=keys.dtype)
    return tf.where(none, only_unknown, picked)


class KeysOf(tf.lookup.KeyValueTensorInitializer):
    """Fills a hash table from a variable of texts, whenever the model is loaded."""

    def __init__(self, values: tf.Variable) -> None:
        self._texts = values
        super().__init__(tf.constant([], tf.string), tf.constant([], tf.int64))

    def initialize(self, table: tf.lookup.StaticHashTable) -> Any:
        keys = tf.range(1, tf.size(self._texts, tf.int64) + 1)
        return tf.raw_ops.InitializeTableV2(
            table_handle=table.resource_handle, keys=self._texts, values=keys
        )


def _is_integer(value: bytes) -> bool:
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _LOW_DIGITS + 1:
        return False
    number = int(value)
    return str(number).encode() == value and -(2**63) <= number <= LARGEST_KEY


def _texts(values: np.ndarray) -> tf.Tensor:
    return tf.constant(list(values), tf.string, shape=[len(values)])
