"""A served model makes the keys that `prepare` made, whatever their kind."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.exports.served_keys import ServedKeys, first_distinct, raw_keys

IDS = [
    "0",
    "00",
    "7",
    "07",
    "2147483648",
    "999999999999999999",
    "1000000000000000000",
    str(2**63 - 1),
]

SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("brand"),
        gm.Field("tags", "multi", table="brand", max_values=3),
        gm.Field("slot"),
        gm.Field("far"),
        gm.Field("id"),
        gm.Field("ids", "multi", table="id", max_values=4),
        gm.Field("shop", "multi", max_values=3),
        gm.Field("street"),
        gm.Field("blank"),
    ),
    label="click",
    task="user",
    time="when",
    tables=(
        gm.Table("item"),
        gm.Table("brand", 50, keys="hash"),
        gm.Table("slot", 12, keys="raw"),
        # Two words a key in the records, few of them used.
        gm.Table("far", 2**31 + 8, keys="raw", width=2),
        gm.Table("id", keys="raw", width=3),
        # So few keys that most values share theirs with another.
        gm.Table("shop", 3, keys="hash"),
        gm.Table("street", keys="hash", width=3),
    ),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", *(field.name for field in SCHEMA.fields), "click", "when"])
        for row in range(60):
            brand = draw.choice(["", " Ünd ", "x", "a b"])
            tags = "|".join(draw.choice(["x", "y", " z", "", "x"], draw.integers(0, 5)))
            far = draw.choice([0, 5, 2**31 + 7])
            ids = "|".join(draw.choice([*IDS, "", " 7 "], draw.integers(0, 7)))
            shops = "|".join(draw.choice(["a", "b", "c", "d", " a", ""], draw.integers(0, 6)))
            values = [f"u{row % 6}", f"i{draw.integers(9)}", brand, tags, draw.integers(12), far]
            values += [draw.choice([*IDS, ""]), ids, shops, draw.choice(["", "A st", "B st "]), ""]
            writer.writerow([*values, draw.integers(2), row])
    return path


def test_served_keys_are_those_of_prepare(log, tmp_path):
    records = prepare(files_source(log), SCHEMA, tmp_path / "records", split=Split(0.2))
    with open(log, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    task_of = dict(zip((f"u{i}" for i in range(6)), range(6), strict=True))
    looked_up = ("item", "blank")  # of "blank" there is no value
    served = ServedKeys(
        records.schema, {table: read_vocabulary(records.path, table) for table in looked_up}
    )
    compared = 0
    for split in records.splits:
        for task, words in records.read(split):
            own = [row for row in rows if task_of[row["user"]] == task]
            plane = 1
            for field in records.schema.key_fields:
                table = records.schema.table(field.table_name)
                last = plane + field.num_slots * table.words_per_key
                found = served(field, tf.constant([[row[field.name] for row in own]]))[0].numpy()
                expected = keys_of(words[plane:last], table.words_per_key)
                np.testing.assert_array_equal(found, expected, err_msg=field.name)
                compared += expected.size
                plane = last
            assert plane == len(words)
    assert compared == 60 * sum(field.num_slots for field in SCHEMA.fields)


def keys_of(words, words_per_key):
    """Planes of a record as keys `[rows, L]`: all low words, then all high ones."""
    if words_per_key == 1:
        return words.T
    low, high = np.split(words.astype(np.int64), 2)
    return (high.T << 32) | (low.T & 0xFFFFFFFF)


NUMBERS = st.one_of(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**70),
    st.sampled_from([10**17, 10**18 - 1, 10**18, 2**63 - 1, 2**63, 10**19]),
)


@given(
    st.lists(NUMBERS, min_size=1, max_size=20),
    st.integers(0, 3),
    st.sampled_from([0, 11, 2**31 - 1, 2**31, 10**18, 2**63 - 2, 2**63 - 1]),
)
@example([2**63 - 1, 10**18], 3, 2**63 - 1)
@settings(deadline=None)
def test_a_raw_key_is_the_number_that_its_text_is(numbers, zeros, largest):
    texts = tf.constant(["0" * zeros + str(number) for number in numbers])
    keys, is_key = raw_keys(texts, largest)
    assert is_key.numpy().tolist() == [number <= largest for number in numbers]
    assert tf.boolean_mask(keys, is_key).numpy().tolist() == [n for n in numbers if n <= largest]


def test_what_is_no_raw_key_reads_row_0():
    served = ServedKeys(SCHEMA, {})
    (field,) = (field for field in SCHEMA.fields if field.name == "slot")
    texts = ["", "7", "11", "12", "-1", "1.5", "x", "9" * 30, "007", "+7", "7 7", "\u0667"]
    expected = [0, 7, 11, 0, 0, 0, 0, 0, 7, 0, 0, 0]
    assert served(field, tf.constant([texts])).numpy()[0, :, 0].tolist() == expected


def test_first_distinct_is_what_prepare_writes():
    keys = tf.constant([[5, 0, 5, 2], [0, 0, 0, 0], [1, 2, 3, 4]], tf.int64)
    expected = [[5, 2, -1], [0, -1, -1], [1, 2, 3]]
    assert first_distinct(keys, keys, keys != 0, 3).numpy().tolist() == expected
    none = keys[:, :0]
    assert first_distinct(none, none, none != 0, 2).numpy().tolist() == [[0, -1]] * 3
    # Values are distinct and not their keys; a known value may have the key 0.
    values = tf.constant([["a", "b", "a", "c"]])
    found = first_distinct(values, tf.constant([[7, 7, 7, 0]], tf.int64), values != "", 3)
    assert found.numpy().tolist() == [[7, 7, 0]]
