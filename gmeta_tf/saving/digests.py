"""The size and SHA-256 of each file of a checkpoint, and what differs from them."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from gmeta_tf.distributed.world import World

__all__ = ["FileDigest", "check_files", "digest_of", "share_of"]

# Hashing leaves Python's lock; more threads than this read no faster from one disk.
_THREADS = 4
_PIECE_BYTES = 1 << 20


class FileDigest(TypedDict):
    """What a manifest says of a file: its size, and SHA-256 as 64 hexadecimal digits."""

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


def share_of(files: Mapping[str, FileDigest], world: World) -> list[str]:
    """The files that this rank reads, so that all ranks read about as much.

    Each file goes to the rank with the fewest bytes so far, the largest first.

    Example:
        >>> files = {name: {"bytes": size, "sha256": ""} for name, size in
        ...          (("a", 5), ("b", 4), ("c", 3))}
        >>> [share_of(files, World(rank, 2)) for rank in (0, 1)]
        [['a'], ['b', 'c']]
    """
    taken, own = [0] * world.size, []
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name)):
        rank = taken.index(min(taken))
        taken[rank] += files[name]["bytes"]
        if rank == world.rank:
            own.append(name)
    return own


def check_files(
    folder: pathlib.Path, files: Mapping[str, FileDigest], names: Collection[str]
) -> Iterator[str]:
    """What is wrong with the named files, a line for each of them that is not as `files` says."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        found = threads.map(lambda name: _fault_of(folder / name, files[name]), names)
        yield from (fault for fault in found if fault is not None)


def _fault_of(path: pathlib.Path, expected: FileDigest) -> str | None:
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
