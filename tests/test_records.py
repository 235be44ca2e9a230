"""The record codec, the files of a split, and what opening a damaged folder says."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.meta_io.records import (
    IndexEntry,
    Records,
    deal_files,
    decode_episode,
    encode_episode,
    num_planes,
    slot_ranges,
    write_split,
)
from gmeta_tf.schema import Field, Schema, Table

SCHEMA = Schema(
    (Field("price", "dense"), Field("item"), Field("tags", "multi", max_values=3)),
    "rating",
    "user",
    tables=(Table("item", 9), Table("tags", 4)),
)
PLANES = 6


def episode(task: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, keys and dense values that no two tasks and no two rows share."""
    first = 100 * task + np.arange(rows)
    label = (first + 0.5).astype(np.float32)
    keys = np.stack([first + slot * 10_000 for slot in range(4)]).astype(np.int32)
    return label, keys, (-first[np.newaxis]).astype(np.float32)


def episodes(rows_of: list[int]) -> list[tuple[int, int, bytes]]:
    return [
        (task, rows, encode_episode(task, *episode(task, rows)))
        for task, rows in enumerate(rows_of)
    ]


def made_records(folder: pathlib.Path, rows_of: list[int], num_files: int = 2) -> Records:
    folder.mkdir(exist_ok=True)
    write_split(folder, "train", episodes(rows_of), num_files)
    records = Records(folder, SCHEMA, ("train",), num_files, {"seed": 1})
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return records


@dataclasses.dataclass(frozen=True)
class Bits:
    """Random words: any float (also NaN and -0.0) and any key."""

    rows: int
    slots: int
    num_dense: int
    seed: int

    def planes(self) -> np.ndarray:
        shape = [1 + self.slots + self.num_dense, self.rows]
        rng = np.random.default_rng(self.seed)
        return rng.integers(-(2**31), 2**31, shape, np.int64).astype(np.int32)


class TestCodec:
    @settings(max_examples=40, deadline=None)
    @given(
        task=st.integers(0, 2**63 - 1),
        bits=st.builds(
            Bits,
            rows=st.integers(0, 9),
            slots=st.integers(0, 4),
            num_dense=st.integers(0, 3),
            seed=st.integers(0, 2**32 - 1),
        ),
    )
    def test_decodes_to_what_was_encoded(self, task, bits):
        planes = bits.planes()
        label, keys = planes[0].view(np.float32), planes[1 : 1 + bits.slots]
        dense = planes[1 + bits.slots :].view(np.float32)
        record = encode_episode(task, label, keys, dense)
        assert len(record) == 4 * (4 + planes.size)
        found_task, words = decode_episode(tf.constant(record), len(planes))
        assert int(found_task) == task
        np.testing.assert_array_equal(words.numpy(), planes)

    def test_without_dense_values(self):
        label, keys, _ = episode(3, 2)
        np.testing.assert_array_equal(
            decode_episode(tf.constant(encode_episode(3, label, keys)), 5)[1].numpy()[1:], keys
        )

    def test_a_float64_label_and_int64_keys_are_narrowed(self):
        label, keys, dense = episode(3, 2)
        assert encode_episode(
            3, label.astype(np.float64), keys.astype(np.int64), dense
        ) == encode_episode(3, label, keys, dense)

    @pytest.mark.parametrize("short", [0, 1, 2])
    def test_uneven_arrays(self, short):
        arrays = list(episode(7, 3))
        arrays[short] = arrays[short][..., :2]
        with pytest.raises(ValueError, match="task 7: expected as many keys and dense values as"):
            encode_episode(7, *arrays)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda record: b"",
            lambda record: record[:8],
            lambda record: record[:-4],
            lambda record: record + record[:4],
            lambda record: b"\x02" + record[1:],
        ],
        ids=["empty", "no header", "a word less", "a word more", "another format"],
    )
    def test_bytes_that_are_no_record(self, damage):
        record = encode_episode(7, *episode(7, 3))
        assert int(decode_episode(tf.constant(record), PLANES)[0]) == 7
        with pytest.raises(tf.errors.InvalidArgumentError, match="a record is not of this schema"):
            decode_episode(tf.constant(damage(record)), PLANES)

    def test_a_record_of_another_schema(self):
        record = encode_episode(7, *episode(7, 3))
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not of this schema: expected"):
            decode_episode(tf.constant(record), PLANES + 1)

    def test_planes_of_the_fields(self):
        assert num_planes(SCHEMA) == PLANES
        assert slot_ranges(SCHEMA) == [(5, 6), (1, 2), (2, 5)]


class TestSplitFiles:
    rows_of = (5, 1, 4, 4, 3, 2, 6)

    def test_read_gives_every_episode_once(self, tmp_path):
        made_records(tmp_path, self.rows_of, num_files=3)
        records = Records.open(tmp_path)
        found = list(records.read("train"))
        assert sorted(task for task, _ in found) == list(range(7))
        for task, words in found:
            label, keys, dense = episode(task, self.rows_of[task])
            expected = np.concatenate([label[None].view(np.int32), keys, dense.view(np.int32)])
            np.testing.assert_array_equal(words, expected)

    def test_index_points_at_the_records(self, tmp_path):
        records = made_records(tmp_path, self.rows_of, num_files=3)
        index = records.index("train")
        assert index.dtype == IndexEntry
        assert sorted(index["task"]) == list(range(7))
        for entry in index:
            content = pathlib.Path(records.files("train")[entry["file"]]).read_bytes()
            first = entry["offset"] + 12
            record = content[first : first + entry["length"]]
            assert record == encode_episode(entry["task"], *episode(entry["task"], entry["rows"]))
        assert index["rows"].tolist() == [self.rows_of[task] for task in index["task"]]
        order = list(zip(index["file"], index["offset"]))
        assert order == sorted(order)

    def test_files_are_even_by_rows(self, tmp_path):
        rows_of = [1 + 7 * task % 10 for task in range(100)]
        index = made_records(tmp_path, rows_of, num_files=4).index("train")
        rows = np.bincount(index["file"], weights=index["rows"], minlength=4)
        assert rows.sum() == sum(rows_of)
        assert rows.max() - rows.min() <= max(rows_of)

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


class TestDealFiles:
    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=40),
        size=st.integers(1, 9),
    )
    def test_each_file_once_and_even(self, rows, size):
        index = np.zeros(len(rows), IndexEntry)
        index["file"] = [file for file, _ in rows]
        index["rows"] = [number for _, number in rows]
        dealt = deal_files(index, 6, size)
        assert len(dealt) == size
        assert sorted(file for files in dealt for file in files) == list(range(6))
        of_file = np.bincount(index["file"], weights=index["rows"], minlength=6)
        load = [of_file[files].sum() for files in dealt]
        # The greedy rule's own bound: no rank is ahead of another by more than one file.
        assert max(load) - min(load) <= of_file.max()
        assert dealt == deal_files(index[::-1], 6, size)

    def test_by_hand(self):
        index = np.zeros(4, IndexEntry)
        index["file"], index["rows"] = [0, 1, 2, 3], [1, 5, 4, 3]
        assert deal_files(index, 4, 2) == [[0, 1], [2, 3]]
        assert deal_files(index, 4, 5) == [[1], [2], [3], [0], []]


class TestOpen:
    def test_gives_back_what_was_described(self, tmp_path):
        made = made_records(tmp_path, [2, 3])
        assert Records.open(str(tmp_path)) == made
        assert Records.open(tmp_path, SCHEMA) == made

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
        with pytest.raises(FileNotFoundError, match=r"is no records folder: .*gmeta-tf prepare"):
            Records.open(tmp_path / "nowhere")

    def test_another_version(self, tmp_path):
        values = made_records(tmp_path, [2]).describe() | {"format_version": 9}
        (tmp_path / "schema.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"format version 9, this version of gmeta_tf reads 1"):
            Records.open(tmp_path)

    def test_a_missing_file(self, tmp_path):
        pathlib.Path(made_records(tmp_path, [2, 3]).files("train")[1]).unlink()
        with pytest.raises(FileNotFoundError, match=r"train-00001-of-00002\.tfrecord is missing"):
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
            ("length", "names files or rows"),
            ("rows", "names files or rows"),
            ("file", "names files or rows"),
            ("offset", "does not follow its records"),
        ],
    )
    def test_an_index_that_lies(self, name, match, tmp_path):
        index = made_records(tmp_path, [2, 3]).index("train")
        index[name][-1] += 4
        np.save(tmp_path / "index-train.npy", index)
        with pytest.raises(ValueError, match=match):
            Records.open(tmp_path)

    @pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01"])
    def test_a_missing_or_damaged_index(self, content, tmp_path):
        made_records(tmp_path, [2, 3])
        path = tmp_path / "index-train.npy"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"index-train\.npy is missing or damaged"):
            Records.open(tmp_path)

    def test_an_index_of_another_kind(self, tmp_path):
        made_records(tmp_path, [2])
        np.save(tmp_path / "index-train.npy", np.zeros(3))
        with pytest.raises(ValueError, match=r"index-train\.npy has columns None, expected"):
            Records.open(tmp_path)

    def test_an_unknown_split(self, tmp_path):
        with pytest.raises(ValueError, match="has no split 'test'; it has train"):
            made_records(tmp_path, [2]).index("test")

    @pytest.mark.parametrize("byte", [3, 9, 20, 50, -2], ids=str)
    def test_a_flipped_bit_is_not_read_over(self, byte, tmp_path):
        path = pathlib.Path(made_records(tmp_path, [2, 3]).files("train")[0])
        content = bytearray(path.read_bytes())
        content[byte] ^= 1
        path.write_bytes(bytes(content))
        records = Records.open(tmp_path)
        with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
            list(records.read("train"))
