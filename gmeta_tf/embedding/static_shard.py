"""A rank's shard of the embedding tables of one width."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.ownership import local_row, num_own_rows, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.row_optimizers import RowOptimizer, Slot

__all__ = ["LocatedKeys", "StaticShard", "TableRange", "initial_rows", "table_ranges"]

# Few enough to take little memory beside a table of any width.
_NUMBERS_AT_A_TIME = 1 << 19


def initial_rows(keys: tf.Tensor, width: int, seed: tf.Tensor | int, scale: float) -> tf.Tensor:
    """The rows before training: a pure function of (seed, key), uniform in +-scale.

    So they depend neither on W nor on the order in which keys arrive. The numbers are the top 24
    bits of splitmix64's output function at `key * width + column`, whose state starts at `seed`
    mixed once (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        keys: int64 `[N]`.
        width: D.
        seed: the table's; int64 `[N]` where the keys belong to several tables.
        scale: the largest absolute value.

    Returns:
        float32 `[N, D]`.
    """
    counters = keys[:, tf.newaxis] * width + tf.range(width, dtype=tf.int64)
    state = _mix(tf.bitcast(tf.cast(seed, tf.int64), tf.uint64) + _GOLDEN)
    state = tf.reshape(state, [-1, 1])
    bits = _mix(state + tf.bitcast(counters, tf.uint64) * _GOLDEN)
    fraction = tf.cast(tf.bitwise.right_shift(bits, _u64(40)), tf.float32) * 2.0**-24
    return (2.0 * fraction - 1.0) * scale


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(state: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _u64(shift)))
        state = state * _u64(factor)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _u64(31)))


@dataclasses.dataclass(frozen=True)
class TableRange:
    """The position of a table among the tables of its width.

    Attributes:
        name: the table's.
        first_row: the key, counted over the group's tables, of its row 0.
        num_rows: its rows.
        seed: of its initial rows.
    """

    name: str
    first_row: int
    num_rows: int
    seed: int


def table_ranges(sizes: Mapping[str, int], seed: int) -> tuple[TableRange, ...]:
    """The tables of a group, one after the other: table -> its rows, in order."""
    ranges, first_row = [], 0
    for name, num_rows in sizes.items():
        ranges.append(TableRange(name, first_row, num_rows, table_seed(seed, name)))
        first_row += num_rows
    return tuple(ranges)


def table_seed(seed: int, name: str) -> int:
    """The seed of a table's initial rows, of the model's and the table's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class LocatedKeys(NamedTuple):
    """Where keys of a shard have their rows.

    Attributes:
        row_indices: int64 `[N]`.
        problem: what the policies of a dynamic table object to (see `dynamic.shard`); None for a
            table of known size.
    """

    row_indices: tf.Tensor
    problem: tf.Tensor | None


class StaticShard(tf.Module):
    """The rows of known vocabularies that this rank owns: `key % W == rank`, at row `key // W`.

    The tables of one width lie one after the other in one variable, so that a look-up or an update
    of all of them is one gather or scatter.

    Attributes:
        rows: float32 variable `[ceil((num_rows - rank) / W), D]`.
        slots: name -> float32 variable of as many rows, of width D or 1, for the row optimizer.
    """

    def __init__(
        self,
        tables: tuple[TableRange, ...],
        width: int,
        world: World,
        *,
        scale: float,
        name: str,
        make_rows: Callable[[int], tf.Variable] | None = None,
    ) -> None:
        """Builds the shard with its initial rows.

        Args:
            tables: the tables, in order and without gaps.
            width: D.
            world: whose shard.
            scale: the largest absolute initial value.
            name: of the variable.
            make_rows: number of rows of all ranks -> the variable for this rank's, of any values;
                None makes a plain one.

        Raises:
            ValueError: more rows than the machine's memory holds.
        """
        super().__init__(name=name)
        self.tables = tables
        self.width = width
        self.world = world
        self.num_rows = tables[-1].first_row + tables[-1].num_rows
        self.rows = (make_rows or self._plain_rows)(self.num_rows)
        self.slots: dict[str, tf.Variable] = {}
        self._slots_at_first: dict[str, Slot] = {}
        self._scale = scale
        self.begin_anew()

    def _plain_rows(self, num_rows: int) -> tf.Variable:
        own = num_own_rows(0, num_rows, self.world)
        self._check_memory(own)
        return tf.Variable(tf.zeros([own, self.width]), name=f"{self.name}/rows", trainable=True)

    def _check_memory(self, own: int) -> None:
        """A size that no machine holds would otherwise end the process without a word."""
        needed = 4 * own * self.width
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > there:
            sizes = ", ".join(f"{table.name} {table.num_rows}" for table in self.tables)
            raise ValueError(
                f"the tables of width {self.width} ({sizes} rows) need {needed / 2**30:,.0f} GiB "
                f"on a rank, expected at most the machine's {there / 2**30:,.0f} GiB. Correct "
                "num_rows, use more ranks, or keys without num_rows."
            )

    def _rows_at_first(self) -> Iterator[tuple[int, tf.Tensor]]:
        """The initial rows, some at a time: the index of the first, and they."""
        own = int(self.rows.shape[0])
        first_rows = tf.constant([table.first_row for table in self.tables], tf.int64)
        seeds = tf.constant([table.seed for table in self.tables], tf.int64)
        rows_at_a_time = max(1, _NUMBERS_AT_A_TIME // self.width)
        for start in range(0, own, rows_at_a_time):
            last = min(start + rows_at_a_time, own)
            keys = own_keys(start, last, self.world)
            table = tf.searchsorted(first_rows, keys, side="right") - 1
            keys, seed = keys - tf.gather(first_rows, table), tf.gather(seeds, table)
            yield start, initial_rows(keys, self.width, seed, self._scale)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the slots of the optimizer; those of an earlier one go."""
        self.slots = {}  # first, or memory would hold both for a while
        self._slots_at_first = optimizer.slots(self.width)
        for name, slot in self._slots_at_first.items():
            self.slots[name] = tf.Variable(
                slot.values(self.rows.shape[0]), name=f"{self.name}/{name}", trainable=False
            )

    @property
    def key_type(self) -> tf.DType:
        """The narrowest type that its keys fit in."""
        return tf.int32 if self.num_rows <= 2**31 else tf.int64

    def locate(
        self, keys: tf.Tensor, step: tf.Tensor | int = 0, *, training: bool = False
    ) -> LocatedKeys:
        """The row indices of keys `[N]` that this rank owns; step and phase do not matter."""
        return LocatedKeys(local_row(keys, self.world.size), None)

    def gather(self, row_indices: tf.Tensor) -> tf.Tensor:
        """The rows `[N, D]` at row indices `[N]`."""
        return tf.gather(self.rows, row_indices)

    def update(
        self, row_indices: tf.Tensor, gradients: tf.Tensor, optimizer: RowOptimizer, step: tf.Tensor
    ) -> None:
        """Applies the optimizer to some rows.

        Args:
            row_indices: int64 `[N]`, distinct.
            gradients: float32 `[N, D]`.
            optimizer: the one that `make_slots` was called with.
            step: int64 scalar, the steps done before this one.
        """
        old = {name: tf.gather(variable, row_indices) for name, variable in self.slots.items()}
        rows, slots = optimizer.update(tf.gather(self.rows, row_indices), gradients, old, step)
        self.rows.scatter_update(tf.IndexedSlices(rows, row_indices))
        for name, variable in self.slots.items():
            variable.scatter_update(tf.IndexedSlices(slots[name], row_indices))

    @property
    def state_variables(self) -> dict[str, tf.Variable]:
        """The shard's part of a checkpoint: `rows`, and each slot as `slot_<name>`."""
        return {"rows": self.rows, **{f"slot_{name}": slot for name, slot in self.slots.items()}}

    @property
    def num_state_rows(self) -> int:
        """How many rows the shard's part of a checkpoint has."""
        return int(self.rows.shape[0])

    def read_state(self, name: str, first: int, last: int) -> np.ndarray:
        """Some rows or slots of the shard's part of a checkpoint, in the order of their keys.

        Training reads and writes rows in place, so that TensorFlow would copy all of a variable
        to give its value; what is asked for here alone is copied.

        Args:
            name: one of `state_variables`.
            first, last: those wanted, `0 <= first <= row < last <= num_state_rows`.

        Returns:
            `[last - first, D or 1]`, not to be written to.
        """
        rows = tf.gather(self.state_variables[name], self._state_rows(first, last))
        return np.asarray(rows)

    def _state_rows(self, first: int, last: int) -> tf.Tensor:
        """The row indices of the shard's part of a checkpoint, int64 `[last - first]`."""
        return tf.range(first, last, dtype=tf.int64)

    def write_state(self, name: str, row_indices: np.ndarray, values: np.ndarray) -> None:
        """Sets rows or slots.

        Args:
            name: one of `state_variables`.
            row_indices: int64 `[N]`, distinct.
            values: float32 `[N, D or 1]`.
        """
        self.state_variables[name].scatter_update(tf.IndexedSlices(values, row_indices))

    def begin_anew(self) -> None:
        """Sets rows and slots to what they are before the first step."""
        for first, rows in self._rows_at_first():
            row_indices = np.arange(first, first + len(rows))
            self.write_state("rows", row_indices, rows)
            for name, slot in self._slots_at_first.items():
                start = np.full([len(rows), slot.width], slot.start, np.float32)
                self.write_state(f"slot_{name}", row_indices, start)
