"""gmeta_tf's own step of a problem of benchmarks/meta_problem.py, by the contract of its peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import gmeta_tf as gm
from benchmarks.meta_problem import MetaProblem, Shape, layers_of
from gmeta_tf.batch import Batch, LabelledRows
from gmeta_tf.meta.losses import task_losses
from gmeta_tf.meta_io.batches.assembly import distinct_keys

__all__ = ["batch_of", "make_step"]

_GROUP = "embedded"


def make_step(
    problem: MetaProblem, **inner_options: Any
) -> Callable[[], tuple[Any, list[Any], Any]]:
    """What `MetaModel.train_step` does between its fetch of the rows and its outer update.

    Args:
        problem: what to solve.
        inner_options: of `gm.InnerLoop`, beside what the problem says.
    """
    model = _model(problem.shape, len(problem.rows), inner_options)
    variables = _variables(model, problem.shape)
    for variable, values in zip(variables, problem.dense):
        variable.assign(values)
    batch = batch_of(problem)
    rows = {_GROUP: tf.constant(problem.rows)}

    def step(rows: dict[str, tf.Tensor], batch: Batch) -> tuple[Any, list[Any], Any]:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            outputs = model.adapter.outputs(rows, batch, training=True)
            query = batch["query"]
            loss = tf.reduce_sum(
                task_losses(model.row_loss, query["label"], outputs, query["weight"])
            )
        gradients, row_gradients = tape.gradient(
            loss, ([variable.value for variable in variables], rows)
        )
        return loss, gradients, tf.convert_to_tensor(row_gradients[_GROUP])

    # U and P are left open, as in the batches of `TaskBatches`.
    specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, (rows, batch))
    specs[0][_GROUP] = tf.TensorSpec([None, problem.shape.width], tf.float32)
    specs[1]["keys"][_GROUP] = tf.TensorSpec([None], tf.int64)
    specs[1]["pair_to_key"][_GROUP] = tf.TensorSpec([None], tf.int32)
    compiled = tf.function(step, input_signature=specs, autograph=False)
    return lambda: compiled(rows, batch)


def _model(shape: Shape, num_keys: int, inner_options: dict[str, Any]) -> gm.MetaModel:
    fields = [gm.Field(f"key_{index}", table="key") for index in range(shape.fields)]
    fields += [gm.Field(f"dense_{index}", "dense") for index in range(shape.dense_features)]
    schema = gm.Schema(tuple(fields), "label", "task").with_num_rows({"key": num_keys})
    embedding = gm.ShardedEmbedding(schema, shape.width, world=gm.World())
    learner = (
        gm.models.MeLU(shape.hidden)
        if shape.learner == "mlp"
        else gm.models.DLRM(shape.bottom, shape.hidden)
    )
    inner = gm.InnerLoop(
        shape.num_steps,
        shape.rate,
        embedding_learning_rate=shape.row_rate,
        order=shape.order,
        **inner_options,
    )
    model = gm.MetaModel(learner, embedding, inner)
    model.compile("sgd", "sgd")
    return model


def _variables(model: gm.MetaModel, shape: Shape) -> list[Any]:
    """The learner's variables in the order of `MetaProblem.dense`."""
    learner = model.learner
    stacks = [learner.decision] if shape.learner == "mlp" else [learner.bottom, learner.top]
    layers = [layer for stack in stacks for layer in stack] + [learner.score]
    if len(layers) != len(layers_of(shape)):
        raise ValueError(f"expected {len(layers_of(shape))} Dense layers, got {len(layers)}.")
    return [variable for layer in layers for variable in (layer.kernel, layer.bias)]


def batch_of(problem: MetaProblem) -> Batch:
    """The problem as `TaskBatches` would give it."""
    parts = {"support": problem.support, "query": problem.query}
    read = np.concatenate([part.keys for part in parts.values()], axis=1)
    there = np.concatenate([part.weight for part in parts.values()], axis=1) > 0
    there = np.broadcast_to(there[:, :, np.newaxis], read.shape)
    keys, pair_to_key, pairs = distinct_keys(
        tf.constant(read, tf.int64), tf.constant(there), len(problem.rows)
    )
    # The problem counts its keys in the order in which they are read, as the pipeline does.
    if not np.array_equal(keys, np.arange(len(problem.rows))):
        raise ValueError("expected the problem's keys to be numbered in the order of their use.")
    columns = (slice(problem.shape.support), slice(problem.shape.support, None))
    support, query = (
        LabelledRows(
            pairs={_GROUP: pairs[:, of_part]},
            dense=tf.constant(part.dense),
            label=tf.constant(part.label),
            weight=tf.constant(part.weight),
        )
        for part, of_part in zip((parts["support"], parts["query"]), columns, strict=True)
    )
    batch: Batch = {
        "keys": {_GROUP: keys},
        "pair_to_key": {_GROUP: pair_to_key},
        "task": tf.range(problem.shape.tasks, dtype=tf.int64),
        "support": support,
        "query": query,
        "out_of_range": tf.constant([-1], tf.int64),
    }
    return batch
