"""ReaderOptions: what files they read, and what each wrong value is told."""

from __future__ import annotations

import contextlib

import duckdb
import pytest

from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import files_source, reading_error


def rows_of(path, **options):
    source = files_source(path, options=ReaderOptions(**options))
    with contextlib.closing(duckdb.connect()) as database:
        rows = database.execute(source.query).fetchall()
    return source.columns, rows


@pytest.mark.parametrize(
    ("name", "content", "options", "columns", "rows"),
    [
        ("f.csv", b"a;b\n1;2,5\n", {"separator": ";"}, ("a", "b"), [("1", "2,5")]),
        ("f.csv", b"a\tb\n1\t2\n", {"separator": "\\t"}, ("a", "b"), [("1", "2")]),
        ("f.csv", b"a::b\n1::2:3\n", {"separator": "::"}, ("a", "b"), [("1", "2:3")]),
        ("f.csv", b'"a"::b\n"1::2"::3\n', {"separator": "::"}, ("a", "b"), [("1::2", "3")]),
        (
            "f.tsv",
            b'a\t"b"\n1\t"x" y\n2\t"\n',
            {"quoting": "none"},
            ("a", '"b"'),
            [("1", '"x" y'), ("2", '"')],
        ),
        ("f.csv", b"1,2\n3,4\n", {"columns": ["a", "b"]}, ("a", "b"), [("1", "2"), ("3", "4")]),
        (
            "f.csv",
            b"a,b\nNULL,\\N\n,NA\n",
            {"null_words": ["NULL", "\\N"]},
            ("a", "b"),
            [(None, None), (None, "NA")],
        ),
        (
            "f.csv",
            "a,b\né,ü\n".encode("latin-1"),
            {"encoding": "latin-1"},
            ("a", "b"),
            [("é", "ü")],
        ),
        ("f.csv", "a,b\né,ü\n".encode("utf-16"), {"encoding": "utf-16"}, ("a", "b"), [("é", "ü")]),
        ("f.dat", b"a,b\n1,2\n", {"format": "csv"}, ("a", "b"), [("1", "2")]),
        # Found: what all lines have equally often, where the header has no comma.
        ("f.csv", b"a;b\n1;2,5\n3;4\n", {}, ("a", "b"), [("1", "2,5"), ("3", "4")]),
        (
            "f.csv",
            b"1::2:9\n3::4\n",
            {"columns": ["a", "b"]},
            ("a", "b"),
            [("1", "2:9"), ("3", "4")],
        ),
        ("f.tsv", b"a,b\n1,2\n", {}, ("a", "b"), [("1", "2")]),
        ("f.csv", b"a\tb\n1\t\xe9\n", {"encoding": "latin-1"}, ("a", "b"), [("1", "\xe9")]),
        # The header's comma counts, and lines that differ tell nothing.
        ("f.csv", b"a,b|c\n1,2|3\n", {}, ("a", "b|c"), [("1", "2|3")]),
        ("f.csv", b"a\nx|y\nz\n", {}, ("a",), [("x|y",), ("z",)]),
        ("f.csv", b'a,b;c\n"1,2",3;4\n', {}, ("a", "b;c"), [("1,2", "3;4")]),
        (
            "f.csv",
            b'"a\\"b",c\n"x\\"y, z",1\n',
            {"escape": "\\"},
            ('a"b', "c"),
            [('x"y, z', "1")],
        ),
    ],
)
def test_what_is_read(name, content, options, columns, rows, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert rows_of(tmp_path / name, **options) == (columns, rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": ""}, "separator to be a text of 1 to 4 bytes, such as ';' or '::', got ''"),
        ({"separator": "12345"}, "1 to 4 bytes"),
        ({"separator": 1}, "1 to 4 bytes"),
        ({"separator": '"'}, "without quotes and ends of lines"),
        ({"separator": "\n"}, "without quotes and ends of lines"),
        ({"quoting": "all"}, "quoting to be one of minimal, none, got 'all'"),
        ({"encoding": "ebcdic"}, "encoding to be one of utf-8, latin-1, utf-16"),
        ({"format": "json"}, "format to be one of csv, tsv, got 'json'"),
        ({"columns": []}, "to name every column"),
        ({"escape": "/"}, "escape to be one of"),
        ({"escape": "\\", "quoting": "none"}, "and cells to be quoted, got .* with quoting 'none'"),
        ({"columns": ["a", ""]}, "to name every column"),
        ({"columns": ["a", "A"]}, "each column once, got a, A"),
        ({"columns": "ab"}, "columns to be a list of texts, got 'ab'"),
        ({"null_words": [None]}, "null_words to be a list of texts"),
        ({"quotes": "none"}, "there is no 'quotes' in it; known are .* Did you mean 'quoting'"),
    ],
)
def test_wrong_values_are_told(options, message):
    with pytest.raises(ValueError, match=f"read: .*{message}"):
        ReaderOptions.from_json(options)


def test_what_is_no_mapping():
    with pytest.raises(ValueError, match=r"read: expected separator, quoting, .* got 'none'"):
        ReaderOptions.from_json("none")


def test_other_formats_take_none(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"those of CSV and TSV, got json. Leave them out"):
        rows_of(tmp_path / "f.jsonl", separator=";")


def test_a_wrong_number_of_columns_is_told(tmp_path):
    (tmp_path / "f.csv").write_text("1,2,3\n")
    with pytest.raises(duckdb.Error) as raised:
        rows_of(tmp_path / "f.csv", columns=["a", "b"])
    assert "line 1: expected 2 cells, got 3" in str(reading_error("f.csv", raised.value))
