"""A learning rate that falls to 0 over a run, for dense weights and rows alike."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

__all__ = ["CosineDecay"]


@dataclasses.dataclass(frozen=True)
class CosineDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`rate (1 + cos(pi step / steps)) / 2` (Loshchilov and Hutter, ICLR 2017), 0 afterwards.

    As Keras' own of that name, with a text that is the same on every rank.

    Attributes:
        rate: before the first step.
        steps: after how many steps it is 0.

    Example:
        >>> float(CosineDecay(0.5, 10)(0))
        0.5
    """

    rate: float
    steps: int

    def __call__(self, step: Any) -> tf.Tensor:
        part = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)
        return self.rate * 0.5 * (1.0 + tf.cos(math.pi * part))

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
