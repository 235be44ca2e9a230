"""The record codec, the files of a split, and what a damaged folder says."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.meta_io.records import frames
from gmeta_tf.meta_io.records.codec import (
    IndexEntry,
    decode_episode,
    encode_episode,
    episode_headers,
    num_planes,
    slot_ranges,
)
from gmeta_tf.meta_io.records.records import Records, SplitFiles
from gmeta_tf.meta_io.records.writer import EpisodeWriter
from gmeta_tf.schema import Field, Schema, Table

SCHEMA = Schema(
    (Field("price", "dense"), Field("item"), Field("tags", "multi", max_values=3)),
    "rating",
    "user",
    tables=(Table("item", 9), Table("tags", 4)),
)
PLANES = 6
INDEX = "index-train-000.npy"


def planes(task: int, rows: int) -> np.ndarray:
    """Words that no two tasks, rows or planes share."""
    first = 100 * task + np.arange(rows)
    return np.stack([first + plane * 10_000 for plane in range(PLANES)]).astype(np.int32)


def made_records(
    folder: pathlib.Path,
    rows_of: list[int],
    num_files: int = 2,
    *,
    compression: str = "none",
    episode_rows: int = 1024,
) -> Records:
    folder.mkdir(exist_ok=True)
    options = {"compression": compression, "episode_rows": episode_rows}
    writer = EpisodeWriter(folder, "train", SCHEMA, num_files=num_files, **options)
    for task, rows in enumerate(rows_of):
        writer.write(np.full(rows, task), planes(task, rows))
    records = Records(
        str(folder), SCHEMA, {"train": writer.close()}, details={"seed": 1}, **options
    )
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return records


class TestCodec:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        task=st.integers(0, 2**63 - 1),
        part=st.integers(0, 2**31 - 1),
        shape=st.tuples(st.integers(1, 8), st.integers(0, 9)),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_decodes_to_what_was_encoded(self, task, part, shape, seed):
        words = np.random.default_rng(seed).integers(-(2**31), 2**31, shape).astype(np.int32)
        record = encode_episode(task, words, part)
        assert len(record) == 4 * (5 + words.size)
        found_task, found_part, found = decode_episode(record, len(words))
        assert (found_task, found_part) == (task, part)
        np.testing.assert_array_equal(found, words)

    def test_the_bytes_are_those_of_the_documentation(self):
        words = np.array([[1, -1], [2, 3]], np.int32)
        record = encode_episode(2**32 + 7, words, part=3)
        expected = [0x474D0002, 2, 7, 1, 3, 1, 0xFFFFFFFF, 2, 3]
        assert record == b"".join(word.to_bytes(4, "little") for word in expected)

    def test_words_that_do_not_stand_in_one_piece(self):
        words = planes(3, 8)
        assert encode_episode(3, words[:, ::2]) == encode_episode(3, words[:, ::2].copy())
        assert encode_episode(3, words.T.copy().T) == encode_episode(3, words)

    def test_headers_of_several_records(self):
        tasks = np.array([0, 2**31, 2**63 - 1])
        headers = episode_headers(tasks, np.array([1, 2, 3]), np.array([0, 7, 2**31 - 1]))
        for header, task, rows, part in zip(headers, tasks, (1, 2, 3), (0, 7, 2**31 - 1)):
            record = encode_episode(int(task), np.zeros([1, rows], np.int32), part)
            assert record[:20] == header.tobytes()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda record: b"", "got 0 bytes that begin with nothing"),
            (lambda record: record[:8], "expected a record .* got 8 bytes"),
            (lambda record: record[:-1], "expected a record .* bytes that begin with 02004d47"),
            (lambda record: record[:-4], "record of 3 rows and 6 planes, which is 92 bytes, got"),
            (lambda record: record + record[:4], "which is 92 bytes, got 96"),
            (lambda record: b"\x01" + record[1:], "begin with 01004d47"),
            (lambda record: record[:4] + b"\xff\xff\xff\xff" + record[8:], "of 4294967295 rows"),
        ],
        ids=["empty", "no header", "a byte less", "a word less", "a word more", "version", "rows"],
    )
    def test_bytes_that_are_no_record(self, damage, match):
        record = encode_episode(7, planes(7, 3))
        assert decode_episode(record, PLANES)[0] == 7
        with pytest.raises(ValueError, match=match):
            decode_episode(damage(record), PLANES)

    def test_a_record_of_another_schema(self):
        record = encode_episode(7, planes(7, 3))
        with pytest.raises(ValueError, match="record of 3 rows and 7 planes, which is 104 bytes"):
            decode_episode(record, PLANES + 1)

    def test_planes_of_the_fields(self):
        assert num_planes(SCHEMA) == PLANES
        assert slot_ranges(SCHEMA) == [(5, 6), (1, 2), (2, 5)]

    def test_planes_of_keys_of_two_words(self):
        tables = (Table("item", 2**31 + 1, keys="raw"), Table("tags", keys="hash"))
        schema = dataclasses.replace(SCHEMA, tables=tables)
        assert num_planes(schema) == 1 + 2 + 6 + 1
        assert slot_ranges(schema) == [(9, 10), (1, 3), (3, 9)]
        narrow = dataclasses.replace(SCHEMA, tables=(Table("item", 2**31, keys="raw"),))
        assert num_planes(narrow) == PLANES

    def test_planes_of_dense_fields_alone(self):
        schema = Schema((Field("a", "dense"), Field("b", "dense")), "y", "t")
        assert num_planes(schema) == 3
        assert slot_ranges(schema) == [(1, 2), (2, 3)]


class TestSplitFiles:
    rows_of = (5, 1, 4, 4, 3, 2, 6)

    @pytest.mark.parametrize("compression", ["none", "zlib"])
    def test_read_gives_every_episode_once(self, compression, tmp_path):
        made_records(tmp_path, self.rows_of, num_files=3, compression=compression)
        records = Records.open(tmp_path)
        found = list(records.read("train"))
        assert sorted(task for task, _ in found) == list(range(7))
        for task, words in found:
            np.testing.assert_array_equal(words, planes(task, self.rows_of[task]))

    def test_index_points_at_the_records(self, tmp_path):
        records = made_records(tmp_path, self.rows_of, num_files=3, episode_rows=4)
        index = records.index("train")
        assert index.dtype == IndexEntry
        assert sorted(index["task"]) == [0, 0, 1, 2, 3, 4, 5, 6, 6]
        for entry in index:
            content = pathlib.Path(records.files("train")[entry["file"]]).read_bytes()
            first = entry["offset"] + 12
            record = content[first : first + entry["length"]]
            task, part, words = decode_episode(record, PLANES)
            assert (task, part, words.shape[1]) == (entry["task"], entry["part"], entry["rows"])
        order = list(zip(index["file"], index["offset"]))
        assert order == sorted(order)

    def test_more_files_than_episodes(self, tmp_path):
        made_records(tmp_path, [2], num_files=3)
        records = Records.open(tmp_path)
        assert [pathlib.Path(name).stat().st_size for name in records.files("train")][1:] == [0, 0]
        assert [task for task, _ in records.read("train")] == [0]

    def test_no_episode(self, tmp_path):
        made_records(tmp_path, [])
        records = Records.open(tmp_path)
        assert records.index("train").shape == (0,)
        assert list(records.read("train")) == []


class TestOpen:
    def test_gives_back_what_was_described(self, tmp_path):
        made = made_records(tmp_path, [2, 3], compression="zlib", episode_rows=77)
        assert Records.open(str(tmp_path)) == made
        assert Records.open(tmp_path, SCHEMA) == made
        assert made.contents == {
            "train": SplitFiles(
                ("train-000-00000-of-00002.tfrecord", "train-000-00001-of-00002.tfrecord"),
                INDEX,
                tasks=2,
                episodes=2,
                rows=5,
            )
        }

    def test_every_member_is_described(self, tmp_path):
        values = {
            "vocabularies": {"item": "vocabulary/item-001.parquet"},
            "tasks": "tasks-001.parquet",
            "generation": 4,
        }
        made = dataclasses.replace(made_records(tmp_path, [2, 3]), **values)
        again = Records.from_json(str(tmp_path), json.dumps(made.describe()))
        assert again == made
        assert {name: getattr(again, name) for name in values} == values

    def test_sizes_and_threshold_are_no_other_schema(self, tmp_path):
        made_records(tmp_path, [2])
        schema = dataclasses.replace(SCHEMA, tables=(), positive_from=4.0)
        assert Records.open(tmp_path, schema).schema == SCHEMA

    def test_another_schema(self, tmp_path):
        made_records(tmp_path, [2])
        schema = dataclasses.replace(SCHEMA, label="click")
        with pytest.raises(ValueError, match=r"another schema: expected .*label='click'"):
            Records.open(tmp_path, schema)

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"is not a records folder: .*gmeta-tf prepare"):
            Records.open(tmp_path / "nowhere")

    @pytest.mark.parametrize("version", [1, 3, "2", None])
    def test_another_version(self, version, tmp_path):
        values = made_records(tmp_path, [2]).describe() | {"format_version": version}
        (tmp_path / "schema.json").write_text(json.dumps(values))
        message = rf"{tmp_path} has format version {version!r}, this version of gmeta_tf reads 2"
        with pytest.raises(ValueError, match=message):
            Records.open(tmp_path)

    def test_a_missing_file(self, tmp_path):
        pathlib.Path(made_records(tmp_path, [2, 3]).files("train")[1]).unlink()
        with pytest.raises(FileNotFoundError, match=r"train-000-00001-of-00002\S+ is missing"):
            Records.open(tmp_path)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_file_of_another_length(self, change, tmp_path):
        path = pathlib.Path(made_records(tmp_path, [2, 3]).files("train")[0])
        content = path.read_bytes()
        path.write_bytes(content[:change] if change < 0 else content + b"x")
        message = rf"{len(content) + change} bytes long, its index says {len(content)}: it was cut"
        with pytest.raises(ValueError, match=message):
            Records.open(tmp_path)

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("length", r"index-train-000\.npy: 1 entries have an impossible length"),
            ("rows", "1 entries have an impossible length"),
            ("file", "1 entries have an impossible file, the first one 5"),
            ("offset", "does not follow its records"),
        ],
    )
    def test_an_index_that_lies(self, name, match, tmp_path):
        index = np.array(made_records(tmp_path, [2, 3]).index("train"))
        index[name][-1] += 4
        np.save(tmp_path / INDEX, index)
        with pytest.raises(ValueError, match=match):
            Records.open(tmp_path)

    @pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01", b"PK\x03\x04", b"text"])
    def test_a_missing_or_damaged_index(self, content, tmp_path):
        made_records(tmp_path, [2, 3])
        path = tmp_path / INDEX
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"index-train-000\.npy is missing or damaged"):
            Records.open(tmp_path)

    @pytest.mark.parametrize(
        "index",
        [np.zeros(3), np.zeros([1, 1], IndexEntry), np.array([object()])],
        ids=["floats", "two dimensions", "objects"],
    )
    def test_an_index_of_another_kind(self, index, tmp_path):
        made_records(tmp_path, [2])
        np.save(tmp_path / INDEX, index)
        with pytest.raises(ValueError, match=r"index-train-000\.npy (has columns|is missing or)"):
            Records.open(tmp_path)

    def test_an_unknown_split(self, tmp_path):
        with pytest.raises(ValueError, match="has no split 'test'; it has train"):
            made_records(tmp_path, [2]).index("test")


def outcome(folder: pathlib.Path, expected: list[bytes]) -> str:
    """What a damaged folder says: "unharmed", or its message; anything else fails the test."""
    said = ""
    try:
        found = [words.tobytes() for _, words in Records.open(folder).read("train")]
    except (ValueError, FileNotFoundError) as error:
        said = f"{type(error).__name__}: {error}"
    if said:
        assert str(folder) in said
        return said
    assert found == expected
    return "unharmed"


class TestDamage:
    """Each test spoils a small folder in many ways; nothing is read wrongly and all is named."""

    @pytest.fixture(params=["none", "zlib"])
    def folder(self, request, tmp_path):
        made_records(tmp_path / "r", [2, 3, 1, 2], compression=request.param)
        return tmp_path / "r"

    @pytest.fixture
    def expected(self, folder):
        return [words.tobytes() for _, words in Records.open(folder).read("train")]

    def test_each_byte_of_a_record_file(self, folder, expected):
        path = sorted(folder.glob("*.tfrecord"))[0]
        content = path.read_bytes()
        index = Records.open(folder).index("train")
        offsets = index["offset"][index["file"] == 0]
        assert len(offsets) > 1
        for place in range(0, len(content), 3):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << place % 8
            path.write_bytes(spoilt)
            said = outcome(folder, expected)
            offset = offsets[offsets <= place].max()
            assert f"{path}: the record at offset {offset} is damaged" in said

    def test_a_record_file_that_was_cut_or_repeated(self, folder, expected):
        path = sorted(folder.glob("*.tfrecord"))[0]
        content = path.read_bytes()
        draw = np.random.default_rng(0)
        for _ in range(20):
            first, last = sorted(draw.integers(0, len(content), 2).tolist())
            if first == last:
                continue
            for spoilt in (
                content[:first] + content[last:],
                content[:last] + content[first:],
                content[:first],
                content + content[first:last],
            ):
                path.write_bytes(spoilt)
                assert f"{path} is {len(spoilt)} bytes long" in outcome(folder, expected)

    def test_a_piece_of_a_record_file_over_another(self, folder, expected):
        """The length stays what it was, so only the checksums and the headers can tell."""
        path = sorted(folder.glob("*.tfrecord"))[0]
        content = path.read_bytes()
        draw = np.random.default_rng(1)
        for _ in range(20):
            source, target = draw.integers(0, len(content) - 8, 2).tolist()
            spoilt = bytearray(content)
            spoilt[target : target + 8] = content[source : source + 8]
            path.write_bytes(spoilt)
            said = outcome(folder, expected)
            assert (said == "unharmed") == (spoilt == content)

    def test_a_whole_record_in_the_place_of_another(self, tmp_path):
        """Its checksum is right, and its length: only the header is not the index's."""
        made_records(tmp_path, [2, 2, 2], num_files=1)
        path = next(tmp_path.glob("*.tfrecord"))
        content = path.read_bytes()
        size = len(content) // 3
        path.write_bytes(content[:size] + content[:size] + content[2 * size :])
        with pytest.raises(ValueError, match=rf"{path}: the record at offset {size} is damaged"):
            list(Records.open(tmp_path).read("train"))

    def test_a_file_that_shrinks_while_it_is_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(frames, "_BLOCK_BYTES", 10_000)
        made_records(tmp_path, [400] * 30, num_files=1)
        path = next(tmp_path.glob("*.tfrecord"))
        content = path.read_bytes()
        reading = Records.open(tmp_path).read("train")
        next(reading)
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ValueError, match=rf"{path}: the record at offset \d+ is damaged"):
            list(reading)

    def test_each_byte_of_an_index(self, folder, expected):
        path = folder / INDEX
        content = path.read_bytes()
        for place in range(len(content)):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << place % 7
            path.write_bytes(spoilt)
            said = outcome(folder, expected)
            # A space of NumPy's padding before the entries may well be another byte.
            assert said != "unharmed" or place < 128

    def test_an_index_that_was_cut_or_repeated(self, folder, expected):
        path = folder / INDEX
        content = path.read_bytes()
        draw = np.random.default_rng(2)
        for _ in range(40):
            first, last = sorted(draw.integers(0, len(content), 2).tolist())
            if first == last:
                continue
            for spoilt in (content[:first] + content[last:], content[:first]):
                path.write_bytes(spoilt)
                said = outcome(folder, expected)
                assert said != "unharmed" or last < 128

    def test_each_byte_of_the_description(self, folder, expected):
        path = folder / "schema.json"
        content = path.read_bytes()
        for place in range(len(content)):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << place % 8
            path.write_bytes(spoilt)
            outcome(folder, expected)

    def test_a_description_that_was_cut(self, folder, expected):
        path = folder / "schema.json"
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            assert outcome(folder, expected) != "unharmed"

    @pytest.mark.parametrize("value", [None, 3, "text", [], {}, [1], {"a": 1}], ids=repr)
    def test_a_description_of_other_values(self, value, tmp_path):
        made = made_records(tmp_path, [2, 3]).describe()
        expected = [planes(task, rows).tobytes() for task, rows in enumerate((2, 3))]
        path = tmp_path / "schema.json"
        for name in made:
            path.write_text(json.dumps(made | {name: value}))
            outcome(tmp_path, expected)
        for name in made["splits"]["train"]:
            split = made["splits"]["train"] | {name: value}
            path.write_text(json.dumps(made | {"splits": {"train": split}}))
            outcome(tmp_path, expected)
        for name in made:
            path.write_text(json.dumps({key: made[key] for key in made if key != name}))
            assert outcome(tmp_path, expected) != "unharmed"
        path.write_text(json.dumps(value))
        assert outcome(tmp_path, expected) != "unharmed"

    @pytest.mark.parametrize("count", ["rows", "episodes"])
    def test_a_description_whose_counts_are_not_the_index(self, count, tmp_path):
        made = made_records(tmp_path, [2, 3]).describe()
        made["splits"]["train"][count] += 1
        (tmp_path / "schema.json").write_text(json.dumps(made))
        with pytest.raises(ValueError, match=str(tmp_path)):
            Records.open(tmp_path)

    def test_an_index_with_more_rows_than_an_episode_may_have(self, tmp_path):
        """The length of a compressed record does not show it; plans would take any memory."""
        made_records(tmp_path, [2, 3], compression="zlib")
        index = np.load(tmp_path / INDEX)
        index["rows"][0] = 2**30
        np.save(tmp_path / INDEX, index)
        with pytest.raises(
            ValueError, match="1 entries have an impossible rows, the first one 1073741824"
        ):
            Records.open(tmp_path)

    def test_an_index_with_more_rows_than_a_compressed_record_can_fill(self, tmp_path):
        """Even where `schema.json` allows as many."""
        made_records(tmp_path, [2, 3], compression="zlib", episode_rows=2**31)
        Records.open(tmp_path)
        index = np.load(tmp_path / INDEX)
        index["rows"][0] = 2**30
        np.save(tmp_path / INDEX, index)
        with pytest.raises(ValueError, match="1 entries have an impossible length, the first one"):
            Records.open(tmp_path)

    def test_nothing_is_left_out_of_the_copy(self, folder, expected, tmp_path):
        """What the tests above take for unharmed is what the folder holds."""
        shutil.copytree(folder, tmp_path / "copy")
        assert outcome(tmp_path / "copy", expected) == "unharmed"
        assert len(expected) == 4


def test_tensorflow_reads_the_files(tmp_path):
    """The framing is TFRecord's own, so that any of its readers checks and reads the records."""
    records = made_records(tmp_path, [2, 3], num_files=1)
    stored = [one.numpy() for one in tf.data.TFRecordDataset(records.files("train"))]
    assert stored == [encode_episode(task, planes(task, rows)) for task, rows in enumerate((2, 3))]
