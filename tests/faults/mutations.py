"""Mutated logs and schemas: `prepare` and an independent reader agree, or one line says why not.

What is compared are the kept rows, their values and their order, task by task, and how many bad
rows were left out.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import random
from typing import Any

import yaml

from tests.faults import children
from tests.faults.outcome import Case, Group, expect
from tests.faults.place import Place
from tests.faults.plain_reader import Rows, read_raw, read_records

__all__ = ["groups"]

_NUM_LOGS, _NUM_SCHEMAS = 300, 200
_CELLS = (
    *("", " ", "nan", "inf", "-inf", "1e400", "1e-400", "0x1F", "1_000", "1,5", "NULL", "None"),
    *("-0", "+5", "1.", ".5", "1e5", "true", "٣", "\t7\t", "\u00a07", "007", "1e", "--1", "1 2"),
    *("a|b|a", "|", "||x", " | y ", "\u00e9", "e\u0301", "\u4e2d", "x" * 5000, "new\nline"),
    *('quote"d', "'", "#", "\\", "\\N", "a;b", "a\tb", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775808", "1970-01-01", "12:30", "\x0b7\x0c"),
    *("3.4028236e38", "3.4028234e38", "16777217", "0.1", "1e-46", "\x1f5", "\u20285"),
)
_BYTES = (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"\\", b",", b" ", b"\xc3", b"#")
_VALUES = (
    *(None, 0, 1, -1, 3, 2**31, 2**63, 1.5, "", "4", "item", "price", "genre", "user", "stars"),
    *(True, [], {}, "multi", "dense", "categorical", "hash", "raw", "vocabulary", ",", " ", "||"),
    *(float("nan"), "a/b", "Book-Rating", "_c1", "\u4e2d"),
)


def groups(place: Place) -> dict[str, Group]:
    """A group of mutated logs, and one of mutated schemas."""
    return {
        "logs": Group(functools.partial(_cases, place, _NUM_LOGS, 0.0), 4),
        "schemas": Group(functools.partial(_cases, place, _NUM_SCHEMAS, 1.0), 3),
    }


def _cases(place: Place, count: int, schemas: float, draw: random.Random) -> list[Case]:
    folder = place.fresh()
    log, schema = (folder / "log.csv").read_bytes(), (folder / "schema.yaml").read_bytes()
    cases = []
    for _ in range(count):
        what: list[str] = []
        new_log, new_schema = log, schema
        for _ in range(draw.choice((1, 1, 2, 3))):
            if draw.random() < schemas:
                new_schema = _mutated_schema(new_schema, draw, what)
            else:
                new_log = _mutated_log(new_log, draw, what)
        check = functools.partial(_agreed, place, new_log, new_schema)
        cases.append(Case("; ".join(what)[:120].replace("\n", "\\n"), check))
    return cases


def _mutated_log(log: bytes, draw: random.Random, what: list[str]) -> bytes:
    kind = draw.choice(("cell", "cell", "cell", "cell", "row", "ragged", "header", "byte", "ends"))
    if kind == "byte":
        place, some = draw.randrange(len(log)), draw.choice(_BYTES)
        what.append(f"{some!r} at byte {place} of the log")
        return log[:place] + some + log[place:]
    if kind == "ends":
        end = draw.choice((b"\r\n", b"\n", b"\r"))
        what.append(f"lines that end in {end!r}")
        return log.replace(b"\r\n", b"\n").replace(b"\n", end)
    try:
        rows = list(csv.reader(io.StringIO(log.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return log
    row, column = draw.randrange(1, len(rows)), draw.randrange(7)
    if kind == "cell":
        cell = draw.choice(_CELLS)
        what.append(f"{cell[:20]!r} in row {row}, column {rows[0][column : column + 1]}")
        rows[row][column : column + 1] = [cell]
    elif kind == "row":
        what.append(draw.choice(("row twice", "row gone", "rows swapped", "blank line")))
        other = draw.randrange(1, len(rows))
        if what[-1] == "row twice":
            rows.insert(other, list(rows[row]))
        elif what[-1] == "row gone":
            del rows[row]
        elif what[-1] == "rows swapped":
            rows[row], rows[other] = rows[other], rows[row]
        else:
            rows.insert(row, [])
    elif kind == "ragged":
        what.append(f"row {row} with another number of cells")
        rows[row] = rows[row][:-1] if draw.random() < 0.5 else [*rows[row], "more"]
    else:
        name = draw.choice(("user", "USER", "", " stars", "item ", "x", "stars"))
        what.append(f"column {rows[0][column : column + 1]} is called {name!r}")
        rows[0][column : column + 1] = [name]
    written = io.StringIO(newline="")
    csv.writer(written, quoting=draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    return written.getvalue().encode()


def _mutated_schema(schema: bytes, draw: random.Random, what: list[str]) -> bytes:
    if draw.random() < 0.3:
        place, some = draw.randrange(len(schema)), draw.choice((b":", b"-", b" ", b"\n", b"", b"{"))
        what.append(f"{some!r} in place of byte {place} of the schema")
        return schema[:place] + some + schema[place + 1 :]
    try:
        values = yaml.safe_load(schema)
        owners: list[Any] = [values, *values["fields"], *values["tables"]]
        owner = draw.choice(owners)
        name = draw.choice([*owner, "column", "unknown"])
    except (yaml.YAMLError, TypeError, KeyError):
        return schema
    value = draw.choice(_VALUES)
    if name in ("fields", "tables"):
        what.append(f"an entry of {name} is gone")
        entries = owner[name]
        if isinstance(entries, list) and entries:
            del entries[draw.randrange(len(entries))]
    elif draw.random() < 0.15:
        what.append(f"{name} is gone")
        owner.pop(name, None)
    else:
        what.append(f"{name}: {value!r}")
        owner[name] = value
    return yaml.safe_dump(values, allow_unicode=True).encode()


def _agreed(place: Place, log: bytes, schema: bytes) -> None:
    folder = place.fresh()
    (folder / "log.csv").write_bytes(log)
    (folder / "schema.yaml").write_bytes(schema)
    # All rows are for training, so that every value is in its vocabulary.
    more = ["--test-fraction", "0", "--on-bad-row", "drop", "--max-bad-share", "1"]
    ended = children.run([*place.commands["prepare"], *more], folder)
    if ended.status != 0:
        ended.expect_one_line()
        expect(not (folder / "new").exists(), "an error is told, and there are records")
        return
    ended.expect_success()
    try:
        expected, num_bad = read_raw(folder / "log.csv", folder / "schema.yaml")
    except (ValueError, KeyError, TypeError, IndexError, csv.Error, yaml.YAMLError) as error:
        expect(False, f"prepare reads what plain Python cannot: {error!r}")
        raise
    found = read_records(folder / "new")
    described = json.loads((folder / "new" / "schema.json").read_text(encoding="utf-8"))
    dropped = sum(described["details"]["dropped_rows"].values())
    expect(dropped == num_bad, f"{dropped} rows were left out, expected {num_bad}")
    if all(field["min_count"] == 1 for field in described["schema"]["fields"]):
        _expect_equal(found, expected)


def _expect_equal(found: Rows, expected: Rows) -> None:
    missing = set(expected) ^ set(found)
    expect(not missing, f"tasks that only one of both has: {sorted(missing)[:3]}")
    for task, rows in expected.items():
        expect(len(rows) == len(found[task]), f"task {task!r}: {len(found[task])} rows")
        for row, (one, other) in enumerate(zip(found[task], rows, strict=True)):
            same = len(one) == len(other) and all(map(_is_same, one, other))
            expect(same, f"task {task!r}, row {row}: {one}, expected {other}")


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-44)
    return one == other
