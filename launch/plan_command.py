"""`gmeta-tf plan`: what the tables take and what a step sends on so many ranks."""

from __future__ import annotations

import json

import keras

import gmeta_tf as gm
from gmeta_tf.embedding.key_requests import counted_requests, uniform_requests
from gmeta_tf.embedding.placement import StepShape, Wire, place, table_sizes
from gmeta_tf.embedding.placement_report import placement_lines
from gmeta_tf.embedding.pooling import field_slots
from gmeta_tf.embedding.row_optimizers import row_optimizer
from gmeta_tf.launch.commands import build_learner
from gmeta_tf.launch.options import PlanOptions, TrainOptions
from gmeta_tf.meta_io.pipeline import key_groups

__all__ = ["plan"]

_SPLIT = "train"


def plan(options: PlanOptions) -> None:
    """`gmeta-tf plan`.

    Raises:
        FileNotFoundError: no records folder.
        ValueError: a setting that `gmeta-tf train` would refuse too.
    """
    records = gm.Records.open(options.records)
    optimizer = row_optimizer(options.row_optimizer)
    sizes = table_sizes(
        records.schema,
        options.width,
        lambda width: {name: slot.width for name, slot in optimizer.slots(width).items()},
        options.world_size,
    )
    shape = StepShape(options.tasks, options.support, options.query)
    if options.keys_from == "records":
        requests = counted_requests(_batches(options, records), sizes, options.steps)
        source = (
            f"counted in {options.steps:,} step(s) of every rank, split {_SPLIT!r}, "
            f"seed {options.seed}"
        )
    else:
        requests = uniform_requests(records.schema, sizes, shape, options.world_size)
        source = "at most, as if keys were drawn evenly from each table (--keys-from uniform)"
    placement = place(
        sizes,
        requests,
        shape,
        requests_from=source,
        wire=Wire(options.wire),
        dense_weights=_num_dense_weights(options, records.schema),
    )
    if options.json:
        print(json.dumps({"records": records.path} | placement.to_json()))
    else:
        print("\n".join([records.path, *placement_lines(placement)]))


def _batches(options: PlanOptions, records: gm.Records) -> gm.TaskBatches:
    return gm.TaskBatches(
        records,
        _SPLIT,
        tasks=options.tasks,
        support=options.support,
        query=options.query,
        every_row=options.every_row,
        in_time_order=options.in_time_order,
        buckets=options.buckets,
        seed=options.seed,
        world=gm.World(0, options.world_size),
    )


def _num_dense_weights(options: PlanOptions, schema: gm.Schema) -> int:
    """The numbers in the learner's weights, found by running it on one row of zeros."""
    trained = TrainOptions(options.records, "", model=options.model, hidden=options.hidden)
    learner, _ = build_learner(trained)
    features = {
        group: keras.ops.zeros([1, len(slots), _width(schema, group, options.width)])
        for group, slots in field_slots(schema).items()
    }
    if schema.dense_fields:
        features["dense"] = keras.ops.zeros([1, len(schema.dense_fields)])
    learner(features)
    return sum(int(variable.shape.num_elements()) for variable in learner.trainable_variables)


def _width(schema: gm.Schema, group: str, width: int) -> int:
    return schema.table(key_groups(schema)[group][0]).width or width
