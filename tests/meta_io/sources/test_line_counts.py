"""Lines of text files that became no row: what is told, and what is right as it is."""

from __future__ import annotations

import contextlib
import gzip
import pathlib

import duckdb
import pytest

from gmeta_tf.meta_io.sources import line_counts
from gmeta_tf.meta_io.sources.line_counts import check_every_line
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import files_source, reading_error

SWALLOWED = (
    'user\tnews\ttitle\nu1\tn1\tplain\nu1\tn2\t"Foo\nu1\tn3\tbetween\nu2\tn4\tbaz"\nu2\tn5\tlast\n'
)
DEFAULT = ReaderOptions()


def check(paths: pathlib.Path | list[pathlib.Path], options: ReaderOptions = DEFAULT):
    """Reads files and checks; the rows that they gave."""
    source = files_source(paths, options=options)
    with contextlib.closing(duckdb.connect()) as database:
        rows = database.execute(source.query).fetchall()
        check_every_line(database, source, len(rows))
    return rows


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_lines_that_a_quote_swallows_are_told(packed, tmp_path):
    path = tmp_path / f"news.tsv{packed}"
    data = SWALLOWED.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match=r"news.tsv\S*, line 3: .* 2 line.* 5 and not 3"):
        check(path)
    assert len(check(path, ReaderOptions(quoting="none"))) == 5
    assert check(path, ReaderOptions(quoting="none"))[1] == ("u1", "n2", '"Foo')
    assert len(check(path, ReaderOptions(quoting="minimal"))) == 3


def test_the_line_is_that_of_an_editor(tmp_path):
    (tmp_path / "news.tsv").write_text(SWALLOWED.replace("u1\tn2", "\n\nu1\tn2", 1))
    with pytest.raises(ValueError, match="line 5: "):
        check(tmp_path / "news.tsv")


def test_an_empty_line_in_place_of_the_header(tmp_path):
    (tmp_path / "log.csv").write_text("\na,b\n1,2\n")
    with pytest.raises(ValueError, match=r"log.csv .* its header in the first line, got an empty"):
        files_source(tmp_path / "log.csv")


@pytest.mark.parametrize("text", ["a,b\r\n1,2\n3,4\r\n", "a,b\n1,2\r\n3,4\n", "a,b\n1,x\ry\n3,4\n"])
def test_ends_of_lines_that_differ(text, tmp_path):
    (tmp_path / "log.csv").write_bytes(text.encode())
    with pytest.raises(duckdb.Error) as raised:
        check(tmp_path / "log.csv")
    told = str(reading_error("log.csv", raised.value))
    assert "log.csv: expected lines that end alike, got some that end in CRLF" in told
    assert "sed 's/\\r$//'" in told


def test_the_file_is_named(tmp_path):
    for name, text in (("a", SWALLOWED.replace('"', "")), ("b", SWALLOWED)):
        (tmp_path / f"{name}.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"b\.tsv, line 3"):
        check([tmp_path / "a.tsv", tmp_path / "b.tsv"])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n3,4\n", [("1", "2"), ("3", "4")]),
        ("a,b\n1,2\n3,4", [("1", "2"), ("3", "4")]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", [("1", "2"), ("3", "4")]),
        ("a,b\r1,2\r3,4\r", [("1", "2"), ("3", "4")]),
        ("a,b\n\n1,2\n\n\n3,4\n\n", [("1", "2"), ("3", "4")]),
        ("\ufeffa,b\n1,2\n", [("1", "2")]),
        ("a,b\n#1,2\n3,4\n", [("#1", "2"), ("3", "4")]),
        ("a,b\n1,\x00\x1a\n3,4\n", [("1", "\x00\x1a"), ("3", "4")]),
        ("a,b\n,\n3,4\n", [(None, None), ("3", "4")]),
        # Cells of several lines, which are no rows: paragraphs, Excel's ends of lines, a header's.
        ('a,b\n1,"one\n\ntwo, three, four"\n3,4\n', [("1", "one\n\ntwo, three, four"), ("3", "4")]),
        ('a,b\r\n1,"one\ntwo"\r\n3,4\r\n', [("1", "one\ntwo"), ("3", "4")]),
        ('a,"b\nc"\n1,"one\r\ntwo"\n', [("1", "one\r\ntwo")]),
        ('a,b\n"x\ny","\n"\n3,4\n', [("x\ny", "\n"), ("3", "4")]),
    ],
)
def test_what_is_whole(text, rows, tmp_path, caplog):
    (tmp_path / "log.csv").write_bytes(text.encode())
    assert check(tmp_path / "log.csv") == rows
    assert not caplog.records


def test_cells_of_several_lines_some_of_which_would_be_rows_are_warned_of(tmp_path, caplog):
    text = 'a,b\n1,2\n3,"x\n4,y"\n"p,q",z\n'
    (tmp_path / "log.csv").write_text(text)
    assert len(check(tmp_path / "log.csv")) == 3
    (warned,) = [record.getMessage() for record in caplog.records]
    assert "log.csv, line 3: " in warned
    assert "--quoting minimal" in warned
    caplog.clear()
    check(tmp_path / "log.csv", ReaderOptions(quoting="minimal"))
    assert not caplog.records


def test_rows_that_are_missing_are_told(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,2\n3,4\n")
    source = files_source(tmp_path / "log.csv")
    with contextlib.closing(duckdb.connect()) as database:
        check_every_line(database, source, 2)
        # The reader of rows is made to lose one, and the one of lines is not.
        lossy = source.query + " LIMIT 1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(line_counts, "query_of_file", lambda *_: lossy)
            with pytest.raises(ValueError, match=r"its 3 lines .* 1 rows and 0 lines"):
                check_every_line(database, source, 1)


def test_files_without_a_header(tmp_path):
    (tmp_path / "log.dat").write_text("1::2\n3::4")
    options = ReaderOptions(separator="::", columns=("a", "b"), format="csv", quoting="none")
    assert check(tmp_path / "log.dat", options) == [("1", "2"), ("3", "4")]
    (tmp_path / "log.dat").write_text('1::"x\n3::y"\n')
    with pytest.raises(ValueError, match=r"line 1: .* 2 and not 1"):
        check(tmp_path / "log.dat", ReaderOptions(separator="::", columns=("a", "b"), format="csv"))


def test_a_separator_of_braces(tmp_path):
    (tmp_path / "log.csv").write_text('a{}b\n1{}"x\n2{}y"\n')
    with pytest.raises(ValueError, match="2 and not 1"):
        check(tmp_path / "log.csv", ReaderOptions(separator="{}"))
