"""Finds what is damaged in a folder of records: records, indexes, values and descriptions."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Iterator

import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.digest import fault_of
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.records.codec import TFRECORD_HEAD_BYTES
from gmeta_tf.meta_io.records.index_checks import index_chunks, index_faults
from gmeta_tf.meta_io.records.record_damage import Damage, damages_of_file
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sealed_json import fault_of_seal

__all__ = ["Verification", "describe_damage", "verify"]


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        damages: each damaged record once, and the faults of files and indexes.
        records: how many records there should be.
    """

    damages: tuple[Damage, ...]
    records: int

    @property
    def damaged_records(self) -> int:
        """How many records are damaged."""
        return sum(damage.offset is not None for damage in self.damages)

    @property
    def summary(self) -> str:
        """One line."""
        others = len(self.damages) - self.damaged_records
        also = f", and {others} fault(s) in indexes and files" if others else ""
        return f"{self.damaged_records:,} of {self.records:,} records are damaged{also}"


def verify(path: str) -> Verification:
    """Reads all of a records folder.

    Remote files are copied to a temporary folder first, one at a time: only a copy tells a damaged
    record from a broken connection.

    Raises:
        FileNotFoundError: there is no `schema.json`.
        ValueError: it does not describe records.
    """
    description = files.join(path, "schema.json")
    if not files.exists(description):
        raise FileNotFoundError(f"{path} is not a records folder: expected {description}.")
    records = Records.described(path)
    damages = list(_changed_description(description))
    num_records = 0
    for split in records.splits:
        index_path = files.join(path, records.contents[split].index)
        try:
            check_inside(path, records.contents[split].index)
            index = records.index(split)
        except ValueError as error:
            damages.append(Damage(index_path, None, str(error)))
            num_records += records.contents[split].episodes
            continue
        num_records += len(index)
        faults = index_faults(records, split, index, thorough=True)
        damages += [Damage(index_path, None, fault) for fault in faults]
        for number, name in enumerate(records.files(split)):
            entries = index[index["file"] == number]
            damages += damages_of_file(records, name, entries, is_whole=True)
    damages += _damages_of_values(records)
    damages += _changed_files(records)
    return Verification(tuple(damages), num_records)


def describe_damage(records: Records, split: str, error: BaseException) -> str | None:
    """The damaged records behind an error of tf.data, with their files' names.

    Reads only those records again that the error may be about.

    Args:
        records: what was read.
        split: which split of it.
        error: what the pipeline raised.

    Returns:
        The message; None where the error is not about a damaged record.
    """
    text = str(error)
    remedy = f"Run `gmeta-tf inspect {records.path} --verify`, and prepare the data again."
    named = re.search(r"a record is not what the index says.*?\] \[(.*?)\] \[(-?\d+)\]", text, re.S)
    framed = re.search(r"(?:corrupted|truncated) record at (\d+)", text)
    if named and int(named[2]) >= 0:
        offsets = {int(named[2])}
    elif framed:
        # The offset of the frame, or of the content in it.
        offsets = {int(framed[1]), int(framed[1]) - TFRECORD_HEAD_BYTES}
    elif named or "inflate()" in text:
        return f"{records.path}: a record of the split {split!r} cannot be decoded. {remedy}"
    else:
        return None
    suspects = [
        (name, entries)
        for name, entries in _entries_at(records, split, offsets)
        if not named or _same_name(name, named[1])
    ]
    damages = [
        damage for name, entries in suspects for damage in damages_of_file(records, name, entries)
    ]
    if damages:
        return f"{'; '.join(str(damage) for damage in damages)}. {remedy}"
    if not suspects:
        return None
    where = "; ".join(f"{name} at offset {entries['offset'][0]}" for name, entries in suspects)
    return (
        f"a record was read wrong, one of {where}. Read again it is sound: the file was being "
        "written, or a connection broke. Resume from the last checkpoint."
    )


def _damages_of_values(records: Records) -> Iterator[Damage]:
    """The faults of the vocabularies and of the tasks' file."""
    # Here, since it needs DuckDB, for which whoever explains a damaged record must not wait.
    from gmeta_tf.meta_io.records.value_tables import value_faults

    sizes = {table.name: table.num_rows for table in records.schema.tables}
    tables: list[tuple[str, str, int | None, int | None]] = [
        (name, "key", 1, None if (size := sizes.get(table)) is None else size - 1)
        for table, name in records.vocabularies.items()
    ]
    if records.tasks:
        tables.append((records.tasks, "task", None, None))
    for name, number, begin, expected in tables:
        path = files.join(records.path, name)
        try:
            check_inside(records.path, name)
        except ValueError as error:
            yield Damage(path, None, str(error))
            continue
        faults = value_faults(path, number, begin=begin, expected=expected)
        yield from (Damage(path, None, fault) for fault in faults)


def _changed_description(path: str) -> Iterator[Damage]:
    """Whether `schema.json` is not as `prepare` wrote it; earlier versions wrote no digest."""
    content = files.read_bytes(path)
    if "digest" in json.loads(content) and (fault := fault_of_seal(content)) is not None:
        yield Damage(path, None, f"it {fault}: it was changed since it was prepared")


def _changed_files(records: Records) -> Iterator[Damage]:
    """The files that are not as `prepare` wrote them; earlier versions kept no digests."""
    for name, saved in records.digests.items():
        path = files.join(records.path, name)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ValueError, OSError):
            # What is not there, or not inside the folder, has been told already.
            check_inside(records.path, name)
            if (fault := fault_of(pathlib.Path(files.local_copy(path, folder)), saved)) is not None:
                yield Damage(path, None, fault.partition(": ")[2])


def _entries_at(
    records: Records, split: str, offsets: set[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """The files that have a record at one of the offsets, and the entries of those records."""
    names = records.files(split)
    for entries in index_chunks(records.index(split)):
        there = np.isin(entries["offset"], list(offsets)) & (entries["file"] < len(names))
        for position in np.flatnonzero(there):
            yield names[entries["file"][position]], entries[position : position + 1]


def _same_name(name: str, shown: str) -> bool:
    return name == shown.strip('"') or name == shown
