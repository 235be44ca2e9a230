"""PyTorch, one task after the other: what learn2learn, higher and MeLU's published code do.

Each task takes functional inner steps with `create_graph=True`, so that nothing is written into the
model, and its query loss is differentiated at once, which frees its graph before the next task
comes. There is no module: parameters are plain tensors and each task sees only its own rows,
without padding. So it has less overhead than the libraries that it stands for.
On the main shape one thread is a little faster than two, 24k samples a second to 23k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.meta_problem import MetaProblem
from benchmarks.peers.torch_learner import learner, mean_loss, part_tensors

__all__ = ["make_step"]


def make_step(problem: MetaProblem) -> Callable[[], tuple[Any, list[Any], Any]]:
    """The step of benchmarks/meta_problem.py."""
    shape, own = problem.shape, problem.own_rows()
    forward = learner(shape)
    rows = torch.from_numpy(problem.rows)
    dense = [torch.from_numpy(values) for values in problem.dense]
    tasks = []
    for task in range(shape.tasks):
        parts = [
            (torch.from_numpy(places[task].copy()).long(), *(t[task] for t in tensors))
            for places, tensors in (
                (own.support, part_tensors(problem.support)),
                (own.query, part_tensors(problem.query)),
            )
        ]
        # A task without rows still has a place to read; nothing depends on what it reads.
        keys = torch.from_numpy(own.keys[task, : max(1, own.count[task])].copy()).long()
        tasks.append((keys, *parts))

    def loss(dense: list[Any], own: Any, part: tuple[Any, ...]) -> Any:
        places, features, label, weight = part
        vectors = own.index_select(0, places.flatten()).unflatten(0, places.shape)
        return mean_loss(forward(dense, vectors, features), label, weight)

    def step() -> tuple[Any, list[Any], Any]:
        shared = [values.detach().requires_grad_() for values in dense]
        total = torch.zeros([])
        sums = [torch.zeros_like(values) for values in dense]
        row_sums = torch.zeros_like(rows)
        for keys, support, query in tasks:
            first = rows[keys].requires_grad_()
            fast, fast_rows = list(shared), first
            for _ in range(shape.num_steps):
                *moves, row_move = torch.autograd.grad(
                    loss(fast, fast_rows, support),
                    [*fast, fast_rows],
                    create_graph=shape.order == 2,
                )
                fast = [v - shape.rate * g for v, g in zip(fast, moves)]
                fast_rows = fast_rows - shape.row_rate * row_move
            task_loss = loss(fast, fast_rows, query)
            *gradients, row_gradient = torch.autograd.grad(task_loss, [*shared, first])
            total += task_loss.detach()
            for summed, gradient in zip(sums, gradients):
                summed += gradient
            row_sums.index_add_(0, keys, row_gradient)  # a task's keys are distinct
        return total, sums, row_sums

    return step
