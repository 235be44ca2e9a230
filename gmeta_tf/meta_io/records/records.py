"""A records folder, opened and checked.

docs/meta_io.md describes the folder, `codec` one record.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gmeta_tf.allowed import COMPRESSIONS, check_word
from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.meta_io.inside import check_inside, is_inside_name
from gmeta_tf.meta_io.records.codec import (
    FORMAT_VERSION,
    TFRECORD_FRAME_BYTES,
    IndexEntry,
    decode_episode,
    num_planes,
)
from gmeta_tf.meta_io.records.frames import frame_content, stored_frames
from gmeta_tf.meta_io.records.index_checks import index_chunks, index_faults
from gmeta_tf.schema import Schema

__all__ = ["Records", "SplitFiles"]


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """One split of a records folder.

    Attributes:
        files: the names of the record files; `IndexEntry`'s `file` counts in it.
        index: the name of the index file.
        tasks: how many tasks there are.
        episodes: how many records.
        rows: how many rows.
    """

    files: tuple[str, ...]
    index: str
    tasks: int
    episodes: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Records:
    """A records folder, opened and checked.

    Attributes:
        path: the folder, local or of a remote file system (see `files`).
        schema: what a row is, table sizes included.
        contents: the files and counts of each split.
        vocabularies: table name -> the name of the Parquet file with its values and keys.
        tasks: the name of the Parquet file with the values behind the task numbers.
        compression: of each record: "none" or "zlib".
        episode_rows: the most rows of an episode.
        generation: how often the folder was appended to.
        details: counts, seeds, where the data came from.
        digests: name of a file -> its size and SHA-256, for those without checksums of their own
            (indexes, vocabularies, the tasks' file); empty where an earlier version prepared them.
    """

    path: str
    schema: Schema
    contents: Mapping[str, SplitFiles]
    vocabularies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: str = ""
    compression: str = "none"
    episode_rows: int = 1024
    generation: int = 0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, FileDigest] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str], schema: Schema | None = None) -> Records:
        """Opens a folder and checks that it is whole.

        Args:
            path: what `gmeta-tf prepare` wrote.
            schema: what the caller expects; None takes the folder's.

        Raises:
            FileNotFoundError: no such folder, or it lacks `schema.json` or a file.
            ValueError: another format version or schema, an impossible index, or a file
                of another length than the index says.
        """
        path = os.fspath(path)
        description = files.join(path, "schema.json")
        if not files.exists(description):
            raise FileNotFoundError(
                f"{path} is not a records folder: expected {description}. "
                f"Make one with `gmeta-tf prepare --output {path}`."
            )
        records = cls.described(path)
        for name in records.named_files:
            check_inside(path, name)
        if schema is not None and _without_sizes(schema) != _without_sizes(records.schema):
            raise ValueError(
                f"{path} holds records of another schema: expected {_without_sizes(schema)}, "
                f"found {_without_sizes(records.schema)}. Prepare the data again or pass the "
                "other folder."
            )
        for split in records.splits:
            records._check_files(split)
        return records

    @classmethod
    def described(cls, path: str | os.PathLike[str]) -> Records:
        """The records that a folder's `schema.json` describes; no other file is looked at.

        Raises:
            FileNotFoundError: there is no `schema.json`.
            ValueError: it is not a file in the folder, or as `from_json`.
        """
        path = os.fspath(path)
        check_inside(path, "schema.json")
        return cls.from_json(path, files.read_bytes(files.join(path, "schema.json")))

    @classmethod
    def from_json(cls, path: str, text: str | bytes) -> Records:
        """The records that a `schema.json` describes, unchecked but for the names of its files.

        Raises:
            ValueError: it has another format version, does not describe records, or names a file
                outside of the folder.
        """
        try:
            values = json.loads(text)
            version = values["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: schema.json does not describe records: {error!r}. Prepare the data again."
            ) from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version!r}, this version of gmeta_tf reads "
                f"{FORMAT_VERSION}. Prepare the data again."
            )
        try:
            contents = {
                name: SplitFiles(**{**split, "files": tuple(split["files"])})
                for name, split in values["splits"].items()
            }
            described = {name: values[name] for name in _DESCRIBED}
            _check_kinds(contents, described)
            digests = {
                name: FileDigest(bytes=int(saved["bytes"]), sha256=str(saved["sha256"]))
                for name, saved in values.get("digests", {}).items()
            }
            schema = Schema.from_json(values["schema"])
            records = cls(path, schema, contents, **described, digests=digests)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path}: schema.json does not describe records: {error!r}. Prepare the data again."
            ) from error
        for name in records.named_files:
            if not is_inside_name(name):
                raise ValueError(
                    f"{path}: schema.json names the file {name!r}: expected a name inside the "
                    "folder, without `..` and not absolute. Prepare the data again."
                )
        return records

    def describe(self) -> dict[str, Any]:
        """What `schema.json` holds, as JSON values."""
        splits = {name: dataclasses.asdict(split) for name, split in self.contents.items()}
        return {
            "format_version": FORMAT_VERSION,
            "schema": self.schema.to_json(),
            "splits": json.loads(json.dumps(splits)),
            **{name: getattr(self, name) for name in _DESCRIBED},
            **({"digests": dict(self.digests)} if self.digests else {}),
        }

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits' names."""
        return tuple(self.contents)

    @property
    def named_files(self) -> tuple[str, ...]:
        """The names of all files that `schema.json` names."""
        tables = (*self.vocabularies.values(), *([self.tasks] if self.tasks else ()))
        splits = (name for one in self.contents.values() for name in (one.index, *one.files))
        return (*tables, *splits)

    def index(self, split: str) -> np.ndarray:
        """The index of a split, `IndexEntry [episodes]`, mapped into memory where possible.

        Raises:
            ValueError: no such split, or the index is missing or damaged.
        """
        name = self._split(split).index
        path = files.join(self.path, name)
        try:
            # A mapped file stays readable when its name is gone.
            with files.as_local(path) as local:
                index = np.lib.format.open_memmap(local, mode="r")
        except Exception as error:  # on a damaged header NumPy raises nearly anything
            raise ValueError(
                f"{path} is missing or damaged: {error}. Prepare the data again."
            ) from error
        if index.dtype != IndexEntry or index.ndim != 1:
            raise ValueError(
                f"{path} has columns {index.dtype.names}, expected {IndexEntry.names}. "
                "Prepare the data again."
            )
        return index

    def files(self, split: str) -> list[str]:
        """The paths of a split's files; `IndexEntry`'s `file` counts in it."""
        return [files.join(self.path, name) for name in self._split(split).files]

    def read(self, split: str) -> Iterator[tuple[int, np.ndarray]]:
        """Every episode of a split, one after the other: `(task, words int32 [C, n])`.

        Raises:
            ValueError: a record is damaged; the message names its file and offset.
        """
        index = self.index(split)
        for file, name in enumerate(self.files(split)):
            yield from self._read_file(name, index[index["file"] == file])

    def _read_file(self, name: str, entries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        planes = num_planes(self.schema)
        for entry, stored in zip(entries, stored_frames(name, entries), strict=True):
            try:
                record = self._unpacked(frame_content(stored, int(entry["offset"])))
                task, part, words = decode_episode(record, planes)
                if (task, part, words.shape[1]) != (entry["task"], entry["part"], entry["rows"]):
                    raise ValueError("its task, part or rows differ from the index")
            except (ValueError, zlib.error) as error:
                raise ValueError(
                    f"{name}: the record at offset {entry['offset']} is damaged: "
                    f"{_first_line(error)}. Prepare the data again."
                ) from error
            yield task, words

    def _unpacked(self, record: bytes) -> bytes:
        return zlib.decompress(record) if self.compression == "zlib" else record

    def _split(self, split: str) -> SplitFiles:
        if split not in self.contents:
            raise ValueError(
                f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}."
            )
        return self.contents[split]

    def _check_files(self, split: str) -> None:
        index = self.index(split)
        for fault in index_faults(self, split, index, thorough=False):
            raise ValueError(
                f"{files.join(self.path, self.contents[split].index)}: {fault}. Prepare the data "
                "again."
            )
        names = self.files(split)
        expected = np.zeros(len(names), np.int64)
        for entries in index_chunks(index):
            framed = entries["length"].astype(np.int64) + TFRECORD_FRAME_BYTES
            for file in np.unique(entries["file"]):
                own = entries["file"] == file
                offsets = expected[file] + np.cumsum(framed[own]) - framed[own]
                if not np.array_equal(offsets, entries["offset"][own]):
                    raise ValueError(
                        f"the index of {names[file]} does not follow its records. "
                        "Prepare the data again."
                    )
                expected[file] += framed[own].sum()
        for name, length in zip(names, expected, strict=True):
            if not files.exists(name):
                raise FileNotFoundError(f"{name} is missing. Prepare the data again.")
            found = files.size(name)
            if found != length:
                raise ValueError(
                    f"{name} is {found} bytes long, its index says {length}: it was cut or "
                    "overwritten. Prepare the data again."
                )


_DESCRIBED = ("vocabularies", "tasks", "compression", "episode_rows", "generation", "details")


def _check_kinds(contents: Mapping[str, SplitFiles], described: Mapping[str, Any]) -> None:
    for split in contents.values():
        if not all(isinstance(name, str) for name in (split.index, *split.files)):
            raise TypeError("expected names of files and of an index")
        if not all(isinstance(n, int) for n in (split.tasks, split.episodes, split.rows)):
            raise TypeError("expected numbers of tasks, episodes and rows")
    check_word("compression", described["compression"], COMPRESSIONS)
    for name in ("episode_rows", "generation"):
        if not isinstance(described[name], int) or described[name] < 0:
            raise TypeError(f"expected a number of {name}, got {described[name]!r}")
    vocabularies = described["vocabularies"]
    if not all(isinstance(name, str) for name in (*vocabularies.values(), described["tasks"])):
        raise TypeError("expected names of vocabularies and of the tasks' file")
    if not isinstance(described["details"], dict):
        raise TypeError("expected details")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_sizes(schema: Schema) -> Schema:
    tables = tuple(dataclasses.replace(table, num_rows=None, width=None) for table in schema.tables)
    fields = tuple(dataclasses.replace(field, fitted=None) for field in schema.fields)
    return dataclasses.replace(
        schema, fields=fields, tables=tables, positive_from=None, tables_to_join=()
    )
