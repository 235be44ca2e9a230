"""`gmeta-tf inspect`: what it shows, and that each kind of damage is named where it is."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zlib

import duckdb
import made_data
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.meta_io.records import record_damage
from gmeta_tf.meta_io.records.codec import TFRECORD_FRAME_BYTES, IndexEntry, encode_episode
from gmeta_tf.meta_io.records.overview import describe, named_values, overview
from gmeta_tf.meta_io.records.record_damage import read_episode
from gmeta_tf.meta_io.records.verification import Verification, describe_damage, verify
from gmeta_tf.meta_io.records.word_checks import keys_of

HEAD = 12
WIDE = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("price", "dense"),
        gm.Field("ad", table="ad"),
        gm.Field("seen", "multi", table="ad", max_values=2),
        gm.Field("hour"),
    ),
    "rating",
    "user",
    tables=(gm.Table("ad", keys="hash"), gm.Table("hour", 24, keys="raw"), gm.Table("item", 4)),
)


@pytest.fixture(scope="module", params=["none", "zlib"])
def sound(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    made_data.make_records(folder, 25, episode_rows=8, compression=request.param)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy of sound records, to be damaged."""
    return shutil.copytree(sound, tmp_path / "records")


def entry_and_file(folder, position, split="train"):
    records = gm.Records.open(folder)
    entry = np.array(records.index(split)[position])
    return entry, pathlib.Path(records.files(split)[entry["file"]])


def flip(path, at, mask=1):
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


def rewrite(folder, position, change, split="train"):
    """Puts other words into a record, with checksums and an index that are true."""
    records = gm.Records.open(folder)
    index = np.array(records.index(split))
    name = pathlib.Path(records.files(split)[index["file"][position]])
    own = np.flatnonzero(index["file"] == index["file"][position])
    offset = 0
    stored = list(tf.data.TFRecordDataset(str(name)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(name)) as writer:
        for place, content in zip(own, stored, strict=True):
            if place == position:
                content = change(content)
            writer.write(content)
            index["offset"][place], index["length"][place] = offset, len(content)
            offset += len(content) + TFRECORD_FRAME_BYTES
    np.save(folder / records.contents[split].index, index)
    return index[position], name


def with_words(folder, position, change):
    """Puts what `change` makes of a record's planes in its place."""
    records = gm.Records.open(folder)
    entry = records.index("train")[position]
    words = read_episode(records, "train", position).copy()
    change(words)
    content = encode_episode(int(entry["task"]), words, int(entry["part"]))
    content = zlib.compress(content, 1) if records.compression == "zlib" else content
    return rewrite(folder, position, lambda _: content)


def change_index(folder, change, split="train"):
    records = gm.Records.open(folder)
    path = folder / records.contents[split].index
    index = np.array(records.index(split))
    changed = change(index)
    np.save(path, index if changed is None else changed)
    return path


def only(folder, entry, name, match, *, records=None):
    """The one damage that is found."""
    found = verify(str(folder))
    (damage,) = found.damages
    assert (damage.path, damage.offset) == (str(name), entry["offset"])
    assert re.search(match, damage.reason), damage.reason
    assert found.summary == f"1 of {found.records} records are damaged"


# ---- Sound records -------------------------------------------------------------------------------


def test_sound_records(sound):
    found = verify(str(sound))
    episodes = sum(c.episodes for c in gm.Records.open(sound).contents.values())
    assert found == Verification((), episodes)
    assert found.summary == f"0 of {episodes} records are damaged"
    assert episodes > 50


def test_blocks_do_not_matter(sound, monkeypatch):
    monkeypatch.setattr(record_damage, "_BLOCK_BYTES", 300)
    assert not verify(str(sound)).damages


def test_a_file_without_records(tmp_path):
    made_data.make_records(tmp_path, 2, num_files=5)
    assert not verify(str(tmp_path)).damages


@pytest.mark.slow
def test_read_episode(sound):
    records = gm.Records.open(sound)
    for position, (_, words) in enumerate(records.read("train")):
        np.testing.assert_array_equal(read_episode(records, "train", position), words)


# ---- Damaged frames ------------------------------------------------------------------------------


def test_the_checksum_of_the_length(folder):
    entry, name = entry_and_file(folder, 3)
    flip(name, entry["offset"] + 9)
    only(folder, entry, name, "the checksum of its length does not match")


def test_the_length(folder):
    entry, name = entry_and_file(folder, 3)
    flip(name, entry["offset"] + 7)
    only(folder, entry, name, "the checksum of its length does not match")


def test_a_length_with_a_true_checksum_is_not_believed(folder):
    # A reader that believes it asks for a pebibyte.
    entry, name = entry_and_file(folder, 3)
    content = bytearray(name.read_bytes())
    length = np.array([1 << 50], "<u8").view(np.uint8)
    head = length.tobytes() + record_damage._masked_crc32c(length[np.newaxis]).tobytes()
    content[entry["offset"] : entry["offset"] + HEAD] = head
    name.write_bytes(content)
    only(folder, entry, name, f"is {1 << 50} bytes long, the index says {entry['length']}")


def test_the_content_and_its_checksum(folder):
    for position, at in ((2, HEAD), (5, HEAD + 20), (9, -1)):
        entry, name = entry_and_file(folder, position)
        end = entry["offset"] + entry["length"] + TFRECORD_FRAME_BYTES
        before = name.read_bytes()
        flip(name, end - 1 if at < 0 else entry["offset"] + at)
        only(folder, entry, name, "the checksum of its content does not match")
        name.write_bytes(before)


@pytest.mark.slow
def test_each_damaged_record_is_named(folder):
    records = gm.Records.open(folder)
    expected = set()
    for split, positions in (("train", (0, 1, 4, 11, 12)), ("test", (2, 20))):
        for number, position in enumerate(positions):
            entry, name = entry_and_file(folder, position, split)
            flip(name, entry["offset"] + (3 if number % 2 else HEAD + 8))
            expected.add((str(name), int(entry["offset"])))
    found = verify(str(folder))
    assert {(damage.path, damage.offset) for damage in found.damages} == expected
    assert found.damaged_records == len(found.damages) == 7
    total = sum(contents.episodes for contents in records.contents.values())
    assert found.summary == f"7 of {total} records are damaged"


@pytest.mark.slow
def test_every_flipped_bit_of_a_record_is_found(tmp_path):
    made_data.make_records(tmp_path, [1, 2], num_files=1, splits=("train",))
    (name,) = tmp_path.glob("*.tfrecord")
    rng = np.random.default_rng(0)
    for at in range(0, name.stat().st_size, 3):
        mask = 1 << int(rng.integers(8))
        flip(name, at, mask)
        (damage,) = verify(str(tmp_path)).damages
        assert damage.offset == (0 if at < 68 else 68)
        flip(name, at, mask)


@pytest.mark.slow
def test_fuzzed_bytes_never_crash(folder):
    records = gm.Records.open(folder)
    rng = np.random.default_rng(1)
    for _ in range(5):
        name = pathlib.Path(records.files("train")[int(rng.integers(3))])
        before = name.read_bytes()
        content = bytearray(before)
        first = int(rng.integers(len(content)))
        content[first : first + 50] = rng.bytes(len(content[first : first + 50]))
        name.write_bytes(content)
        found = verify(str(folder))
        assert found.damages
        assert {damage.path for damage in found.damages} == {str(name)}
        name.write_bytes(before)


# ---- Files ---------------------------------------------------------------------------------------


def test_a_cut_file(folder):
    entry, name = entry_and_file(folder, 3)
    content = name.read_bytes()
    index = gm.Records.open(folder).index("train")
    later = (index["file"] == entry["file"]) & (index["offset"] >= entry["offset"])
    name.write_bytes(content[: entry["offset"] + 30])
    found = verify(str(folder))
    assert found.damaged_records == later.sum() > 1
    assert all(f"the file ends at {entry['offset'] + 30}" in d.reason for d in found.damages[1:])
    assert found.damages[0].offset is None
    assert "and 1 fault(s) in indexes and files" in found.summary


def test_a_file_that_goes_on(folder):
    _, name = entry_and_file(folder, 3)
    length = name.stat().st_size
    name.write_bytes(name.read_bytes() + b"more")
    (damage,) = verify(str(folder)).damages
    assert str(damage) == f"{name}: by the index a record ends at {length}, and its end is " + str(
        length + 4
    )


def test_a_missing_file(folder):
    entry, name = entry_and_file(folder, 3)
    index = gm.Records.open(folder).index("train")
    name.unlink()
    found = verify(str(folder))
    assert {damage.reason for damage in found.damages} == {"the file is missing"}
    assert len(found.damages) == (index["file"] == entry["file"]).sum()


def test_a_file_that_shrinks_while_it_is_read(folder, monkeypatch):
    entry, name = entry_and_file(folder, 3)
    blocks = record_damage._blocks

    def shrinking(*arguments):
        name.write_bytes(name.read_bytes()[: entry["offset"]])
        return blocks(*arguments)

    monkeypatch.setattr(record_damage, "_blocks", shrinking)
    index = gm.Records.open(folder).index("train")
    later = (index["file"] == entry["file"]) & (index["offset"] >= entry["offset"])
    found = verify(str(folder))
    assert [d.offset for d in found.damages if d.path == str(name)] == index["offset"][
        later
    ].tolist()


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a records folder: expected .*schema\.json"):
        verify(str(tmp_path))


# ---- Contents ------------------------------------------------------------------------------------


def set_word(plane, row, value):
    def change(words):
        words[plane, row] = value

    return change


NOT_A_NUMBER = np.array([np.nan], "<f4").view("<i4")[0]
INFINITE = np.array([-np.inf], "<f4").view("<i4")[0]


@pytest.mark.parametrize(
    ("plane", "value", "match"),
    [
        (0, NOT_A_NUMBER, "row 1: the label nan is not finite"),
        (7, INFINITE, "row 1: price -inf is not finite"),
        (1, 17, "row 1: item 17 is outside the table 'item' of 17 rows"),
        (1, -2, "row 1: item -2 is outside the table 'item'"),
        (1, -1, "row 1: item has padding where a value must stand"),
        (4, 7, "row 1: genre 7 is outside the table 'genre' of 7 rows"),
        (6, 1000, "row 1: similar 1000 is outside the table 'item'"),
    ],
)
def test_words_that_can_not_be(folder, plane, value, match):
    def change(words):
        words[2:7, 1] = 0
        words[plane, 1] = value

    entry, name = with_words(folder, 3, change)
    only(folder, entry, name, match)


@pytest.mark.parametrize(
    ("value", "shown"), [(NOT_A_NUMBER, "nan"), (INFINITE, "-inf"), (-1.5, "-1.5")]
)
def test_weights_that_can_not_be(tmp_path, value, shown):
    schema = dataclasses.replace(made_data.SCHEMA, weight="importance")
    folder = tmp_path / "records"
    folder.mkdir()
    rows = made_data.made_rows(0, 5, np.random.default_rng(0))
    words = np.insert(made_data.made_words(rows), 1, np.float32([0, 1, 2.5, 0, 1]).view("<i4"), 0)
    writer = made_data.EpisodeWriter(folder, "train", schema, num_files=1)
    writer.write([0] * 5, words)
    records = gm.Records(str(folder), schema, {"train": writer.close()}, details={})
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    assert not verify(str(folder)).damages
    shown_rows = overview(gm.Records.open(folder))["episodes"][0]["rows"]
    assert [row["importance"] for row in shown_rows] == [0, 1, 2.5, 0, 1]
    assert list(shown_rows[0])[:2] == ["rating", "importance"]
    assert "label rating, weight importance, positive from" in describe(overview(records))
    word = np.float32(value).view("<i4") if isinstance(value, float) else value
    entry, name = with_words(folder, 0, set_word(1, 1, word))
    only(folder, entry, name, f"row 1: the weight {shown} is not finite or below 0")


def test_padding_before_a_value(folder):
    def change(words):
        words[2:5, 2] = (1, -1, 2)

    entry, name = with_words(folder, 3, change)
    only(folder, entry, name, "row 2: genre has padding where a value must stand")


def test_one_record_is_named_once(folder):
    def change(words):
        words[:2] = NOT_A_NUMBER

    entry, name = with_words(folder, 3, change)
    only(folder, entry, name, "row 0: the label nan is not finite")


@pytest.mark.parametrize(
    ("word", "match"),
    [
        (0, "it begins with the word"),
        (1, "rows, the index says"),
        (2, r"it has task \d+, part 0 and \d+ rows, the index says task \d+"),
        (4, "it has task .*, part 1 and"),
    ],
)
def test_headers_that_differ_from_the_index(tmp_path, word, match):
    made_data.make_records(tmp_path, 10)

    def change(content):
        words = np.frombuffer(content, "<i4").copy()
        words[word] += 1
        return words.tobytes()

    entry, name = rewrite(tmp_path, 3, change)
    only(tmp_path, entry, name, match)


def test_a_record_that_is_too_short(tmp_path):
    made_data.make_records(tmp_path, 10)
    entry, name = rewrite(tmp_path, 3, lambda content: content[:-4])
    only(tmp_path, entry, name, r"it holds \d+ bytes, its rows in the index need")


def test_what_can_not_be_unpacked(tmp_path):
    made_data.make_records(tmp_path, 10, compression="zlib")
    before = shutil.copytree(tmp_path, tmp_path / "before")
    for change, match in (
        (lambda _: b"q" * 100, "incorrect header check"),
        (lambda content: content[:-5], "its compressed content is not"),
        (lambda content: content + b"x", "its compressed content is not"),
        (lambda content: zlib.compress(bytes(10_000_000)), "its compressed content is not"),
        (lambda _: zlib.compress(b"\0" * 8), r"it holds 8 bytes, its rows in the index need"),
    ):
        copy = shutil.copytree(before, tmp_path / "copy")
        entry, name = rewrite(copy, 3, change)
        only(copy, entry, name, match)
        shutil.rmtree(copy)


# ---- The index -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("file", 99, "1 entries have an impossible file, the first one 99"),
        ("rows", 0, "1 entries have an impossible rows, the first one 0"),
        ("rows", 2000, "1 entries have an impossible rows, the first one 2000"),
        ("part", -1, "1 entries have an impossible part, the first one -1"),
        ("task", -3, "1 entries have an impossible task, the first one -3"),
        ("part", 5, r"the episodes of the task \d+ are not numbered 0, 1, 2, ...: found"),
    ],
)
def test_an_impossible_index(folder, name, value, match):
    def change(index):
        index[name][3] = value

    path = change_index(folder, change)
    found = verify(str(folder))
    (fault,) = [d for d in found.damages if d.path == str(path) and re.search(match, d.reason)]
    assert fault.offset is None
    # The record differs from its entry, too.
    assert found.damaged_records >= (name != "file")


def test_an_index_that_names_a_record_twice(folder):
    change_index(folder, lambda index: np.insert(index, 3, index[3]))
    found = verify(str(folder))
    reasons = " ".join(damage.reason for damage in found.damages)
    assert "are not numbered 0, 1, 2" in reasons
    assert "and the next one's begin is" in reasons
    assert re.search(r"it has \d+ episodes, schema.json says", reasons)
    assert re.search(r"it has \d+ rows, schema.json says", reasons)
    assert found.damaged_records == 0


def test_an_index_that_lacks_a_record(folder):
    change_index(folder, lambda index: np.delete(index, 0))
    found = verify(str(folder))
    reasons = " ".join(damage.reason for damage in found.damages)
    assert "by the index a record ends at 0, and the next one's begin is" in reasons
    assert re.search(r"it has \d+ tasks, schema.json says", reasons)


def test_an_impossible_index_read(folder):
    path = folder / gm.Records.open(folder).contents["train"].index
    episodes = gm.Records.open(folder).contents["train"].episodes
    path.write_bytes(b"none")
    found = verify(str(folder))
    (damage,) = found.damages
    assert (damage.path, damage.offset) == (str(path), None)
    assert found.records > episodes


# ---- Errors of tf.data ---------------------------------------------------------------------------


def error_of(folder):
    """What the pipeline raises."""
    batches = gm.TaskBatches(gm.Records.open(folder), "train", tasks=4)
    with pytest.raises(tf.errors.OpError) as raised:
        list(batches.dataset().take(batches.steps_per_epoch))
    return raised.value


@pytest.mark.parametrize(
    ("at", "match"), [(2, "checksum of its length"), (HEAD + 8, "checksum of its content")]
)
def test_an_error_of_the_framing_is_explained(folder, at, match):
    entry, name = entry_and_file(folder, 3)
    flip(name, entry["offset"] + at)
    said = describe_damage(gm.Records.open(folder), "train", error_of(folder))
    assert re.match(rf"{name} at offset {entry['offset']}: the {match} does not match\. Run", said)
    assert f"`gmeta-tf inspect {folder} --verify`" in said


def test_a_file_that_was_cut_is_explained(folder):
    records = gm.Records.open(folder)
    entry, name = entry_and_file(folder, 3)
    batches = gm.TaskBatches(records, "train", tasks=4)
    name.write_bytes(name.read_bytes()[: entry["offset"] + 20])
    with pytest.raises(tf.errors.OpError) as raised:
        list(batches.dataset().take(batches.steps_per_epoch))
    said = describe_damage(records, "train", raised.value)
    assert f"{name} at offset {entry['offset']}: the file ends at" in said


def test_a_record_that_is_not_the_index_s_is_explained(tmp_path):
    made_data.make_records(tmp_path, 10)

    def change(index):
        index["task"][3] += 1000

    change_index(tmp_path, change)
    entry, name = entry_and_file(tmp_path, 3)
    said = describe_damage(gm.Records.open(tmp_path), "train", error_of(tmp_path))
    assert f"{name} at offset {entry['offset']}: it has task" in said
    assert said.count("at offset") == 1


def test_an_error_of_compression_is_explained(tmp_path):
    made_data.make_records(tmp_path, 10, compression="zlib")
    rewrite(tmp_path, 3, lambda _: b"q" * 100)
    said = describe_damage(gm.Records.open(tmp_path), "train", error_of(tmp_path))
    assert said.startswith(f"{tmp_path}: a record of the split 'train' cannot be decoded. Run")


def test_a_record_that_was_read_wrong_once(folder):
    entry, name = entry_and_file(folder, 3)
    error = tf.errors.DataLossError(None, None, f"corrupted record at {entry['offset'] + HEAD}")
    said = describe_damage(gm.Records.open(folder), "train", error)
    assert f"{name} at offset {entry['offset']}" in said
    assert "Read again it is sound" in said


@pytest.mark.parametrize("text", ["a key outside its static table", "corrupted record at 7"])
def test_other_errors_are_not_explained(sound, text):
    error = tf.errors.InvalidArgumentError(None, None, text)
    assert describe_damage(gm.Records.open(sound), "train", error) is None


@pytest.mark.slow
def test_explaining_needs_no_duckdb():
    code = "import gmeta_tf.meta_io.records.verification, sys; sys.exit('duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- What is shown -------------------------------------------------------------------------------


def write_parquet(path, column, values):
    path.parent.mkdir(exist_ok=True)
    rows = ", ".join(f"({number}, '{value}')" for number, value in values.items())
    with duckdb.connect() as database:
        database.execute(
            f"COPY (SELECT * FROM (VALUES {rows}) AS t({column}, value)) TO '{path}' "
            "(FORMAT parquet)"
        )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Hashed and raw keys, a vocabulary and names of tasks: 7 rows of one task, 2 of another."""
    folder = tmp_path_factory.mktemp("wide")
    writer = made_data.EpisodeWriter(folder, "train", WIDE, num_files=2)
    big = 2**62 + 12345
    ad = np.array([big, 0, 1, 2, 3, 4, 5, 6, 7])
    seen = np.array([[-1, big, big, 1, 2, 3, 4, 5, 6], [-1, -1, 7, -1, -1, -1, -1, -1, -1]])
    item = np.array([1, 2, 0, 3, 1, 1, 1, 2, 3])
    words = [
        np.arange(9, dtype="<f4").view("<i4")[np.newaxis],
        item[np.newaxis],
        *_two_words(ad[np.newaxis]),
        *_two_words(seen),
        np.array([0, 23, 5, 6, 7, 8, 9, 10, 11])[np.newaxis],
        np.full([1, 9], 0.5, "<f4").view("<i4"),
    ]
    writer.write([3] * 7 + [8] * 2, np.concatenate(words).astype("<i4"))
    write_parquet(folder / "tasks.parquet", "task", {3: "ann", 8: "bob"})
    write_parquet(folder / "vocabulary" / "item.parquet", "key", {1: "a\n", 2: "b|", 3: "c" * 99})
    records = gm.Records(
        str(folder),
        WIDE,
        {"train": writer.close()},
        {"item": "vocabulary/item.parquet"},
        "tasks.parquet",
        details={
            "rows": 9,
            "rows_of_tasks": [0, 1, 1],
            "dropped_rows": {"no task": 4},
            "cut_values": {},
            "split": {"seed": 0, "by": "task"},
        },
    )
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return gm.Records.open(folder)


def _two_words(keys):
    return (keys & 0xFFFFFFFF).astype("<u4").view("<i4"), (keys >> 32).astype("<i4")


def test_wide_keys_are_verified(wide):
    assert not verify(wide.path).damages
    np.testing.assert_array_equal(
        keys_of(np.concatenate(_two_words(np.array([[-1, 2**62 + 5], [0, 2**32]]))), 2),
        [[-1, 2**62 + 5], [0, 2**32]],
    )


def test_wide_keys_that_can_not_be(wide, tmp_path):
    folder = shutil.copytree(wide.path, tmp_path / "records")
    entry, name = with_words(folder, 0, lambda words: words[3].__setitem__(1, -7))
    only(folder, entry, name, r"row 1: ad -\d+ is outside the table 'ad'$")


def test_overview(wide):
    shown = json.loads(json.dumps(overview(wide)))
    assert shown["splits"]["train"] == {
        "tasks": 2,
        "episodes": 2,
        "rows": 9,
        "files": 2,
        "bytes": sum(path.stat().st_size for path in pathlib.Path(wide.path).glob("*.tfrecord")),
        "mean rows": 4.5,
        "median rows": 4.5,
        "largest": 7,
    }
    fields = {field.pop("field"): field for field in shown["fields"]}
    assert fields["ad"] == {
        "kind": "categorical",
        "table": "ad",
        "keys": "hash",
        "rows": None,
        "words a key": 2,
        "planes": "2-3",
    }
    assert fields["price"] == {"kind": "dense", "planes": "9"}
    first, second = shown["episodes"]
    assert (first["task"], first["value"], second["value"]) == (3, "ann", "bob")
    assert first["num_rows"] == 7
    assert len(first["rows"]) == 5
    big = 2**62 + 12345
    assert first["rows"][:3] == [
        {"rating": 0.0, "item": "a\n", "price": 0.5, "ad": big, "seen": [], "hour": 0},
        {"rating": 1.0, "item": "b|", "price": 0.5, "ad": "?", "seen": [big], "hour": 23},
        {"rating": 2.0, "item": "?", "price": 0.5, "ad": 1, "seen": [big, 7], "hour": 5},
    ]


def test_overview_as_text(wide):
    shown = describe(overview(wide))
    lines = [line.split() for line in shown.splitlines()]
    assert ["ad", "categorical", "ad", "hash", "2", "2-3"] in lines
    assert ["seen", "multi", "ad", "hash", "2", "4-7"] in lines
    assert ["train", "2", "2", "9", "2"] in [line[:5] for line in lines]
    assert "train: task 3 (ann), part 0, 7 rows" in shown
    assert r"a\n" in shown
    assert f"{'c' * 37}..." in shown
    assert shown.count("\n  ...") == 1
    assert str(2**62 + 12345) in shown
    assert "tasks by their rows\n" in shown
    assert ["4", "to", "7", "1", "#" * 40] in lines
    assert ["no", "task", "4", "#" * 40] in lines
    assert "rows: 9" in shown


def test_how_many_episodes_and_of_which_split(sound):
    records = gm.Records.open(sound)
    for count in (0, 1, 4, 1000):
        shown = overview(records, ["test"], num_episodes=count)
        assert list(shown["splits"]) == ["test"]
        assert len(shown["episodes"]) == min(count, records.contents["test"].episodes)
    with pytest.raises(ValueError, match="has no split 'dev'"):
        overview(records, ["dev"])


def test_a_damaged_episode_is_said_to_be(folder):
    entry, name = entry_and_file(folder, 0)
    flip(name, entry["offset"] + HEAD)
    shown = overview(gm.Records.open(folder), ["train"], num_episodes=2)
    where = f"{name}: the record at offset 0 is damaged: its checksum does not match"
    assert shown["episodes"][0]["damage"].startswith(where)
    assert shown["episodes"][1]["rows"]
    assert where in describe(shown)


def test_a_vocabulary_that_is_missing(wide, tmp_path):
    folder = shutil.copytree(wide.path, tmp_path / "records")
    (folder / "vocabulary" / "item.parquet").unlink()
    with pytest.raises(ValueError, match=r"item\.parquet is missing or damaged"):
        overview(gm.Records.open(folder))
    (folder / "vocabulary" / "item.parquet").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"item\.parquet is missing or damaged"):
        named_values(str(folder / "vocabulary" / "item.parquet"), "key", [1])


def test_a_key_that_the_vocabulary_lacks(wide):
    records = dataclasses.replace(wide, vocabularies={"item": "tasks.parquet"})
    with pytest.raises(ValueError, match=r"tasks\.parquet is missing or damaged"):
        overview(records)
    path = pathlib.Path(wide.path) / "vocabulary" / "item.parquet"
    assert named_values(str(path), "key", [1, 7, 1]) == {1: "a\n"}


# ---- The command ---------------------------------------------------------------------------------


def test_the_command(sound, capsys):
    cli.main(["inspect", str(sound), "--split", "test", "--episodes", "1", "--verify"])
    shown = capsys.readouterr().out
    assert shown.count("test: task") == 1
    assert "train" not in shown.replace(str(sound), "")
    assert shown.rstrip().splitlines()[-1].startswith("0 of ")


def test_the_command_with_damage(folder, capsys):
    places = []
    for position in (3, 7):
        entry, name = entry_and_file(folder, position)
        flip(name, entry["offset"] + HEAD)
        places.append(
            f"{name} at offset {entry['offset']}: the checksum of its content does not match"
        )
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", str(folder), "--verify"])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert set(places) <= set(shown.out.splitlines())
    assert "records are damaged. Prepare the data again." in shown.err
    assert re.search(r"^2 of \d+ records are damaged$", shown.out, re.MULTILINE)
    cli.main(["inspect", str(folder)])


def test_the_command_on_a_folder_that_can_not_be_opened(folder, capsys):
    entry, name = entry_and_file(folder, 3)
    name.write_bytes(name.read_bytes()[: entry["offset"] + 30])
    for words in ([], ["--verify"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", str(folder), *words])
        assert ended.value.code == 1
        shown = capsys.readouterr()
        assert "it was cut or overwritten" in shown.err
        assert (f"{name} at offset {entry['offset']}" in shown.out) == bool(words)


def test_the_command_as_json(folder, capsys):
    cli.main(["inspect", str(folder), "--verify", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["damages"] == []
    entry, name = entry_and_file(folder, 3)
    flip(name, entry["offset"])
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(folder), "--verify", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["damaged_records"] == 1
    assert found["damages"][0].startswith(f"{name} at offset {entry['offset']}: ")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["none"], "not a records folder"),
        (["none", "--verify"], "not a records folder"),
        (["none", "--episodes", "-1"], "--episodes of at least 0, got -1"),
    ],
)
def test_wrong_input(words, match, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *words])
    assert ended.value.code == 1
    assert match in capsys.readouterr().err


def test_a_split_that_is_not_there(sound, capsys):
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(sound), "--split", "dev", "--verify"])
    assert "has no split 'dev'" in capsys.readouterr().err


def test_the_index_entry_is_as_documented():
    assert IndexEntry.itemsize == 32
