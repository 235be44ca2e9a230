"""What dense fields are like in the training rows, and what their transforms learn of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.schema import Field, Fitted, Schema

__all__ = ["DenseFit"]

_BLOCK_ROWS = 1 << 16
_MOST_SAMPLED = 1 << 20


class DenseFit:
    """Watches the training rows on their way to the files, a block at a time.

    Blocks begin at multiples of their length, whatever chunks an engine gives, so that sums are
    rounded alike and both engines fit the same numbers bit for bit.
    """

    def __init__(self, schema: Schema) -> None:
        ranges = dict(zip(schema.fields, slot_ranges(schema), strict=True))
        self._planes = [ranges[field][0] for field in schema.dense_fields]
        self._columns = [_Column(field) for field in schema.dense_fields]
        self._block = np.empty([len(self._planes), _BLOCK_ROWS], np.float32)
        self._filled = 0

    def watch(
        self, chunks: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same chunks, `(task int64 [n], words int32 [C, n])`, looked at as they pass."""
        for task, words in chunks:
            if self._planes:
                self._add(words)
            yield task, words
        self._count_block()

    def _add(self, words: np.ndarray) -> None:
        first = 0
        while first < words.shape[1]:
            last = min(words.shape[1], first + _BLOCK_ROWS - self._filled)
            there = slice(self._filled, self._filled + last - first)
            for place, plane in enumerate(self._planes):
                self._block[place, there] = words[plane, first:last].view(np.float32)
            self._filled += last - first
            first = last
            if self._filled == _BLOCK_ROWS:
                self._count_block()

    def _count_block(self) -> None:
        for column, values in zip(self._columns, self._block[:, : self._filled], strict=True):
            column.add(values)
        self._filled = 0

    def described(self) -> dict[str, dict[str, Any]]:
        """Field -> the training rows that have a value and that have none, and the values' mean,
        standard deviation, smallest and largest (null where no row has one); JSON values.
        """
        return {column.field.name: column.described() for column in self._columns}

    def fitted(self) -> dict[str, Fitted]:
        """What the fields that need it learned.

        Raises:
            ValueError: no training row has a value of such a field.
        """
        return {
            column.field.name: column.fitted() for column in self._columns if column.field.needs_fit
        }


@dataclasses.dataclass
class _Column:
    """The values of one field so far."""

    field: Field
    rows: int = 0
    there: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the distances from the mean
    smallest: float = math.inf
    largest: float = -math.inf
    stride: int = 1
    sampled: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, block: np.ndarray) -> None:
        values = block[~np.isnan(block)].astype(np.float64)
        if self.field.transform == "bucketize" and not self.field.edges:
            self._sample(block)
        self.rows += len(block)
        if not len(values):
            return
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        together = self.there + len(values)
        apart = mean - self.mean
        self.squares += squares + apart * apart * self.there * len(values) / together
        self.mean += apart * len(values) / together
        self.there = together
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))

    def _sample(self, block: np.ndarray) -> None:
        """Keeps each `stride`-th row; whenever that is too many, every second one of those.

        Rows are in the order of tasks and times, so that this is an even sample of both.
        """
        # The stride divides a block's length: the first row of each block is one of the sample.
        self.sampled.append(block[:: self.stride].copy())
        while sum(map(len, self.sampled)) > _MOST_SAMPLED:
            self.stride *= 2
            self.sampled = [np.concatenate(self.sampled)[::2]]

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.there) if self.there else 0.0

    def described(self) -> dict[str, Any]:
        values: dict[str, Any] = {"rows": self.there, "missing": self.rows - self.there}
        for name in ("mean", "deviation", "smallest", "largest"):
            values[name] = getattr(self, name) if self.there else None
        return values

    def fitted(self) -> Fitted:
        field = self.field
        if not self.there:
            raise ValueError(
                f"field {field.name!r}: expected a value in some training row to fit "
                f"transform={field.transform!r}, missing={field.missing!r} to, but all "
                f"{self.rows} have none. Correct the column's name, or leave the field out."
            )
        centre, scale = 0.0, 1.0
        if field.transform == "standardize":
            centre, scale = self.mean, self.deviation
        elif field.transform == "minmax":
            centre, scale = self.smallest, self.largest - self.smallest
        # 0 where all values are one: their float64 sums are exact.
        return Fitted(centre, scale or 1.0, self.mean, self._edges())

    def _edges(self) -> tuple[float, ...]:
        """Quantiles of the sample that part it into equal shares, each once."""
        if not self.sampled:
            return ()
        values = np.concatenate(self.sampled)
        values = np.sort(values[~np.isnan(values)])
        if not len(values):
            return ()
        count = self.field.buckets
        edges = values[np.arange(1, count) * len(values) // count]
        return tuple(np.unique(edges[edges > values[0]]).astype(float).tolist())
