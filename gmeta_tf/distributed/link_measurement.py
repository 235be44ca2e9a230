"""What the links between the ranks give: seconds and bytes a second, by size of message."""

from __future__ import annotations

import dataclasses
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from gmeta_tf.distributed.collectives import allreduce_sum, alltoall, barrier, gather_json
from gmeta_tf.distributed.world import World

__all__ = ["LinkFigure", "hosts_of_ranks", "measure_links"]

_SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22)
_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class LinkFigure:
    """One collective with one size of message.

    Attributes:
        collective: "alltoall" or "allreduce".
        between: "all" ranks; of an AlltoAll also "same host" and "other hosts", in which a rank
            sends to those ranks alone.
        message_bytes: what each rank hands to the collective.
        sent_bytes: the most that any rank sends to others in it. Of an AllReduce it is what a ring
            sends, `2 (W - 1) / W` of the message.
        seconds: the median call of the slowest rank.
    """

    collective: str
    between: str
    message_bytes: int
    sent_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        """What the busiest rank sends in a second."""
        return self.sent_bytes / self.seconds


def hosts_of_ranks(world: World) -> list[str]:
    """The name of each rank's host, as the launcher calls it. Every rank must call it."""
    own = os.environ.get("HOROVOD_HOSTNAME") or socket.gethostname()
    return gather_json(own, world, name="hosts_of_ranks")


def measure_links(
    world: World,
    *,
    sizes: Sequence[int] = _SIZES,
    repeats: int = 11,
    hosts: Sequence[str] | None = None,
) -> list[LinkFigure]:
    """Times AlltoAll and AllReduce over the ranks that there are. Every rank must call it.

    Of two hosts with two ranks each, an AlltoAll of 8 KiB between "all" has 2 KiB for each rank,
    between "same host" 8 KiB for the one other rank, between "other hosts" 4 KiB for each of two.

    Args:
        world: the ranks, connected (`collectives.start`).
        sizes: bytes that each rank hands to a collective; rounded up to a float for each rank.
        repeats: calls that are timed, after two that are not.
        hosts: `[W]`, each rank's host; None asks the ranks.

    Returns:
        A figure for each collective, group of peers and size, equal on every rank. Empty for one
        rank alone.

    Raises:
        ValueError: no sizes, a size or `repeats` below 1, or `hosts` of another number than the
            ranks.

    Example:
        world = World.detect()
        start(world)
        for figure in measure_links(world):
            print(figure.collective, figure.message_bytes, figure.bytes_per_second)
    """
    if not sizes or min(sizes) < 1 or repeats < 1:
        raise ValueError(
            "measure_links: expected sizes in bytes and repeats of at least 1, got "
            f"{list(sizes)} and {repeats}. Leave them out for the usual ones."
        )
    if not world.is_distributed:
        return []
    hosts = hosts_of_ranks(world) if hosts is None else hosts
    if len(hosts) != world.size:
        raise ValueError(
            f"measure_links: expected the host of each of {world.size} ranks, got {len(hosts)}: "
            f"{list(hosts)}. Leave hosts out to have the ranks asked."
        )
    figures = []
    for size in sizes:
        for between in _groups_of_peers(hosts):
            figures.append(_alltoall_figure(world, hosts, between, size, repeats))
        figures.append(_allreduce_figure(world, size, repeats))
    return figures


def _groups_of_peers(hosts: Sequence[str]) -> list[str]:
    if len(set(hosts)) == 1:
        return ["all"]
    has_neighbours = len(set(hosts)) < len(hosts)
    return ["all", *(["same host"] if has_neighbours else []), "other hosts"]


def _floats_for(rank: int, hosts: Sequence[str], between: str, size: int) -> list[int]:
    """`[W]`: how many floats a rank has for each rank.

    >>> _floats_for(0, ["a", "a", "b", "b"], "other hosts", 32)
    [0, 0, 4, 4]
    """
    if between == "all":
        peers = list(range(len(hosts)))
    else:
        wanted = between == "same host"
        peers = [
            peer
            for peer, host in enumerate(hosts)
            if (host == hosts[rank]) == wanted and peer != rank
        ]
    share = -(-size // (_FLOAT_BYTES * max(1, len(peers))))
    return [share if peer in peers else 0 for peer in range(len(hosts))]


def _alltoall_figure(
    world: World, hosts: Sequence[str], between: str, size: int, repeats: int
) -> LinkFigure:
    splits = _floats_for(world.rank, hosts, between, size)
    message, counts = tf.zeros([sum(splits)]), tf.constant(splits, tf.int32)
    name = f"links_alltoall_{between.replace(' ', '_')}_{size}"
    seconds = _slowest(lambda: alltoall(message, counts, world, name=name), world, repeats, name)
    sent = max(
        sum(_floats_for(rank, hosts, between, size)) - _floats_for(rank, hosts, between, size)[rank]
        for rank in range(world.size)
    )
    return LinkFigure("alltoall", between, size, sent * _FLOAT_BYTES, seconds)


def _allreduce_figure(world: World, size: int, repeats: int) -> LinkFigure:
    message = tf.zeros([-(-size // _FLOAT_BYTES)])
    name = f"links_allreduce_{size}"
    seconds = _slowest(lambda: allreduce_sum([message], world, name=name), world, repeats, name)
    sent = 2 * (world.size - 1) * message.shape[0] * _FLOAT_BYTES // world.size
    return LinkFigure("allreduce", "all", size, sent, seconds)


def _slowest(call: Callable[[], object], world: World, repeats: int, name: str) -> float:
    """The median seconds of a call, on the rank where it is largest."""
    for _ in range(2):  # the first agrees on the name, and the second is the first from the cache
        call()
    seconds = []
    for _ in range(repeats):
        barrier(world, name=name)
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return max(gather_json(statistics.median(seconds), world, name=f"{name}_seconds"))
