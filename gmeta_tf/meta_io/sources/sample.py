"""The beginning of files: how they are written, and what their columns are like."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import duckdb

from gmeta_tf.meta_io.sources.compressed import compression_of
from gmeta_tf.meta_io.sources.reader_options import SEPARATORS, ReaderOptions, even_separator
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.sql import number_of, sql_name, sql_text, trimmed

__all__ = ["ColumnProfile", "Sample", "profiles_of", "sample_of", "separator_of"]

_READ_BYTES = 64 << 20
_ROWS = 500_000
_LINES = 50
_TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".dat", ".data", ".log", ".item", ".user", "")
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
# A row that has no header's word in it is a row, and not a header.
_NULL_WORDS = ("\\N", "NULL", "null", "NaN", "nan", "NA", "N/A", "<NA>", "None")


@dataclasses.dataclass(frozen=True)
class Sample:
    """The beginning of a file, as a source of rows.

    Attributes:
        path: the file.
        source: its first rows.
        options: how it is written; the default where that is the usual way.
        is_whole: whether these are all of its rows, as far as its size tells.
    """

    path: str
    source: Source
    options: ReaderOptions
    is_whole: bool


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """What a column is like in a sample.

    Attributes:
        name: the column's.
        rows: of the sample.
        missing: rows without a value.
        distinct: different values.
        numbers: the share of the values that are finite numbers.
        integers: the share of the values that are integers.
        smallest: the smallest number, or None.
        largest: the largest number, or None.
        median: of the numbers, or None.
        letters: the mean length of a value.
        parts: the separator that many values hold, for which they look like lists; or None.
        is_list: whether its values are lists.
        times: the share of the values that are a date or a time.
        first_time: the earliest of those, ISO 8601, or None.
        last_time: the latest.
        null_words: values that elsewhere stand for a missing one.
        examples: some values.
    """

    name: str
    rows: int
    missing: int
    distinct: int
    numbers: float
    integers: float
    smallest: float | None
    largest: float | None
    median: float | None
    letters: float
    parts: str | None
    is_list: bool
    times: float
    first_time: str | None
    last_time: str | None
    null_words: tuple[str, ...]
    examples: tuple[str, ...]


def sample_of(
    path: str, folder: pathlib.Path, separator: str | None = None, encoding: str | None = None
) -> Sample:
    """The first 64 MiB of a file, unpacked, up to the end of a line; of Parquet the first rows.

    Args:
        path: a local file.
        folder: for a copy of its beginning.
        separator: of its cells; None looks for it.
        encoding: of its text; None is UTF-8, or latin-1 where it is not UTF-8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or no separator is found.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path}: expected CSV, TSV, JSON lines or Parquet.")
    name = os.path.basename(path)
    if compression_of(path) == "gzip":
        name = name[: -len(".gz")]
    ending = os.path.splitext(name)[1].lower()
    if ending == ".parquet" or compression_of(path) == "zstd":
        return Sample(path, files_source(path), ReaderOptions(), False)
    text, is_whole = _beginning(path)
    beginning = folder / f"{len(list(folder.iterdir())):03d}-{name}"
    beginning.write_bytes(text)
    if ending in _JSON_ENDINGS:
        return Sample(path, files_source(beginning), ReaderOptions(), is_whole)
    if encoding is None:
        encoding = "utf-8" if _is_utf8(text) else "latin-1"
    lines = [line for line in text[: 1 << 20].decode(encoding, "replace").splitlines() if line]
    usual = {".csv": ",", ".tsv": "\t"}.get(ending)
    found = separator or separator_of(lines[:_LINES], usual, path)
    values: dict[str, Any] = {"encoding": encoding}
    if found != usual:
        values["separator"] = found
    if usual is None:
        values["format"] = "csv"
    cells = [line.split(found) for line in lines[:_LINES]]
    if lines and not _is_header(cells):
        values["columns"] = _made_names(cells)
    options = ReaderOptions(**values)
    return Sample(path, files_source(beginning, options=options), options, is_whole)


def separator_of(lines: Sequence[str], usual: str | None, path: str) -> str:
    """What stands between the cells of lines: what all of them have equally often.

    Args:
        lines: the first ones, without empty ones.
        usual: that of the file's ending, which is taken where it fits; None has none.
        path: for the message.

    Raises:
        ValueError: none fits.

    Example:
        >>> separator_of(["1::7::5", "1::9::3"], None, "ratings.dat")
        '::'
    """
    if (found := even_separator(lines, usual)) is not None:
        return found
    # Cells in quotes may hold separators: then most lines, and the header, say which it is.
    for mark in (*([usual] if usual else []), *SEPARATORS):
        first = lines[0].count(mark) if lines else 0
        if first and all(line.count(mark) >= first for line in lines):
            return mark
    shown = {"\t": "\\t"}
    raise ValueError(
        f"{path}: no separator was found: expected lines with equally many of "
        f"{', '.join(shown.get(mark, mark) for mark in SEPARATORS)}, got "
        f"{lines[0][:80] if lines else 'no line'!r}. Say which it is: --separator SEPARATOR."
    )


def profiles_of(sample: Sample) -> list[ColumnProfile]:
    """What the columns of a sample are like.

    Raises:
        ValueError: it cannot be read.
    """
    database = duckdb.connect()
    try:
        query = f"SELECT * FROM ({sample.source.query}) LIMIT {_ROWS}"
        database.execute(f"CREATE TABLE sample AS {query}")
        described = database.execute("DESCRIBE sample").fetchall()
        return [_profile(database, column[0], column[1]) for column in described]
    finally:
        database.close()


def _profile(database: duckdb.DuckDBPyConnection, name: str, kind: str) -> ColumnProfile:
    is_list = kind.endswith("]")
    column = sql_name(name)
    text = f"array_to_string({column}, '|')" if is_list else trimmed(column)
    number = number_of("value")
    parts = ", ".join(
        f"avg(CAST(contains(value, {sql_text(mark)}) AS INTEGER))" for mark in ("|", ",", ";")
    )
    words = ", ".join(map(sql_text, _NULL_WORDS))
    moment = "CASE WHEN number IS NULL THEN TRY_CAST(value AS TIMESTAMP) END"
    row = database.execute(
        f"SELECT count(*), count(value), count(DISTINCT value), "
        f"count(number), count(*) FILTER (regexp_full_match(value, '[+-]?[0-9]+')), "
        "min(number), max(number), median(number), avg(length(value)), "
        f"count({moment}), {parts}, "
        f"list(DISTINCT value) FILTER (value IN ({words})), "
        "(SELECT list(value) FROM (SELECT value FROM (SELECT DISTINCT value FROM "
        f"(SELECT {text} AS value FROM sample LIMIT 1000)) WHERE value IS NOT NULL "
        f"ORDER BY value LIMIT 3)), CAST(min({moment}) AS VARCHAR), "
        f"CAST(max({moment}) AS VARCHAR) FROM "
        f"(SELECT value, CASE WHEN isfinite({number}) THEN {number} END AS number "
        f"FROM (SELECT {text} AS value FROM sample))"
    ).fetchall()[0]
    rows, there, distinct, numbers, integers, smallest, largest, median, letters, times = row[:10]
    shares = dict(zip(("|", ",", ";"), row[10:13], strict=True))
    mark = max(shares, key=lambda one: shares[one] or 0.0)
    return ColumnProfile(
        name,
        rows,
        rows - there,
        distinct,
        numbers / there if there else 0.0,
        integers / there if there else 0.0,
        smallest,
        largest,
        median,
        letters or 0.0,
        mark if (shares[mark] or 0.0) > 0.2 and not is_list else None,
        is_list,
        times / there if there else 0.0,
        row[15],
        row[16],
        tuple(sorted(row[13] or [])),
        tuple(row[14] or []),
    )


def _beginning(path: str) -> tuple[bytes, bool]:
    opened = gzip.open if compression_of(path) == "gzip" else open
    with opened(path, "rb") as file:
        text = bytes(file.read(_READ_BYTES))
        is_whole = not file.read(1)
    return (text if is_whole else text[: text.rfind(b"\n") + 1]), is_whole


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_header(cells: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names columns: no cell of it is a number where others are."""
    first, rest = cells[0], cells[1:]
    for place, name in enumerate(first):
        if not name.strip() or not _is_number(name):
            continue
        if not rest or all(_is_number(row[place]) for row in rest if len(row) > place):
            return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text.strip('" '))
    except ValueError:
        return False
    return True


def _made_names(cells: Sequence[Sequence[str]]) -> list[str]:
    """Names for columns without any: of three or four numbers those of every log of ratings."""
    count = len(cells[0])
    usual = ("user", "item", "rating", "time")
    if count in (3, 4) and all(_is_number(cell) for row in cells for cell in row):
        return list(usual[:count])
    return [f"column{place}" for place in range(count)]
