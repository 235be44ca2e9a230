"""TensorFlow, one task after the other: a Python loop, and a loop within one `tf.function`.

`make_step` is the loop as it is written by hand: Python goes through the tasks, calls a compiled
function of one task for each, and adds the gradients up.

`make_graph_step` is that loop within the graph, tuned: one `tf.while_loop`, several tasks in
flight. Nothing is kept for a backward pass over the loop: the loss of a step is a sum, so each
task's gradients are taken in its own turn and added up. What was tried, on the main shape and 2
cores, samples a second: one task in flight 85k, two to 32 149k to 150k; `tf.map_fn` 147k; every
task's ops in the graph 134k, and 40 s of tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from benchmarks.meta_problem import MetaProblem, Part, Shape, layers_of

__all__ = ["make_graph_step", "make_step"]

Step = Callable[[], tuple[Any, list[Any], Any]]


def make_step(problem: MetaProblem) -> Step:
    """The step of benchmarks/meta_problem.py, by a Python loop over the tasks."""
    return _make_step(problem, "python", parallel=1)


def make_graph_step(problem: MetaProblem, *, form: str = "while", parallel: int = 10) -> Step:
    """The step of benchmarks/meta_problem.py, by a loop within the graph.

    Args:
        problem: what to solve.
        form: "while" adds the gradients up in a `tf.while_loop`; "map" is `tf.map_fn`, which
            gives each task's and then sums; "unrolled" puts every task's ops into the graph.
        parallel: the tasks in flight of "while" and "map".
    """
    return _make_step(problem, form, parallel)


def _make_step(problem: MetaProblem, form: str, parallel: int) -> Step:
    shape, own = problem.shape, problem.own_rows()
    dense = [tf.Variable(values) for values in problem.dense]
    # As arguments: constants would let TensorFlow compute part of the step when it traces.
    tensors = tf.nest.map_structure(
        tf.constant,
        {
            "keys": own.keys,
            "support": _part(own.support, problem.support),
            "query": _part(own.query, problem.query),
        },
    )
    rows = tf.constant(problem.rows)

    def one_task(rows: tf.Tensor, data: dict[str, Any]) -> tuple[Any, list[Any], Any]:
        shared = [tf.convert_to_tensor(variable) for variable in dense]
        first = tf.gather(rows, data["keys"])
        with tf.GradientTape() as outer:
            outer.watch([*shared, first])
            fast, fast_rows = shared, first
            for _ in range(shape.num_steps):
                with tf.GradientTape() as inner:
                    inner.watch([*fast, fast_rows])
                    loss = _task_loss(shape, fast, fast_rows, data["support"])
                *moves, row_move = map(
                    tf.convert_to_tensor, inner.gradient(loss, [*fast, fast_rows])
                )
                if shape.order == 1:
                    *moves, row_move = map(tf.stop_gradient, [*moves, row_move])
                fast = [v - shape.rate * g for v, g in zip(fast, moves)]
                fast_rows = fast_rows - shape.row_rate * row_move
            loss = _task_loss(shape, fast, fast_rows, data["query"])
        *gradients, row_gradient = outer.gradient(loss, [*shared, first])
        return loss, gradients, row_gradient

    def step(rows: tf.Tensor, tensors: dict[str, Any]) -> tuple[Any, list[Any], Any]:
        answers = {"while": in_while, "map": in_map, "unrolled": unrolled}[form]
        loss, gradients, own_gradients = answers(rows, tensors)
        flat = tf.reshape(own_gradients, [-1, shape.width])
        return (
            loss,
            gradients,
            tf.math.unsorted_segment_sum(
                flat, tf.reshape(tensors["keys"], [-1]), tf.shape(rows)[0]
            ),
        )

    def in_while(rows: tf.Tensor, tensors: dict[str, Any]) -> tuple[Any, list[Any], Any]:
        own_gradients = tf.TensorArray(tf.float32, shape.tasks, element_shape=[None, shape.width])

        def body(index: tf.Tensor, loss: tf.Tensor, sums: list[Any], own_gradients: Any) -> Any:
            data = tf.nest.map_structure(lambda values: values[index], tensors)
            task_loss, gradients, row_gradient = one_task(rows, data)
            sums = [total + gradient for total, gradient in zip(sums, gradients)]
            written = own_gradients.write(index, row_gradient)
            return index + 1, loss + task_loss, sums, written

        _, loss, sums, own_gradients = tf.while_loop(
            lambda index, *_: index < shape.tasks,
            body,
            (tf.constant(0), tf.constant(0.0), [tf.zeros(v.shape) for v in dense], own_gradients),
            parallel_iterations=parallel,
        )
        return loss, sums, own_gradients.stack()

    def in_map(rows: tf.Tensor, tensors: dict[str, Any]) -> tuple[Any, list[Any], Any]:
        signature = (tf.float32, [tf.float32] * len(dense), tf.float32)
        losses, gradients, own_gradients = tf.map_fn(
            lambda data: one_task(rows, data),
            tensors,
            fn_output_signature=signature,
            parallel_iterations=parallel,
        )
        sums = [tf.reduce_sum(gradient, axis=0) for gradient in gradients]
        return tf.reduce_sum(losses), sums, own_gradients

    def unrolled(rows: tf.Tensor, tensors: dict[str, Any]) -> tuple[Any, list[Any], Any]:
        slices = [
            tf.nest.map_structure(lambda values, task=task: values[task], tensors)
            for task in range(shape.tasks)
        ]
        losses, gradients, own_gradients = zip(*(one_task(rows, data) for data in slices))
        sums = [tf.add_n(parts) for parts in zip(*gradients)]
        return tf.add_n(losses), sums, tf.stack(own_gradients)

    if form == "python":
        of_one_task = tf.function(one_task, autograph=False)
        of_tasks = [
            tf.nest.map_structure(lambda values, task=task: values[task], tensors)
            for task in range(shape.tasks)
        ]

        def in_python() -> tuple[Any, list[Any], Any]:
            loss, *sums = 0.0, *([0.0] * len(dense))
            of_rows = []
            for data in of_tasks:
                task_loss, gradients, row_gradient = of_one_task(rows, data)
                loss = loss + task_loss
                sums = [total + gradient for total, gradient in zip(sums, gradients)]
                of_rows.append(row_gradient)
            keys = tf.reshape(tensors["keys"], [-1])
            of_rows = tf.concat(of_rows, axis=0)
            return loss, sums, tf.math.unsorted_segment_sum(of_rows, keys, tf.shape(rows)[0])

        return in_python

    specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, (rows, tensors))
    compiled = tf.function(step, input_signature=specs, autograph=False)
    return lambda: compiled(rows, tensors)


def _part(places: Any, part: Part) -> dict[str, Any]:
    return {
        "places": places,
        "dense": part.dense,
        "label": part.label,
        "weight": part.weight,
    }


def _task_loss(shape: Shape, dense: list[Any], own: tf.Tensor, part: dict[str, Any]) -> tf.Tensor:
    """One task's mean loss over its rows that are there; `own` `[M, D]`, places `[R, F]`."""
    logits = _forward(shape, dense, tf.gather(own, part["places"]), part["dense"])
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=part["label"], logits=logits)
    weight = part["weight"]
    return tf.reduce_sum(weight * loss) / tf.maximum(tf.reduce_sum(weight), 1.0)


def _forward(shape: Shape, dense: list[Any], vectors: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Logits `[R]` of vectors `[R, F, D]` and dense features `[R, N]`."""
    if shape.learner == "mlp":
        hidden = tf.reshape(vectors, [-1, shape.fields * shape.width])
        return _layers(dense, hidden)[:, 0]
    num_bottom = 2 * sum(layer.name.startswith("bottom") for layer in layers_of(shape))
    hidden = tf.nn.relu(_layers(dense[:num_bottom], features))
    vectors = tf.concat([hidden[:, tf.newaxis], vectors], axis=1)
    count = shape.fields + 1
    above = [row * count + column for row in range(count) for column in range(row + 1, count)]
    flat = tf.reshape(tf.matmul(vectors, vectors, transpose_b=True), [-1, count * count])
    products = tf.gather(flat, above, axis=1)
    return _layers(dense[num_bottom:], tf.concat([hidden, products], axis=1))[:, 0]


def _layers(dense: list[Any], hidden: tf.Tensor) -> tf.Tensor:
    for index in range(0, len(dense), 2):
        if index:
            hidden = tf.nn.relu(hidden)
        hidden = tf.matmul(hidden, dense[index]) + dense[index + 1]
    return hidden
