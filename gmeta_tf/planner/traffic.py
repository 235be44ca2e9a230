"""The bytes that a step sends between ranks, by the exchange and by an AllReduce."""

from __future__ import annotations

import dataclasses

import numpy as np

from gmeta_tf.allowed import WIRES, check_word
from gmeta_tf.planner.table_sizes import NUMBER_BYTES

__all__ = ["StepShape", "Wire", "exchange_bytes", "ring_bytes"]

WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LARGEST_NARROW_SIZE = 2**31


@dataclasses.dataclass(frozen=True)
class Wire:
    """How the exchange packs rows and gradients.

    Attributes:
        numbers: the type in which rows and gradients travel: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: another type.
    """

    numbers: str = "float32"

    def __post_init__(self) -> None:
        check_word("Wire: numbers", self.numbers, WIRES)

    def row_bytes(self, width: int) -> int:
        """The bytes of a row, or of its gradient: 4 D, or 2 D in half precision."""
        return WIRE_BYTES[self.numbers] * width

    def key_bytes(self, num_keys: int | None) -> int:
        """The bytes of a key: 4 where the tables of its width have at most 2**31, otherwise 8.

        Args:
            num_keys: how many they have together; None without a limit.
        """
        is_narrow = num_keys is not None and num_keys <= _LARGEST_NARROW_SIZE
        return 4 if is_narrow else 8


@dataclasses.dataclass(frozen=True)
class StepShape:
    """A rank's step: T tasks of S support and Q query rows.

    Attributes:
        tasks: T.
        support: S.
        query: Q.

    Raises:
        ValueError: one of them is below 1.
    """

    tasks: int
    support: int
    query: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"a step's shape: expected {name} of at least 1, got {value}.")

    @property
    def rows(self) -> int:
        """The rows of the step: T (S + Q)."""
        return self.tasks * (self.support + self.query)


def exchange_bytes(
    requests: np.ndarray, *, key_bytes: int, row_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bytes that each rank sends to others, and gets from them, in an exchange.

    A rank sends a key for each distinct key that another rank owns, and its gradient later; and a
    row for each key that another rank wants of it.

        rank 0 wants 5 keys of rank 1, rank 1 wants 2 of rank 0; a key has 8 bytes, a row 64
        rank 0 sends 5 * (8 + 64) + 2 * 64, rank 1 sends 2 * (8 + 64) + 5 * 64

    Args:
        requests: float `[W, W]`; see `TablePlacement`.
        key_bytes: of a key that travels.
        row_bytes: of a row, or of a gradient, that travels.

    Returns:
        Each float64 `[W]`.
    """
    others = of_others(requests)
    wanted, served = others.sum(axis=1), others.sum(axis=0)
    request = key_bytes + row_bytes
    return wanted * request + served * row_bytes, served * request + wanted * row_bytes


def ring_bytes(numbers: int, world_size: int) -> float:
    """The bytes a rank sends in a ring AllReduce of float32 numbers: `2 (W - 1) / W` of theirs."""
    return 2 * NUMBER_BYTES * numbers * (world_size - 1) / world_size


def of_others(requests: np.ndarray) -> np.ndarray:
    """The requests without those of a rank's own keys, which do not travel."""
    return requests * (1 - np.eye(len(requests)))
