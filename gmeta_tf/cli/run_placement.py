"""A run's options and W ranks → where its tables lie and what a step sends."""

from __future__ import annotations

import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.allowed import replicate_of
from gmeta_tf.cli.built_model import build_learner, build_task_encoder
from gmeta_tf.cli.options import StepOptions
from gmeta_tf.cli.run_batches import TRAIN_SPLIT, training_batches
from gmeta_tf.embedding.pooling import one_row
from gmeta_tf.embedding.replication_rule import ReplicationChoice, choose_replicated
from gmeta_tf.embedding.row_optimizers import row_optimizer
from gmeta_tf.meta.task_encoder import TASK_INPUT, TaskEncoder
from gmeta_tf.planner.key_requests import counted_requests, uniform_requests
from gmeta_tf.planner.placement import Placement, place
from gmeta_tf.planner.table_sizes import TableSize, table_sizes
from gmeta_tf.planner.traffic import StepShape, Wire

__all__ = ["run_placement", "run_tables"]


def run_placement(
    options: StepOptions,
    records: gm.Records,
    world_size: int,
    *,
    keys_from: str = "records",
    steps: int = 20,
) -> Placement:
    """What `gmeta-tf plan` tells, in one process.

    Args:
        options: of the run.
        records: its records.
        world_size: W.
        keys_from: `"records"` counts the keys of each rank's first steps, `"uniform"` is the most
            that a formula expects.
        steps: how many are counted.

    Raises:
        ValueError: a setting that `gmeta-tf train` would reject too.
    """
    sizes, replication = run_tables(options, records.schema, world_size)
    shape = StepShape(options.tasks, options.support, options.query)
    if keys_from == "records":
        requests = counted_requests(
            training_batches(options, records, gm.World(0, world_size)),
            sizes,
            steps,
        )
        source = (
            f"counted in {steps:,} step(s) of every rank, split {TRAIN_SPLIT!r}, "
            f"seed {options.seed}"
        )
    else:
        requests = uniform_requests(records.schema, sizes, shape, world_size)
        source = "at most, as if keys were drawn evenly from each table (--keys-from uniform)"
    return place(
        sizes,
        requests,
        shape,
        requests_from=source,
        wire=Wire(options.wire),
        dense_weights=_num_dense_weights(options, records.schema),
        replication=replication,
    )


def run_tables(
    options: StepOptions, schema: gm.Schema, world_size: int
) -> tuple[tuple[TableSize, ...], ReplicationChoice]:
    """What a run's tables take on W ranks, with its row optimizer's slots, and which it replicates.

    Args:
        options: of the run.
        schema: of its records.
        world_size: W.
    """
    optimizer = row_optimizer(options.row_optimizer)
    replication = choose_replicated(
        schema, options.width, world_size, replicate_of(options.replicate)
    )
    sizes = table_sizes(
        schema,
        options.width,
        lambda width: {name: slot.width for name, slot in optimizer.slots(width).items()},
        world_size,
        replicated=replication.groups,
    )
    return tuple(sizes), replication


def _num_dense_weights(options: StepOptions, schema: gm.Schema) -> int:
    """The numbers in the dense weights, found by running the models on rows of zeros."""
    learner = build_learner(options, schema)
    model = build_task_encoder(options, learner)
    example = one_row(schema, options.width)
    variables = []
    if model is not None:
        encoder = TaskEncoder(model, example)
        example[TASK_INPUT] = tf.zeros([1, encoder.size])
        variables += model.trainable_variables
    learner(example)
    variables += learner.trainable_variables
    return sum(int(variable.shape.num_elements()) for variable in variables)
