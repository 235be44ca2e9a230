"""What adapting in closed form costs beside one gradient step of the inner loop.

The same network (fields side by side, two hidden layers of 64, 128 tasks of 10 support and 10 query
rows) takes the two loops' part of a training step three ways: without adapting (K = 0), with one
gradient step of second order on its dense weights, and in closed form over the D outputs of its
last layer. What an adaptation costs is its time less that of K = 0. The three take turns; the last
line is the result as JSON, with the medians over rounds.

    python -m benchmarks.closed_form
    python -m benchmarks.closed_form --features 32 --support 20
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import gmeta_tf as gm
from benchmarks.meta_problem import MetaProblem, Shape, make_problem
from benchmarks.our_step import batch_of
from gmeta_tf.models.inputs import flatten_fields

__all__ = ["main"]

_ROUND_SECONDS = 0.5


class _Network(keras.Model):
    """MeLU's layers, with more outputs: a prediction and D features."""

    def __init__(self, features: int) -> None:
        super().__init__(name="network")
        self.decision = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
        self.outputs_of_row = keras.layers.Dense(1 + features)

    def call(self, inputs: dict[str, Any]) -> Any:
        hidden = flatten_fields(inputs)
        for layer in self.decision:
            hidden = layer(hidden)
        return self.outputs_of_row(hidden)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    shape = Shape(options.tasks, options.support, options.query)
    problem = make_problem(shape)
    steps = {
        "not adapted": _step(problem, gm.models.MeLU((64, 64)), gm.InnerLoop(0)),
        "one gradient step": _step(
            problem, gm.models.MeLU((64, 64)), gm.InnerLoop(1, 0.1, adapt_embeddings=False)
        ),
        "closed form": _step(problem, _Network(options.features), gm.ClosedForm()),
    }
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            seconds[name].append(_core_seconds(step))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, found in medians.items():
        print(f"{name:20} {1e3 * found:8.2f} ms of core a step")
    added = [
        (closed - none) / (stepped - none)
        for none, stepped, closed in zip(*seconds.values(), strict=True)
        if stepped > none
    ]
    result = {
        "benchmark": "closed_form",
        "core_ms": {name: round(1e3 * found, 3) for name, found in medians.items()},
        "ratio": {
            "step": round(_ratio(seconds["closed form"], seconds["one gradient step"]), 3),
            "adaptation": round(statistics.median(added), 3) if added else None,
        },
        "shape": vars(options),
    }
    print(json.dumps(result))
    return result


def _step(
    problem: MetaProblem, learner: keras.Model, inner: gm.InnerLoop | gm.ClosedForm
) -> Callable[[], Any]:
    """The loss and all gradients of a batch, from the rows on."""
    fields = tuple(gm.Field(f"key_{i}", table="key") for i in range(problem.shape.fields))
    schema = gm.Schema(fields, "label", "task").with_num_rows({"key": len(problem.rows)})
    embedding = gm.ShardedEmbedding(schema, problem.shape.width, world=gm.World())
    model = gm.MetaModel(learner, embedding, inner)
    model.compile("sgd", "sgd")
    rows, batch = {"embedded": tf.constant(problem.rows)}, batch_of(problem)
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)
    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            passed = model.adapter.query_pass(rows, batch, training=True)
            loss = tf.reduce_sum(passed.losses)
        return loss, tape.gradient(loss, (variables, rows))

    return step


def _core_seconds(step: Callable[[], Any]) -> float:
    """Of one step, over a round of them."""
    until, steps, began = time.perf_counter() + _ROUND_SECONDS, 0, time.process_time()
    while time.perf_counter() < until:
        step()
        steps += 1
    return (time.process_time() - began) / steps


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closed_form",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=128, help="T")
    parser.add_argument("--support", type=int, default=10, help="S")
    parser.add_argument("--query", type=int, default=10, help="Q")
    parser.add_argument("--features", type=int, default=16, help="D, a task's own values")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
