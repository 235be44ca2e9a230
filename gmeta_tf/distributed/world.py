"""Who this process is among the ranks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from gmeta_tf.number_texts import whole_number

__all__ = ["World"]

# One launcher a line: horovodrun (Gloo), Open MPI's mpirun, MPICH/Intel MPI, Slurm's srun.
_LAUNCHERS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)

_CROSS_SIZE = "HOROVOD_CROSS_SIZE"


@dataclasses.dataclass(frozen=True)
class World:
    """The ranks of a run and which of them this process is.

    A value, passed to whatever needs it, so that the sharding of 22 nodes can be computed (and
    tested) on a laptop: `World(rank=21, size=22)` needs no second process.

    Attributes:
        rank: this process, `0 <= rank < size`.
        size: W, the number of processes that train together.
        local_rank: this process among those of its host; picks the GPU.
        local_size: the number of processes on this host.
        cross_size: the number of hosts that have a process of this local rank; None where the
            launcher does not say.
        members: of a part of a run, the ranks in it: `rank` and `size` then count within them.
            None is all.

    Raises:
        ValueError: a rank is outside its size.

    Example:
        >>> World(rank=1, size=3).is_chief
        False
        >>> World.detect({"HOROVOD_RANK": "2", "HOROVOD_SIZE": "4"})
        World(rank=2, size=4, local_rank=0, local_size=1)
        >>> World.detect({})
        World(rank=0, size=1, local_rank=0, local_size=1)
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    cross_size: int | None = dataclasses.field(default=None, repr=False, compare=False)
    members: tuple[int, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, rank, size in (
            ("rank", self.rank, self.size),
            ("local_rank", self.local_rank, self.local_size),
        ):
            if not 0 <= rank < size:
                raise ValueError(
                    f"World: expected 0 <= {name} < its size, got {name}={rank} of {size}. "
                    "Leave World out to have the launcher's environment read."
                )

    @property
    def is_chief(self) -> bool:
        """Whether this rank prints, and writes the files that are written once."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there is another rank to talk to."""
        return self.size > 1

    @classmethod
    def detect(cls, environment: Mapping[str, str] = os.environ) -> World:
        """Reads the launcher's variables; one process alone is rank 0 of 1.

        Args:
            environment: the variables to read. No other code of the library reads the launcher's.

        Returns:
            The world of this process.

        Raises:
            ValueError: the launcher's variables are there and are not numbers.
        """
        for rank, size, local_rank, local_size in _LAUNCHERS:
            if rank in environment and size in environment:
                return cls(
                    rank=_number(environment, rank),
                    size=_number(environment, size),
                    local_rank=_number(environment, local_rank, 0),
                    local_size=_number(
                        environment, local_size, 1 + _number(environment, local_rank, 0)
                    ),
                    cross_size=_number(environment, _CROSS_SIZE, 0) or None,
                )
        return cls()


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, None if default is None else str(default))
    try:
        return whole_number(text or "")
    except ValueError:
        raise ValueError(
            f"the launcher's variable {name} should be a whole number, got {text!r}. "
            "Unset it to run as one process, or start the ranks with horovodrun."
        ) from None
