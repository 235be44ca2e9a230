"""What `gmeta-tf train` would train and evaluate, in this process."""

from __future__ import annotations

from typing import NamedTuple

import keras

import gmeta_tf as gm
from gmeta_tf.cli.built_model import build_model, look_at_records, training_of
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_batches import evaluation_batches, training_batches

__all__ = ["ReadyRun", "ready_run"]


class ReadyRun(NamedTuple):
    """A run before its first step.

    Attributes:
        options: with what was found in the records.
        model: compiled, untrained.
        batches: of the training split.
        test: of the split `test`, its support drawn by the run's seed.
    """

    options: TrainOptions
    model: gm.MetaModel
    batches: gm.TaskBatches
    test: gm.TaskBatches


def ready_run(options: TrainOptions) -> ReadyRun:
    """The run of some options, in one process."""
    records, world = gm.Records.open(options.records), gm.World()
    options = look_at_records(options, records, world)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world, training_of(options, records, world))
    test = evaluation_batches(records, "test", options.support, options.seed, world)
    return ReadyRun(options, model, training_batches(options, records, world), test)
