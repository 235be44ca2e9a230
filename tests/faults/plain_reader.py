"""What raw rows say, by Python's csv and a few lines; and what records say, likewise.

Nothing here is the product's: both readers follow docs/meta_io.md alone.
"""

from __future__ import annotations

import collections
import csv
import decimal
import json
import math
import pathlib
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import yaml

__all__ = ["Rows", "read_raw", "read_records"]

Rows = dict[str, list[tuple]]
"""Task -> its rows in order, each (label, values of the fields); see `read_raw`."""

_WHITE_SPACE = " \t\n\r\x0b\x0c"
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 2**63 - 1


def read_raw(log: pathlib.Path, schema: pathlib.Path) -> tuple[Rows, int]:
    """The rows that a log has under a schema, and how many bad ones are left out.

    A categorical value is a text or None, a multi-valued one a tuple of texts, a dense one a
    float32. Of hashed keys only whether there is a value is kept (True or None).

    Raises:
        ValueError, KeyError, TypeError, IndexError: they cannot be read.
    """
    described = yaml.safe_load(schema.read_text(encoding="utf-8"))
    with open(log, newline="", encoding="utf-8") as file:
        header, *cells = [row for row in csv.reader(file, strict=True) if row]
    if any(len(row) != len(header) for row in cells):
        raise ValueError("rows of different lengths")
    if len(set(header)) != len(header):
        raise ValueError("columns of one name")
    tables = {table["name"]: table for table in described.get("tables") or ()}
    named = [dict(zip(header, row, strict=True)) for row in cells]
    time_of = _time_reading([row[described["time"]] for row in named if described.get("time")])
    rows, num_bad = collections.defaultdict(list), 0
    for place, row in enumerate(named):
        read = _row(row, described, tables, time_of)
        if read is None:
            num_bad += 1
        else:
            task, time, values = read
            rows[task].append((time, place, values))
    return {task: [values for _, _, values in sorted(found)] for task, found in rows.items()}, (
        num_bad
    )


def _time_reading(texts: list[str]) -> Callable[[str], float | None]:
    """How times are read: as what most of them can be read as, integers if there are as many."""
    integers, numbers = ([text for text in texts if of(text) is not None] for of in _TIMES)
    if len(integers) >= len(numbers):
        return _integer
    if 2 * len(integers) > len(numbers) and any(map(_is_rounded, integers)):
        return _integer
    values = collections.defaultdict(set)
    for text in numbers:
        values[float(text)].add(decimal.Decimal(text.strip(_WHITE_SPACE)))
    is_tied = any(len(values[float(text)]) > 1 and _is_rounded(text) for text in numbers)
    if not is_tied:
        return _time_number
    return lambda text: None if _is_rounded(text) else _time_number(text)


def _is_rounded(text: str) -> bool:
    """Whether a double has fewer digits than a number."""
    text = text.strip(_WHITE_SPACE)
    if len(text) <= 15 or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        return False
    return decimal.Decimal(text) != decimal.Decimal(repr(float(text)))


def _integer(text: str) -> int | None:
    fits = re.fullmatch(r"-?[0-9]+", text) and -_LARGEST - 1 <= int(text) <= _LARGEST
    return int(text) if fits else None


def _time_number(text: str) -> float | None:
    text = text.strip(_WHITE_SPACE)
    return float(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


_TIMES = (_integer, _time_number)


def _row(
    row: dict[str, str],
    schema: dict[str, Any],
    tables: dict[str, Any],
    time_of: Callable[[str], float | None],
) -> tuple[str, float, tuple] | None:
    """Task, time and values of a row; None if it is bad."""
    task = row[schema["task"]].strip(_WHITE_SPACE)
    label, values = _number(row[schema["label"]]), []
    time = time_of(row[schema["time"]]) if schema.get("time") is not None else 0
    is_good = bool(task) and label is not None and time is not None
    for field in schema["fields"]:
        text = row[field.get("column") or field["name"]]
        if field.get("kind") == "dense":
            values.append(_number(text))
            is_good = is_good and values[-1] is not None
            continue
        table = tables.get(field.get("table") or field["name"], {})
        parts = _parts(text, field)
        if table.get("keys") == "raw":
            largest = (table.get("num_rows") or _LARGEST + 1) - 1
            for part in parts:
                is_good = is_good and bool(re.fullmatch("[0-9]+", part)) and int(part) <= largest
            parts = list(dict.fromkeys(int(part) for part in parts if part.isdigit()))
        if table.get("keys") == "hash":
            parts = [True] if parts else []
        if field.get("kind") == "multi":
            values.append(tuple(parts[: field.get("max_values") or 8]))
        else:
            values.append(parts[0] if parts else None)
    return (task, time, (label, *values)) if is_good else None


def _parts(text: str, field: dict[str, Any]) -> list[Any]:
    separator = field.get("separator") or "|"
    texts = text.split(separator) if field.get("kind") == "multi" else [text]
    trimmed = (part.strip(_WHITE_SPACE) for part in texts)
    return list(dict.fromkeys(part for part in trimmed if part))


def _number(text: str) -> float | None:
    text = text.strip(_WHITE_SPACE)
    if not _NUMBER.fullmatch(text):
        return None
    with np.errstate(over="ignore"):
        value = float(np.float32(float(text)))
    return value if math.isfinite(value) else None


def read_records(folder: pathlib.Path) -> Rows:
    """The rows of all splits, with values as `read_raw` gives them."""
    described = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    schema, rows = described["schema"], collections.defaultdict(list)
    task_of = _values_of(folder / described["tasks"], "task")
    values_of = {
        table: _values_of(folder / name, "key") for table, name in described["vocabularies"].items()
    }
    for contents in described["splits"].values():
        for entry in np.load(folder / contents["index"]):
            data = (folder / contents["files"][entry["file"]]).read_bytes()
            begin = int(entry["offset"]) + 12
            data = data[begin : begin + int(entry["length"])]
            if described["compression"] == "zlib":
                data = zlib.decompress(data)
            _, n, task, part = struct.unpack_from("<IIqI", data)
            planes = np.frombuffer(data, "<i4", offset=20).reshape(-1, n)
            rows[task_of[task]].append((part, _rows_of(planes, schema, values_of)))
    return {
        task: [row for _, episode in sorted(parts, key=lambda part: part[0]) for row in episode]
        for task, parts in rows.items()
    }


def _values_of(path: pathlib.Path, number: str) -> dict[int, str]:
    with duckdb.connect() as database:
        query = f"SELECT {number}, value FROM read_parquet('{path}')"
        return dict(database.execute(query).fetchall())


def _rows_of(
    planes: np.ndarray, schema: dict[str, Any], values_of: dict[str, dict[int, str]]
) -> list[tuple]:
    tables = {table["name"]: table for table in schema["tables"]}
    left = iter(planes)
    columns = {"": next(left).view("<f4").tolist()}
    for field in sorted(schema["fields"], key=lambda field: field["kind"] == "dense"):
        if field["kind"] == "dense":
            columns[field["name"]] = next(left).view("<f4").tolist()
            continue
        table = tables[field["table"] or field["name"]]
        slots = field["max_values"] if field["kind"] == "multi" else 1
        keys = np.stack([next(left) for _ in range(slots)]).astype(np.int64)
        if table["keys"] != "vocabulary" and (table["num_rows"] or 2**63) > 2**31:
            high = np.stack([next(left) for _ in range(slots)]).astype(np.int64)
            keys = (keys & 0xFFFFFFFF) | high << 32
        columns[field["name"]] = [_decoded(row.tolist(), field, table, values_of) for row in keys.T]
    names = ["", *(field["name"] for field in schema["fields"])]
    return list(zip(*(columns[name] for name in names), strict=True))


def _decoded(
    keys: list[int], field: dict[str, Any], table: dict[str, Any], values_of: dict[str, Any]
) -> Any:
    keys = [key for key in keys if key != -1]
    if table["keys"] == "vocabulary":
        parts = [values_of[table["name"]][key] for key in keys if key]
    elif table["keys"] == "hash":
        parts = [True for key in keys if key]
    else:
        parts = keys
    if field["kind"] == "multi":
        return tuple(parts)
    return parts[0] if parts else None
