"""A summary of a records folder for people: its schema, its counts and a few episodes."""

from __future__ import annotations

import contextlib
import math
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.records.codec import (
    FORMAT_VERSION,
    TFRECORD_FRAME_BYTES,
    WEIGHT_PLANE,
    num_planes,
    slot_ranges,
)
from gmeta_tf.meta_io.records.index_checks import index_chunks
from gmeta_tf.meta_io.records.record_damage import read_episode
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.word_checks import keys_of
from gmeta_tf.meta_io.sql import reason_of, sql_name, sql_parquet
from gmeta_tf.meta_io.time_units import span_of
from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY, Field

__all__ = ["describe", "named_values", "overview"]

_SHOWN_ROWS = 5
_SHOWN_CHARACTERS = 40
_BAR = 40


def overview(
    records: Records, splits: Sequence[str] | None = None, *, num_episodes: int = 3
) -> dict[str, Any]:
    """A summary of the folder, as JSON values.

    Args:
        records: the folder.
        splits: the splits to summarize; None is all.
        num_episodes: how many episodes of each split to decode, spread over it.

    Raises:
        ValueError: an unknown split.
    """
    chosen = records.splits if splits is None else tuple(splits)
    indexes = {split: records.index(split) for split in chosen}
    return {
        "path": records.path,
        "format_version": FORMAT_VERSION,
        "generation": records.generation,
        "compression": records.compression,
        "episode_rows": records.episode_rows,
        "schema": records.schema.to_json(),
        "planes": num_planes(records.schema),
        "fields": _fields(records),
        "splits": {split: _counts(records, split, index) for split, index in indexes.items()},
        "details": records.details,
        "episodes": [
            episode
            for split, index in indexes.items()
            for episode in _episodes(records, split, index, num_episodes)
        ],
    }


def named_values(path: str, number: str, numbers: Iterable[int]) -> dict[int, str]:
    """The values behind numbers, from a Parquet file with a column of that name and one `value`.

    Args:
        path: a vocabulary (`number` is "key"), or the file of the tasks ("task").
        number: the column's name.
        numbers: the numbers.

    Returns:
        Number -> value, for the numbers that the file has.

    Raises:
        ValueError: the file is missing or of another kind.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.closing(duckdb.connect()) as database,
        ):
            local = pathlib.Path(files.local_copy(path, folder))
            found = database.execute(
                f"SELECT number, CAST(value AS VARCHAR) FROM (SELECT {sql_name(number)} AS number, "
                f"value FROM {sql_parquet(local)}) SEMI JOIN (SELECT unnest(?) AS number) "
                "USING (number)",
                [sorted({int(one) for one in numbers})],
            ).fetchall()
    except (duckdb.Error, OSError) as error:
        raise ValueError(
            f"{path} is missing or damaged: {reason_of(error)}. Prepare the data again."
        ) from error
    return {int(key): value for key, value in found}


def describe(shown: dict[str, Any]) -> str:
    """An overview as text."""
    schema, details = shown["schema"], shown["details"]
    head = [
        f"{shown['path']}: format {shown['format_version']}, generation {shown['generation']}, "
        f"compression {shown['compression']}, {shown['planes']} planes a row, "
        f"episodes of up to {shown['episode_rows']:,} rows",
        f"task {schema['task']}, label {schema['label']}"
        + (f", time {schema['time']}{_span(details)}" if schema["time"] else "")
        + (f", weight {schema['weight']}" if schema.get("weight") else "")
        + (
            f", positive from {schema['positive_from']}"
            if schema["positive_from"] is not None
            else ""
        ),
    ]
    parts = [head, _table(shown["fields"])]
    parts.append(_table([{"split": name, **counts} for name, counts in shown["splits"].items()]))
    scalars = {what: one for what, one in details.items() if isinstance(one, str | int | float)}
    parts.append([f"{what.replace('_', ' ')}: {_shown(one)}" for what, one in scalars.items()])
    parts += [_bars(name, value) for name, value in details.items() if _is_counts(value)]
    if details.get("rows_of_tasks"):
        parts.append(_bars("tasks by their rows", _spans(details["rows_of_tasks"])))
    parts += [_episode_lines(episode) for episode in shown["episodes"]]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _span(details: Mapping[str, Any]) -> str:
    """The times' unit and span in brackets, where the records tell."""
    span = span_of(details.get("time") or {})
    return f" ({span})" if span else ""


def _fields(records: Records) -> list[dict[str, Any]]:
    fields = []
    for field, (first, last) in zip(
        records.schema.fields, slot_ranges(records.schema), strict=True
    ):
        shown: dict[str, Any] = {"field": field.name, "kind": field.kind}
        if field.kind != "dense":
            table = records.schema.table(field.table_name)
            shown |= {
                "table": table.name,
                "keys": table.keys,
                "rows": table.num_rows,
                "words a key": table.words_per_key,
            }
        shown["planes"] = str(first) if last - first == 1 else f"{first}-{last - 1}"
        fields.append(shown)
    return fields


def _counts(records: Records, split: str, index: np.ndarray) -> dict[str, Any]:
    contents = records.contents[split]
    num_bytes = sum(
        int((entries["length"].astype(np.int64) + TFRECORD_FRAME_BYTES).sum())
        for entries in index_chunks(index)
    )
    rows = index["rows"]
    return {
        "tasks": contents.tasks,
        "episodes": contents.episodes,
        "rows": contents.rows,
        "files": len(contents.files),
        "bytes": num_bytes,
        "mean rows": round(float(rows.mean(dtype=np.float64)), 1) if len(rows) else 0.0,
        "median rows": float(np.median(rows)) if len(rows) else 0.0,
        "largest": int(rows.max(initial=0)),
    }


def _episodes(
    records: Records, split: str, index: np.ndarray, num_episodes: int
) -> list[dict[str, Any]]:
    """A few episodes, evenly over the index, decoded."""
    positions = np.unique(np.arange(num_episodes) * len(index) // max(num_episodes, 1))
    positions = positions[: len(index)].tolist()
    tasks = (
        named_values(files.join(records.path, records.tasks), "task", index["task"][positions])
        if records.tasks and positions
        else {}
    )
    found: list[dict[str, Any]] = []
    planes = []
    for position in positions:
        entry = index[position]
        found.append(
            {
                "split": split,
                "task": int(entry["task"]),
                "value": tasks.get(int(entry["task"])),
                "part": int(entry["part"]),
                "num_rows": int(entry["rows"]),
                "file": records.contents[split].files[entry["file"]],
                "offset": int(entry["offset"]),
            }
        )
        try:
            planes.append(read_episode(records, split, position)[:, :_SHOWN_ROWS])
        except ValueError as error:
            found[-1]["damage"] = str(error)
            planes.append(np.zeros([num_planes(records.schema), 0], np.int32))
    if planes:
        rows = iter(_decoded(records, np.concatenate(planes, axis=1)))
        for episode, words in zip(found, planes, strict=True):
            episode["rows"] = [next(rows) for _ in range(words.shape[1])]
    return found


def _decoded(records: Records, words: np.ndarray) -> list[dict[str, Any]]:
    """Rows with the values behind their keys: one dict for each, label and weight first."""
    schema = records.schema
    columns: dict[str, list[Any]] = {schema.label: _numbers(words[0])}
    if schema.weight is not None:
        columns[schema.weight] = _numbers(words[WEIGHT_PLANE])
    values: dict[str, Mapping[int, str]] = {}
    ranges = dict(zip((field.name for field in schema.fields), slot_ranges(schema), strict=True))
    for table in schema.tables:
        if table.name in records.vocabularies:
            keys = [_keys(records, f, words, ranges) for f in _readers(records, table.name)]
            path = files.join(records.path, records.vocabularies[table.name])
            values[table.name] = named_values(
                path, "key", np.unique(np.concatenate([part.ravel() for part in keys]))
            )
    for field in schema.fields:
        if field.kind == "dense":
            columns[field.name] = _numbers(words[ranges[field.name][0]])
            continue
        names = values.get(field.table_name)
        is_raw = schema.table(field.table_name).keys == "raw"
        rows = [
            [_value(key, names, is_raw) for key in slots if key != PADDING_KEY]
            for slots in _keys(records, field, words, ranges).T.tolist()
        ]
        is_multi = field.kind == "multi"
        columns[field.name] = [row if is_multi else next(iter(row), None) for row in rows]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _numbers(plane: np.ndarray) -> list[float | str]:
    """A plane of floats; JSON has neither NaN nor Inf."""
    return [one if math.isfinite(one) else str(one) for one in plane.view("<f4").tolist()]


def _readers(records: Records, table: str) -> list[Field]:
    return [field for field in records.schema.key_fields if field.table_name == table]


def _keys(
    records: Records, field: Field, words: np.ndarray, ranges: Mapping[str, tuple[int, int]]
) -> np.ndarray:
    first, last = ranges[field.name]
    return keys_of(words[first:last], records.schema.table(field.table_name).words_per_key)


def _value(key: int, names: Mapping[int, str] | None, is_raw: bool) -> str | int:
    """The value behind a key: `?` if it is unknown or missing, the key if it has no names."""
    if key == UNKNOWN_KEY and not is_raw:
        return "?"
    return key if names is None else names.get(key, f"?{key}")


# ---- Text ----------------------------------------------------------------------------------------


def _episode_lines(episode: Mapping[str, Any]) -> list[str]:
    value = "" if episode["value"] is None else f" ({_shown(episode['value'])})"
    head = (
        f"{episode['split']}: task {episode['task']}{value}, part {episode['part']}, "
        f"{episode['num_rows']:,} rows, {episode['file']} at offset {episode['offset']}"
    )
    if "damage" in episode:
        return [head, f"  {episode['damage']}"]
    lines = _table(
        [
            # Keys without the commas of counts.
            {name: str(one) if isinstance(one, int) else one for name, one in row.items()}
            for row in episode["rows"]
        ]
    )
    return [head, *lines, *(["  ..."] if episode["num_rows"] > len(episode["rows"]) else [])]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as aligned columns under their names; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        cells = [_shown(name), *(_shown(value) for value in values)]
        width = max(len(cell) for cell in cells)
        is_number = all(isinstance(value, int | float | None) for value in values)
        columns.append([c.rjust(width) if is_number else c.ljust(width) for c in cells])
    return [f"  {'  '.join(cells)}".rstrip() for cells in zip(*columns, strict=True)]


def _shown(value: Any) -> str:
    """A cell: one line, not too long."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(str(one) if isinstance(one, int) else _shown(one) for one in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _is_counts(value: Any) -> bool:
    """Whether an entry of the details is names with counts, such as a histogram."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value.values())
    )


def _spans(tasks: Sequence[int]) -> dict[str, int]:
    """The counts of 1, 2 to 3, 4 to 7, ... rows by their spans."""
    return {
        "1" if bucket == 0 else f"{1 << bucket:,} to {(2 << bucket) - 1:,}": count
        for bucket, count in enumerate(tasks)
    }


def _bars(name: str, counts: Mapping[str, int]) -> list[str]:
    """Counts as a small bar chart."""
    most = max(1, *counts.values())
    rows = [
        {"": str(what), " ": count, "  ": "#" * round(_BAR * max(count, 0) / most)}
        for what, count in counts.items()
    ]
    return [name.replace("_", " "), *_table(rows)[1:]]
