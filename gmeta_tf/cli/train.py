"""`gmeta-tf train`: alone, or the same under `horovodrun`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import sys

import keras

import gmeta_tf as gm
from gmeta_tf.cli.built_model import build_model, look_at_records, say, training_of
from gmeta_tf.cli.evaluate import undefined_metrics
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.resuming import changed_options, check_resumed, describe_changes
from gmeta_tf.cli.run_batches import check_validation, evaluation_batches, training_batches
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder
from gmeta_tf.cli.runs import as_found_before, check_records, options_of_model
from gmeta_tf.distributed.collectives import agree, barrier, start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch
from gmeta_tf.saving.checkpoints.checkpoint import restore_checkpoint
from gmeta_tf.saving.checkpoints.choice import ChosenCheckpoint, choose_checkpoint, set_aside
from gmeta_tf.saving.checkpoints.grown_tables import GrownTable, grown_tables
from gmeta_tf.saving.runs.heartbeat import Heartbeat
from gmeta_tf.saving.runs.run_lock import RunLock
from gmeta_tf.saving.writing import named_if_full

__all__ = ["check_outcome", "train"]


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
    on_chief(lambda: _check_run(options), world, name="run_folder_check")
    records = gm.Records.open(options.records)
    if options.compares_epochs:
        check_validation(records)
    keras.utils.set_random_seed(options.seed)
    chosen = _choose(options, records, world) if options.resume else None
    asked = options
    if chosen is not None:
        options = as_found_before(options, chosen.checked)
    options = look_at_records(options, records, world)
    training = training_of(options, records, world)
    model = build_model(options, records.schema, world, training=training)
    best = _best_so_far(options, chosen, model, world)
    if best is not None and best.is_over(options.patience):
        say(world, f"{options.run}: ended by --patience {options.patience}: {best.describe()}")
        return
    begin = gm.Progress() if chosen is None else _restore(model, chosen, options, world)
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
        best=best,
        patience=options.patience,
        preemptible=True,
        details={"options": options_of_model(options)},
    )
    model.check_data(batches, valid)
    barrier(world, name="run_checked")  # no rank has found anything wrong
    if world.is_chief:
        for line in describe_changes(changed_options(asked)):
            say(world, line)
    with contextlib.ExitStack() as stack:
        later = () if chosen is None else chosen.later
        on_chief(lambda: _claim(asked, later, stack), world, name="run_folder_claim")
        Heartbeat().begin()  # from here on a launcher may resume what is in the folder
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
    history = model.fit(
        batches,
        validation_data=valid,
        epochs=options.epochs,
        callbacks=[folder],
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    if folder.best is not None:
        say(world, _why_chosen(folder.best, options))
    speed = folder.samples_per_second
    done = "nothing was left to train" if math.isnan(speed) else f"{speed:,.0f} samples/s"
    say(world, f"{options.run}: {done}; `gmeta-tf evaluate` is next")
    if history is not None:
        check_outcome(history.history, batches.steps_per_epoch)


def _why_chosen(best: BestEpoch, options: TrainOptions) -> str:
    ended = ""
    if best.is_over(options.patience):
        ended = f"; --patience {options.patience} ended the run"
    return f"{best.describe()}{ended}"


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


def _choose(options: TrainOptions, records: gm.Records, world: gm.World) -> ChosenCheckpoint | None:
    """The checkpoint to go on from, if there is one; the records are those that it was made of."""
    chosen = choose_checkpoint(
        pathlib.Path(options.run) / "checkpoint",
        world,
        name=options.checkpoint,
        fall_back=options.fall_back,
    )
    if chosen is not None:
        check_records(chosen.checked, records, world, to_go_on=True)
    return chosen


def _best_so_far(
    options: TrainOptions, chosen: ChosenCheckpoint | None, model: gm.MetaModel, world: gm.World
) -> BestEpoch | None:
    """The best epoch that the checkpoint to go on from knows of; None where none are compared.

    Raises:
        ValueError: a metric that the run does not evaluate.
    """
    if not options.compares_epochs:
        return None
    names = model.accumulator.names
    by = names[0] if options.choose_by is None else options.choose_by
    if by not in names:
        raise ValueError(
            f"train: expected --choose-by to be one of the metrics, {', '.join(names)}, got {by}."
        )
    if chosen is None:
        return BestEpoch(by)
    saved = chosen.checked.details.get("best")
    if saved is not None and _grown(model, chosen):
        say(world, f"the tables have grown since {saved['metric']} was compared: it is anew")
        saved = None
    if saved is None or saved["metric"] != by:
        return BestEpoch(by, last=chosen.checked.details["epoch"])
    best = BestEpoch.from_json(saved)
    there = best.checkpoint is None or (chosen.checked.path.parent / best.checkpoint).is_dir()
    if on_chief(lambda: there, world, name="best_is_there"):
        return best
    say(world, f"{best.describe()}, but its checkpoint is gone: epochs are compared anew")
    return BestEpoch(by, last=chosen.checked.details["epoch"])


def _grown(model: gm.MetaModel, chosen: ChosenCheckpoint) -> tuple[GrownTable, ...]:
    """The tables that have more rows than in the checkpoint."""
    return grown_tables(chosen.checked.manifest["tables"], model.embedding.schema) or ()


def _restore(
    model: gm.MetaModel, chosen: ChosenCheckpoint, options: TrainOptions, world: gm.World
) -> gm.Progress:
    """Gives the model what the checkpoint holds; where to go on."""
    # Of a checkpoint that does not say what it was trained on, nobody knows which rows are whose.
    grow = "records" in chosen.checked.details
    saved = restore_checkpoint(model, chosen.checked, grow=grow)
    for table in _grown(model, chosen):
        say(world, table.describe())
    if options.decay == "none":
        # The checkpoint has the earlier one, as it has all that the optimizer keeps.
        model.optimizer.learning_rate = options.learning_rate
    say(world, f"resuming after epoch {saved['epoch']} from {chosen.checked.path}")
    if "progress" in saved:
        return gm.Progress.from_json(saved["progress"])
    return gm.Progress(saved["epoch"])


def _claim(options: TrainOptions, later: tuple[str, ...], stack: contextlib.ExitStack) -> None:
    """Takes the run folder until the stack ends."""
    run = pathlib.Path(options.run)
    check_run_folder(options)
    with named_if_full(run):
        run.mkdir(parents=True, exist_ok=True)
        stack.enter_context(RunLock.take(run))
        claim_run_folder(options)
    set_aside(run / "checkpoint", later, run / "set_aside")
