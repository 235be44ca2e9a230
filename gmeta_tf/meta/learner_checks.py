"""Learners, optimizers and metrics with which training would go wrong silently, told beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.meta.losses import RowLoss

__all__ = ["check_metrics", "check_optimizer", "check_output", "check_precision"]

# Ops that hand their first input on, whatever its values.
_HANDS_ON = {
    *("Identity", "Reshape", "Squeeze", "ExpandDims", "Cast", "StridedSlice", "StopGradient"),
    "PreventGradient",
}


def check_precision(learner: keras.Model) -> None:
    """Raises for a learner that computes in float16.

    Its small gradients would be zeros unless the loss were scaled, in the inner loop too.

    Raises:
        ValueError: names the layer.
    """
    half = [
        layer.name
        for layer in (learner, *learner._flatten_layers(include_self=False))
        if layer.compute_dtype == "float16"
    ]
    if half or keras.config.dtype_policy().compute_dtype == "float16":
        name = half[-1] if half else learner.name
        raise ValueError(
            f"MetaModel: expected a learner that computes in float32 or bfloat16, got {name!r} in "
            "float16, whose small gradients become zeros, as no loss is scaled here. Call "
            'keras.config.set_dtype_policy("mixed_bfloat16") or ("float32") before the learner is '
            "made."
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises for an optimizer that would treat dense weights otherwise than rows are treated.

    Raises:
        ValueError: one that scales losses, adds up the gradients of several steps, or puts
            averages in the place of weights.
    """
    problem = None
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        problem = "a LossScaleOptimizer, which divides gradients by a scale that no loss has here"
    elif optimizer.loss_scale_factor:
        problem = "loss_scale_factor, by which gradients are divided and no loss is multiplied here"
    elif optimizer.gradient_accumulation_steps:
        problem = "gradient_accumulation_steps, while rows are updated in every step"
    elif optimizer.use_ema:
        problem = "use_ema, which averages the dense weights and leaves the rows out"
    if problem is not None:
        raise ValueError(
            "MetaModel.compile: expected an optimizer that updates dense weights in every step, "
            f"got {problem}. Give a plain optimizer; more tasks a step have the effect of "
            "accumulated gradients."
        )


def check_metrics(loss: RowLoss, metrics: Sequence[str]) -> None:
    """Raises for a metric that cannot be computed from the predictions of a loss.

    Raises:
        ValueError: log_loss of predictions that are no probabilities.
    """
    if loss.predicts_probabilities is False and "log_loss" in metrics:
        fitting = ", ".join(loss.metrics)
        raise ValueError(
            f"metrics: expected those of numbers with the loss {loss.name}, got 'log_loss', which "
            f"needs probabilities. Leave it out ({fitting} are the default), or train with "
            "binary_crossentropy."
        )


def check_output(learner: keras.Model, example: dict[str, tf.Tensor], loss: RowLoss) -> None:
    """Raises for a learner that ends in a sigmoid where the loss takes logits.

    The loss would apply a second one: all predictions would lie between 0.5 and 0.73.

    Args:
        learner: built.
        example: its input, of one row.
        loss: the loss of its output.

    Raises:
        ValueError: the learner ends in a sigmoid.
    """
    if loss.takes_logits and _ends_in_a_sigmoid(learner, example):
        raise ValueError(
            f"the learner {learner.name!r} ends in a sigmoid: expected logits, of which "
            f"{loss.name} takes the sigmoid itself. Leave the last activation out, such as "
            "Dense(1) for Dense(1, activation='sigmoid')."
        )


def _ends_in_a_sigmoid(learner: keras.Model, example: dict[str, tf.Tensor]) -> bool:
    # AutoGraph would convert the learner's own code, which Keras has converted where it is wanted.
    run = tf.function(lambda rows: learner(rows, training=False), autograph=False)
    outputs = run.get_concrete_function(example).graph.outputs
    if len(outputs) != 1:
        return False
    op = outputs[0].op
    while op.type in _HANDS_ON:
        op = op.inputs[0].op
    return bool(op.type == "Sigmoid")
