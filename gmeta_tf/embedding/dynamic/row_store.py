"""Rows and their optimizer slots, by row index."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.embedding.dynamic.growing_arrays import ArrayGroup, Blocks, GrowingArray
from gmeta_tf.embedding.row_optimizers import RowOptimizer

__all__ = ["RowStore"]


def slot_starts(optimizer: RowOptimizer, width: int) -> dict[str, tuple[float, int]]:
    """Name -> the value that a slot starts from, and its numbers a row."""
    return {name: (slot.start, slot.width) for name, slot in optimizer.slots(width).items()}


class RowStore:
    """Rows and their slots, which come into use one after the other.

    Attributes:
        width: D.
        group: what the rows and slots grow with.
        rows: the rows.
        slots: name -> the numbers that the optimizer keeps.
    """

    def __init__(self, blocks: Blocks, width: int, *, name: str) -> None:
        """Reserves the first block of rows.

        Args:
            blocks: how rows are laid out.
            width: D.
            name: of the variables.
        """
        self.width = width
        self.group = ArrayGroup(blocks, name=name)
        self.rows = self.group.array(width, tf.float32, "rows")
        self.slots: dict[str, GrowingArray] = {}
        self._starts: dict[str, float] = {}

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the optimizer's slots; those of an earlier one go.

        Their values are not defined before `begin_slots`.
        """
        for slot in self.slots.values():
            self.group.drop(slot)
        self.slots, self._starts = {}, {}
        for name, (start, width) in slot_starts(optimizer, self.width).items():
            self._starts[name] = start
            self.slots[name] = self.group.array(width, tf.float32, name)

    def begin(self, row_indices: tf.Tensor, rows: tf.Tensor) -> None:
        """Writes rows `[N, D]` at distinct row indices `[N]`, and the slots' start values."""
        self.group.blocks.visit(row_indices, self._begin_block, rows)

    def begin_slots(self, row_indices: tf.Tensor) -> None:
        """Writes the slots' start values at distinct row indices `[N]`."""
        self.group.blocks.visit(row_indices, self._begin_slots_of_block)

    def update(
        self, row_indices: tf.Tensor, gradients: tf.Tensor, optimizer: RowOptimizer, step: tf.Tensor
    ) -> None:
        """Applies the optimizer to the rows at distinct row indices `[N]`; gradients `[N, D]`."""

        def update_block(block: int, local: tf.Tensor, some: tf.Tensor) -> None:
            old = {name: slot.gather_block(block, local) for name, slot in self.slots.items()}
            rows, slots = optimizer.update(self.rows.gather_block(block, local), some, old, step)
            self.rows.scatter_block(block, local, rows)
            for name, slot in self.slots.items():
                slot.scatter_block(block, local, slots[name])

        self.group.blocks.visit(row_indices, update_block, gradients)

    def _begin_block(self, block: int, local: tf.Tensor, rows: tf.Tensor) -> None:
        self.rows.scatter_block(block, local, rows)
        self._begin_slots_of_block(block, local)

    def _begin_slots_of_block(self, block: int, local: tf.Tensor) -> None:
        for name, slot in self.slots.items():
            start = tf.fill([tf.size(local), slot.width], self._starts[name])
            slot.scatter_block(block, local, start)
