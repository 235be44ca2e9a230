"""Histories: the last rows before each one, as loops find them; no row sees what is not past."""

import dataclasses
import datetime
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from made_histories import SCHEMA, made_rows
from prepare_twin import write_rows

from gmeta_tf.meta_io.preparing import derived_fields
from gmeta_tf.meta_io.preparing.histories import History, distinct_known, last_keys_file
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.records.word_checks import keys_of
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.schema import Field, Schema

SPLITS = {
    "task": Split(0.3, 0.2),
    "time": Split(0.3, 0.2, by="time"),
    "both": Split(0.5, 0.0, by="both"),
    "none": Split(0.0),
}


def expected_past(rows, row, column, most, key_of):
    """The last rows' keys by a loop over all rows of the log: what each row's own fields say."""
    own = rows[row]
    past = [
        (float(other["at"]), place)
        for place, other in enumerate(rows)
        if other["user"] == own["user"] and float(other["at"]) < float(own["at"])
    ]
    found = []
    for _, place in sorted(past, reverse=True)[:most]:
        key = key_of(rows[place][column].strip())
        if key > 0 and key not in found:
            found.append(key)
    return (found or [0]) + [-1] * (most - max(1, len(found)))


def prepared(folder, rows, by="none", name="records", schema=SCHEMA, **options):
    source = files_source(write_rows(folder / f"{name}.csv", rows))
    return prepare(source, schema, folder / name, split=SPLITS[by], **options)


def fields_of_rows(records):
    """Row number (its label) -> field -> its keys, in all splits."""
    found = {}
    for split in records.splits:
        for _, words in records.read(split):
            keys = {
                field.name: keys_of(
                    words[slice(*planes)], records.schema.table(field.table_name).words_per_key
                ).T
                for field, planes in zip(
                    records.schema.fields, slot_ranges(records.schema), strict=True
                )
            }
            for place, row in enumerate(words[0].view(np.float32).astype(int).tolist()):
                found[row] = {name: own[place].tolist() for name, own in keys.items()}
    return found


def check(records, rows):
    values = read_vocabulary(records.path, "item").tolist()
    found = fields_of_rows(records)
    for row, keys in found.items():
        history = expected_past(
            rows, row, "item", 3, lambda text: values.index(text) + 1 if text in values else 0
        )
        assert keys["history"] == history, row
        shops = expected_past(rows, row, "shop", 2, lambda text: int(text or 0))
        assert keys["shops"] == shops, row
    return found


@pytest.mark.parametrize("by", ["task", "time", "none"])
@pytest.mark.parametrize("block_rows", [1, 3, 1 << 16])
def test_records_have_what_loops_find(by, block_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(derived_fields, "_BLOCK_ROWS", block_rows)
    monkeypatch.setattr(derived_fields, "_CHUNK_WORDS", 1)
    rows = made_rows()
    records = prepared(tmp_path, rows, by, episode_rows=4)
    found = check(records, rows)
    assert len(found) == len(rows)
    assert sum(keys["history"][0] > 0 for keys in found.values()) > 60
    assert verify(records.path).damages == ()
    history = records.schema.fields[0]
    assert (history.kind, history.num_slots, history.table_name) == ("multi", 3, "item")


def test_weights_stand_beside_derived_fields(tmp_path):
    rows = [row | {"importance": f"{int(row['row']) % 7}.5"} for row in made_rows()]
    source = files_source(write_rows(tmp_path / "log.csv", rows))
    schema = dataclasses.replace(SCHEMA, weight="importance")
    records = prepare(source, schema, tmp_path / "records", split=Split(0.0), episode_rows=4)
    check(records, rows)
    for _, words in records.read("train"):
        labels, weights = words[:2].view(np.float32)
        np.testing.assert_array_equal(weights, labels % 7 + 0.5)
    assert verify(records.path).damages == ()


def test_rows_that_a_split_by_both_leaves_out_are_in_no_history(tmp_path):
    rows = made_rows()
    records = prepared(tmp_path, rows, "both")
    kept = sorted(fields_of_rows(records))
    assert records.details["left_out_rows"] == len(rows) - len(kept) > 20
    numbered = [rows[row] for row in kept]
    again = prepared(tmp_path, [r | {"row": str(i)} for i, r in enumerate(numbered)], name="kept")
    values = read_vocabulary(records.path, "item").tolist()
    assert read_vocabulary(again.path, "item").tolist() != values  # of more training rows
    for place, row in enumerate(kept):
        shops = expected_past(numbered, place, "shop", 2, lambda text: int(text or 0))
        assert fields_of_rows(records)[row]["shops"] == shops


@st.composite
def logs(draw):
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from("uvw"),
                st.sampled_from(["a", "b", "c", "d", ""]),
                st.sampled_from([0, 1, 2, 2.5, -1, 100]),
            ),
            min_size=4,
            max_size=25,
        )
    )
    rows += [("u", "a", 5), ("v", "b", 6), ("w", "c", 7)]
    return [
        {"user": user, "item": item, "shop": "1", "row": str(row), "at": str(at)}
        for row, (user, item, at) in enumerate(rows)
    ]


@given(logs(), st.sampled_from(["task", "time", "none"]), st.sampled_from([1, 2, 1 << 16]))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_of_any_log(tmp_path, rows, by, block_rows):
    times = sorted(float(row["at"]) for row in rows)
    num_test, num_valid = SPLITS["time"].counts(len(rows))
    assume(by != "time" or times[len(rows) - num_test - num_valid] > times[0])
    before, derived_fields._BLOCK_ROWS = derived_fields._BLOCK_ROWS, block_rows
    try:
        check(prepared(tmp_path, rows, by, overwrite=True), rows)
    finally:
        derived_fields._BLOCK_ROWS = before


@given(st.data())
@settings(deadline=None)
def test_blocks_and_splits_of_any_size(data):
    """The class alone, in blocks, and in two splits whose tasks go on from one to the other."""
    most = data.draw(st.integers(1, 4))
    of_split = []
    for first_time in (0, 100):
        drawn = st.tuples(st.integers(0, 3), st.integers(first_time, first_time + 4))
        rows = data.draw(st.lists(drawn, max_size=20))
        of_split.append(sorted((task, time, data.draw(st.integers(1, 9))) for task, time in rows))
    past = [[] for _ in range(4)]  # the rows of each task so far
    last_keys = np.full([4, most], -1, np.int64)
    history = History(most, last_keys)
    for rows in of_split:
        place = 0
        while place < len(rows):
            count = data.draw(st.integers(1, 5))
            task, time, key = np.array(rows[place : place + count], np.int64).T
            found = history.add(task, time, key).tolist()
            for own, keys in zip(rows[place : place + count], found, strict=True):
                before = [other for other in past[own[0]] if other[1] < own[1]]
                expected = [other[2] for other in reversed(before)][:most]
                assert keys == expected + [-1] * (most - len(expected))
                past[own[0]].append(own)
            place += count
        history.end_of_split()


def test_a_later_row_never_changes_an_earlier_one(tmp_path):
    rows = made_rows()
    before = fields_of_rows(prepared(tmp_path, rows))
    for seed in range(3):
        draw = random.Random(seed)
        cut = draw.randrange(5, 20)
        changed = [
            row if float(row["at"]) < cut else row | {"item": draw.choice("abc"), "shop": "3"}
            for row in rows
        ]
        # Raw keys: those of a vocabulary change with the items' counts.
        records = prepared(tmp_path, changed, name=f"changed{seed}")
        after = fields_of_rows(records)
        for row, own in enumerate(rows):
            if float(own["at"]) <= cut:
                assert after[row]["shops"] == before[row]["shops"]
        assert any(after[row]["shops"] != before[row]["shops"] for row in range(len(rows)))


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "number"])
def test_times_of_other_kinds(form, tmp_path):
    def written(at):
        if form == "number":
            return f"{float(at) + 0.5}" if at != "0" else "-0.0"
        moment = datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=float(at))
        return moment.strftime(form)

    rows = made_rows()
    records = prepared(tmp_path, [row | {"at": written(row["at"])} for row in rows])
    assert records.details["time"]["kind"] == ("number" if form == "number" else "microseconds")
    check(records, rows)


def test_a_row_without_a_time_is_a_bad_row(tmp_path):
    rows = made_rows(40)
    rows[7]["at"] = ""
    with pytest.raises(ValueError, match=r"a time \(column 'at'\) to sort by"):
        prepared(tmp_path, rows)
    options = {"on_bad_row": "drop"}
    found = fields_of_rows(prepared(tmp_path, rows, **options))
    assert 7 not in found
    rows[7] |= {"at": "0", "user": "nobody"}  # as if it was not there
    for row in found:
        shops = expected_past(rows, row, "shop", 2, lambda text: int(text or 0))
        assert found[row]["shops"] == shops


def test_appending_is_an_error(tmp_path):
    prepared(tmp_path, made_rows(40))
    source = files_source(write_rows(tmp_path / "more.csv", made_rows(10, seed=1)))
    message = "its field 'history' is made of the rows before each row, and records do not keep"
    with pytest.raises(ValueError, match=message):
        prepare(source, SCHEMA, tmp_path / "records", append=True)


def test_distinct_known_ends_in_padding():
    assert distinct_known(np.array([[7, 7, 0, 7], [-1, -1, -1, -1]])).tolist() == [
        [7, -1, -1, -1],
        [0, -1, -1, -1],
    ]


def test_the_file_of_last_keys_is_written_in_full(tmp_path):
    last_keys = last_keys_file(tmp_path / "last", 40000, 3)
    assert (tmp_path / "last").stat().st_size == 40000 * 3 * 8
    assert last_keys.min() == last_keys.max() == -1


def test_a_schema_comes_back_from_json():
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA
    values = {"name": "history", "of": "item", "last": 3}
    written = {"fields": [values, {"name": "item"}], "label": "y", "task": "u", "time": "t"}
    assert Schema.from_json(written).fields[0].max_values == 3
    assert [field.name for field in SCHEMA.without_derived().fields] == ["item", "shop"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"of": "item"}, "expected of and last together"),
        ({"last": 3}, "expected of and last together"),
        ({"of": "item", "last": 3, "cross": ("item", "shop")}, "no cross beside them"),
        ({"of": "item", "last": 0}, "last to be from 1 to 1,024, got 0"),
        ({"of": "none", "last": 3}, r"reads a column \(item, shop\), got 'none'"),
        ({"of": "tags", "last": 3}, r"reads a column \(item, shop\), got 'tags'"),
        ({"of": "item", "last": 3, "column": "x"}, "reads no column, got column='x'"),
        ({"of": "item", "last": 3, "table": "shop"}, "shares the table 'item' of 'item'"),
    ],
)
def test_what_a_schema_may_not_state(field, message):
    fields = (Field("item"), Field("shop"), Field("tags", "multi"))
    with pytest.raises(ValueError, match=message):
        Schema((*fields, Field("x", **field)), "y", "user", time="at")


def test_a_history_needs_a_time():
    with pytest.raises(ValueError, match="the last 3 rows need a time to be told by"):
        dataclasses.replace(SCHEMA, time=None)
