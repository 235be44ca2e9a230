"""Where raw rows come from."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from gmeta_tf.allowed import FILE_FORMATS
from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.sources.compressed import check_whole, compression_of
from gmeta_tf.meta_io.sources.plain_files import (
    read_delimited,
    read_json,
    read_parquet,
    shown,
    with_separator,
)
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sql import sql_name, sql_parquet, sql_text, trimmed_text
from gmeta_tf.side_threads import side_by_side

__all__ = [
    "TABLE",
    "Join",
    "Source",
    "SourceFile",
    "check_unchanged",
    "files_source",
    "first_rows",
    "give_table",
    "joined_query",
    "matching_files",
    "materialised",
    "missed_column",
    "reading_error",
    "source_files",
]

_READERS = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "json": read_json,
    "parquet": read_parquet,
}
_ENDINGS = {
    **dict.fromkeys((".csv", ".csv.gz", ".csv.zst"), "csv"),
    **dict.fromkeys((".tsv", ".tsv.gz", ".tsv.zst"), "tsv"),
    **{
        ending + packed: "json"
        for ending in (".jsonl", ".ndjson", ".json")
        for packed in ("", ".gz", ".zst")
    },
    ".parquet": "parquet",
}
TABLE = "gmeta_tf table"
"""What the query of a table in memory calls it."""

_ALL_ROWS = 2**62
_NO_QUOTING = "say --quoting none (ReaderOptions(quoting='none'))"
_SHOWN_LETTERS = 300  # of what DuckDB says, which holds the whole line


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file as it was when its source was made.

    Attributes:
        path: where it is.
        size_bytes: its size.
        modified_ns: when it was last written, in nanoseconds since 1970.
        columns: the names in its own order, for CSV and TSV, whose cells go by position. Empty for
            a file without a byte, and for other formats.
    """

    path: str
    size_bytes: int
    modified_ns: int
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Join:
    """A table that is looked up for each row of a source.

    Attributes:
        name: what messages call it.
        on: the column of the rows.
        path: a Parquet file with one row for each `key`, a text, and the columns.
        columns: what it gives.
    """

    name: str
    on: str
    path: str
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where raw rows come from: a query that DuckDB runs.

    Attributes:
        description: what error messages and the records' `details` call it.
        query: a SELECT that gives the raw columns under their names.
        row: the query's column that numbers the rows in the order of the files, for a query that
            does not keep that order (a join). None numbers the rows as they come, from 1.
        files: the files that it reads, in their order; `check_unchanged` looks at them again.
        format: what another engine needs to read `files` without the query: "csv", "tsv", "json"
            or "parquet", as `files_source` says it of each. None says that the query does more
            than to read files; `materialised` runs it once and gives a Parquet source.
        columns: the files' columns in the query's order, where `format` is not None.
        list_columns: those of a "json" source that are lists of texts; its others are texts.
        options: how "csv" and "tsv" files are written.
        joins: the tables that the query joins to its rows; see `side_tables`.
        unjoined: the SELECT of the rows before anything was joined; empty without a join.
        table: what the query reads under the name `TABLE`, a table in memory (see `tables`); a
            connection that runs the query needs `give_table` first.
    """

    description: str
    query: str
    row: str | None = None
    files: tuple[SourceFile, ...] = ()
    format: str | None = None
    columns: tuple[str, ...] = ()
    list_columns: tuple[str, ...] = ()
    options: ReaderOptions = ReaderOptions()  # noqa: RUF009, frozen
    joins: tuple[Join, ...] = ()
    unjoined: str = ""
    table: Any = dataclasses.field(default=None, repr=False, compare=False)


def give_table(database: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Lets a connection run the query of a source of a table in memory; others need nothing."""
    if source.table is None:
        return
    # Else DuckDB tells the type of a column of Python objects from 1,000 of them.
    database.execute(f"SET pandas_analyze_sample={_ALL_ROWS}")
    database.register(TABLE, source.table)


def joined_query(query: str, joins: Sequence[Join], row: str | None) -> str:
    """The SQL of a query's rows with what the tables have for them.

    A value finds the key that is its text, white space cut off. A row that finds none has NULL in
    the table's columns and is true in `missed_column`.

    Args:
        query: a SELECT of the rows.
        joins: the tables, in this order: one may be joined on what an earlier one gives.
        row: a column to number the rows with, from 1; None where the query has one.
    """
    number = "" if row is None else f"row_number() OVER () AS {sql_name(row)}, "
    for place, join in enumerate(joins):
        given = ", ".join(f"side.{sql_name(column)}" for column in join.columns)
        query = (
            f"SELECT log.*, {given}, side.key IS NULL AS {sql_name(missed_column(place))} "
            f"FROM (SELECT {number}* FROM ({query})) AS log LEFT JOIN {sql_parquet(join.path)} "
            f"AS side ON {trimmed_text(f'log.{sql_name(join.on)}')} = side.key"
        )
        number = ""
    return query


def missed_column(place: int) -> str:
    """The column of a joined query that says whether a row found nothing in a table."""
    return f"gmeta_tf missed {place}"


def files_source(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    options: ReaderOptions = ReaderOptions(),  # noqa: B008, frozen
    copies: str | os.PathLike[str] | None = None,
) -> Source:
    """CSV, TSV, JSON lines or Parquet files, read one after the other as if they were one.

    Text is UTF-8, plain or compressed by gzip or zstd; lines may end in CRLF. Columns go by their
    names, whatever their order in a file, and names that differ by case alone are refused.

    CSV and TSV may begin with a byte order mark. Every file has a header with the same names (but
    a file without a byte has no rows). Every cell is text, an empty one is missing. `"` quotes,
    `""` is a quote within quotes. Each line has as many cells as the header; an empty line is read
    over, and so is one empty cell too many. A column without a name is `column<position from 0>`.
    `options` tells of other separators, quotes, headers, encodings and words for a missing value.
    Whoever reads the source compares its rows with the lines of the files (`check_every_line`).

    JSON has one object in a line. The columns are those of all files together, in the order of
    their names; what a line does not have is missing, and so is null. Text stays as it is, so do
    integers of any size; a number with a fraction or an exponent becomes the shortest text of its
    float64 (1.10 is "1.1", 1e2 is "100.0"), true and false are "true" and "false", an object is
    its JSON text. A column that holds a list anywhere is a column of lists, whose entries become
    text by the same rules. JSON files are read through once where the source is made, to find the
    columns.

    Parquet files have the same columns with the same types.

    Args:
        paths: a path or a glob pattern (its files in the order of their names), or several.
            The endings tell the format: .csv, .tsv, .jsonl, .ndjson and .json, each also with .gz
            or .zst, and .parquet. Remote files (see `files`) are copied.
        options: how CSV and TSV are written, where not in the usual way.
        copies: a folder for the copies, which the source reads; only remote files need one.

    Raises:
        FileNotFoundError: no such file, or nothing matches.
        ValueError: no path, remote files without a folder for their copies, another ending,
            endings of different formats, a compressed file that was cut off, no column at all, a
            column that stands twice, files with different columns, a column with lists and other
            values, or JSON that cannot be read.
    """
    names = matching_files(paths)
    formats = {name: options.format or _format_of(name) for name in names}
    if len(set(formats.values())) > 1:
        raise ValueError(
            f"expected files of one format, got {shown(names)} of "
            f"{', '.join(sorted(set(formats.values())))}. Prepare them apart or convert them."
        )
    format_name = formats[names[0]]
    if format_name not in FILE_FORMATS and not options.is_default:
        raise ValueError(
            f"{shown(names)}: a separator, quoting, columns, null_words and an encoding are those "
            f"of CSV and TSV, got {format_name}. Leave them out."
        )
    description = shown(names)
    if copies is not None:
        names = [_local_copy(name, pathlib.Path(copies)) for name in names]
    found_files = source_files(names)
    with contextlib.closing(duckdb.connect()) as database:
        try:
            if format_name in FILE_FORMATS:
                options = with_separator(database, names, format_name, options)
            found = _READERS[format_name](database, names, format_name, options)
        except duckdb.Error as error:
            raise reading_error(description, error) from error
    if found.headers:
        found_files = tuple(
            dataclasses.replace(file, columns=header)
            for file, header in zip(found_files, found.headers, strict=True)
        )
    return Source(
        description,
        found.query,
        files=found_files,
        format=format_name,
        columns=found.columns,
        list_columns=found.list_columns,
        options=options,
    )


def matching_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str]:
    """The files of a path or a glob pattern (in the order of their names), or of several.

    `**` matches folders within folders on local paths alone.

    Raises:
        FileNotFoundError: no such file, nothing matches, or a store cannot be reached.
        ValueError: no path.
    """
    patterns = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    names = [file for pattern in patterns for file in _matches(os.fspath(pattern))]
    if not names:
        raise ValueError("the source has no file: expected at least one path, got none.")
    return names


def source_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[SourceFile, ...]:
    """The files as they are now; those that are compressed are checked to be whole.

    Raises:
        ValueError: a compressed file that was cut off, or a remote file.
    """
    names = [os.fspath(path) for path in paths]
    for name in filter(files.is_remote, names):
        raise ValueError(
            f"{name} is remote, and raw files are read from local disks only. Copy it to one, or "
            "pass files_source a folder for copies."
        )
    stats = [os.stat(name) for name in names]
    side_by_side(check_whole, names)
    return tuple(
        SourceFile(name, stat.st_size, stat.st_mtime_ns)
        for name, stat in zip(names, stats, strict=True)
    )


def check_unchanged(source: Source) -> None:
    """Checks, once a source has been read, that its files are what they were when it was made.

    Raises:
        ValueError: a file is gone, or has another size or time of writing.
    """
    for file in source.files:
        try:
            stat = os.stat(file.path)
        except FileNotFoundError:
            found = "it is gone"
        else:
            if (stat.st_size, stat.st_mtime_ns) == (file.size_bytes, file.modified_ns):
                continue
            found = f"got {stat.st_size} bytes, written at {stat.st_mtime_ns / 1e9:.3f}"
        raise ValueError(
            f"{file.path} changed while it was read: expected {file.size_bytes} bytes, written at "
            f"{file.modified_ns / 1e9:.3f} (seconds since 1970), {found}. "
            "Start again when nothing writes to it any more."
        )


def materialised(
    source: Source, path: str | os.PathLike[str], memory_limit: str | None = None
) -> Source:
    """Runs a source's query and writes what it gives to a Parquet file, which any engine reads.

    The file's rows are in the order of the source and its column `row` is kept, so that the new
    source numbers them alike. Integers of 128 bits, such as DuckDB's `sum` gives, become texts:
    Parquet has no such type, and DuckDB would write doubles.

    Args:
        source: the source.
        path: the Parquet file; its name ends in .parquet, and an older one is replaced.
        memory_limit: what DuckDB may take, such as "8GB"; the rest goes to disk beside `path`.

    Returns:
        The source of that file, with the format "parquet".

    Raises:
        ValueError: the source cannot be read, or changed while it was.
    """
    order = "" if source.row is None else f" ORDER BY {sql_name(source.row)}"
    parent = os.path.dirname(os.path.abspath(path))
    with (
        tempfile.TemporaryDirectory(prefix=".spilled-", dir=parent) as spilled,
        contextlib.closing(duckdb.connect()) as database,
    ):
        database.execute(f"SET temp_directory={sql_text(spilled)}")
        if memory_limit is not None:
            database.execute(f"SET memory_limit={sql_text(memory_limit)}")
        give_table(database, source)
        try:
            described = database.execute(f"DESCRIBE {source.query}").fetchall()
            kept = ", ".join(
                _as_parquet_has_it(column[0], column[1], column[0] == source.row)
                for column in described
            )
            database.execute(
                f"COPY (SELECT {kept} FROM ({source.query}){order}) TO "
                f"{sql_text(os.fspath(path))} (FORMAT parquet)"
            )
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise reading_error(source.description, error) from error
    check_unchanged(source)
    return dataclasses.replace(files_source(path), description=source.description, row=source.row)


def _as_parquet_has_it(column: str, type_name: str, is_row: bool) -> str:
    """The SQL of a column without integers of 128 bits."""
    name = sql_name(column)
    element = type_name.removesuffix("[]")
    if element not in ("HUGEINT", "UHUGEINT"):
        return name
    kind = "BIGINT" if is_row else type_name.replace(element, "VARCHAR")
    return f"CAST({name} AS {kind}) AS {name}"


def first_rows(source: Source, num_rows: int) -> Source:
    """The first rows of a source, to look at: its files are not known again, and not counted."""
    order = "" if source.row is None else f" ORDER BY {sql_name(source.row)}"
    return Source(
        f"the first {num_rows:,} rows of {source.description}",
        f"SELECT * FROM ({source.query}){order} LIMIT {num_rows}",
        row=source.row,
        table=source.table,
    )


def reading_error(description: str, error: duckdb.Error) -> ValueError:
    """What DuckDB says of a file that it cannot read, as an error that names file and line.

    Args:
        description: the source's.
        error: what DuckDB raised while it read.
    """
    text = str(error)
    file = re.search(r"^\s*file = (.*)$", text, re.MULTILINE)
    line = re.search(r"CSV Error on Line: (\d+)", text)
    # DuckDB counts the lines of JSON from 1 or from 2, by the kind of error.
    json = re.search(r'JSON .*in file "(.*)",.* in line (\d+): (.*)', text)
    cells = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if json:
        place = f"{json[1]}, about line {json[2]}"
        reason = f"expected one JSON object in UTF-8, got {json[3].split('. ')[0].strip(' .')}"
        remedy = "Correct the line, or write each row as a line of its own"
        if "byte order mark" in text:
            remedy = "Write the file again without the mark (the encoding utf-8, not utf-8-sig)"
    elif "state machine reached an invalid state" in text:
        place = file[1] if file else description
        reason = "expected lines that end alike, got some that end in CRLF (or CR) and some in LF"
        remedy = r"Give all of them one end, for example with sed 's/\r$//'"
    elif line is None:
        first_lines = " ".join(text.split("\n")[:4])
        return ValueError(f"{description} cannot be read: {first_lines[:_SHOWN_LETTERS]}")
    else:
        place = f"{file[1] if file else description}, line {line[1]}"
        if cells:
            reason = f"expected {cells[1]} cells, got {cells[2]}"
            remedy = (
                "Correct the line, and quote cells that hold the separator; where a quote is a "
                f"letter like others, {_NO_QUOTING}"
            )
        elif "unicode" in text or "utf-8" in text:
            reason = "expected UTF-8, got text that is not utf-8"
            remedy = (
                "Say its encoding (on the command line --encoding latin-1), or convert the file, "
                "for example with iconv -f latin1 -t utf-8"
            )
        elif "unterminated quote" in text:
            reason = "expected each quote to be closed, got a quoted cell without its end"
            remedy = (
                'Close the quote, and write a quote within quotes as ""; where a quote is a letter '
                f"like others, {_NO_QUOTING}"
            )
        elif "Maximum line size" in text:
            reason = re.sub(r"(?s).*(Maximum line size.*?)\.? *\n.*", r"\1", text)
            remedy = "Shorten the line, look for a quote that is not closed, or write Parquet"
        else:
            reason = re.split(r"\nOriginal Line: .*\n", text)[-1].replace("\n", " ")[
                :_SHOWN_LETTERS
            ]
            remedy = "Correct the line"
    return ValueError(f"{description} cannot be read: {place}: {reason}. {remedy}.")


def _matches(pattern: str) -> list[str]:
    is_remote = files.is_remote(pattern)
    if not is_remote and os.path.isfile(pattern):
        return [pattern]
    found = [file for file in files.find(pattern) if is_remote or os.path.isfile(file)]
    if not found:
        where = ", in a store that can be reached" if is_remote else ""
        raise FileNotFoundError(
            f"no file {pattern}: expected the path of a file, or a pattern that matches one{where}."
        )
    return found


def _local_copy(name: str, copies: pathlib.Path) -> str:
    """A local file with a file's content; in folders as on its store, as many may have one name."""
    if not files.is_remote(name):
        return name
    folder = copies / name.partition("://")[2].rpartition("/")[0]
    folder.mkdir(parents=True, exist_ok=True)
    return files.local_copy(name, folder)


def _format_of(file: str) -> str:
    for ending, name in _ENDINGS.items():
        if file.lower().endswith(ending):
            return name
    compression_of(file)
    raise ValueError(
        f"{file}: expected a name that ends in {', '.join(_ENDINGS)}. "
        "Rename or convert the file, or say what it is (on the command line --format csv)."
    )
