"""What a remote store can do, and what its errors mean."""

from __future__ import annotations

import enum
from typing import Protocol

__all__ = ["Fault", "ShortError", "Store"]

PIECE_BYTES = 64 << 20


class Fault(enum.Enum):
    """What an error says of the store."""

    MISSING = "missing"
    TRANSIENT = "transient"
    REFUSED = "refused"


class ShortError(Exception):
    """What was read or written is not what is there."""


class Store(Protocol):
    """The files of one scheme; paths have it before them. Nothing here is tried twice.

    Attributes:
        is_opened_by_tensorflow: whether TensorFlow's own ops can be given such paths.
    """

    is_opened_by_tensorflow: bool

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""

    def size(self, path: str) -> int:
        """The bytes of a file."""

    def find(self, pattern: str) -> list[str]:
        """The files that a path with `*` and `?` matches."""

    def read(self, path: str, first: int, last: int, length: int) -> bytes:
        """Bytes `first` to `last` (not included) of a file of `length` bytes.

        Raises:
            ShortError: they could not be read as they are.
        """

    def write(self, path: str, content: bytes) -> None:
        """Writes a whole file."""

    def copy_in(self, local: str, path: str) -> None:
        """Copies a local file."""

    def remove(self, path: str) -> None:
        """Removes a file."""

    def fault(self, error: Exception) -> Fault | None:
        """What an error of the methods above says of the store; None if it is not the store's."""
