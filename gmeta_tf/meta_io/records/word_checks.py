"""The int32 words of records: the keys in them, and whether they are possible."""

from __future__ import annotations

import numpy as np

from gmeta_tf.meta_io.records.codec import (
    HEADER_WORDS,
    WEIGHT_PLANE,
    episode_headers,
    num_planes,
    slot_ranges,
)
from gmeta_tf.schema import PADDING_KEY, Schema

__all__ = ["keys_of", "reasons_of_words"]


def keys_of(planes: np.ndarray, words_per_key: int) -> np.ndarray:
    """The keys, int64 `[slots, n]`, of a field's planes, int32 `[slots * words_per_key, n]`."""
    if words_per_key == 1:
        return planes.astype(np.int64)
    low, high = np.split(planes.astype(np.int64), 2)
    return high << 32 | low & 0xFFFFFFFF


def reasons_of_words(schema: Schema, words: np.ndarray, entries: np.ndarray) -> dict[int, str]:
    """Faults of the adjacent records in `words`, by position."""
    rows = entries["rows"].astype(np.int64)
    planes = num_planes(schema)
    lengths = HEADER_WORDS + planes * rows
    starts = np.cumsum(lengths) - lengths
    headers = words[starts[:, np.newaxis] + np.arange(HEADER_WORDS)]
    expected = episode_headers(entries["task"], rows, entries["part"]).view("<i4")
    reasons = {
        int(index): _reason_of_header(headers[index], expected[index])
        for index in np.flatnonzero((headers != expected).any(axis=1))
    }
    first_row = np.cumsum(rows) - rows
    record_of_row = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(rows.sum()) - first_row[record_of_row]
    position = starts[record_of_row] + HEADER_WORDS + row
    stride = rows[record_of_row]
    ranges = dict(zip((field.name for field in schema.fields), slot_ranges(schema), strict=True))

    def planes_of(first: int, last: int) -> np.ndarray:
        return words[position + np.arange(first, last)[:, np.newaxis] * stride]

    label = planes_of(0, 1)[0].view("<f4")
    checks = [("the label", label, ~np.isfinite(label), "is not finite")]
    if schema.weight is not None:
        weight = planes_of(WEIGHT_PLANE, WEIGHT_PLANE + 1)[0].view("<f4")
        wrong = ~(np.isfinite(weight) & (weight >= 0))
        checks.append(("the weight", weight, wrong, "is not finite or below 0"))
    for field in schema.dense_fields:
        value = planes_of(*ranges[field.name])[0].view("<f4")
        # NaN stands for a missing value, where one may be missing.
        wrong = ~np.isfinite(value) if field.missing == "error" else np.isinf(value)
        checks.append((field.name, value, wrong, "is not finite"))
    for field in schema.key_fields:
        table = schema.table(field.table_name)
        keys = keys_of(planes_of(*ranges[field.name]), table.words_per_key)
        outside = keys < PADDING_KEY
        if table.num_rows is not None:
            outside |= keys >= table.num_rows
        is_padding = keys == PADDING_KEY
        misplaced = is_padding[:-1] & ~is_padding[1:] if field.kind == "multi" else is_padding
        limit = "" if table.num_rows is None else f" of {table.num_rows} rows"
        worst = np.take_along_axis(keys, outside.argmax(axis=0)[np.newaxis], 0)[0]
        checks.append(
            (field.name, worst, outside.any(0), f"is outside the table {table.name!r}{limit}")
        )
        checks.append(
            (field.name, keys[0], misplaced.any(0), "has padding where a value must stand")
        )
    for name, values, wrong, what in checks:
        # The first wrong row of each record that has one.
        damaged, at = np.unique(record_of_row[wrong], return_index=True)
        for record, first in zip(damaged.tolist(), np.flatnonzero(wrong)[at], strict=True):
            shown = "" if "padding" in what else f" {values[first]}"
            reasons.setdefault(record, f"row {row[first]}: {name}{shown} {what}")
    return reasons


def _reason_of_header(found: np.ndarray, expected: np.ndarray) -> str:
    if found[0] != expected[0]:
        return f"it begins with the word {found[0] & 0xFFFFFFFF:#x}, expected {expected[0]:#x}"
    task = keys_of(found[2:4, np.newaxis], 2)[0, 0], keys_of(expected[2:4, np.newaxis], 2)[0, 0]
    return (
        f"it has task {task[0]}, part {found[4]} and {found[1]} rows, the index says task "
        f"{task[1]}, part {expected[4]} and {expected[1]} rows"
    )
