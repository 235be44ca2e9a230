"""`gmeta-tf train`: alone, or the same under `horovodrun`."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys

import keras
import yaml

import gmeta_tf as gm
from gmeta_tf.cli.options import (
    TrainOptions,
)
from gmeta_tf.cli.runs import build_model, judged_batches, say, training_batches
from gmeta_tf.distributed.collectives import agree, broadcast_json, start
from gmeta_tf.saving.checkpoint import latest_checkpoint

__all__ = ["train"]


def train(options: TrainOptions) -> None:
    """`gmeta-tf train`; the same under `horovodrun`."""
    world = gm.World.detect()
    start(world)
    agree(dataclasses.asdict(options), world, name="the options of gmeta-tf train")
    run = pathlib.Path(options.run)
    records = gm.Records.open(options.records)
    checkpoint = latest_checkpoint(run / "checkpoint") if options.resume else None
    _claim_run_folder(run, options, world)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world)
    begin = gm.Progress()
    if checkpoint is not None:
        saved = gm.load_checkpoint(model, checkpoint)
        begin = gm.Progress(saved["epoch"])
        if "progress" in saved:
            begin = gm.Progress.from_json(saved["progress"])
        say(world, f"resuming after epoch {saved['epoch']} from {checkpoint}")
    batches = training_batches(options, records, world, begin)
    folder = gm.RunFolder(
        run,
        batches,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
    )
    valid = None
    if options.validate and "valid" in records.splits:
        valid = judged_batches(records, "valid", options.support, options.seed, world)
    say(world, f"training on {world.size} rank(s), {batches.steps_per_epoch} steps an epoch")
    model.fit(
        batches,
        validation_data=valid,
        epochs=options.epochs,
        callbacks=[folder],
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    say(world, f"{run}: {folder.samples_per_second:,.0f} samples/s; `gmeta-tf evaluate` is next")


def _claim_run_folder(run: pathlib.Path, options: TrainOptions, world: gm.World) -> None:
    """Rank 0 makes the folder or finds it taken; every rank raises what it found."""
    problem = None
    if world.is_chief:
        config = run / "config.yaml"
        if run.exists() and any(run.iterdir()):
            if options.overwrite and not config.is_file():
                problem = f"{run} is no run folder, so --overwrite leaves it alone."
            elif options.overwrite:
                shutil.rmtree(run)
            elif not options.resume:
                problem = f"{run} is there. Choose another --run, or --resume or --overwrite it."
        if problem is None:
            run.mkdir(parents=True, exist_ok=True)
            saved = dataclasses.asdict(options) | {"resume": False, "overwrite": False}
            config.write_text(yaml.safe_dump(saved, sort_keys=False))
    problem = broadcast_json(problem, world, name="run_folder")
    if problem is not None:
        raise ValueError(problem)
