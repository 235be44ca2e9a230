"""Learners, optimizers and metrics with which training would go wrong silently, told beforehand."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta.losses import RowLoss

__all__ = [
    "check_call",
    "check_inner_loss",
    "check_learner",
    "check_metrics",
    "check_one_number",
    "check_optimizer",
    "check_options",
    "check_output",
    "check_precision",
]

_SHOWN_LETTERS = 200
# Ops that hand their first input on, whatever its values.
_HANDS_ON = {
    *("Identity", "Reshape", "Squeeze", "ExpandDims", "Cast", "StridedSlice", "StopGradient"),
    "PreventGradient",
}


_METRIC_OF_KERAS = {
    "AUC": "auc",
    "BinaryAccuracy": "accuracy",
    "Accuracy": "accuracy",
    "BinaryCrossentropy": "log_loss",
    "MeanAbsoluteError": "mae",
    "MeanSquaredError": "rmse",
    "RootMeanSquaredError": "rmse",
}
# What Keras' compile takes and a step over tasks has no place for.
_OPTIONS = ("run_eagerly", "steps_per_execution")


def check_learner(learner: Any) -> None:
    """Raises for a learner that is no Keras model.

    Raises:
        ValueError: a layer, a function or a class.
    """
    if not isinstance(learner, keras.Model):
        raise ValueError(
            f"MetaModel: expected a Keras model as the learner, got {_shown(learner)}. Extend "
            "keras.Model, or make a functional one: keras.Model(inputs, outputs)."
        )


def check_call(learner: keras.Model, example: dict[str, tf.Tensor]) -> None:
    """Calls a learner, and raises where that fails.

    Args:
        learner: not necessarily built; it is afterwards.
        example: its input, of one row.

    Raises:
        ValueError: the learner does not take the input.
    """
    inputs = ", ".join(f"{name!r} {_shape(value)}" for name, value in example.items())
    try:
        learner(example)
    except (ValueError, TypeError, KeyError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"MetaModel: the learner {learner.name!r} failed on one row, {_told(error)}. "
            f"Expected a model whose input is a dict of {inputs}; the first layer of a Sequential "
            "has to take that dict, or write a functional model."
        ) from error


def check_one_number(learner: keras.Model, example: dict[str, tf.Tensor], heads: int = 1) -> None:
    """Raises where a learner does not give one number a row and head.

    Args:
        learner: built.
        example: its input, of one row.
        heads: how many learners it is, see `InnerLoop`.

    Raises:
        ValueError: the learner has another output.
    """
    output = learner(example)
    tensors = tf.nest.flatten(output)
    is_one_number = len(tensors) == 1 and tensors[0].shape.rank and tensors[0].shape[0] == 1
    if isinstance(output, dict) or not is_one_number or tensors[0].shape.num_elements() != heads:
        shapes = tf.nest.map_structure(_shape, output)
        if heads > 1:
            raise ValueError(
                f"MetaModel: expected the learner {learner.name!r} to give {heads} numbers a row, "
                f"[R, {heads}], for InnerLoop(heads={heads}), got for one row {shapes}. "
                "models.Heads makes such a learner, and its inner_loop."
            )
        raise ValueError(
            f"MetaModel: expected the learner {learner.name!r} to give one number a row, [R] or "
            f"[R, 1], got for one row {shapes}. Let it return the one output that is trained: "
            "losses of several outputs are not known here."
        )


def check_options(options: Collection[str]) -> None:
    """Raises for options of Keras' `compile` that would be left unheeded.

    Raises:
        ValueError: one of them.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ValueError(
            f"MetaModel.compile: expected of Keras' options {' and '.join(_OPTIONS)} alone, got "
            f"{unknown[0]}, which has no effect on steps over tasks. Leave it out."
        )


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


def check_metrics(loss: RowLoss, metrics: Sequence[str], weight: str | None = None) -> None:
    """Raises for a metric that cannot be computed over tasks, or from the predictions of a loss.

    Args:
        loss: of the query rows.
        metrics: their names.
        weight: the schema's column of weights.

    Raises:
        ValueError: Keras' metrics and functions; log_loss of predictions that are no probabilities;
            a weighted metric of rows without weights; a name that is not known.
    """
    if isinstance(metrics, str) or not isinstance(metrics, list | tuple):
        raise ValueError(
            f"metrics: expected a list of names, such as {list(loss.metrics)}, got "
            f"{_shown(metrics)}. Put it in a list."
        )
    for one in metrics:
        kind = one if isinstance(one, str) else type(one).__name__
        instead = _METRIC_OF_KERAS.get(kind)
        if not isinstance(one, str) or instead is not None:
            remedy = f"Give {instead!r}." if instead else f"{list(loss.metrics)} are the default."
            raise ValueError(
                f"metrics: expected names of gmeta_tf's metrics, got {_shown(one)}. Keras' own add "
                "up the rows of one rank and know nothing of tasks, adapted and unadapted "
                f"predictions. {remedy}"
            )
    of_probabilities = [one for one in metrics if metric(one).is_of_probabilities]
    if loss.predicts_probabilities is False and of_probabilities:
        fitting = ", ".join(loss.metrics)
        raise ValueError(
            f"metrics: expected those of numbers with the loss {loss.name}, got "
            f"{of_probabilities[0]!r}, which needs probabilities. Leave it out ({fitting} are the "
            "default), or train with binary_crossentropy."
        )

    weighted = [one for one in metrics if metric(one).is_weighted]
    if weight is None and weighted:
        raise ValueError(
            f"metrics: expected a schema with a `weight` with {weighted[0]!r}, got one without. "
            "State the weights' column and prepare the data again, or give "
            f"{weighted[0].removeprefix('weighted_')!r}."
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


def check_inner_loss(given: Any, inner: RowLoss, outer: RowLoss, *, takes: bool) -> None:
    """Raises for a loss of the inner loop that would have no effect, or read the output wrongly.

    Args:
        given: what `compile` was given; None is the outer loss.
        inner: the loss that it means.
        outer: the loss of the query rows.
        takes: whether tasks adapt by a loss.

    Raises:
        ValueError: a model that adapts in closed form; `"ratings"`, whose plain units would make a
            rating of 0 of a logit of 0.
    """
    if given is not None and not takes:
        raise ValueError(
            "MetaModel.compile: expected no inner_loss with ClosedForm, which adapts to labels as "
            f"they are, got {inner.name}. Leave it out."
        )
    if isinstance(given, str) and inner.takes_values and outer.takes_logits:
        raise ValueError(
            f"MetaModel.compile: expected inner_loss=gm.rating_loss(centre, scale) with the loss "
            f"{outer.name}, got {given!r}, which takes a logit of 0 for a rating of 0. State the "
            "rating of a logit of 0, and how many ratings a logit of 1 adds."
        )


def _shown(value: Any) -> str:
    """A text as it is; of other objects the kind alone."""
    return repr(value) if isinstance(value, str) else f"an object of {type(value).__name__}"


def _shape(value: Any) -> str:
    return str(list(value.shape))


def _told(error: Exception) -> str:
    """An error's first line that says something, without colours."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception encountered when")]
    return f"{type(error).__name__}: {(told or ['no message'])[0][:_SHOWN_LETTERS].rstrip('.')}"


def _ends_in_a_sigmoid(learner: keras.Model, example: dict[str, tf.Tensor]) -> bool:
    # AutoGraph would convert the learner's own code, which Keras has converted where it is wanted.
    run = tf.function(lambda rows: learner(rows, training=False), autograph=False)
    outputs = run.get_concrete_function(example).graph.outputs
    if len(outputs) != 1:
        return False
    ops = [outputs[0].op]
    for op in ops:
        if op.type in _HANDS_ON:
            ops.append(op.inputs[0].op)
        elif op.type == "ConcatV2":  # of heads; its last input is the axis
            ops += [part.op for part in op.inputs[:-1]]
    return any(op.type == "Sigmoid" for op in ops)
