"""Crosses: their keys by loops, in records, and what a schema may not state of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_crosses import SCHEMA, CrossTwin, made_rows
from prepare_twin import assert_same, write_rows

from gmeta_tf.meta_io.preparing.crosses import crossed_keys
from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.schema import Field, Schema, Table

KEYS = st.integers(0, 2**63 - 1)
FIELDS = ("item", "far")


@st.composite
def parts_of_rows(draw):
    """The keys of two or three fields in some rows, each row with one key at least."""
    num_rows = draw(st.integers(1, 4))
    slots = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    return [
        [draw(st.lists(KEYS, min_size=1, max_size=most)) for _ in range(num_rows)] for most in slots
    ]


def padded(rows, most):
    return np.array([row + [-1] * (most - len(row)) for row in rows], np.int64)


@given(parts_of_rows(), st.integers(1, 6), st.sampled_from([None, 2, 10000]))
def test_keys_are_those_of_loops(parts, num_slots, num_rows):
    table = Table("x", num_rows, keys="hash")
    given_keys = [padded(rows, max(map(len, rows))) for rows in parts]
    found, num_cut = crossed_keys(given_keys, table, num_slots)
    cut = 0
    for row, of_row in enumerate(zip(*parts, strict=True)):
        pairs = [",".join(map(str, pair)) for pair in itertools.product(*of_row)]
        kept = hashed_keys(pairs[:num_slots], table).tolist()
        assert found[row].tolist() == kept + [-1] * (num_slots - len(kept))
        cut += max(0, len(pairs) - num_slots)
    assert num_cut == cut


@pytest.mark.parametrize("by_task", [True, False])
def test_records_have_the_keys_of_loops(by_task, tmp_path):
    rows = made_rows()
    source = files_source(write_rows(tmp_path / "log.csv", rows))
    split = Split(0.3, 0.2) if by_task else Split(0.0)
    records = prepare(source, SCHEMA, tmp_path / "records", split=split, episode_rows=5)
    twin = CrossTwin(records.schema, split).add(rows)
    assert_same(records, twin)
    expected = {name: count for name, count in twin.cut_values.items() if count}
    assert records.details["cut_values"] == expected
    assert expected.keys() >= {"tags_x_ids", "ids"}
    assert [field.kind for field in records.schema.fields if field.cross] == [
        "categorical",
        "categorical",
        "multi",
        "multi",
    ]
    assert verify(records.path).damages == ()


def test_an_appended_log_is_crossed_by_the_same_keys(tmp_path):
    first, later = made_rows(), made_rows(30, seed=1)
    split, twin = Split(0.3), CrossTwin(SCHEMA, Split(0.3))
    for name, rows in (("a", first), ("b", later)):
        source = files_source(write_rows(tmp_path / f"{name}.csv", rows))
        records = prepare(source, SCHEMA, tmp_path / "records", split=split, append=name == "b")
        twin.add(rows)
    assert_same(records, twin)


def test_a_schema_comes_back_from_json():
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA
    plain = Schema((Field("item"),), "click", "user").to_json()
    assert "cross" not in plain["fields"][0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"cross": ("item",)}, "two other fields or more"),
        ({"cross": ("item", "item")}, "two other fields or more"),
        ({"cross": ("item", "x")}, "two other fields or more"),
        ({"cross": "item"}, "expected cross to be a list of names"),
        (
            {"cross": ("item", "year")},
            r"\(item, far, long, longer\), got 'year'.* categorical",
        ),
        ({"cross": ("item", "none")}, "got 'none'"),
        ({"cross": ("item", "other")}, "got 'other'"),
        ({"cross": FIELDS, "column": "c"}, "reads no column, got column='c'"),
        ({"cross": FIELDS, "min_count": 3}, "got min_count=3"),
        ({"cross": FIELDS, "kind": "dense"}, "got kind='dense'"),
        ({"cross": FIELDS, "table": "item"}, "hashed keys, got 'vocabulary'. State it"),
        (
            {"cross": ("long", "longer")},
            "at most 1,024 combinations of .* got up to 1,6",
        ),
    ],
)
def test_what_a_schema_may_not_state(field, message):
    tables = [Table("x", 9, keys="hash")] if field.get("table") is None else []
    fields = (
        *(Field("item"), Field("year", "dense"), Field("far"), Field("other", cross=FIELDS)),
        *(Field(name, "multi", max_values=40) for name in ("long", "longer")),
    )
    with pytest.raises(ValueError, match=message):
        Schema(
            (*fields, Field("x", **field)),
            "click",
            "user",
            tables=(*tables, Table("other", 9, keys="hash")),
        )
