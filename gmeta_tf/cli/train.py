"""`gmeta-tf train`: alone, or the same under `horovodrun`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import keras

import gmeta_tf as gm
from gmeta_tf.cli.evaluate import undefined_metrics
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.resuming import changed_options, check_resumed, describe_changes
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder
from gmeta_tf.cli.runs import build_model, evaluation_batches, say, training_batches
from gmeta_tf.distributed.collectives import agree, barrier, broadcast_json, start
from gmeta_tf.saving.checkpoint import latest_checkpoint

__all__ = ["check_outcome", "train"]


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
    _on_chief(_check_run, options, world, name="run_folder_check")
    records = gm.Records.open(options.records)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world)
    begin = _load_last(model, options, world) if options.resume else gm.Progress()
    batches = training_batches(options, records, world, begin)
    valid = None
    if options.validate and "valid" in records.splits:
        valid = evaluation_batches(
            records,
            "valid",
            options.support,
            options.seed,
            world,
            in_time_order=options.in_time_order,
        )
    folder = gm.RunFolder(
        options.run,
        batches,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
    )
    model.check_data(batches, valid)
    barrier(world, name="run_checked")  # no rank has found anything wrong
    if world.is_chief:
        for line in describe_changes(changed_options(options)):
            say(world, line)
    _on_chief(claim_run_folder, options, world, name="run_folder_claim")
    say(world, f"training on {world.size} rank(s), {batches.steps_per_epoch} steps an epoch")
    history = model.fit(
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
    if history is not None:
        check_outcome(history.history, batches.steps_per_epoch)


def check_outcome(history: dict[str, list[float]], steps_per_epoch: int) -> None:
    """Raises where training has come to nothing; what it wrote stays.

    Args:
        history: Keras': each loss and metric, by epoch.
        steps_per_epoch: how many steps the last epoch had.

    Raises:
        ValueError: the last epoch has a loss or a metric that is no finite number, or has left out
            every step.
    """
    last = {name: float(values[-1]) for name, values in history.items() if values}
    undefined = undefined_metrics(last)
    if undefined:
        raise ValueError(
            f"expected the last epoch to have a number for every loss and metric, got none for "
            f"{', '.join(undefined)}: the model diverged, or every label of a split is positive "
            "or none is. Lower the learning rates, look at the labels and positive_from, or give "
            "other --metrics."
        )
    if last.get("skipped_steps", 0) >= steps_per_epoch:
        raise ValueError(
            f"expected steps with finite gradients, got none: all {steps_per_epoch} steps of the "
            "last epoch were left out. Lower the learning rates, or look for NaN in the data."
        )


def _check_run(options: TrainOptions) -> None:
    check_run_folder(options)
    check_resumed(options)


def _load_last(model: gm.MetaModel, options: TrainOptions, world: gm.World) -> gm.Progress:
    """Gives the model the run's newest checkpoint, if there is one; where to go on."""
    checkpoint = latest_checkpoint(pathlib.Path(options.run) / "checkpoint")
    if checkpoint is None:
        return gm.Progress()
    saved = gm.load_checkpoint(model, checkpoint)
    # The checkpoint has the earlier one, as it has all that the optimizer keeps.
    model.optimizer.learning_rate = options.learning_rate
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
