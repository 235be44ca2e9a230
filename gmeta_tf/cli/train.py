"""`gmeta-tf train`: alone, or the same under `horovodrun`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import keras

import gmeta_tf as gm
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder
from gmeta_tf.cli.runs import build_model, evaluation_batches, say, training_batches
from gmeta_tf.distributed.collectives import agree, barrier, broadcast_json, start
from gmeta_tf.saving.checkpoint import latest_checkpoint

__all__ = ["train"]


def train(options: TrainOptions) -> None:
    """`gmeta-tf train`; the same under `horovodrun`.

    Everything is built and the checkpoint is loaded before the run folder is touched, so that what
    is wrong with the options leaves an earlier run as it was.

    Raises:
        FileNotFoundError: no records folder.
        ValueError: an option, the records, the run folder or its checkpoint do not fit.
    """
    world = gm.World.detect()
    start(world)
    agree(dataclasses.asdict(options), world, name="the options of gmeta-tf train")
    _on_chief(check_run_folder, options, world, name="run_folder_check")
    records = gm.Records.open(options.records)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world)
    begin = _load_last(model, options, world) if options.resume else gm.Progress()
    batches = training_batches(options, records, world, begin)
    valid = None
    if options.validate and "valid" in records.splits:
        valid = evaluation_batches(records, "valid", options.support, options.seed, world)
    folder = gm.RunFolder(
        options.run,
        batches,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
    )
    barrier(world, name="run_checked")  # no rank has found anything wrong
    _on_chief(claim_run_folder, options, world, name="run_folder_claim")
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


def _load_last(model: gm.MetaModel, options: TrainOptions, world: gm.World) -> gm.Progress:
    """Gives the model the run's newest checkpoint, if there is one; where to go on."""
    checkpoint = latest_checkpoint(pathlib.Path(options.run) / "checkpoint")
    if checkpoint is None:
        return gm.Progress()
    saved = gm.load_checkpoint(model, checkpoint)
    say(world, f"resuming after epoch {saved['epoch']} from {checkpoint}")
    if "progress" in saved:
        return gm.Progress.from_json(saved["progress"])
    return gm.Progress(saved["epoch"])


def _on_chief(
    act: Callable[[TrainOptions], None], options: TrainOptions, world: gm.World, *, name: str
) -> None:
    """Has rank 0 act on the run folder; every rank raises what it found."""
    problem = None
    if world.is_chief:
        try:
            act(options)
        except (ValueError, OSError) as error:
            problem = str(error)
    problem = broadcast_json(problem, world, name=name)
    if problem is not None:
        raise ValueError(problem)
