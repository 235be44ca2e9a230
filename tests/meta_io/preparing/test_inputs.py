"""Files that records have already: noticed before anything is written."""

from __future__ import annotations

import gzip
import hashlib
import json
import pathlib
import shutil

import pytest
from made_movielens import GROUPLENS_100K, write_files

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sources.movielens import movielens_schema, movielens_source
from gmeta_tf.meta_io.sources.sources import Source, files_source, source_files
from gmeta_tf.schema import Field, Schema

SCHEMA = Schema((Field("item"),), "rating", "user")
HEADER = "user,item,rating\n"
DAY_1 = HEADER + "a,x,1\nb,y,2\n"
DAY_2 = HEADER + "a,z,1\nc,y,2\n"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "day-1.csv").write_text(DAY_1)
    (tmp_path / "day-2.csv").write_text(DAY_2)
    prepare(files_source(tmp_path / "day-1.csv"), SCHEMA, tmp_path / "out", split=Split(0.0))
    return tmp_path


def append(place: pathlib.Path, *names: str, **options) -> Records:
    source = files_source([place / name for name in names])
    return prepare(source, SCHEMA, place / "out", append=True, **options)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_the_same_log_again_is_told_and_nothing_is_written(place):
    before = contents(place)
    with pytest.raises(
        ValueError,
        match=rf"day-1.csv: expected a file whose rows .* the {len(DAY_1)} bytes of day-1.csv, "
        "which was read for generation 0 of .*out.* allow_same_input=True",
    ):
        append(place, "day-1.csv")
    assert contents(place) == before
    assert not list(place.glob(".*"))


def test_under_another_name_and_of_any_generation(place):
    append(place, "day-2.csv")
    shutil.copy(place / "day-2.csv", place / "copy.csv")
    (place / "day-3.csv").write_text(HEADER + "d,x,1\n")
    with pytest.raises(ValueError, match=r"copy.csv: .* of day-2.csv, .* generation 1 of"):
        append(place, "day-3.csv", "copy.csv")


def test_it_may_be_asked_for(place):
    records = append(place, "day-1.csv", allow_same_input=True)
    assert records.details["rows"] == 4


def test_other_logs_are_taken_and_recorded(place):
    records = append(place, "day-2.csv")
    assert records.details["inputs"] == [
        {
            "name": name,
            "bytes": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "generation": generation,
        }
        for generation, (name, text) in enumerate([("day-1.csv", DAY_1), ("day-2.csv", DAY_2)])
    ]


def test_a_file_that_is_given_twice(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(DAY_1)
    source = files_source([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(ValueError, match=r"b.csv: .* of a.csv, which is another one of these"):
        prepare(source, SCHEMA, tmp_path / "out", split=Split(0.0))
    assert not (tmp_path / "out").exists()
    records = prepare(source, SCHEMA, tmp_path / "out", split=Split(0.0), allow_same_input=True)
    assert records.details["rows"] == 4


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_files_without_rows_may_be_the_same(packed, place):
    for name, text in (("2", ""), ("3", HEADER), ("4", ""), ("5", HEADER), ("6", DAY_2)):
        data = gzip.compress(text.encode(), mtime=0) if packed else text.encode()
        (place / f"quiet-{name}.csv{packed}").write_bytes(data)
    records = append(place, *(f"quiet-{name}.csv{packed}" for name in "23456"))
    assert records.details["rows"] == 4


def test_a_source_that_joins_files_may_have_some_again(tmp_path):
    """A table of users is that of the first day, the log is not."""
    (tmp_path / "users.csv").write_text("user,item\na,x\nb,y\n")

    def source(day: str, rating: int) -> Source:
        (tmp_path / day).write_text(f"user,rating\na,{rating}\nb,{rating}\n")
        query = f"SELECT * FROM '{tmp_path / day}' JOIN '{tmp_path}/users.csv' USING (user)"
        return Source(day, query, files=source_files([tmp_path / day, tmp_path / "users.csv"]))

    prepare(source("1.csv", 1), SCHEMA, tmp_path / "out", split=Split(0.0))
    records = prepare(source("2.csv", 2), SCHEMA, tmp_path / "out", append=True)
    assert records.details["rows"] == 4
    with pytest.raises(ValueError, match=r"1.csv: .* of 1.csv, which was read for generation 0"):
        prepare(source("1.csv", 1), SCHEMA, tmp_path / "out", append=True)


def test_movielens_again(tmp_path):
    folder = write_files(tmp_path / "data", GROUPLENS_100K, "latin-1")
    prepare(movielens_source(folder), movielens_schema(), tmp_path / "out", split=Split(0.0))
    with pytest.raises(ValueError, match=r"u.data: .* generation 0"):
        prepare(movielens_source(folder), movielens_schema(), tmp_path / "out", append=True)


@pytest.mark.parametrize("inputs", [None, 5, [5, {"sha256": "x"}], {}])
def test_records_that_do_not_say_what_they_were_made_of(inputs, place):
    path = place / "out" / "schema.json"
    values = json.loads(path.read_text())
    values["details"]["inputs"] = inputs
    if inputs is None:
        del values["details"]["inputs"]
    path.write_text(json.dumps(values))
    assert append(place, "day-1.csv").details["rows"] == 4
