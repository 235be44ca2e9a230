"""One rule for texts that are numbers, and each place that reads some."""

import contextlib

import duckdb
import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.yaml_file import flags_of, read_yaml
from gmeta_tf.meta_io.sql import number_of
from gmeta_tf.number_texts import number, whole_number

NUMBERS = {
    "7": 7,
    "-0": 0,
    "+5": 5,
    "1.": 1,
    ".5": 0.5,
    "1e5": 1e5,
    "1E-3": 1e-3,
    "007": 7,
    " 7\t": 7,
    "\x0b7\x0c": 7,
    "16777217": 16777217,
    "1e-400": 0,
}
NONE = (
    *("", " ", "1_000", "1_0.5", "1e1_0", "infinity", "-inf", "nan", "0x1F", "0b1", "1:30", "1,5"),
    *("\u0661", "\uff11", "\u00a07", "\u22125", "1 000", "1d", "1e", "--1", ".", "e5", "true"),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text):
    assert number(text) == NUMBERS[text]
    if text.strip().lstrip("+-").isdecimal():
        assert whole_number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", NONE)
def test_what_is_none(text):
    for reading in (number, whole_number):
        with pytest.raises(ValueError, match=r"expected a (whole )?number such as"):
            reading(text)


def test_a_fraction_is_no_whole_number():
    with pytest.raises(ValueError, match=r"expected a whole number such as 12, got '1\.0'"):
        whole_number("1.0")


@pytest.mark.parametrize("text", [*NUMBERS, *NONE])
def test_duckdb_reads_the_same(text):
    query = f"SELECT CASE WHEN isfinite({number_of('t')}) THEN {number_of('t')} END FROM "
    with contextlib.closing(duckdb.connect()) as database:
        found = database.execute(f"{query} (SELECT ? AS t)", [text]).fetchall()[0][0]
    assert found == NUMBERS.get(text)


FLAGS = {"--tasks": "whole number", "--learning-rate": "number", "--hidden": "whole number"}


@pytest.mark.parametrize("text", ["1_000", "0x10", "1:30", "\uff11\uff12", "inf"])
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("given", ["a word", "with =", "a file"])
def test_flags(given, flag, text, tmp_path, capsys):
    words = {"a word": [flag, text], "with =": [f"{flag}={text}"]}.get(given)
    if words is None:
        value = f"[3, {text}]" if flag == "--hidden" else text
        (tmp_path / "c.yaml").write_text(f"{flag[2:].replace('-', '_')}: {value}\n")
        words = ["--config", str(tmp_path / "c.yaml")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--records", "r", "--run", str(tmp_path / "run"), *words])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"argument {flag}: expected a {FLAGS[flag]} such as" in told
    assert f"got {text!r}." in told
    assert not (tmp_path / "run").exists()


def test_files_of_flags():
    text = "{a: 1e-3, b: 010, c: -2, d: 1_000, e: .5, f: .inf, g: 1:30, h: x, i: true, j: '3'}"
    assert flags_of(text) == {
        "a": 0.001,
        "b": 10,
        "c": -2,
        "d": "1_000",
        "e": 0.5,
        "f": ".inf",
        "g": "1:30",
        "h": "x",
        "i": True,
        "j": "3",
    }


def test_other_yaml_files(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "{a: 1_000, b: 010, c: 1:30, d: 0x1F, e: .nan, f: 12, g: -0.5, h: 1.0e-05, i: 1e5}"
    )
    assert read_yaml(tmp_path / "s.yaml", "names") == {
        "a": "1_000",
        "b": "010",
        "c": "1:30",
        "d": "0x1F",
        "e": ".nan",
        "f": 12,
        "g": -0.5,
        "h": 1e-5,
        "i": "1e5",
    }
