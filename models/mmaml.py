"""MMAML (Vuorio et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gmeta_tf.meta.inner_loop import InnerLoop
from gmeta_tf.models.inputs import decision_layers
from gmeta_tf.models.support_encoder import SupportEncoder, inputs_of_row, parts_of_task

__all__ = ["MMAML"]


class MMAML(keras.Model):
    """Decision layers that are modulated for each task before they adapt.

    An encoder reads the task's support rows once and gives of each decision layer's units a scale
    and a shift, `relu(z (1 + gamma) + beta)` (FiLM). They are held fixed while the task adapts the
    layers' own weights; the outer loop trains both. So tasks of several modes start from parameters
    of their own. Vuorio et al. read sequences with a recurrent network; here the encoder is a mean
    over rows (`SupportEncoder`), since support rows are a set.

    Example:
        >>> learner = MMAML(hidden=(16,))
        >>> rows = {"embedded": keras.ops.zeros([5, 3, 8]), "task": keras.ops.zeros([5, 32])}
        >>> learner(rows).shape
        TensorShape([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64), *, name: str = "mmaml") -> None:
        """Makes the layers.

        Args:
            hidden: the widths of the decision layers.
            name: of the model.

        Raises:
            ValueError: no decision layer.
        """
        super().__init__(name=name)
        self.decision = decision_layers("MMAML", hidden)
        self._hidden = tuple(hidden)
        self.score = keras.layers.Dense(1, name="score")

    @staticmethod
    def inner_loop(num_steps: int = 1, learning_rate: float = 0.05, **options: Any) -> InnerLoop:
        """How a task adapts after its modulation: dense layers only, as in MeLU."""
        return InnerLoop(num_steps, learning_rate, adapt_embeddings=False, **options)

    def task_encoder(
        self, width: int = 40, *, centre: float = 0.0, scale: float = 1.0
    ) -> keras.Model:
        """The modulation network; pass it to `MetaModel`.

        Args:
            width: of the encoder.
            centre: see `SupportEncoder`.
            scale: likewise.
        """
        return _Modulation(SupportEncoder(width, centre=centre, scale=scale), self._hidden)

    def call(self, inputs: dict[str, Any]) -> Any:
        """The score (a logit, or a rating) of each row, `[R, 1]`.

        Args:
            inputs: `"embedded"` float `[R, F, D]`, `"dense"` float `[R, num_dense]` if any, and
                `"task"` float `[R, 2 (units of all decision layers)]`.
        """
        hidden = inputs_of_row(inputs)
        parts = parts_of_task(inputs, [width for width in self._hidden for _ in range(2)])
        for layer, scale, shift in zip(self.decision, parts[::2], parts[1::2]):
            hidden = ops.relu(layer(hidden) * (1 + scale) + shift)
        return self.score(hidden)


class _Modulation(keras.Model):
    """Of each decision layer a scale and a shift for each unit, 0 at first but for noise."""

    def __init__(self, support: SupportEncoder, hidden: Sequence[int]) -> None:
        super().__init__(name="mmaml_encoder")
        self.support = support
        self.heads = keras.layers.Dense(
            2 * sum(hidden),
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="modulation",
        )

    def call(self, inputs: dict[str, Any]) -> Any:
        return self.heads(ops.relu(self.support(inputs)))
