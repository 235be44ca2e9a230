"""What learners do with their inputs first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["decision_layers", "flatten_fields"]


def decision_layers(
    model: str, hidden: Sequence[int], activation: str | None = None
) -> list[keras.layers.Dense]:
    """MeLU's decision layers, and those of the models after it: one for each width.

    Args:
        model: the model's name, for messages.
        hidden: the widths.
        activation: of each; None where something stands between the layer and its activation.

    Raises:
        ValueError: no decision layer.
    """
    if not hidden:
        raise ValueError(f"{model}: expected at least one decision layer, got hidden=().")
    return [
        keras.layers.Dense(width, activation=activation, name=f"decision_{index}")
        for index, width in enumerate(hidden)
    ]


def flatten_fields(inputs: dict[str, Any]) -> Any:
    """All fields' vectors and the dense values side by side.

    Args:
        inputs: each of shape `[R, F, D]` (field vectors) or `[R, num_dense]`.

    Returns:
        `[R, sum of F D + num_dense]`.
    """
    parts = [
        ops.reshape(value, (-1, value.shape[-2] * value.shape[-1]))
        if len(value.shape) == 3
        else value
        for value in inputs.values()
    ]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
