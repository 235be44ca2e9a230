"""A large file written from pieces, some of their bytes at a time, and its digest with it.

    pieces   | head |      rows       |    slots     |
    parts    |    64 MiB   |    64 MiB    |  64 MiB  |     a thread each

A thread takes one part: it asks the pieces for a few MiB, hashes them, writes them at their place
and goes on. So neither the file nor a piece is ever in memory whole, nothing is read again for the
digest, and the disk writes while the next part is hashed.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from gmeta_tf.meta_io.digest import PART_BYTES, FileDigest, digest_from_parts
from gmeta_tf.saving.writing import unwritten
from gmeta_tf.side_threads import side_by_side

__all__ = ["Piece", "write_digested"]

# More than cores, as some of them wait for the disk.
_THREADS = 4
# Large beside what an op costs, and few beside what a model takes.
_BLOCK_BYTES = 1 << 22


class Piece(NamedTuple):
    """Some of a file's bytes, which are made when they are written.

    Attributes:
        num_units: rows, or whatever its bytes come in.
        unit_bytes: of each.
        read: `first, last` -> the bytes of the units `first <= unit < last`, contiguous. Called
            from several threads.
    """

    num_units: int
    unit_bytes: int
    read: Callable[[int, int], memoryview]

    @classmethod
    def of(cls, content: bytes) -> Piece:
        """A piece of bytes that are there."""
        return cls(len(content), 1, lambda first, last: memoryview(content)[first:last])

    @property
    def num_bytes(self) -> int:
        """Its length in the file."""
        return self.num_units * self.unit_bytes

    def blocks(self, first: int, last: int) -> Iterator[memoryview]:
        """Its bytes `first <= byte < last`, a few MiB at a time."""
        units = max(1, _BLOCK_BYTES // self.unit_bytes)
        while first < last:
            unit = first // self.unit_bytes
            end = min(unit + units, -(-last // self.unit_bytes))
            start = unit * self.unit_bytes
            block = self.read(unit, end)[first - start : last - start]
            yield block
            first += len(block)


def write_digested(
    path: pathlib.Path, pieces: Sequence[Piece], *, shown: pathlib.Path
) -> FileDigest:
    """Writes a new file, which is on the disk when this returns.

    Args:
        path: the file.
        pieces: what it holds, one after the other.
        shown: the file, by the name to give it in errors.

    Returns:
        Its digest, as `digest_of_parts` gives it.

    Raises:
        OSError: it cannot be written; the message names `shown`.
    """
    num_bytes = sum(piece.num_bytes for piece in pieces)
    at_work = threading.Lock()
    try:
        with open(path, "wb", buffering=0) as file:

            def write(first: int) -> bytes:
                part = _write_part(file.fileno(), pieces, first, min(first + PART_BYTES, num_bytes))
                # Or all of it would be left to do at the end, when nothing is left to hash.
                if num_bytes > PART_BYTES and at_work.acquire(blocking=False):
                    try:
                        os.fdatasync(file.fileno())
                    finally:
                        at_work.release()
                return part

            firsts = range(0, max(num_bytes, 1), PART_BYTES)
            digests = side_by_side(write, firsts, _THREADS)
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritten(shown, error) from error
    return digest_from_parts(num_bytes, digests)


def _write_part(descriptor: int, pieces: Sequence[Piece], first: int, last: int) -> bytes:
    """Writes the file's bytes `first <= byte < last`: their SHA-256."""
    digest, start = hashlib.sha256(), 0
    for piece in pieces:
        end = start + piece.num_bytes
        position = max(first, start)
        for block in piece.blocks(position - start, min(last, end) - start):
            digest.update(block)
            _write_at(descriptor, block, position)
            position += len(block)
        start = end
    return digest.digest()


def _write_at(descriptor: int, block: memoryview, position: int) -> None:
    while len(block):
        written = os.pwrite(descriptor, block, position)
        block, position = block[written:], position + written
