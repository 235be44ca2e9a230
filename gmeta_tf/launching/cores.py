"""A host's cores, as its container lets ranks use them; without TensorFlow."""

from __future__ import annotations

import os

from gmeta_tf.distributed.world import World

__all__ = ["bound_cores", "usable_cores"]


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def bound_cores(world: World, usable: set[int] | None = None) -> set[int]:
    """The cores that a rank is bound to: its run of those of its host, of even lengths.

    Args:
        world: the rank; where there are fewer cores than ranks, some share one.
        usable: the host's cores; None asks the system.

    Example:
        >>> [sorted(bound_cores(World(r, 3, r, 3), {0, 1, 2, 3, 4, 5, 6, 7})) for r in range(3)]
        [[0, 1], [2, 3, 4], [5, 6, 7]]
    """
    cores = sorted(os.sched_getaffinity(0) if usable is None else usable)
    begin = world.local_rank * len(cores) // world.local_size
    end = (world.local_rank + 1) * len(cores) // world.local_size
    return set(cores[begin:end] or [cores[begin % len(cores)]])
