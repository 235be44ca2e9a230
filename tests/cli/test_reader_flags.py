"""Flags and `read` in a schema's file, which say how text files are written."""

from __future__ import annotations

import functools
import json

import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.first_checks import reader_options
from gmeta_tf.cli.options import CheckOptions, PrepareOptions, ReaderFlags
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions

SCHEMA = "task: user\nlabel: click\nfields: [{name: news}, {name: title}]\n"
NEWS = "".join(
    f"u{user};n{n};{title};{n % 2}\n"
    for user in range(8)
    for n, title in enumerate(["plain", '"Foo', "NULL", 'baz"'])
)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "news.txt").write_text(NEWS)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


def prepare(place, *words):
    files = ["--input", str(place / "news.txt"), "--schema", str(place / "schema.yaml")]
    cli.main(["prepare", *files, "--output", str(place / "records"), *words])
    return json.loads((place / "records" / "schema.json").read_text())


FLAGS = [
    *("--format", "csv", "--separator", ";", "--quoting", "none", "--null-words", "NULL", r"\N"),
    *("--columns", "user", "news", "title", "click"),
]


@pytest.mark.parametrize("where", ["flags", "read", "both"])
def test_what_flags_or_the_schema_say(where, place):
    if where == "read":
        (place / "schema.yaml").write_text(
            SCHEMA + "read:\n  format: csv\n  separator: ;\n  quoting: none\n"
            "  null_words: ['NULL']\n  columns: [user, news, title, click]\n"
        )
    elif where == "both":
        (place / "schema.yaml").write_text(SCHEMA + "read: {separator: '::', quoting: minimal}\n")
    made = prepare(place, *(() if where == "read" else FLAGS))
    assert made["details"]["rows"] == 32
    # Three titles: NULL is none.
    (table,) = [one for one in made["schema"]["tables"] if one["name"] == "title"]
    assert table["num_rows"] == 4
    assert "read" not in made["schema"]


def test_lines_that_a_quote_swallows_end_prepare(place, capsys):
    words = [word for word in FLAGS if word not in ("--quoting", "none")]
    with pytest.raises(SystemExit):
        prepare(place, *words)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{place / 'news.txt'}, line 2: " in line
    assert "32 and not 16" in line
    assert not (place / "records").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--format", "csv"], "a file without one takes --columns NAME ..."),
        (["--format", "csv", "--separator", ";"], "a file without one takes --columns NAME ..."),
        ([], "say what it is (on the command line --format csv)"),
    ],
)
def test_what_was_not_said_is_named(words, match, place, capsys):
    with pytest.raises(SystemExit):
        prepare(place, *words)
    assert match in capsys.readouterr().err


def test_a_separator_that_cannot_be_found_is_named(place, capsys):
    (place / "news.txt").write_text("user;item\n1;2\n1;2;3\n")
    with pytest.raises(SystemExit):
        prepare(place, "--format", "csv")
    assert "the separator may be ';': say --separator ';'" in capsys.readouterr().err


def test_what_is_wrong_under_read_is_told_with_the_file(place, capsys):
    (place / "schema.yaml").write_text(SCHEMA + "read: {separater: ';'}\n")
    with pytest.raises(SystemExit):
        prepare(place)
    shown = capsys.readouterr().err
    assert f"{place / 'schema.yaml'}: read: there is no 'separater' in it" in shown
    assert "Did you mean 'separator'?" in shown


@pytest.mark.parametrize("command", ["prepare", "check"])
def test_movielens_takes_none(command):
    options = {"prepare": functools.partial(PrepareOptions, output="records")}
    with pytest.raises(ValueError, match=f"{command}: --separator says how --input is written"):
        options.get(command, CheckOptions)(movielens="download", separator=";")


def test_flags_win(place):
    (place / "schema.yaml").write_text(SCHEMA + "read: {separator: ';', encoding: latin-1}\n")
    found = reader_options(ReaderFlags(separator="|"), str(place / "schema.yaml"))
    assert found == ReaderOptions(separator="|", encoding="latin-1")
