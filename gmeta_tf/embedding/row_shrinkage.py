"""Rows that are pulled to 0, the more the fewer examples they have been learned from."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from gmeta_tf.embedding.row_optimizers import RowOptimizer, Slot, Slots

__all__ = ["ShrunkRows"]

_STEPS_SEEN = "steps_seen"


@dataclasses.dataclass(frozen=True)
class ShrunkRows(RowOptimizer):
    """Another row optimizer, with each row pulled to 0 as by a Gaussian prior.

    Minimizes the outer loss plus `strength / 2 |row|^2` for *every* row, though a step touches only
    some: a row that is seen in one step of n gets n times the pull in that step. Weight decay in
    touched steps alone would pull a row n times as much that is always seen, of which the data say
    most. So a row of few examples stays near what its features say of it, where a learner adds the
    vectors of both.

    In the outer loss, the mean over tasks, a prior of precision L for each row is a strength of
    `L / (number of training tasks)`.

    Attributes:
        learning_rate: not used; that of `optimizer` counts.
        optimizer: the update rule of the gradients.
        strength: as above, 0 or more.

    Raises:
        ValueError: a strength out of its range.

    Example:
        >>> from gmeta_tf.embedding.row_optimizers import LazyAdam
        >>> sorted(ShrunkRows(optimizer=LazyAdam(0.01), strength=0.1).slots(4))
        ['mean', 'steps_seen', 'variance']
    """

    _: dataclasses.KW_ONLY
    optimizer: RowOptimizer
    strength: float

    def __post_init__(self) -> None:
        self._expect("strength", "of at least 0", 0 <= self.strength < math.inf)

    def slots(self, width: int) -> dict[str, Slot]:
        return {**self.optimizer.slots(width), _STEPS_SEEN: Slot(0.0, 1)}

    def update(
        self, rows: tf.Tensor, gradients: tf.Tensor, slots: Slots, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        own = dict(slots)
        seen = own.pop(_STEPS_SEEN) + 1.0
        rarity = tf.cast(step + 1, tf.float32) / seen
        pulled = gradients + self.strength * rarity * rows
        rows, own = self.optimizer.update(rows, pulled, own, step)
        return rows, {**own, _STEPS_SEEN: seen}
