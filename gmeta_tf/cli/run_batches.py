"""The batches of a run: those that its options train on, and those that it is evaluated on."""

from __future__ import annotations

import numpy as np

import gmeta_tf as gm
from gmeta_tf.cli.options import StepOptions

__all__ = ["TRAIN_SPLIT", "check_validation", "evaluation_batches", "training_batches"]

TRAIN_SPLIT = "train"
_EVALUATED_QUERY_ROWS = 64
_EVALUATED_TASKS = 16


def training_batches(
    options: StepOptions,
    records: gm.Records,
    world: gm.World,
    begin: gm.Progress = gm.Progress(),  # noqa: B008, frozen
) -> gm.TaskBatches:
    """The steps that `train` takes with the options, and that `plan` counts."""
    return gm.TaskBatches(
        records,
        TRAIN_SPLIT,
        tasks=options.tasks,
        support=options.support,
        query=options.query,
        every_row=options.every_row,
        in_time_order=options.in_time_order,
        buckets=options.buckets,
        seed=options.seed,
        world=world,
        begin=begin,
    )


def evaluation_batches(
    records: gm.Records,
    split: str,
    support: int,
    seed: int,
    world: gm.World,
    *,
    in_time_order: bool = False,
) -> gm.TaskBatches:
    """Batches in which every row that is not support is a query row."""
    if split not in records.splits:
        raise ValueError(
            f"{records.path} has no split {split!r}; it has {', '.join(records.splits)}."
        )
    num_tasks = records.contents[split].tasks
    return gm.TaskBatches(
        records,
        split,
        tasks=max(1, min(_EVALUATED_TASKS, num_tasks // world.size)),
        support=support,
        query=_EVALUATED_QUERY_ROWS,
        every_query=True,
        in_time_order=in_time_order,
        shuffle=False,
        seed=seed,
        world=world,
    )


def check_validation(records: gm.Records) -> None:
    """Raises where validation could not choose a checkpoint without a look at the test split.

    In records that were split by time the same tasks are in both, and the rows of "valid" are the
    earlier ones.

    Raises:
        ValueError: no split "valid", or tasks that are in "test" too.
    """
    if "valid" not in records.splits:
        raise ValueError(
            "train: expected records with a split 'valid' with --patience and --choose-by, "
            f"{records.path} has {', '.join(records.splits)}. Leave the flags out, or prepare "
            "records with a larger valid_fraction."
        )
    if "test" not in records.splits or records.details.get("split", {}).get("by") == "time":
        return
    both = np.intersect1d(records.index("valid")["task"], records.index("test")["task"])
    if len(both):
        raise ValueError(
            f"train: expected tasks of the split 'valid' that are not in 'test', {len(both)} are "
            f"in both, the first is {both[0]}. Prepare the records anew."
        )
