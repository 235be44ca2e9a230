"""MeLU (Lee et al., KDD 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from gmeta_tf.meta.inner_loop import InnerLoop
from gmeta_tf.models.inputs import decision_layers, flatten_fields

__all__ = ["MeLU"]


class MeLU(keras.Model):
    """Concatenated field vectors, two ReLU decision layers, one output.

    In MeLU only the decision and output layers adapt to a task; the embeddings are left to the
    outer loop, "to ensure stability" (Lee et al., section 3). `MeLU.inner_loop` says so; pass it to
    `MetaModel`. The output is linear: a rating, or with `loss="binary_crossentropy"` the logit of
    a click.

    Example:
        >>> learner = MeLU()
        >>> learner({"embedded": keras.ops.zeros([5, 3, 32])}).shape
        TensorShape([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64), *, name: str = "melu") -> None:
        """Makes the layers.

        Args:
            hidden: the widths of the decision layers.
            name: of the model.

        Raises:
            ValueError: no decision layer.
        """
        super().__init__(name=name)
        self.decision = decision_layers("MeLU", hidden, "relu")
        self.score = keras.layers.Dense(1, name="score")

    @staticmethod
    def inner_loop(num_steps: int = 1, learning_rate: float = 0.05, **options: Any) -> InnerLoop:
        """How MeLU adapts: dense layers only. The paper takes 1 to 5 steps."""
        return InnerLoop(num_steps, learning_rate, adapt_embeddings=False, **options)

    def call(self, inputs: dict[str, Any]) -> Any:
        """The score of each row, `[R, 1]`.

        Args:
            inputs: `"embedded"` float `[R, F, D]`, and `"dense"` float `[R, num_dense]` if any.
        """
        hidden = flatten_fields(inputs)
        for layer in self.decision:
            hidden = layer(hidden)
        return self.score(hidden)
