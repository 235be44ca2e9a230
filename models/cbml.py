"""A learner after CBML (Song et al., CIKM 2021), for click prediction and ratings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gmeta_tf.meta.inner_loop import InnerLoop
from gmeta_tf.models.inputs import decision_layers
from gmeta_tf.models.support_encoder import SupportEncoder, inputs_of_row, parts_of_task

__all__ = ["CBML"]


class CBML(keras.Model):
    """Decision layers under a gate that soft clusters of tasks share.

    *This is a reconstruction.* Song et al. (CIKM 2021, doi 10.1145/3459637.3482239) recommend the
    next item of a session; their abstract names soft clusters of tasks and a parameter gate, and
    the equations here are those of the family that it describes (hierarchically structured
    meta-learning), for rows with a label:

        g = mean over the support rows of MLP(row, label)
        p_c = softmax_c(-||g - centre_c||^2 / (2 sigma))
        h = sum_c p_c tanh(W_c g + b_c)
        o = sigmoid(FC([g, h])), one number for each unit of each layer

    Each layer is `o (W x + b)`, so a task starts from the gated parameters `theta o`. A step on
    `theta` moves those by `o^2` times their gradient: units that a cluster shuts do not adapt
    either. The outer loop trains centres, `W_c`, FC and theta.

    Example:
        >>> learner = CBML(hidden=(16,))
        >>> rows = {"embedded": keras.ops.zeros([5, 3, 8]), "task": keras.ops.ones([5, 17])}
        >>> learner(rows).shape
        TensorShape([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64), *, name: str = "cbml") -> None:
        """Makes the layers.

        Args:
            hidden: the widths of the decision layers.
            name: of the model.

        Raises:
            ValueError: no decision layer.
        """
        super().__init__(name=name)
        self.decision = decision_layers("CBML", hidden)
        self._widths = (*hidden, 1)
        self.score = keras.layers.Dense(1, name="score")

    @staticmethod
    def inner_loop(num_steps: int = 1, learning_rate: float = 0.05, **options: Any) -> InnerLoop:
        """How a task adapts under its gate: dense layers only, as in MeLU."""
        return InnerLoop(num_steps, learning_rate, adapt_embeddings=False, **options)

    def task_encoder(
        self, clusters: int = 4, width: int = 40, *, centre: float = 0.0, scale: float = 1.0
    ) -> keras.Model:
        """The clusters and the gate; pass it to `MetaModel`.

        Args:
            clusters: C.
            width: of g.
            centre: see `SupportEncoder`.
            scale: likewise.

        Raises:
            ValueError: fewer than one cluster.
        """
        if clusters < 1:
            raise ValueError(f"CBML: expected at least one cluster, got {clusters}.")
        support = SupportEncoder(width, centre=centre, scale=scale)
        return _ClusterGate(support, clusters, width, sum(self._widths))

    def call(self, inputs: dict[str, Any]) -> Any:
        """The score (a logit, or a rating) of each row, `[R, 1]`.

        Args:
            inputs: `"embedded"` float `[R, F, D]`, `"dense"` float `[R, num_dense]` if any, and
                `"task"` float `[R, units of all layers]`.
        """
        hidden = inputs_of_row(inputs)
        *gates, of_score = parts_of_task(inputs, self._widths)
        for layer, gate in zip(self.decision, gates):
            hidden = ops.relu(layer(hidden) * gate)
        return self.score(hidden) * of_score


class _ClusterGate(keras.Model):
    """The gate of each task, `[T, units]`; see `CBML`."""

    def __init__(self, support: SupportEncoder, clusters: int, width: int, units: int) -> None:
        super().__init__(name="cbml_encoder")
        self.support, self._clusters, self._width = support, clusters, width
        # W_c and b_c of all clusters side by side.
        self.shared = keras.layers.Dense(clusters * width, activation="tanh", name="shared")
        # Gates are open at first: 0.88.
        self.gate = keras.layers.Dense(
            units,
            activation="sigmoid",
            bias_initializer=keras.initializers.Constant(2.0),
            name="gate",
        )

    def build(self, input_shape: dict[str, Any]) -> None:
        del input_shape
        self.centres = self.add_weight(
            (self._clusters, self._width), "glorot_uniform", name="centres"
        )
        self.log_sigma = self.add_weight((), "zeros", name="log_sigma")
        self.built = True

    def call(self, inputs: dict[str, Any]) -> Any:
        encoded = self.support(inputs)
        shares = self.shares(encoded)
        shared = ops.reshape(self.shared(encoded), (-1, self._clusters, self._width))
        shared = ops.sum(shared * shares[..., None], axis=1)
        return self.gate(ops.concatenate([encoded, shared], axis=-1))

    def shares(self, encoded: Any) -> Any:
        """p_c, each task's share in each cluster, `[T, C]`.

        Args:
            encoded: g, `[T, width]`.
        """
        squares = ops.sum(ops.square(encoded[:, None] - self.centres), axis=-1)
        return ops.softmax(-squares / (2 * ops.exp(self.log_sigma)), axis=-1)
