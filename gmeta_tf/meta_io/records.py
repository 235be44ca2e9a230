"""Episode records: the codec of one, the files that hold them, and the index over them.

A records folder:

    schema.json              format version, schema with table sizes, what was prepared
    index-<split>.npy        one row a record: file, offset, length, rows, task
    <split>-00003-of-00016.tfrecord
    tasks.parquet            task number -> the task column's value, split, rows
    vocabulary/<table>.parquet   value -> key

A record is one episode: the rows of one task, in time order where there is a time column. The
files are TFRecord files (their framing has a CRC-32C a record), and a record's bytes are
little-endian 32-bit words:

    word 0        the format, 0x474D0001
    word 1        n, the number of rows
    words 2, 3    the task number, low word first
    then planes of n words, column after column:
        the label (float32), each slot of each key field (int32, -1 is padding),
        each dense field (float32); fields in the schema's order
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.schema import Schema

__all__ = ["FORMAT_VERSION", "IndexEntry", "Records", "decode_episode", "encode_episode"]

FORMAT_VERSION = 1
HEADER_WORDS = 4
_MAGIC = 0x474D0001
_TFRECORD_HEAD_BYTES = 12
_TFRECORD_FOOT_BYTES = 4

IndexEntry = np.dtype(
    [("file", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("rows", "<i4"), ("task", "<i8")]
)


def num_planes(schema: Schema) -> int:
    """C, the words that a row takes in a record."""
    return 1 + sum(field.num_slots for field in schema.fields)


def encode_episode(
    task: int, label: np.ndarray, keys: np.ndarray, dense: np.ndarray | None = None
) -> bytes:
    """The bytes of one record.

    Args:
        task: the task's number.
        label: float32 `[n]`.
        keys: int32 `[slots, n]`, the key fields' slots in the schema's order; -1 is padding.
        dense: float32 `[num_dense, n]`.

    Raises:
        ValueError: the arrays do not hold the same number of rows.
    """
    label = np.asarray(label, "<f4")
    keys = np.asarray(keys, "<i4")
    dense = np.zeros([0, len(label)], "<f4") if dense is None else np.asarray(dense, "<f4")
    if not len(label) == keys.shape[1] == dense.shape[1]:
        raise ValueError(
            f"task {task}: expected as many keys and dense values as labels, got "
            f"{len(label)} labels, {keys.shape[1]} keys and {dense.shape[1]} dense values."
        )
    header = np.array([_MAGIC, len(label), task & 0xFFFFFFFF, task >> 32], "<i8").astype("<u4")
    return b"".join(part.tobytes() for part in (header, label, keys, dense))


def decode_episode(record: tf.Tensor, planes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The task and the planes of one record, in TensorFlow ops.

    Args:
        record: string scalar.
        planes: C of the schema.

    Returns:
        The task number, an int64 scalar, and the words, int32 `[C, n]`.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not a record of C planes.
    """
    words = tf.io.decode_raw(record, tf.int32, little_endian=True)
    size = tf.size(words)
    header = tf.cond(
        size >= HEADER_WORDS,
        lambda: words[:HEADER_WORDS],
        lambda: tf.zeros([HEADER_WORDS], tf.int32),
    )
    fits = tf.logical_and(
        tf.equal(header[0], _MAGIC), tf.equal(size, HEADER_WORDS + planes * header[1])
    )
    with tf.control_dependencies(
        [
            tf.debugging.Assert(
                fits,
                [
                    "a record is not of this schema: expected",
                    planes,
                    "planes under the header; words and header are",
                    size,
                    header,
                    ". Prepare the data again with this version and schema.",
                ],
            )
        ]
    ):
        # The reshape too: in a graph its own message would otherwise win over the one above.
        return (
            tf.bitcast(header[2:4], tf.int64),
            tf.reshape(words[HEADER_WORDS:], [planes, header[1]]),
        )


def write_split(
    folder: pathlib.Path, split: str, episodes: Iterable[tuple[int, int, bytes]], num_files: int
) -> np.ndarray:
    """Writes one split's files and its index.

    Episodes are dealt to the files by rows, each to the file that has the fewest, so that files
    (and the ranks that share them out) are even.

    Args:
        folder: the records folder, there already.
        split: the split's name.
        episodes: `(task, rows, record)` of each episode.
        num_files: how many files to write.

    Returns:
        The index, `IndexEntry [episodes]`, in the order of file and offset.
    """
    writers = [
        tf.io.TFRecordWriter(str(folder / _file_name(split, file, num_files)))
        for file in range(num_files)
    ]
    offsets = np.zeros(num_files, np.int64)
    rows_of = np.zeros(num_files, np.int64)
    entries = []
    for task, rows, record in episodes:
        file = int(np.argmin(rows_of))
        writers[file].write(record)
        entries.append((file, offsets[file], len(record), rows, task))
        offsets[file] += _TFRECORD_HEAD_BYTES + len(record) + _TFRECORD_FOOT_BYTES
        rows_of[file] += rows
    for writer in writers:
        writer.close()
    index = np.array(entries, IndexEntry)
    index = index[np.lexsort([index["offset"], index["file"]])]
    np.save(folder / f"index-{split}.npy", index, allow_pickle=False)
    return index


def _file_name(split: str, file: int, num_files: int) -> str:
    return f"{split}-{file:05d}-of-{num_files:05d}.tfrecord"


@dataclasses.dataclass(frozen=True)
class Records:
    """A records folder, opened and checked.

    Attributes:
        path: the folder.
        schema: what a row is, table sizes included.
        splits: the splits' names.
        num_files: the files of each split.
        details: the rest of `schema.json`: counts, seeds, where the data came from.
    """

    path: pathlib.Path
    schema: Schema
    splits: tuple[str, ...]
    num_files: int
    details: dict[str, Any]

    @classmethod
    def open(cls, path: str | pathlib.Path, schema: Schema | None = None) -> Records:
        """Opens a folder and checks that it is whole.

        Args:
            path: what `gmeta-tf prepare` wrote.
            schema: what the caller expects; None takes the folder's.

        Raises:
            FileNotFoundError: no such folder, or it lacks `schema.json` or a file.
            ValueError: another format version or schema, or a file of another length than the
                index says.
        """
        path = pathlib.Path(path)
        description = path / "schema.json"
        if not description.is_file():
            raise FileNotFoundError(
                f"{path} is no records folder: expected {description}. "
                f"Make one with `gmeta-tf prepare --output {path}`."
            )
        values = json.loads(description.read_text(encoding="utf-8"))
        if values.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {values.get('format_version')!r}, this version of "
                f"gmeta_tf reads {FORMAT_VERSION}. Prepare the data again."
            )
        found = Schema.from_json(values["schema"])
        if schema is not None and _without_sizes(schema) != _without_sizes(found):
            raise ValueError(
                f"{path} holds records of another schema: expected {_without_sizes(schema)}, "
                f"found {_without_sizes(found)}. Prepare the data again or pass the other folder."
            )
        records = cls(
            path, found, tuple(values["splits"]), int(values["num_files"]), values["details"]
        )
        for split in records.splits:
            records._check_files(split)
        return records

    def describe(self) -> dict[str, Any]:
        """What `schema.json` holds, as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "schema": self.schema.to_json(),
            "splits": list(self.splits),
            "num_files": self.num_files,
            "details": self.details,
        }

    def index(self, split: str) -> np.ndarray:
        """The index of a split, `IndexEntry [episodes]`.

        Raises:
            ValueError: no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}."
            )
        path = self.path / f"index-{split}.npy"
        try:
            index = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} is missing or damaged: {error}. Prepare the data again."
            ) from error
        if index.dtype != IndexEntry:
            raise ValueError(
                f"{path} has columns {index.dtype.names}, expected {IndexEntry.names}. "
                "Prepare the data again."
            )
        return index

    def files(self, split: str) -> list[str]:
        """The paths of a split's files; `IndexEntry`'s `file` counts in it."""
        return [
            str(self.path / _file_name(split, file, self.num_files))
            for file in range(self.num_files)
        ]

    def read(self, split: str) -> Iterable[tuple[int, np.ndarray]]:
        """Every episode of a split, one after the other: `(task, words int32 [C, n])`."""
        planes = num_planes(self.schema)
        for record in tf.data.TFRecordDataset(self.files(split)):
            task, words = decode_episode(record, planes)
            yield int(task), words.numpy()

    def _check_files(self, split: str) -> None:
        index = self.index(split)
        framed = index["length"].astype(np.int64) + _TFRECORD_HEAD_BYTES + _TFRECORD_FOOT_BYTES
        words = HEADER_WORDS + num_planes(self.schema) * index["rows"].astype(np.int64)
        known = np.isin(index["file"], range(self.num_files))
        if not (known & (index["length"] == 4 * words)).all():
            raise ValueError(
                f"the index of the split {split!r} in {self.path} names files or rows that the "
                "records can not have. Prepare the data again."
            )
        for file, name in enumerate(self.files(split)):
            own = index["file"] == file
            if not np.array_equal(np.cumsum(framed[own]) - framed[own], index["offset"][own]):
                raise ValueError(
                    f"the index of {name} does not follow its records. Prepare the data again."
                )
            expected = int(framed[own].sum())
            if not pathlib.Path(name).is_file():
                raise FileNotFoundError(f"{name} is missing. Prepare the data again.")
            found = pathlib.Path(name).stat().st_size
            if found != expected:
                raise ValueError(
                    f"{name} is {found} bytes long, its index says {expected}: it was cut or "
                    "overwritten. Prepare the data again."
                )


def deal_files(index: np.ndarray, num_files: int, size: int) -> list[list[int]]:
    """Which rank reads which files, even by rows: the largest file first, to the least laden rank.

    Every rank computes the whole list, so that each knows how many steps the others have.

    Args:
        index: `IndexEntry [episodes]`.
        num_files: the files of the split.
        size: W.

    Returns:
        The files of each rank; a rank may have none.
    """
    rows_of = np.bincount(index["file"], weights=index["rows"], minlength=num_files)
    load = np.zeros(size)
    dealt: list[list[int]] = [[] for _ in range(size)]
    for file in np.argsort(-rows_of, kind="stable"):
        rank = int(np.argmin(load))
        dealt[rank].append(int(file))
        load[rank] += rows_of[file]
    return [sorted(files) for files in dealt]


def _without_sizes(schema: Schema) -> Schema:
    tables = tuple(dataclasses.replace(table, num_rows=None, width=None) for table in schema.tables)
    return dataclasses.replace(schema, tables=tables, positive_from=None)


def slot_ranges(schema: Schema) -> Sequence[tuple[int, int]]:
    """The planes `[first, last)` of each field of the schema, in the schema's order.

    Key fields come first in a record and dense ones last.
    """
    first_of = {}
    plane = 1
    for field in (*schema.key_fields, *schema.dense_fields):
        first_of[field.name] = (plane, plane + field.num_slots)
        plane += field.num_slots
    return [first_of[field.name] for field in schema.fields]
