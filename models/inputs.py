"""What learners do with their inputs first."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["flatten_fields"]


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
