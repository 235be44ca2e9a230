"""The frames of a TFRecord file: records to bytes and back, checked, without TensorFlow.

A record's frame is its length (8 bytes), the length's checksum (4), the content, and the content's
checksum (4). A checksum is CRC-32C, rotated and with a constant added.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator

import numpy as np
from google_crc32c import value as crc32c

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.records.codec import TFRECORD_FRAME_BYTES, TFRECORD_HEAD_BYTES

__all__ = ["frame", "frame_content", "frame_contents", "stored_frames"]

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_BLOCK_BYTES = 4 << 20


def frame(content: bytes) -> bytes:
    """A record as it lies in a file.

    Example:
        >>> frame(b"row").hex()
        '0300000000000000b099490e726f775761de72'
        >>> frame_contents(frame(b"row"), 0)
        [b'row']
    """
    length = _LENGTH.pack(len(content))
    return b"".join((length, _checksum(length), content, _checksum(content)))


def frame_contents(block: bytes, offset: int) -> list[bytes]:
    """The contents of adjacent records, checked.

    Args:
        block: whole frames, one after the other.
        offset: where in its file the block begins, for the message.

    Raises:
        ValueError: a checksum does not match, or the block ends within a record. It says what
            TensorFlow's own reader would.
    """
    return list(_contents(block, offset))


def frame_content(frame: bytes, offset: int) -> bytes:
    """The content of one record, checked; otherwise as `frame_contents`."""
    contents = frame_contents(frame, offset)
    if not contents:
        raise ValueError(f"truncated record at {offset}")
    if len(contents) > 1:
        raise ValueError(f"corrupted record at {offset}")
    return contents[0]


def stored_frames(path: str, entries: np.ndarray) -> Iterator[bytes]:
    """The frames of a file's records, not checked; a frame is cut where the file ends.

    Args:
        path: the file, local or remote.
        entries: `IndexEntry [n]`, the records; each begins where the one before it ends.
    """
    ends = (entries["offset"] + entries["length"] + TFRECORD_FRAME_BYTES).tolist()
    begins = entries["offset"].tolist()
    first = 0
    while first < len(ends):
        end = max(first + 1, bisect.bisect_right(ends, begins[first] + _BLOCK_BYTES))
        block = files.read_range(path, begins[first], ends[end - 1])
        for place in range(first, end):
            yield block[begins[place] - begins[first] : ends[place] - begins[first]]
        first = end


def _contents(block: bytes, offset: int) -> Iterator[bytes]:
    place = 0
    while place < len(block):
        head = block[place : place + TFRECORD_HEAD_BYTES]
        if len(head) < TFRECORD_HEAD_BYTES:
            raise ValueError(f"truncated record at {offset + place}")
        if head[8:] != _checksum(head[:8]):
            raise ValueError(f"corrupted record at {offset + place}")
        end = place + TFRECORD_FRAME_BYTES + _LENGTH.unpack_from(head)[0]
        if end > len(block):
            raise ValueError(f"truncated record at {offset + place}")
        content = block[place + TFRECORD_HEAD_BYTES : end - 4]
        if block[end - 4 : end] != _checksum(content):
            raise ValueError(f"corrupted record at {offset + place}")
        yield content
        place = end


def _checksum(content: bytes) -> bytes:
    crc = crc32c(content)
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
