"""Matrix factorization over features, with a task's factors in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gmeta_tf.meta.closed_form import ClosedForm

__all__ = ["Factors"]


class Factors(keras.Model):
    """A row's label is its bias, the task's bias, and the product of both's factors.

        label = b + q . p + c + noise,   (p, c) ~ N(v, Psi)

    q and b are of the row: the sum of the vectors of all its fields but the task's. p and c are the
    task's own, adapted in closed form (`ClosedForm`); their mean before adaptation, v, is the sum
    of the vectors of the task's fields, and their covariance Psi is full: p is of the scale of q,
    and a learned part of c goes with p. So an item of few labels is read through its features, and
    a task of few support rows through its own. Without features, and with a diagonal Psi, this is
    matrix factorization by alternating least squares with new tasks folded in.

    Example:
        >>> learner = Factors(task_fields=[2])
        >>> learner({"embedded": keras.ops.zeros([5, 3, 6])}).shape
        TensorShape([5, 7])
    """

    def __init__(
        self,
        task_fields: Sequence[int] = (),
        *,
        heads: int = 1,
        bias_scale: float = 3.0,
        name: str = "factors",
    ) -> None:
        """Notes the settings; the embeddings' width gives the number of factors.

        Args:
            task_fields: the positions in `embedded` of the fields that describe the task, such as a
                user's age, and are the same in all its rows.
            heads: H, models side by side, each with its part of the vectors; see `ClosedForm`.
            bias_scale: a bias is so many times the number in its vector, so that what shrinks
                vectors (`ShrunkRows`) shrinks biases less: more labels stand behind one.
            name: of the model.
        """
        super().__init__(name=name)
        self._task_fields, self._heads, self._bias_scale = tuple(task_fields), heads, bias_scale
        self.dense_vector: keras.layers.Layer | None = None

    def inner_loop(self, **options: Any) -> ClosedForm:
        """How a task adapts."""
        return ClosedForm(heads=self._heads, **options)

    def build(self, input_shape: dict[str, Any]) -> None:
        """Makes the weights, for vectors of `H (K + 1)` numbers.

        Raises:
            ValueError: inputs of several embedding widths, of a width that heads do not share
                evenly, or no such field.
        """
        if set(input_shape) - {"embedded", "dense"}:
            raise ValueError(
                "Factors: expected the inputs 'embedded' and 'dense', got "
                f"{', '.join(input_shape)}. Give every table the same width."
            )
        _, num_fields, width = input_shape["embedded"]
        if width % self._heads or width < 2 * self._heads:
            raise ValueError(
                f"Factors: expected a width of {self._heads} (heads) times at least 2 numbers, a "
                f"factor and a bias, got {width}."
            )
        wrong = [field for field in self._task_fields if not 0 <= field < num_fields]
        if wrong:
            raise ValueError(
                f"Factors: expected task_fields from 0 to {num_fields - 1}, got {wrong[0]}."
            )
        of_head = (self._heads, width // self._heads)
        self.prior_mean = self.add_weight(of_head, "zeros", name="prior_mean")
        # The last row of the Cholesky factor of Psi; the others are in the scale of q.
        self.bias_with_factors = self.add_weight(
            (self._heads, of_head[1] - 1), "zeros", name="bias_with_factors"
        )
        self.bias_deviation = self.add_weight(
            (self._heads, 1), keras.initializers.Constant(0.4), name="bias_deviation"
        )
        if "dense" in input_shape:
            self.dense_vector = keras.layers.Dense(width, use_bias=False, name="dense_vector")
        super().build(input_shape)

    def call(self, inputs: dict[str, Any]) -> Any:
        """Of each head the prediction before adaptation, and the features of a task's own values.

        Args:
            inputs: `"embedded"` float `[R, F, H (K + 1)]`, and `"dense"` float `[R, num_dense]` if
                any.

        Returns:
            `[R, H (K + 2)]`.
        """
        vectors = inputs["embedded"]
        # Unstacked and split: the gradient of each slice would be as large as the whole.
        fields = ops.unstack(vectors, axis=1)
        of_row = [v for field, v in enumerate(fields) if field not in self._task_fields]
        if self.dense_vector is not None:
            of_row.append(self.dense_vector(inputs["dense"]))
        row = self._by_head(sum(of_row, ops.zeros_like(fields[0])))
        of_task = [fields[field] for field in self._task_fields]
        task = self._by_head(sum(of_task, ops.zeros_like(fields[0]))) + self.prior_mean
        factors, bias = ops.split(row, [row.shape[-1] - 1], axis=-1)
        of_factors, own = ops.split(task, [row.shape[-1] - 1], axis=-1)
        bias += own
        product = ops.sum(factors * of_factors, axis=-1, keepdims=True)
        own_bias = ops.zeros_like(bias) + self.bias_deviation
        outputs = ops.concatenate(
            [
                product + self._bias_scale * bias,
                factors + self.bias_with_factors,
                own_bias,
            ],
            axis=-1,
        )
        return ops.reshape(outputs, (-1, outputs.shape[1] * outputs.shape[2]))

    def _by_head(self, vectors: Any) -> Any:
        """`[R, H (K + 1)]` as `[R, H, K + 1]`."""
        return ops.reshape(vectors, (-1, self._heads, vectors.shape[-1] // self._heads))
