"""Plain files of one format: their columns, and the SQL that reads them as one table of texts."""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import glob
import gzip
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import duckdb

from gmeta_tf.meta_io.sources.compressed import compression_of
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions, even_separator
from gmeta_tf.meta_io.sql import sql_name, sql_text

__all__ = [
    "PlainFiles",
    "delimiter_of",
    "lines_reader",
    "query_of_file",
    "read_delimited",
    "read_json",
    "read_parquet",
    "shown",
    "with_separator",
]

_DELIMITERS = {"csv": ",", "tsv": "\t"}
# A header is looked for in so many lines; it has more than one when a quoted name has.
_HEADER_LINES = 64


@dataclasses.dataclass(frozen=True)
class PlainFiles:
    """What was found of files.

    Attributes:
        query: a SELECT of the columns.
        columns: the columns of the query.
        list_columns: those that are lists.
        headers: the columns of each file in its own order, for CSV and TSV.
    """

    query: str
    columns: tuple[str, ...]
    list_columns: tuple[str, ...] = ()
    headers: tuple[tuple[str, ...], ...] = ()


def shown(files: Sequence[str]) -> str:
    """The names of the first files."""
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def query_of_file(
    format_name: str,
    file: str,
    header: tuple[str, ...],
    columns: Sequence[str],
    list_columns: Sequence[str],
    options: ReaderOptions,
) -> str:
    """A SELECT of one of several files, that gives its part of what all of them give.

    Args:
        format_name: "csv", "tsv", "json" or "parquet".
        file: its path.
        header: its own columns, for CSV and TSV.
        columns: of all files.
        list_columns: those that are lists, for JSON.
        options: how CSV and TSV are written.
    """
    if format_name == "parquet":
        reader = _parquet_reader([file])
    elif format_name == "json":
        reader = _json_reader(
            [file],
            {column: "VARCHAR[]" if column in list_columns else "VARCHAR" for column in columns},
        )
    else:
        reader = next(_delimited_readers([(file, header)], format_name, options))
    return f"SELECT {_sql_columns(columns)} FROM {reader}"


def delimiter_of(format_name: str, options: ReaderOptions) -> str:
    """What stands between the cells of CSV or TSV."""
    return options.separator or _DELIMITERS[format_name]


def read_delimited(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    format_name: str,
    options: ReaderOptions,
) -> PlainFiles:
    """CSV and TSV, whose columns are those of the headers, or those that the options name."""
    headers = tuple(_header(database, file, format_name, options) for file in files)
    readable = [(file, header) for file, header in zip(files, headers, strict=True) if header]
    if not readable:
        raise ValueError(
            f"{shown(files)} has no rows: expected a header and rows, got an empty file."
        )
    first, columns = readable[0]
    for file, header in readable:
        _same_columns(first, columns, file, header)
    query = " UNION ALL ".join(
        f"SELECT {_sql_columns(columns)} FROM {reader}"
        for reader in _delimited_readers(readable, format_name, options)
    )
    return PlainFiles(query, columns, headers=headers)


def _delimited_readers(
    files: Sequence[tuple[str, tuple[str, ...]]], format_name: str, options: ReaderOptions
) -> Iterator[str]:
    """Neighbours with one header and one compression are read together, which is in parallel."""
    quote, has_header = sql_text(options.quote), str(options.columns is None).lower()
    escape = sql_text(options.escape_letter)
    nulls = ", ".join(map(sql_text, ("", *options.null_words)))
    for (columns, compression), alike in itertools.groupby(
        files, lambda file: (file[1], compression_of(file[0]))
    ):
        types = ", ".join(f"{sql_text(column)}: 'VARCHAR'" for column in columns)
        yield (
            f"read_csv({_sql_paths(file for file, _ in alike)}, auto_detect=false, "
            f"header={has_header}, columns={{{types}}}, "
            f"delim={sql_text(delimiter_of(format_name, options))}, "
            f"quote={quote}, escape={escape}, nullstr=[{nulls}], encoding='{options.encoding}', "
            f"compression='{compression}', hive_partitioning=false)"
        )


def lines_reader(files: Iterable[str], compression: str, encoding: str) -> str:
    """The SQL table of the lines of text files, whatever is in them; NULL is an empty line.

    The delimiter is one that no text has, so that all of DuckDB's compressions and ends of lines
    are known, and no quote counts.
    """
    return (
        f"read_csv({_sql_paths(files)}, auto_detect=false, header=false, "
        "columns={'line': 'VARCHAR'}, delim='\x1c\x1d\x1e\x1f', quote='', escape='', "
        f"strict_mode=false, encoding='{encoding}', compression='{compression}', "
        "hive_partitioning=false)"
    )


def _header(
    database: duckdb.DuckDBPyConnection, file: str, format_name: str, options: ReaderOptions
) -> tuple[str, ...]:
    """The names of a file's columns; none if it has no byte.

    DuckDB would rename a column that stands twice, and say nothing.
    """
    reader = lines_reader([file], compression_of(file), options.encoding)
    lines = database.execute(f"SELECT line FROM {reader} LIMIT {_HEADER_LINES}").fetchall()
    texts = [line or "" for (line,) in lines]
    if options.columns is not None:
        return options.columns if any(texts) else ()
    if any(texts) and not texts[0]:
        # DuckDB would take the empty line for the header, and the header for a row.
        raise ValueError(
            f"{file} cannot be read: expected its header in the first line, got an empty line. "
            "Remove the empty lines at the beginning."
        )
    cells = _cells_of_header(texts, delimiter_of(format_name, options), options)
    columns = tuple(cell or f"column{position}" for position, cell in enumerate(cells))
    no_column_twice(f"the header of {file}", columns)
    return columns


def with_separator(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    format_name: str,
    options: ReaderOptions,
) -> ReaderOptions:
    """The options with the separator that is found, where none is stated.

    The usual one is kept where it is in the header. Otherwise the file would have a single column.
    """
    if options.separator is not None:
        return options
    usual = delimiter_of(format_name, options)
    for file in files:
        reader = lines_reader([file], compression_of(file), options.encoding)
        lines = database.execute(f"SELECT line FROM {reader} LIMIT {_HEADER_LINES}").fetchall()
        texts = [line for (line,) in lines if line]
        if not texts:
            continue
        found = None if usual in texts[0] else even_separator(texts, usual)
        return options if found is None else dataclasses.replace(options, separator=found)
    return options


def _cells_of_header(lines: Sequence[str], delimiter: str, options: ReaderOptions) -> list[str]:
    """The cells of the first line that has any."""
    quote = options.quote
    if len(delimiter) == 1 and quote:
        doubled = options.escape_letter == quote
        rows = csv.reader(
            (f"{line}\n" for line in lines),
            delimiter=delimiter,
            doublequote=doubled,
            escapechar=None if doubled else options.escape_letter,
        )
        return next((row for row in rows if row), [])
    first = next((line for line in lines if line), "")
    return [cell.strip(quote) if quote else cell for cell in first.split(delimiter)] * bool(first)


def read_json(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    format_name: str,
    options: ReaderOptions,
) -> PlainFiles:
    """JSON lines, whose columns are the keys of all lines."""
    for file in files:
        _check_no_mark(file)
    reader = f"read_json_objects({_sql_paths(files)}, format='newline_delimited', filename=true)"
    found = database.execute(
        f"SELECT DISTINCT key FROM (SELECT unnest(json_keys(json)) AS key FROM {reader})"
    ).fetchall()
    columns = tuple(sorted(key for (key,) in found))
    no_column_twice(shown(files), columns)
    other = database.execute(
        f"SELECT filename, json_type(json) FROM {reader} "
        "WHERE len(json_keys(json)) = 0 AND json_type(json) <> 'OBJECT' LIMIT 1"
    ).fetchall()
    for file, kind in other:
        raise ValueError(
            f"{file} cannot be read: expected one JSON object in each line, got {kind}. "
            "Write each row as a line of its own: {...} and no brackets or commas around them."
        )
    if not columns:
        raise ValueError(
            f"{shown(files)} has no rows: expected a JSON object in each line, got none."
        )
    lists = _list_columns(database, files, columns)
    types = {column: "VARCHAR[]" if column in lists else "VARCHAR" for column in columns}
    query = f"SELECT {_sql_columns(columns)} FROM {_json_reader(files, types)}"
    return PlainFiles(query, columns, lists)


def _check_no_mark(file: str) -> None:
    """Rejects what DuckDB 1 calls an error and DuckDB 2 reads over.

    A file that is compressed by zstd is left to DuckDB.
    """
    opened = gzip.open if compression_of(file) == "gzip" else open
    with opened(file, "rb") as beginning:
        if beginning.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            return
    raise ValueError(
        f"{file} cannot be read: expected one JSON object in UTF-8 in each line, got a byte order "
        "mark before the first. Write the file again without the mark (the encoding utf-8, not "
        "utf-8-sig)."
    )


def _json_reader(files: Sequence[str], types: Mapping[str, str]) -> str:
    typed = ", ".join(f"{sql_text(column)}: '{kind}'" for column, kind in types.items())
    return (
        f"read_json({_sql_paths(files)}, format='newline_delimited', columns={{{typed}}}, "
        "filename=false, hive_partitioning=false)"
    )


def _list_columns(
    database: duckdb.DuckDBPyConnection, files: Sequence[str], columns: Sequence[str]
) -> tuple[str, ...]:
    reader = _json_reader(files, dict.fromkeys(columns, "JSON"))
    kinds = ", ".join(
        f"count({name}) FILTER (starts_with({name}, '[')), "
        f"count({name}) FILTER (NOT starts_with({name}, '['))"
        for name in map(sql_name, columns)
    )
    counts = database.execute(f"SELECT {kinds} FROM {reader}").fetchall()[0]
    for column, num_lists, num_others in zip(columns, counts[::2], counts[1::2], strict=True):
        if num_lists and num_others:
            raise ValueError(
                f"{shown(files)} cannot be read: expected the column {column!r} to hold either "
                f"lists or single values, got {num_lists} list(s) and {num_others} other "
                'value(s). Write a single value as a list of one: ["value"].'
            )
    return tuple(column for column, count in zip(columns, counts[::2], strict=True) if count)


def read_parquet(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    format_name: str,
    options: ReaderOptions,
) -> PlainFiles:
    """Parquet, whose files have one schema."""
    expected = _parquet_types(database, files[0])
    for file in files[1:]:
        types = _parquet_types(database, file)
        _same_columns(files[0], list(expected), file, list(types))
        for column, kind in types.items():
            if kind != expected[column]:
                raise ValueError(
                    f"{file} cannot be read: expected the column {column!r} to be "
                    f"{expected[column]} as in {files[0]}, got {kind}. Write all files with one "
                    "type, or write a Source whose query casts them."
                )
    query = f"SELECT {_sql_columns(expected)} FROM {_parquet_reader(files)}"
    return PlainFiles(query, tuple(expected))


def _parquet_reader(files: Sequence[str]) -> str:
    return f"read_parquet({_sql_paths(files)}, binary_as_string=true, hive_partitioning=false)"


def _parquet_types(database: duckdb.DuckDBPyConnection, file: str) -> dict[str, str]:
    described = database.execute(f"DESCRIBE SELECT * FROM {_parquet_reader([file])}").fetchall()
    return {column[0]: column[1] for column in described}


def _sql_paths(files: Iterable[str]) -> str:
    return "[" + ", ".join(sql_text(glob.escape(file)) for file in files) + "]"


def _sql_columns(columns: Iterable[str]) -> str:
    return ", ".join(sql_name(column) for column in columns)


def no_column_twice(place: str, columns: Sequence[str]) -> None:
    counts = collections.Counter(column.lower() for column in columns)
    twice = [column for column in columns if counts[column.lower()] > 1]
    if twice:
        raise ValueError(
            f"{place} cannot be read: expected each column once, got {', '.join(map(repr, twice))} "
            f"(names that differ by case alone are the same) in {', '.join(columns)}. Rename them."
        )


def _same_columns(first: str, expected: Sequence[str], file: str, columns: Sequence[str]) -> None:
    for column in expected:
        if column not in columns:
            raise ValueError(
                f'{file} cannot be read: the column "{column}" is missing; expected those of '
                f"{first}, {', '.join(expected)}, got {', '.join(columns)}. "
                "Add it, or prepare the files apart."
            )
    further = [column for column in columns if column not in expected]
    if further:
        raise ValueError(
            f'{file} cannot be read: the column "{further[0]}" is one too many; expected those of '
            f"{first}, {', '.join(expected)}, got {', '.join(columns)}. "
            "Drop it, or add it to the others."
        )
