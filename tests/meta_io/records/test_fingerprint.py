"""A checkpoint's records are known again: moved, appended to, and from another data set."""

import dataclasses
import json
import shutil

import pytest

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.fingerprint import (
    check_fingerprint,
    fingerprint_of,
    has_other_rows,
)
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.schema import Field, Schema, Table

SCHEMA = Schema(
    (Field("item"), Field("shop")), "rating", "user", tables=(Table("shop", 9, keys="hash"),)
)


def prepared(folder, name, items, *, schema=SCHEMA, **options):
    """Records of six users, each of whom has a row with each of the items."""
    rows = [f"user{user},{item},s{user % 3},1" for user in range(6) for item in items]
    (folder / "log.csv").write_text("\n".join(["user,item,shop,rating", *rows, ""]))
    options = {"num_files": 1, "split": None if "append" in options else Split(0.2), **options}
    return prepare(files_source(str(folder / "log.csv")), schema, folder / name, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    records = prepared(folder, "out", "abcd")
    return records, json.loads(json.dumps(fingerprint_of(records)))


@pytest.fixture
def records(base, tmp_path):
    """A copy in another place."""
    return Records.open(shutil.copytree(base[0].path, tmp_path / "moved"))


def test_records_that_were_moved(base, records):
    check_fingerprint(base[1], records, "epoch-000001")
    assert has_other_rows(base[1], records) is None
    assert fingerprint_of(records) == base[1]


def test_the_same_data_prepared_anew(base, tmp_path):
    again = prepared(tmp_path, "again", "abcd")
    check_fingerprint(base[1], again, "epoch-000001")
    assert has_other_rows(base[1], again) is None


def test_an_appending_without_new_values(base, records, tmp_path):
    more = prepared(tmp_path, "moved", "ba", append=True)
    assert more.generation == 1
    check_fingerprint(base[1], more, "epoch-000001")
    assert has_other_rows(base[1], more) is None
    assert fingerprint_of(more) != base[1]


def test_an_appending_with_new_values_is_told_apart(base, records, tmp_path):
    more = prepared(tmp_path, "moved", "axyz", append=True)
    match = (
        r"moved was appended to since the checkpoint epoch-000001 was saved: generation 0 is now 1"
        r".*\(item from 4 to 7 values\), for which the model has no rows"
    )
    with pytest.raises(ValueError, match=match):
        check_fingerprint(base[1], more, "epoch-000001")
    check_fingerprint(base[1], more, "epoch-000001", may_grow=True)


@pytest.mark.parametrize("may_grow", [False, True])
@pytest.mark.parametrize(
    ("items", "match"),
    [
        ("abce", "the values of the table 'item' are not the same"),
        ("abc", "expected 4 values of the table 'item', found 3"),
        ("vwxyz", "the values of the table 'item' are not the same"),
    ],
)
def test_another_data_set(items, match, may_grow, base, tmp_path):
    other = prepared(tmp_path, "other", items)
    words = "other holds other data than the checkpoint epoch-000001 was trained on: "
    with pytest.raises(ValueError, match=f"{words}{match}.*Give the records of the run, or train"):
        check_fingerprint(base[1], other, "epoch-000001", may_grow=may_grow)


def test_values_in_another_order_are_others(base, records, tmp_path):
    """As of a log in which another value is the most frequent: keys mean something else."""
    (tmp_path / "x").mkdir()
    other = prepared(tmp_path / "x", "other", "ddabc")
    with pytest.raises(ValueError, match="values of the table 'item' are not the same"):
        check_fingerprint(base[1], other, "epoch-000001")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"positive_from": 4.0}, "the schema's positive_from to be None, found 4.0"),
        (
            {"tables": (Table("item", 5), Table("shop", 8, keys="hash"))},
            r"the schema's tables to be .*'num_rows': 9.* found .*'num_rows': 8",
        ),
        ({"label": "stars"}, "the schema's label to be rating, found stars"),
    ],
    ids=["positive_from", "size", "label"],
)
def test_another_schema(changed, match, base, records):
    other = dataclasses.replace(records, schema=dataclasses.replace(records.schema, **changed))
    with pytest.raises(ValueError, match=match):
        check_fingerprint(base[1], other, "epoch-000001")


def test_other_rows_behind_the_same_values(base, tmp_path):
    other = prepared(tmp_path, "other", "abcdabcd")
    check_fingerprint(base[1], other, "epoch-000001")
    assert "rows of the split 'train' are not those" in has_other_rows(base[1], other)
    del other.contents["test"]
    assert has_other_rows({"index": {"test": base[1]["index"]["test"]}}, other) == (
        "there is no split 'test'"
    )


def test_a_vocabulary_that_is_missing(base, records, tmp_path):
    (tmp_path / "moved" / records.vocabularies["item"]).unlink()
    with pytest.raises(ValueError, match=r"item-000\.parquet is missing or damaged"):
        check_fingerprint(base[1], records, "epoch-000001")
    without = dataclasses.replace(records, vocabularies={}, schema=base[0].schema)
    with pytest.raises(ValueError, match="the schema's tables to be"):
        check_fingerprint(base[1], without, "epoch-000001")
