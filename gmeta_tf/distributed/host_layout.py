"""Which ranks share a host, and the parts of a run that follow from it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from gmeta_tf.distributed.world import World
from gmeta_tf.number_texts import whole_number

__all__ = ["RANKS_PER_HOST", "HostLayout"]

RANKS_PER_HOST = "GMETA_RANKS_PER_HOST"
"""The variable that has so many ranks count as a host, wherever they run: for trials."""


@dataclasses.dataclass(frozen=True)
class HostLayout:
    """H hosts of L ranks each: rank r is on host `r // L`, and has rail `r % L`.

    A *rail* is the ranks of one local rank, one a host. What crosses hosts goes along rails, so
    that every rank has a share of it and none is a bottleneck. With an owner `key % W` and W = H L,
    the rail of a key is `key % L`, and its owner is the rank of host `key // L % H` on that rail:

        H = 2, L = 2    rail 0   rail 1          key 7: owner 7 % 4 = 3
             host 0     rank 0   rank 1                 rail 7 % 2 = 1, host 7 // 2 % 2 = 1
             host 1     rank 2   rank 3

    Attributes:
        world: the whole run.
        ranks_per_host: L, a divisor of W.

    Example:
        >>> layout = HostLayout(World(3, 4), 2)
        >>> layout.host.members, layout.rail.members, (layout.rail.rank, layout.rail.size)
        ((2, 3), (1, 3), (1, 2))
    """

    world: World
    ranks_per_host: int

    def __post_init__(self) -> None:
        if self.ranks_per_host < 1 or self.world.size % self.ranks_per_host:
            raise ValueError(
                f"HostLayout: expected as many ranks on every host, got {self.world.size} ranks "
                f"of which {self.ranks_per_host} are on this one. Start as many on each."
            )

    @property
    def num_hosts(self) -> int:
        """H."""
        return self.world.size // self.ranks_per_host

    @property
    def has_both(self) -> bool:
        """Whether there are several hosts of several ranks."""
        return self.num_hosts > 1 and self.ranks_per_host > 1

    @property
    def host(self) -> World:
        """The ranks of this one's host; they count from 0 within it."""
        host, rail = divmod(self.world.rank, self.ranks_per_host)
        return World(rail, self.ranks_per_host, members=self._members_of_host(host))

    @property
    def rail(self) -> World:
        """The ranks of this one's rail, one a host; they count by their hosts."""
        host, rail = divmod(self.world.rank, self.ranks_per_host)
        return World(host, self.num_hosts, members=self._members_of_rail(rail))

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """All hosts' ranks and all rails', the same on every rank; none where one of them is all.

        >>> HostLayout(World(0, 4), 2).parts
        [(0, 1), (2, 3), (0, 2), (1, 3)]
        """
        if not self.has_both:
            return []
        hosts = [self._members_of_host(host) for host in range(self.num_hosts)]
        return hosts + [self._members_of_rail(rail) for rail in range(self.ranks_per_host)]

    def _members_of_host(self, host: int) -> tuple[int, ...]:
        first = host * self.ranks_per_host
        return tuple(range(first, first + self.ranks_per_host))

    def _members_of_rail(self, rail: int) -> tuple[int, ...]:
        return tuple(range(rail, self.world.size, self.ranks_per_host))

    @classmethod
    def detect(
        cls, world: World, environment: Mapping[str, str] = os.environ
    ) -> tuple[HostLayout | None, bool]:
        """The layout that this rank sees.

        Args:
            world: the run; its `local_size` counts unless the variable is set.
            environment: may have `GMETA_RANKS_PER_HOST`.

        Returns:
            The layout, or None where hosts have different numbers of ranks, as far as this rank can
            see; and whether this rank has the place in it that it should have, since launchers may
            also deal ranks out to the hosts in turn.

        Raises:
            ValueError: the variable is not a number of ranks that divides W.
        """
        text = environment.get(RANKS_PER_HOST)
        if text:
            return cls(world, _ranks_per_host(text, world)), True
        count = world.local_size
        if world.size % count or (world.cross_size or world.size // count) * count != world.size:
            return None, False
        return cls(world, count), world.rank % count == world.local_rank


def _ranks_per_host(text: str, world: World) -> int:
    try:
        count = whole_number(text)
    except ValueError:
        count = 0
    if count < 1 or world.size % count:
        raise ValueError(
            f"expected {RANKS_PER_HOST} to be a divisor of the {world.size} ranks, got {text!r}. "
            "Unset it to have the launcher's hosts."
        )
    return count
