"""Arrays that grow without moving: a table's rows and what is kept beside them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable

import tensorflow as tf

__all__ = ["ArrayGroup", "Blocks", "GrowingArray", "blocks_of", "rows_in_memory", "when"]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How rows lie over blocks: each block makes the rows so far `growth` times as many.

        first=4, count=3, growth=2:  block 0 holds rows 0 to 3, block 1 4 to 7, block 2 8 to 15

    Attributes:
        first: the rows of block 0.
        count: the most blocks there can be.
        growth: the factor by which one more block multiplies the rows.
    """

    first: int
    count: int = 1
    growth: int = 2

    @property
    def num_rows(self) -> int:
        """The most rows there can be."""
        return self.start(self.count)

    def start(self, block: int) -> int:
        """The row index at which a block begins."""
        return 0 if block == 0 else self.first * self.growth ** (block - 1)

    def size(self, block: int) -> int:
        """How many rows a block has."""
        return self.start(block + 1) - self.start(block)

    def split(self, row_indices: tf.Tensor) -> list[tf.Tensor]:
        """Which of the row indices `[N]` lie in each block: an int32 `[N_b]` a block."""
        starts = tf.constant([self.start(block) for block in range(1, self.count)], tf.int64)
        block = tf.searchsorted(starts, row_indices, side="right")
        return tf.dynamic_partition(tf.range(tf.size(row_indices)), block, self.count)

    def visit(
        self,
        row_indices: tf.Tensor,
        visitor: Callable[..., object],
        *values: tf.Tensor,
    ) -> None:
        """Calls `visitor(block, local, *values)` for each block that has any of the rows.

        A variable that was gathered from or scattered to copies whatever it is assigned later,
        reserved pages too. So a block that is not there yet must not be touched, not even for
        no rows.

        Args:
            row_indices: int64 `[N]`.
            visitor: gets the row indices counted from the block's first, and their values.
            values: each `[N, ...]`.
        """
        if self.count == 1:
            visitor(0, row_indices, *values)
            return
        for block, which in enumerate(self.split(row_indices)):
            local = tf.gather(row_indices, which) - self.start(block)
            some = [tf.gather(value, which) for value in values]
            when(tf.size(which) > 0, functools.partial(visitor, block, local, *some))


def blocks_of(num_rows: int, first: int, growth: int) -> Blocks:
    """Blocks for at least `num_rows` rows; the first `first` of them are made at once."""
    count = 1
    while Blocks(first, count, growth).num_rows < num_rows:
        count += 1
    return Blocks(first, count, growth)


def rows_in_memory(width: int) -> int:
    """The rows of D numbers that the machine's memory could hold, and TensorFlow count."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(memory_bytes // (4 * width), 1 << 30)


class GrowingArray:
    """Values by row index, in one variable a block.

    A block is address space that is reserved whole and not written: pages become resident as
    rows are used. Copying into a larger variable would hold old and new together, and
    TensorFlow's allocator keeps the pages that it gets back. For the same reason no `tf.Module`
    tracks the variables: reading or saving one whole would copy what was only reserved.

    Attributes:
        width: the numbers of a row; None for arrays of one dimension.
        variables: one a block, `[rows of the block or 0, width]`.
    """

    def __init__(
        self, blocks: Blocks, width: int | None, dtype: tf.DType, *, active: int, name: str
    ) -> None:
        """Makes the array; what it holds is not defined before it is written.

        Args:
            blocks: the layout.
            width: the numbers of a row; None for an array of one dimension.
            dtype: of the values.
            active: the blocks to make now. The others are made by `make_block`.
            name: of the variables.
        """
        self.width = width
        self._blocks, self._dtype = blocks, dtype
        self._row_shape = [] if width is None else [width]
        with tf.device("CPU:0"):
            self.variables = [
                tf.Variable(
                    self._unwritten(blocks.size(block) if block < active else 0),
                    shape=[None, *self._row_shape],
                    trainable=False,
                    name=f"{name}_{block}",
                )
                for block in range(blocks.count)
            ]
        # Functions, so that the branches of many blocks are traced once and not at each use.
        indices = tf.TensorSpec([None], tf.int64)
        values = tf.TensorSpec([None, *self._row_shape], dtype)
        self._gather_blocks = tf.function(self._gather, input_signature=[indices], autograph=False)
        self._scatter_blocks = tf.function(
            self._scatter, input_signature=[indices, values], autograph=False
        )

    def make_block(self, block: int) -> None:
        """Reserves a block. Call it once, before the block is read or written."""
        self.variables[block].assign(self._unwritten(self._blocks.size(block)), read_value=False)

    def gather(self, row_indices: tf.Tensor) -> tf.Tensor:
        """The values at row indices `[N]`."""
        if self._blocks.count == 1:
            return self.gather_block(0, row_indices)
        return self._gather_blocks(row_indices)

    def scatter(self, row_indices: tf.Tensor, values: tf.Tensor) -> None:
        """Writes the values `[N]` or `[N, width]` at distinct row indices `[N]`."""
        if self._blocks.count == 1:
            self.scatter_block(0, row_indices, values)
        else:
            self._scatter_blocks(row_indices, values)

    def gather_block(self, block: int, local: tf.Tensor) -> tf.Tensor:
        """The values at row indices counted from a block's first."""
        return tf.gather(self.variables[block], local)

    def scatter_block(self, block: int, local: tf.Tensor, values: tf.Tensor) -> None:
        """Writes the values at distinct row indices counted from a block's first."""
        self.variables[block].scatter_update(tf.IndexedSlices(values, local))

    def _gather(self, row_indices: tf.Tensor) -> tf.Tensor:
        positions = self._blocks.split(row_indices)
        values = [
            tf.cond(
                tf.size(which) > 0,
                functools.partial(
                    self.gather_block,
                    block,
                    tf.gather(row_indices, which) - self._blocks.start(block),
                ),
                lambda: tf.zeros([0, *self._row_shape], self._dtype),
            )
            for block, which in enumerate(positions)
        ]
        return tf.dynamic_stitch(positions, values)

    def _scatter(self, row_indices: tf.Tensor, values: tf.Tensor) -> None:
        self._blocks.visit(row_indices, self.scatter_block, values)

    def _unwritten(self, num_rows: int) -> tf.Tensor:
        return tf.raw_ops.Empty(shape=[num_rows, *self._row_shape], dtype=self._dtype, init=False)


class ArrayGroup:
    """Arrays of one layout, which grow together.

    Attributes:
        blocks: the layout.
        num_blocks: int64 variable, the blocks made so far.
    """

    def __init__(self, blocks: Blocks, *, name: str) -> None:
        """Makes a group without arrays.

        Args:
            blocks: the layout.
            name: of the variables.
        """
        self.blocks, self._name = blocks, name
        self._arrays: list[GrowingArray] = []
        with tf.device("CPU:0"):
            self.num_blocks = tf.Variable(
                1, dtype=tf.int64, trainable=False, name=f"{name}/num_blocks"
            )

    def array(self, width: int | None, dtype: tf.DType, name: str) -> GrowingArray:
        """A new array of the group."""
        made = GrowingArray(
            self.blocks, width, dtype, active=int(self.num_blocks), name=f"{self._name}/{name}"
        )
        self._arrays.append(made)
        return made

    def drop(self, array: GrowingArray) -> None:
        """Forgets an array of the group, and so its memory."""
        self._arrays.remove(array)

    def reach(self, num_rows: tf.Tensor) -> None:
        """Makes the blocks of the first `num_rows` rows."""
        for block in range(1, self.blocks.count):
            missing = (self.num_blocks <= block) & (num_rows > self.blocks.start(block))
            when(missing, functools.partial(self._make_block, block))

    def _make_block(self, block: int) -> None:
        for array in self._arrays:
            array.make_block(block)
        self.num_blocks.assign(block + 1)


def when(condition: tf.Tensor, effect: Callable[[], object]) -> None:
    """Runs `effect`, whose value is not used, where the condition holds."""

    def run() -> tf.Tensor:
        effect()
        return tf.constant(True)

    tf.cond(condition, run, lambda: tf.constant(False))
