"""`gmeta-tf train`: alone, or the same under `horovodrun`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys

import keras

import gmeta_tf as gm
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder
from gmeta_tf.cli.runs import (
    build_model,
    check_records,
    evaluation_batches,
    options_of_model,
    say,
    training_batches,
)
from gmeta_tf.distributed.collectives import agree, barrier, start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.saving.checkpoint import restore_checkpoint
from gmeta_tf.saving.choice import ChosenCheckpoint, choose_checkpoint, set_aside
from gmeta_tf.saving.run_lock import RunLock
from gmeta_tf.saving.writing import named_if_full

__all__ = ["train"]


def train(options: TrainOptions) -> None:
    """`gmeta-tf train`; the same under `horovodrun`.

    Everything is built and the checkpoint is loaded before the run folder is touched, so that what
    is wrong with the options leaves an earlier run as it was.

    Raises:
        FileNotFoundError: no records folder.
        ValueError: an option, the records, the run folder or its checkpoint do not fit, or another
            process is training there.
        OSError: the disk is full; the checkpoints that there are stay as they are.
    """
    world = gm.World.detect()
    start(world)
    agree(dataclasses.asdict(options), world, name="the options of gmeta-tf train")
    on_chief(lambda: check_run_folder(options), world, name="run_folder_check")
    records = gm.Records.open(options.records)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world)
    chosen = _choose(options, records, world) if options.resume else None
    begin = gm.Progress() if chosen is None else _restore(model, chosen, world)
    batches = training_batches(options, records, world, begin)
    valid = None
    if options.validate and "valid" in records.splits:
        valid = evaluation_batches(records, "valid", options.support, options.seed, world)
    folder = gm.RunFolder(
        options.run,
        batches,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
        details={"options": options_of_model(options)},
    )
    barrier(world, name="run_checked")  # no rank has found anything wrong
    with contextlib.ExitStack() as stack:
        later = () if chosen is None else chosen.later
        on_chief(lambda: _claim(options, later, stack), world, name="run_folder_claim")
        _fit(model, batches, valid, folder, options, world)


def _fit(
    model: gm.MetaModel,
    batches: gm.TaskBatches,
    valid: gm.TaskBatches | None,
    folder: gm.RunFolder,
    options: TrainOptions,
    world: gm.World,
) -> None:
    say(world, f"training on {world.size} rank(s), {batches.steps_per_epoch} steps an epoch")
    model.fit(
        batches,
        validation_data=valid,
        epochs=options.epochs,
        callbacks=[folder],
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    say(
        world,
        f"{options.run}: {folder.samples_per_second:,.0f} samples/s; `gmeta-tf evaluate` is next",
    )


def _choose(options: TrainOptions, records: gm.Records, world: gm.World) -> ChosenCheckpoint | None:
    """The checkpoint to go on from, if there is one; the records are those that it was made of."""
    chosen = choose_checkpoint(
        pathlib.Path(options.run) / "checkpoint",
        world,
        name=options.checkpoint,
        fall_back=options.fall_back,
    )
    if chosen is not None:
        check_records(chosen.checked, records, world, same_rows=True)
    return chosen


def _restore(model: gm.MetaModel, chosen: ChosenCheckpoint, world: gm.World) -> gm.Progress:
    """Gives the model what the checkpoint holds; where to go on."""
    saved = restore_checkpoint(model, chosen.checked)
    say(world, f"resuming after epoch {saved['epoch']} from {chosen.checked.path}")
    if "progress" in saved:
        return gm.Progress.from_json(saved["progress"])
    return gm.Progress(saved["epoch"])


def _claim(options: TrainOptions, later: tuple[str, ...], stack: contextlib.ExitStack) -> None:
    """Takes the run folder until the stack ends."""
    run = pathlib.Path(options.run)
    check_run_folder(options)
    run.mkdir(parents=True, exist_ok=True)
    stack.enter_context(RunLock.take(run))
    with named_if_full(run):
        claim_run_folder(options)
    set_aside(run / "checkpoint", later, run / "set_aside")
