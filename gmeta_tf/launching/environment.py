"""The variables that ranks are started with, and a line for each that was chosen."""

from __future__ import annotations

from collections.abc import Mapping

from gmeta_tf.launching.devices import detect
from gmeta_tf.launching.network import choose

__all__ = ["HOROVOD", "rank_environment"]

# A step waits up to four times for Horovod's cycle, whose own 1 ms is for large messages; the rest
# is as Horovod has it, and said here so that a log tells what a run had.
HOROVOD = {
    "HOROVOD_CYCLE_TIME": "0.1",
    "HOROVOD_FUSION_THRESHOLD": str(128 << 20),
    "HOROVOD_CACHE_CAPACITY": "1024",
}


def rank_environment(
    environment: Mapping[str, str],
    *,
    profiled: bool,
    num_hosts: int,
    local_ranks: int,
    bind_cores: bool = False,
    mpi: bool = False,
    root: str = "/",
) -> tuple[dict[str, str], list[str]]:
    """What ranks get: the launcher's variables, and what is chosen of those that are not set.

    Args:
        environment: the launcher's.
        profiled: choose what suits the network.
        num_hosts, local_ranks: how the ranks lie.
        bind_cores: each rank gets cores of its own.
        mpi: Horovod has MPI.
        root: the folder that is the machine's `/`.

    Returns:
        The variables; and a line for each that was chosen, with why.
    """
    chosen = dict(environment)
    lines = []
    for name, value in HOROVOD.items():
        if name not in environment:
            chosen[name] = value
    if bind_cores:
        chosen["GMETA_BIND_CORES"] = "1"
        lines.append("each rank has cores of its own")
    if profiled:
        choices = choose(detect(root), num_hosts=num_hosts, local_ranks=local_ranks, mpi=mpi)
        for choice in choices:
            if choice.value is None:
                continue
            if choice.name in environment:
                lines.append(f"{choice.name}={environment[choice.name]}, as it was set")
                continue
            chosen[choice.name] = choice.value
            lines.append(f"{choice.name}={choice.value}: {choice.why}")
    return chosen, lines
