"""Damage in vocabularies and in the tasks' file is found and named."""

import json
import shutil

import duckdb
import pytest

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.overview import named_values
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.value_tables import sum_of_values
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.schema import Field, Schema

VALUES, TASKS = "vocabulary/item-000.parquet", "tasks-000.parquet"
TRAIN, TEST = "index-train-000.npy", "index-test-000.npy"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    rows = "".join(
        f"user{user},item{user * item % 7},1\n" for user in range(6) for item in range(4)
    )
    (folder / "log.csv").write_text("user,item,rating\n" + rows)
    schema = Schema((Field("item"),), "rating", "user")
    source = files_source(str(folder / "log.csv"))
    prepare(source, schema, folder / "out", num_files=1, split=Split(0.2))
    return folder / "out"


@pytest.fixture
def folder(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "records")


def rewritten(path, query):
    """The file with what a query makes of its rows `t`."""
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE t AS FROM '{path}'")
        database.execute(query)
        database.execute(f"COPY t TO '{path}' (FORMAT parquet)")


def found(folder, name):
    damages = verify(str(folder)).damages
    assert {damage.path for damage in damages} == {str(folder / name)}
    assert {damage.offset for damage in damages} == {None}
    return " and ".join(damage.reason for damage in damages)


def test_what_prepare_made_is_sound(folder):
    assert verify(str(folder)).damages == ()
    assert set(Records.open(folder).digests) == {VALUES, TASKS, TRAIN, TEST}


@pytest.mark.parametrize("name", [VALUES, TASKS, TRAIN])
def test_a_flipped_bit_anywhere(name, folder):
    """Parquet has no checksum: a flipped bit in a text is another text."""
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), -(-len(whole) // 7)):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        (folder / name).write_bytes(content)
        damages = verify(str(folder)).damages
        # A wrong index makes its records wrong, too.
        assert str(folder / name) in {damage.path for damage in damages}


@pytest.mark.parametrize(
    ("name", "query", "match"),
    [
        (VALUES, "DELETE FROM t WHERE key = 2", "schema.json says 6 and expected each key from 1"),
        (VALUES, "UPDATE t SET key = key + 1", "expected each key from 1 to 6 once, found them"),
        (VALUES, "UPDATE t SET key = 1", "5 of its 6 values have no key of their own"),
        (
            VALUES,
            "UPDATE t SET value = 'x' WHERE key < 4",
            "2 of its 6 values are missing or stand",
        ),
        (VALUES, "UPDATE t SET value = NULL WHERE key = 4", "1 of its 6 values are missing"),
        (TASKS, "UPDATE t SET task = 0", "5 of its 6 values have no task of their own"),
        (TASKS, "UPDATE t SET rows = rows + 1 WHERE task = 3", "found "),
        (TASKS, "UPDATE t SET split = 'none' WHERE task = 3", "found "),
        (TASKS, "ALTER TABLE t RENAME COLUMN value TO name", "missing or damaged: .*value"),
    ],
)
def test_each_fault_is_named(name, query, match, folder):
    rewritten(folder / name, query)
    reason = found(folder, name)
    parts = match.split(" and ")
    assert all(part.replace(".*", "") in reason or ".*" in part for part in parts), reason
    if ".*" in match:
        before, after = match.split(".*")
        assert before in reason.split(after)[0]


@pytest.mark.parametrize("name", [VALUES, TASKS])
def test_a_file_that_is_missing_or_is_none(name, folder):
    (folder / name).write_bytes(b"PAR1")
    assert "missing or damaged" in found(folder, name)
    (folder / name).unlink()
    assert "missing or damaged" in found(folder, name)


def test_a_changed_value_is_not_served(folder):
    assert len(read_vocabulary(folder, "item")) == 6
    rewritten(folder / VALUES, "UPDATE t SET value = 'item8' WHERE value = 'item5'")
    with pytest.raises(ValueError, match=r"item-000.parquet: expected .*, found .* damaged"):
        read_vocabulary(folder, "item")


def test_files_of_earlier_versions_have_no_digests(folder):
    """What the numbers say is compared all the same."""
    schema = folder / "schema.json"
    values = json.loads(schema.read_text())
    values.pop("digests")
    values.pop("digest")
    schema.write_text(json.dumps(values))
    assert verify(str(folder)).damages == ()
    assert len(read_vocabulary(folder, "item")) == 6
    rewritten(folder / VALUES, "UPDATE t SET key = key + 1")
    assert "expected each key from 1 to 6 once" in found(folder, VALUES)


def test_a_sum_does_not_depend_on_the_order_but_on_each_value(tmp_path):
    path = tmp_path / "v.parquet"
    pairs = {1: "a", 2: "b", 3: "=c"}

    def written(pairs):
        rows = ", ".join(f"({key}, '{value}')" for key, value in pairs.items())
        with duckdb.connect() as database:
            query = f"COPY (FROM (VALUES {rows}) AS t(key, value)) TO '{path}' (FORMAT parquet)"
            database.execute(query)
        return sum_of_values(str(path), "key")

    whole = written(pairs)
    assert whole.values == 3
    assert written(dict(reversed(pairs.items()))) == whole
    assert written({1: "b", 2: "a", 3: "=c"}) != whole
    assert sum_of_values(str(path), "key", 2) == written({1: "b", 2: "a"})


def test_a_changed_schema_json_is_named(folder):
    """Whatever it says: other labels or another separator fit the records as well."""
    path = folder / "schema.json"
    whole = path.read_text()
    for old, new in (('"positive_from": null', '"positive_from": 1234'), ('"|"', '"~"')):
        assert old in whole
        path.write_text(whole.replace(old, new))
        (damage,) = verify(str(folder)).damages
        assert damage.path == str(path)
        assert "it was changed since it was prepared" in damage.reason
    path.write_text(json.dumps(json.loads(whole)))  # by another program
    (damage,) = verify(str(folder)).damages
    assert damage.reason.startswith("it does not end in its digest")


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: read_vocabulary(folder, "item"),
        lambda folder: sum_of_values(str(folder / VALUES), "key"),
        lambda folder: named_values(str(folder / TASKS), "task", [0]),
    ],
    ids=["vocabulary", "sum", "names"],
)
def test_what_duckdb_says_of_a_damaged_file_is_one_line(folder, read):
    """Its own message goes on with the query and a caret under it."""
    described = json.loads((folder / "schema.json").read_text())
    del described["digests"]  # as of an earlier version: the file is not compared, but read
    (folder / "schema.json").write_text(json.dumps(described))
    for name in (VALUES, TASKS):
        content = bytearray((folder / name).read_bytes())
        content[-6] ^= 0x40  # the length of what describes the columns
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"missing or damaged: .*Prepare the data again") as told:
        read(folder)
    assert "\n" not in str(told.value)
