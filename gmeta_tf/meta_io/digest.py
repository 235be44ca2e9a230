"""The size and the SHA-256 of a file, and whether it still has them."""

from __future__ import annotations

import hashlib
import pathlib
from typing import TypedDict

__all__ = ["FileDigest", "digest_of", "fault_of"]

_PIECE_BYTES = 1 << 20


class FileDigest(TypedDict):
    """What is kept of a file: its size, and SHA-256 as 64 hexadecimal digits."""

    bytes: int
    sha256: str


def digest_of(path: pathlib.Path) -> FileDigest:
    """Reads a file once.

    Raises:
        OSError: it cannot be read.
    """
    # Not hashlib.file_digest, which Python 3.10 does not have.
    digest, length, piece = hashlib.sha256(), 0, bytearray(_PIECE_BYTES)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(memoryview(piece)[:count])
            length += count
    return {"bytes": length, "sha256": digest.hexdigest()}


def fault_of(path: pathlib.Path, expected: FileDigest) -> str | None:
    """What was expected and what was found; None where the file is as it was."""
    try:
        size = path.stat().st_size
        # The size is told by the file system: a file that was cut need not be read.
        if size != expected["bytes"]:
            return f"{path}: expected {expected['bytes']} bytes, found {size}"
        found = digest_of(path)["sha256"]
    except OSError as error:
        return f"{path}: expected {expected['bytes']} bytes, and it cannot be read: {error}"
    if found != expected["sha256"]:
        return f"{path}: expected the SHA-256 {expected['sha256']}, found {found}"
    return None
