"""Whether every line of text files has become a row, by a count that knows nothing of quotes.

A quote that nobody closes swallows the lines behind it, up to the next quote, and the rest is read
as if nothing were. Lines are counted apart, and where they are more than rows and headers, the
reason is looked for: empty lines, ends of lines within quoted cells, or lines that are gone.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging

import duckdb

from gmeta_tf.meta_io.sources.compressed import compression_of
from gmeta_tf.meta_io.sources.plain_files import delimiter_of, lines_reader, query_of_file
from gmeta_tf.meta_io.sources.sources import Source, SourceFile
from gmeta_tf.meta_io.sql import one_value, sql_name, sql_text
from gmeta_tf.side_threads import side_by_side

__all__ = ["check_every_line"]

_LOG = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 20
_END = r"'\r\n|\r|\n'"


def check_every_line(database: duckdb.DuckDBPyConnection, source: Source, num_rows: int) -> None:
    """Checks that the rows that were read of CSV and TSV files are all of their lines.

    Usually lines are counted and that is all: 20 times faster than reading. Only files with empty
    lines or with ends of lines in quoted cells are read again.

    Args:
        database: reads the files.
        source: other formats, and queries of a user's own, are not looked at.
        num_rows: how many rows all of its files have given.

    Raises:
        ValueError: a file has another number of rows when a quote is a letter, and nobody has said
            which it is; or rows are missing.
    """
    readable = [file for file in source.files if file.columns]
    # In files of one column an empty line may be a row.
    if source.format not in ("csv", "tsv") or len(source.columns) < 2 or not readable:
        return
    has_header = source.options.columns is None
    expected = num_rows + has_header * len(readable)
    if _count_ends(source, readable) == expected:
        return
    if _count_lines(database, source, readable) == expected:
        return
    for file in readable:
        _check_file(database, source, file)


def _count_ends(source: Source, readable: list[SourceFile]) -> int | None:
    """The lines, empty ones too, of plain files; None where that takes more than to count bytes."""
    is_plain = all(compression_of(file.path) == "none" for file in readable)
    if not is_plain or source.options.encoding == "utf-16":
        return None
    return sum(side_by_side(_count_ends_of_file, (file.path for file in readable)))


def _count_ends_of_file(path: str) -> int:
    count, last, piece = 0, b"\n", bytearray(_PIECE_BYTES)
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(piece):
            count += piece.count(b"\n", 0, length)
            last = bytes(piece[length - 1 : length])
    return count + (last != b"\n")


def _count_lines(
    database: duckdb.DuckDBPyConnection, source: Source, readable: list[SourceFile]
) -> int:
    """The lines that are not empty."""
    by_compression = itertools.groupby(
        sorted((file.path for file in readable), key=compression_of), compression_of
    )
    readers = (
        lines_reader(list(paths), compression, source.options.encoding)
        for compression, paths in by_compression
    )
    return sum(one_value(database, f"SELECT count(line) FROM {reader}") for reader in readers)


@dataclasses.dataclass(frozen=True)
class _Counts:
    """Of one file: its rows; the lines that begin within a quoted cell; the first row with one."""

    rows: int
    within_cells: int
    first: int | None
    looks_swallowed: bool


def _check_file(database: duckdb.DuckDBPyConnection, source: Source, file: SourceFile) -> None:
    header = 0 if source.options.columns is not None else 1 + _line_ends("".join(file.columns))
    lines = _count_lines(database, source, [file])
    counts = _counts(database, source, file)
    if lines != header + counts.rows + counts.within_cells:
        raise ValueError(
            f"{file.path}: expected its {lines} lines that are not empty to be {header} of the "
            f"header, rows and lines within quoted cells, but {counts.rows} rows and "
            f"{counts.within_cells} lines within quoted cells were read. Look for control "
            "characters, and write the file again."
        )
    if counts.first is None or source.options.quoting is not None:
        return
    line = _line_of_row(database, source, file, header + counts.first)
    told = (
        f"{file.path}, line {line}: a quoted cell goes on over the end of the line; "
        f"{counts.within_cells} line(s) of the file are read as parts of cells"
    )
    say = (
        "--quoting none if a quote is a letter like others, --quoting minimal if cells hold whole "
        "lines (in Python ReaderOptions(quoting=...), in the schema's file `read: {quoting: ...}`)"
    )
    if _every_line_is_a_row(database, source, file):
        raise ValueError(
            f"{told}. Each of its lines is also a row by itself, {lines - header} and not "
            f"{counts.rows}: expected to be told which it is. Pass {say}."
        )
    if counts.looks_swallowed:
        _LOG.warning("%s, and some would be rows by themselves. Pass %s.", told, say)


def _counts(database: duckdb.DuckDBPyConnection, source: Source, file: SourceFile) -> _Counts:
    query = query_of_file(
        str(source.format), file.path, file.columns, file.columns, (), source.options
    )
    last = len(file.columns) - 1
    separators = _separators(source)
    within, swallowed = [], []
    for position, column in enumerate(file.columns):
        parts = f"string_split_regex({sql_name(column)}, {_END})"
        # An empty line within a cell is not counted among the lines.
        within.append(
            f"coalesce(len({parts}) - 1 - "
            f"len(list_filter({parts}[2:len({parts}) - 1], lambda x: x = '')), 0)"
        )
        # Its lines would be rows, if quotes were letters.
        swallowed.append(
            f"coalesce(len({parts}) > 1 AND {separators.format(f'{parts}[1]')} = {last - position} "
            f"AND {separators.format(f'{parts}[-1]')} = {position} AND "
            f"len(list_filter({parts}[2:len({parts}) - 1], lambda x: "
            f"{separators.format('x')} <> {last})) = 0, false)"
        )
    rows, within_cells, first, looks_swallowed = database.execute(
        "SELECT count(*), coalesce(sum(within), 0), min(row) FILTER (ends), "
        "coalesce(bool_or(swallowed), false) FROM "
        f"(SELECT row_number() OVER () AS row, {' + '.join(within)} AS within, "
        f"{' OR '.join(_has_end(column) for column in file.columns)} AS ends, "
        f"{' OR '.join(swallowed)} AS swallowed FROM ({query}))"
    ).fetchall()[0]
    return _Counts(int(rows), int(within_cells), first, looks_swallowed)


def _has_end(column: str) -> str:
    return f"coalesce(regexp_matches({sql_name(column)}, '[\\r\\n]'), false)"


def _line_ends(text: str) -> int:
    return len(text.splitlines()) - 1 if text else 0


def _separators(source: Source) -> str:
    """The SQL of how often the separator is in a text."""
    separator = sql_text(delimiter_of(str(source.format), source.options))
    return f"(len(string_split({{}}, {separator.replace('{', '{{').replace('}', '}}')})) - 1)"


def _every_line_is_a_row(
    database: duckdb.DuckDBPyConnection, source: Source, file: SourceFile
) -> bool:
    reader = lines_reader([file.path], compression_of(file.path), source.options.encoding)
    others = _separators(source).format("line")
    query = (
        f"SELECT count(*) FROM {reader} WHERE line IS NOT NULL "
        f"AND {others} <> {len(file.columns) - 1}"
    )
    return bool(one_value(database, query) == 0)


def _line_of_row(
    database: duckdb.DuckDBPyConnection, source: Source, file: SourceFile, line: int
) -> int:
    """The place of a line that is the so many-th that is not empty; all before it are rows."""
    reader = lines_reader([file.path], compression_of(file.path), source.options.encoding)
    query = (
        f"SELECT place FROM (SELECT row_number() OVER () AS place, line FROM {reader}) "
        f"WHERE line IS NOT NULL LIMIT 1 OFFSET {line - 1}"
    )
    return int(one_value(database, query))
