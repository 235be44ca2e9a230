"""Which rank reads which files of a checkpoint, and what differs from their digests."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Mapping

from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.digest import FileDigest, fault_of
from gmeta_tf.side_threads import side_by_side

__all__ = ["check_files", "share_of"]

# Hashing leaves Python's lock; more threads than this read no faster from one disk.
_THREADS = 4


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
) -> list[str]:
    """What is wrong with the named files, a line for each of them that is not as `files` says."""
    threads = min(_THREADS, os.cpu_count() or 1)
    found = side_by_side(lambda name: fault_of(folder / name, files[name]), names, threads)
    return [fault for fault in found if fault is not None]
