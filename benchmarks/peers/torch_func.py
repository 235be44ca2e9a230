"""PyTorch's own vectorization of tasks: `torch.func.vmap` over a task whose inner step is `grad`.

What was tried, on the main shape, one thread, samples a second of processor time:

    rows read by             index   embedding   index_select   gather
    outer autograd.grad       100k        103k            69k     100k
    outer torch.func.grad      95k         98k            69k      92k
    vmap(grad), then sums      86k         90k            76k      77k

    all of it in torch.compile (with torch.func.grad and embedding): 165k

So plain PyTorch is `autograd.grad` around the `vmap` and `embedding`, and `make_compiled_step` is
what inductor makes of the whole. It needs a C++ compiler, compiles for 20 s and more, and again for
each shape; a step whose numbers of keys change pays that again or is compiled for open sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import grad, grad_and_value, vmap
from torch.nn.functional import embedding

from benchmarks.meta_problem import MetaProblem, Shape
from benchmarks.peers.torch_learner import learner, mean_loss, part_tensors

__all__ = ["make_compiled_step", "make_step"]


def make_step(problem: MetaProblem) -> Callable[[], tuple[Any, list[Any], Any]]:
    """The step of benchmarks/meta_problem.py."""
    losses, (dense, rows, keys, parts) = _task_losses(problem.shape), _tensors(problem)

    def step() -> tuple[Any, list[Any], Any]:
        shared = [values.detach().requires_grad_() for values in dense]
        first = rows.detach().requires_grad_()
        loss = losses(shared, embedding(keys, first), *parts).sum()
        *gradients, row_gradients = torch.autograd.grad(loss, [*shared, first])
        return loss.detach(), gradients, row_gradients

    return step


def make_compiled_step(problem: MetaProblem) -> Callable[[], tuple[Any, list[Any], Any]]:
    """The same, compiled by `torch.compile` as one graph at the first call."""
    losses, (dense, rows, keys, parts) = _task_losses(problem.shape), _tensors(problem)

    def total(dense: list[Any], rows: Any, keys: Any, parts: Any) -> Any:
        return losses(dense, embedding(keys, rows), *parts).sum()

    # Not autograd: compiled graphs can not be differentiated twice, torch.func's inside one can.
    gradients_of = torch.compile(grad_and_value(total, argnums=(0, 1)), fullgraph=True)

    def step() -> tuple[Any, list[Any], Any]:
        (gradients, row_gradients), loss = gradients_of(dense, rows, keys, parts)
        return loss, gradients, row_gradients

    return step


def _tensors(problem: MetaProblem) -> tuple[list[Any], Any, Any, list[tuple[Any, ...]]]:
    """The dense weights, the rows, each task's keys, and the support and the query."""
    own = problem.own_rows()
    parts = [
        (torch.from_numpy(places.copy()).long(), *part_tensors(part))
        for places, part in ((own.support, problem.support), (own.query, problem.query))
    ]
    dense = [torch.from_numpy(values) for values in problem.dense]
    return dense, torch.from_numpy(problem.rows), torch.from_numpy(own.keys).long(), parts


def _task_losses(shape: Shape) -> Callable[..., Any]:
    """Dense weights, own rows `[T, M, D]`, support, query -> each task's query loss `[T]`."""
    forward = learner(shape)

    def loss(values: tuple[list[Any], Any], part: tuple[Any, ...]) -> Any:
        weights, own = values
        places, features, label, weight = part
        return mean_loss(forward(weights, embedding(places, own), features), label, weight)

    def one_task(dense: list[Any], own: Any, support: Any, query: Any) -> Any:
        for _ in range(shape.num_steps):
            moves, row_move = grad(loss)((dense, own), support)
            if shape.order == 1:
                moves, row_move = [move.detach() for move in moves], row_move.detach()
            dense = [v - shape.rate * g for v, g in zip(dense, moves)]
            own = own - shape.row_rate * row_move
        return loss((dense, own), query)

    return vmap(one_task, in_dims=(None, 0, 0, 0))
