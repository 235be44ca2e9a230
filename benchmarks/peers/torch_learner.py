"""The learners of benchmarks/meta_problem.py as plain functions of PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from benchmarks.meta_problem import Part, Shape, layers_of

__all__ = ["Learner", "learner", "mean_loss", "part_tensors"]

Learner = Callable[[list[Any], Any, Any], Any]


def learner(shape: Shape) -> Learner:
    """The function `(kernels and biases, vectors [R, F, D], dense features) -> logits [R]`."""
    if shape.learner == "mlp":
        return lambda dense, vectors, _: _layers(dense, vectors.flatten(1))[:, 0]
    num_bottom = 2 * sum(layer.name.startswith("bottom") for layer in layers_of(shape))
    count = shape.fields + 1
    above = torch.triu_indices(count, count, offset=1)
    flat = above[0] * count + above[1]

    def dlrm(dense: list[Any], vectors: Any, features: Any) -> Any:
        hidden = torch.relu(_layers(dense[:num_bottom], features))
        vectors = torch.cat([hidden.unsqueeze(1), vectors], dim=1)
        products = (vectors @ vectors.transpose(1, 2)).flatten(1).index_select(1, flat)
        return _layers(dense[num_bottom:], torch.cat([hidden, products], dim=1))[:, 0]

    return dlrm


def mean_loss(logits: Any, label: Any, weight: Any) -> Any:
    """A task's mean over its rows that are there, 0 without any; all `[R]`."""
    loss = binary_cross_entropy_with_logits(logits, label, reduction="none")
    return (weight * loss).sum() / weight.sum().clamp(min=1)


def part_tensors(part: Part) -> tuple[Any, Any, Any]:
    """The dense features, labels and weights."""
    return tuple(torch.from_numpy(a.copy()) for a in (part.dense, part.label, part.weight))


def _layers(dense: list[Any], hidden: Any) -> Any:
    """Dense layers with ReLU between them; kernels are `[I, O]`."""
    for index in range(0, len(dense), 2):
        if index:
            hidden = torch.relu(hidden)
        hidden = linear(hidden, dense[index].T, dense[index + 1])
    return hidden
