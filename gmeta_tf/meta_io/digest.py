"""The size and the SHA-256 of a file, and whether it still has them."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence
from typing import TypedDict

from gmeta_tf.side_threads import side_by_side

__all__ = [
    "PART_BYTES",
    "FileDigest",
    "digest_from_parts",
    "digest_of",
    "digest_of_parts",
    "fault_of",
]

PART_BYTES = 1 << 26
_PIECE_BYTES = 1 << 20
_OF_PARTS = "parts of 64 MiB: "


class FileDigest(TypedDict):
    """What is kept of a file: its size, and SHA-256 as 64 hexadecimal digits.

    After `_OF_PARTS` they are of the digests of the file's parts, 32 bytes each, see
    `digest_of_parts`.
    """

    bytes: int
    sha256: str


def digest_of(path: pathlib.Path) -> FileDigest:
    """Reads a file once.

    Raises:
        OSError: it cannot be read.
    """
    digest, length = _digest(path, 0, None)
    return {"bytes": length, "sha256": digest.hex()}


def digest_of_parts(path: pathlib.Path) -> FileDigest:
    """`digest_of` of a small file; the parts of a large one are hashed side by side.

    One core hashes more slowly than a disk of today reads.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size <= PART_BYTES:
        return digest_of(path)
    # Hashing leaves Python's lock.
    firsts = range(0, size, PART_BYTES)
    parts = side_by_side(lambda first: _digest(path, first, PART_BYTES), firsts)
    return digest_from_parts(sum(length for _, length in parts), [digest for digest, _ in parts])


def digest_from_parts(num_bytes: int, digests: Sequence[bytes]) -> FileDigest:
    """What `digest_of_parts` gives, of parts that were hashed elsewhere.

    Args:
        num_bytes: the file's.
        digests: SHA-256 of each `PART_BYTES` of it, in order, the last of them shorter; at least
            one.
    """
    if len(digests) == 1:
        return {"bytes": num_bytes, "sha256": digests[0].hex()}
    whole = hashlib.sha256(b"".join(digests)).hexdigest()
    return {"bytes": num_bytes, "sha256": f"{_OF_PARTS}{whole}"}


def _digest(path: pathlib.Path, first: int, most: int | None) -> tuple[bytes, int]:
    """The digest and the length of `most` bytes of a file from `first` on, or of all of them."""
    # Not hashlib.file_digest, which Python 3.10 does not have.
    digest, length, piece = hashlib.sha256(), 0, memoryview(bytearray(_PIECE_BYTES))
    with open(path, "rb", buffering=0) as file:
        file.seek(first)
        while count := file.readinto(piece if most is None else piece[: most - length]):
            digest.update(piece[:count])
            length += count
    return digest.digest(), length


def fault_of(path: pathlib.Path, expected: FileDigest) -> str | None:
    """What was expected and what was found; None where the file is as it was."""
    try:
        size = path.stat().st_size
        # The size is told by the file system: a file that was cut need not be read.
        if size != expected["bytes"]:
            return f"{path}: expected {expected['bytes']} bytes, found {size}"
        is_of_parts = expected["sha256"].startswith(_OF_PARTS)
        found = (digest_of_parts if is_of_parts else digest_of)(path)["sha256"]
    except OSError as error:
        return f"{path}: expected {expected['bytes']} bytes, and it cannot be read: {error}"
    if found != expected["sha256"]:
        return f"{path}: expected the SHA-256 {expected['sha256']}, found {found}"
    return None
