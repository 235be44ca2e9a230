"""The adaptation of a batch of tasks in closed form."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows, values_of
from gmeta_tf.meta.adapter import Adapter, QueryPass
from gmeta_tf.meta.closed_form import (
    ClosedForm,
    TaskRowsSeen,
    posterior,
    predictive,
    query_loss,
)
from gmeta_tf.meta.fast_layers import TaskRows
from gmeta_tf.meta.features import features_of, rows_of_pairs
from gmeta_tf.schema import Schema

__all__ = ["ClosedFormAdapter"]


class _Prior(NamedTuple):
    """What the learner says of the rows of T tasks before they adapt, with H heads: `closed_form`.

    Attributes:
        mean: `[H T, R]`, the tasks of the first head, then those of the second, and so on.
        features: `[H T, R, D]`.
    """

    mean: tf.Tensor
    features: tf.Tensor


class ClosedFormAdapter(Adapter):
    """Adapts tasks by the posterior mean of their own values; see `ClosedForm`.

    Attributes:
        weights: what the outer loop trains beside the learner: `log_noise`, `centre`, `log_scale`
            and `cut`, scalars; see `ClosedForm`.
    """

    weights: dict[str, Any]

    def __init__(
        self,
        learner: keras.Model,
        closed_form: ClosedForm,
        example: dict[str, tf.Tensor],
        schema: Schema,
        *,
        lanes: int,
    ) -> None:
        """Puts a learner and a closed form together.

        Args:
            learner: built; its output has `H (1 + D)` numbers a row.
            closed_form: how a task adapts.
            example: the learner's inputs for some rows.
            schema: what a row is.
            lanes: see the class.

        Raises:
            ValueError: the learner's output has another shape, or it keeps state that training
                would change in place.
        """
        super().__init__(schema, lanes)
        self.learner, self.closed_form = learner, closed_form
        self._check_output(example)
        stateful = [v.path for v in learner.non_trainable_variables if "seed" not in v.name]
        if stateful:
            raise ValueError(
                f"the learner keeps state outside its weights: {stateful}. Use LayerNormalization "
                "in place of BatchNormalization, and unfreeze or drop frozen variables."
            )
        self._takes_training = "training" in inspect.signature(learner.call).parameters

    def make_weights(self, add_weight: Callable[..., Any]) -> None:
        own = self.closed_form
        cut = own.cut
        if cut is None:
            cut = 0.5 if self.schema.positive_from is None else self.schema.positive_from
        starts = {
            "log_noise": math.log(own.noise),
            "centre": own.centre,
            "log_scale": math.log(own.scale),
            "cut": cut,
        }
        self.weights = {
            name: add_weight(shape=(), initializer=keras.initializers.Constant(start), name=name)
            for name, start in starts.items()
        }

    def advance_seeds(self) -> None:
        for seed in self.learner.non_trainable_variables:
            seed.assign(seed.value + tf.constant([0, 1], seed.dtype))

    def query_pass_in_one_lane(self, rows: Rows, batch: Batch, *, training: bool) -> QueryPass:
        own_rows = rows_of_pairs(rows, batch)
        support = self._prior(own_rows, batch["support"], training=training)
        query = self._prior(own_rows, batch["query"], training=training)
        seen, asked = self._seen(support, batch["support"]), self._seen(query, batch["query"])
        noise = tf.exp(self.weights["log_noise"])
        own = posterior([seen], noise)
        added, variance = predictive(own, query.features)
        mean, variance = query.mean + added, variance + tf.square(noise)
        # The likelihood of labels: densities in other units differ by the scale.
        units = asked.count * tf.convert_to_tensor(self.weights["log_scale"])
        losses = self._over_heads(query_loss(own, seen, asked, noise) + units)
        if self.row_loss.takes_logits:
            losses += self._only_the_cut_learns(mean, variance, batch["query"])
        deviation = self._deviation(mean, variance)
        return QueryPass(self._outputs(mean, variance), losses, deviation)

    def unadapted_outputs(self, rows: Rows, batch: Batch) -> tf.Tensor:
        prior = self._prior(rows_of_pairs(rows, batch), batch["query"], training=False)
        variance = tf.reduce_sum(tf.square(prior.features), axis=-1)
        return self._outputs(prior.mean, variance + tf.exp(2 * self.weights["log_noise"]))

    def _check_output(self, example: dict[str, tf.Tensor]) -> None:
        output, heads = self.learner(example), self.closed_form.heads
        shape = tf.nest.map_structure(lambda one: tuple(one.shape), output)
        width = output.shape[-1] if tf.is_tensor(output) and len(output.shape) == 2 else 0
        if width % heads or width < 2 * heads:
            raise ValueError(
                f"ClosedForm: expected the learner {self.learner.name!r} to give {heads} times "
                "1 + D numbers a row, a prediction and D features, with D of at least 1, got "
                f"the shape {shape}. Use models.Factors or such a learner, or InnerLoop for this "
                "one."
            )

    def _prior(self, own_rows: Rows, part: LabelledRows, *, training: bool) -> _Prior:
        features = features_of(own_rows, part, self.schema)
        rows = TaskRows.of(next(iter(features.values())))
        options = {"training": training} if self._takes_training else {}
        outputs = self.learner({n: rows.flat(value) for n, value in features.items()}, **options)
        if outputs.dtype.size < 4:
            outputs = tf.cast(outputs, tf.float32)
        heads = self.closed_form.heads
        outputs = tf.reshape(outputs, [*rows, heads, outputs.shape[-1] // heads])
        by_head = tf.concat(tf.unstack(outputs, axis=2), axis=0)
        mean, features = tf.split(by_head, [1, by_head.shape[-1] - 1], axis=-1)
        return _Prior(mean[..., 0], features)

    def _seen(self, prior: _Prior, part: LabelledRows) -> TaskRowsSeen:
        centre, scale = self._units()
        label = (tf.cast(values_of(part), prior.mean.dtype) - centre) / scale
        label, weight = self._for_heads(label), self._for_heads(part["weight"])
        return TaskRowsSeen.of(prior.features, label - prior.mean, tf.cast(weight, label.dtype))

    def _outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """The mean label; or, with log loss, the logit that the label is at least `cut`, `[T, R]`.

        Args:
            mean: of the label in units of `scale` from `centre` on, `[H T, R]`.
            variance: of the label in such units, `[H T, R]`.
        """
        centre, scale = self._units()
        if self.row_loss.takes_logits:
            return self._logits(mean, variance, centre, scale)
        return self._over_heads(centre + scale * mean)

    def _deviation(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """The standard deviation of the label, in its own units, `[T, R]`: heads are a mixture."""
        of_mean = self._over_heads(tf.square(mean)) - tf.square(self._over_heads(mean))
        variance = self._over_heads(variance) + tf.nn.relu(of_mean)
        return self._units()[1] * tf.sqrt(variance)

    def _units(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The label of a prediction of 0, and its change for a prediction of 1."""
        centre = tf.convert_to_tensor(self.weights["centre"])
        return centre, tf.exp(self.weights["log_scale"])

    def _logits(
        self, mean: tf.Tensor, variance: tf.Tensor, centre: tf.Tensor, scale: tf.Tensor
    ) -> tf.Tensor:
        above = mean - (self.weights["cut"] - centre) / scale
        return self._over_heads(_logit_of_normal(above * tf.math.rsqrt(variance)))

    def _only_the_cut_learns(
        self, mean: tf.Tensor, variance: tf.Tensor, query: LabelledRows
    ) -> tf.Tensor:
        """0, whose gradient is that of each task's log loss in `cut`, `[T]`.

        Labels tell more than clicks, so all else is learned from them; of where a click starts they
        say nothing.
        """
        logits = self._logits(*map(tf.stop_gradient, (mean, variance, *self._units())))
        loss = self.row_loss.loss(query["label"], logits)
        loss = tf.reduce_sum(loss * query["weight"], axis=1)
        return loss - tf.stop_gradient(loss)

    def _for_heads(self, values: tf.Tensor) -> tf.Tensor:
        """`[T, R]` for each head, `[H T, R]`."""
        heads = self.closed_form.heads
        return values if heads == 1 else tf.tile(values, [heads, 1])

    def _over_heads(self, values: tf.Tensor) -> tf.Tensor:
        """The mean over heads of `[H T, ...]`: `[T, ...]`."""
        heads = self.closed_form.heads
        if heads == 1:
            return values
        return tf.reduce_mean(tf.stack(tf.split(values, heads, axis=0)), axis=0)


def _logit_of_normal(x: tf.Tensor) -> tf.Tensor:
    """The logit of the normal distribution function, but for 0.0002 in the probability.

    Page, "Approximations to the cumulative normal function", Applied Statistics 26 (1977).
    """
    return math.sqrt(8 / math.pi) * x * (1 + 0.044715 * tf.square(x))
