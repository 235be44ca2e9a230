"""Finds the damaged records of a file, by offset.

The framing of every record, its int32 words and the index are compared with one another. A damaged
record hides no other: the index says where the next one begins, and a length in a file counts only
where its checksum and the index agree with it.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zlib
from collections.abc import Iterator

import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.records.codec import (
    HEADER_WORDS,
    TFRECORD_FRAME_BYTES,
    TFRECORD_HEAD_BYTES,
    decode_episode,
    num_planes,
)
from gmeta_tf.meta_io.records.frames import frame_content, stored_frames
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.word_checks import reasons_of_words

__all__ = ["Damage", "damages_of_file", "read_episode"]

_BLOCK_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Damage:
    """A fault, and where it is.

    Attributes:
        path: the file.
        offset: where in it the record's frame begins; None for a fault of the whole file.
        reason: what was expected and what was found.
    """

    path: str
    offset: int | None
    reason: str

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at offset {self.offset}"
        return f"{self.path}{where}: {self.reason}"


def read_episode(records: Records, split: str, position: int) -> np.ndarray:
    """The planes, int32 `[C, n]`, of the record at a position of the index.

    Raises:
        ValueError: it is damaged; the message names its file and offset.
    """
    entry = records.index(split)[position : position + 1]
    name = records.files(split)[int(entry["file"][0])]
    try:
        [(_, stored)] = _stored(name, records.index(split), np.array([position]))
        if stored is None:
            raise ValueError("its checksum does not match")
        content = _unpacked(stored, records.compression, _num_bytes(records, entry)[0])
        _, _, words = decode_episode(content, num_planes(records.schema))
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"{name}: the record at offset {entry['offset'][0]} is damaged: {error}."
        ) from error
    return words


def damages_of_file(
    records: Records, path: str, entries: np.ndarray, *, is_whole: bool = False
) -> list[Damage]:
    """The damages of the entries' records, and of the file if these are all of its records."""
    damages: list[Damage] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not files.exists(path):
                raise FileNotFoundError("the file is missing")
            check_inside(records.path, path[len(files.join(records.path, "")) :])
            local = files.local_copy(path, folder)
            reasons = _reasons_of_frames(local, entries)
            if is_whole:
                damages += _gaps(path, files.size(local), entries)
        except (OSError, ValueError) as error:
            if not len(entries):
                return [Damage(path, None, str(error))]
            return [Damage(path, int(offset), str(error)) for offset in entries["offset"]]
        sound = np.array([position not in reasons for position in range(len(entries))], bool)
        for block in _blocks(entries, sound):
            reasons |= _reasons_of_block(records, local, entries, block)
    return damages + [
        Damage(path, int(entries["offset"][position]), reasons[position])
        for position in sorted(reasons)
    ]


def _reasons_of_frames(path: str, entries: np.ndarray) -> dict[int, str]:
    """Faults in where records lie and in their stated lengths, by position."""
    reasons = {}
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offsets, lengths = entries["offset"].tolist(), entries["length"].tolist()
        heads = np.zeros([len(entries), TFRECORD_HEAD_BYTES], np.uint8)
        for position, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
            if offset < 0 or length < 1 or offset + length + TFRECORD_FRAME_BYTES > size:
                reasons[position] = f"the file ends at {size}, before its {length} bytes do"
                continue
            # Not a mapped file: a page of one that has shrunk would end the process.
            head = os.pread(file.fileno(), TFRECORD_HEAD_BYTES, offset)
            heads[position, : len(head)] = np.frombuffer(head, np.uint8)
    stated, checksums = heads[:, :8].copy().view("<u8")[:, 0], heads[:, 8:].copy().view("<u4")[:, 0]
    is_true = _masked_crc32c(heads[:, :8]) == checksums
    is_fault = ~is_true | (stated != entries["length"].astype(np.uint64))
    for position in np.flatnonzero(is_fault).tolist():
        reason = "the checksum of its length does not match"
        if is_true[position]:
            reason = f"it is {stated[position]} bytes long, the index says {lengths[position]}"
        reasons.setdefault(position, reason)
    return reasons


def _gaps(path: str, size: int, entries: np.ndarray) -> Iterator[Damage]:
    """The first bytes of a file that no record of the index covers, or two do."""
    order = np.argsort(entries["offset"], kind="stable")
    ends = entries["offset"] + entries["length"] + TFRECORD_FRAME_BYTES
    begins, ends = np.append(entries["offset"][order], size), np.append(0, ends[order])
    for position in np.flatnonzero(begins != ends)[:1]:
        what = "its end" if position == len(entries) else "the next one's begin"
        yield Damage(
            path,
            None,
            f"by the index a record ends at {ends[position]}, and {what} is {begins[position]}",
        )


def _blocks(entries: np.ndarray, sound: np.ndarray) -> list[np.ndarray]:
    """Runs of adjacent records with sound frames."""
    positions = np.flatnonzero(sound)
    ends = entries["offset"] + entries["length"] + TFRECORD_FRAME_BYTES
    follows = entries["offset"][positions[1:]] == ends[positions[:-1]]
    block = entries["offset"][positions] // _BLOCK_BYTES
    cuts = np.flatnonzero(~follows | (np.diff(block) != 0)) + 1
    return [run for run in np.split(positions, cuts) if len(run)]


def _reasons_of_block(
    records: Records, path: str, entries: np.ndarray, block: np.ndarray
) -> dict[int, str]:
    """Faults in the contents of records, by position."""
    reasons: dict[int, str] = {}
    contents = {}
    num_bytes = dict(zip(block.tolist(), _num_bytes(records, entries[block]), strict=True))
    for position, stored in _stored(path, entries, block):
        try:
            if stored is None:
                raise ValueError("the checksum of its content does not match")
            content = _unpacked(stored, records.compression, num_bytes[position])
            if len(content) != num_bytes[position]:
                raise ValueError(
                    f"it holds {len(content)} bytes, its rows in the index need "
                    f"{num_bytes[position]}"
                )
            contents[position] = content
        except (ValueError, zlib.error) as error:
            reasons[position] = str(error)
    if contents:
        positions = np.array(list(contents))
        words = np.frombuffer(b"".join(contents.values()), "<i4")
        found = reasons_of_words(records.schema, words, entries[positions])
        reasons |= {int(positions[index]): reason for index, reason in found.items()}
    return reasons


def _stored(
    path: str, entries: np.ndarray, block: np.ndarray
) -> Iterator[tuple[int, bytes | None]]:
    """The bytes of each record of a block, None where their checksum does not match."""
    frames = stored_frames(path, entries[block])
    for position, offset, frame in zip(
        block.tolist(), entries["offset"][block], frames, strict=True
    ):
        try:
            yield position, frame_content(frame, int(offset))
        except ValueError:
            yield position, None


def _unpacked(stored: bytes, compression: str, num_bytes: int) -> bytes:
    """A record's content, unpacked up to one byte too many."""
    if compression == "none":
        return stored
    stream = zlib.decompressobj()
    content = stream.decompress(stored, num_bytes + 1)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"its compressed content is not {num_bytes} bytes long")
    return content


def _num_bytes(records: Records, entries: np.ndarray) -> list[int]:
    words = HEADER_WORDS + num_planes(records.schema) * entries["rows"].astype(np.int64)
    return (4 * words).tolist()


def _masked_crc32c(columns: np.ndarray) -> np.ndarray:
    """TFRecord's checksum of each row, uint8 `[n, bytes]` to uint32 `[n]`."""
    crc = np.full(len(columns), 0xFFFFFFFF, np.uint32)
    for column in columns.T:
        crc = _CRC32C[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def _crc32c_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


_CRC32C = _crc32c_table()
