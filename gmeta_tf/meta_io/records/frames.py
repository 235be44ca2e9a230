"""A part of a TFRecord file, as bytes, to the records in it, for where TensorFlow cannot open it.

A record's frame is its length (8 bytes), the length's checksum (4), the content, and the content's
checksum (4). A checksum is CRC-32C, rotated and with a constant added.
"""

from __future__ import annotations

import importlib
import struct

from gmeta_tf.meta_io.records.codec import TFRECORD_FRAME_BYTES, TFRECORD_HEAD_BYTES

__all__ = ["frame_contents"]

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


def frame_contents(block: bytes, offset: int) -> list[bytes]:
    """The contents of adjacent records, checked.

    Args:
        block: whole frames, one after the other.
        offset: where in its file the block begins, for the message.

    Raises:
        ValueError: a checksum does not match, or the block ends within a record. It says what
            TensorFlow's own reader would.
    """
    # Not at the top: only remote files need the package.
    crc32c = importlib.import_module("google_crc32c").value
    contents, place = [], 0
    while place < len(block):
        head = block[place : place + TFRECORD_HEAD_BYTES]
        if len(head) < TFRECORD_HEAD_BYTES:
            raise ValueError(f"truncated record at {offset + place}")
        if not _fits(head[8:], crc32c(head[:8])):
            raise ValueError(f"corrupted record at {offset + place}")
        end = place + TFRECORD_FRAME_BYTES + _LENGTH.unpack_from(head)[0]
        if end > len(block):
            raise ValueError(f"truncated record at {offset + place}")
        content = block[place + TFRECORD_HEAD_BYTES : end - 4]
        if not _fits(block[end - 4 : end], crc32c(content)):
            raise ValueError(f"corrupted record at {offset + place}")
        contents.append(content)
        place = end
    return contents


def _fits(stored: bytes, crc: int) -> bool:
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return _CHECKSUM.unpack(stored)[0] == masked
