"""A run folder: its options, records and model, loaded."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

import gmeta_tf as gm
from gmeta_tf.cli.built_model import FOUND, build_model
from gmeta_tf.cli.inner_options import InnerOptions
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.distributed.collectives import start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.meta_io.records.fingerprint import check_fingerprint, has_other_rows
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.checkpoints.checkpoint import (
    CheckedCheckpoint,
    checked_checkpoint,
    restore_checkpoint,
)
from gmeta_tf.saving.checkpoints.choice import ChosenCheckpoint, choose_checkpoint

__all__ = [
    "LoadedRun",
    "as_found_before",
    "check_records",
    "load_chosen_run",
    "load_earlier",
    "load_run",
    "options_of_model",
]

# What a model is built and compiled from, apart from what it reports.
_OF_MODEL = (
    *(
        "model",
        "hidden",
        "heads",
        "task_fields",
        "width",
        "row_optimizer",
        "wire",
        "seed",
        "embedding_scale",
        "loss",
        "label_centre",
        "label_scale",
    ),
    *(field.name for field in dataclasses.fields(InnerOptions)),
    *("optimizer", "learning_rate", "weight_decay", "row_learning_rate", "decay", "row_shrinkage"),
    *("capacity", "when_full", "admit_after", "time_to_live"),
    # No model's, but how it is evaluated unless an option says otherwise.
    *("support", "in_time_order"),
)


class LoadedRun(NamedTuple):
    """What `load_run` gives.

    Attributes:
        options: of `gmeta-tf train`, as the model was trained.
        records: the run's records.
        model: compiled, with the weights of the checkpoint.
    """

    options: TrainOptions
    records: gm.Records
    model: gm.MetaModel


def load_run(
    run: str,
    world: gm.World | None = None,
    *,
    records_folder: str | None = None,
    metrics: list[str] | None = None,
    checkpoint: str | None = None,
    fall_back: bool = False,
) -> LoadedRun:
    """The options, the records and the model, as trained, of a run folder of `gmeta-tf train`.

    Every rank must call it. The model is to be evaluated, exported or looked at: rates that fell
    over the run (`decay`) are at their end, so to train on use `gmeta-tf train --resume`.

    Args:
        run: the folder.
        world: the ranks, connected; None detects and connects them.
        records_folder: where the records are; None is where they were.
        metrics: what the model evaluates; None is what the run's options say.
        checkpoint: the name of the checkpoint to load; None is the best by the validation, where
            the run was trained with `--patience` or `--choose-by`, and otherwise the newest.
        fall_back: where that one is damaged, load the newest other one that is not.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
        ValueError: its config.yaml or its checkpoint cannot be read, or does not fit; the records
            are not those that it was trained on.

    Example:
        options, records, model = gm.load_run("run")
        test = gm.TaskBatches(records, "test", support=options.support, every_query=True)
        model.evaluate(test, return_dict=True)
    """
    loaded, _ = load_chosen_run(
        run,
        world,
        records_folder=records_folder,
        metrics=metrics,
        checkpoint=checkpoint,
        fall_back=fall_back,
    )
    return loaded


def load_chosen_run(
    run: str,
    world: gm.World | None = None,
    *,
    records_folder: str | None = None,
    metrics: list[str] | None = None,
    checkpoint: str | None = None,
    fall_back: bool = False,
) -> tuple[LoadedRun, ChosenCheckpoint]:
    """`load_run`, and which checkpoint it loaded, and why."""
    if world is None:
        world = gm.World.detect()
        start(world)
    options = read_config(run)
    chosen = choose_checkpoint(
        pathlib.Path(run) / "checkpoint", world, name=checkpoint, fall_back=fall_back, best=True
    )
    if chosen is None:
        raise FileNotFoundError(
            f"{run} has no complete checkpoint yet. Train longer, or lower --checkpoint-every."
        )
    options = _as_trained(options, chosen.checked, world)
    options, records = _with_records(options, run, records_folder)
    check_records(chosen.checked, records, world)
    if metrics is not None:
        options = dataclasses.replace(options, metrics=metrics)
    model = build_model(options, records.schema, world)
    restore_checkpoint(model, chosen.checked)
    return LoadedRun(options, records, model), chosen


def load_earlier(
    run: str, path: pathlib.Path, *, records_folder: str | None = None
) -> tuple[LoadedRun, dict[str, np.ndarray]]:
    """The model of an earlier checkpoint of a run, whatever was appended to its records since.

    In one process.

    Args:
        run: the run's folder.
        path: the checkpoint.
        records_folder: where the records are; None is where they were.

    Returns:
        The run, whose model has the tables of the checkpoint; and its vocabularies, which are the
        first values of those that the records have now.

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        ValueError: the checkpoint is damaged, or the records are not those that it was trained on.
    """
    world = gm.World()
    checkpoint = checked_checkpoint(path, world)
    options = _as_trained(read_config(run), checkpoint, world)
    options, records = _with_records(options, run, records_folder)
    check_records(checkpoint, records, world, to_go_on=True)
    sizes = {table["name"]: table["num_rows"] for table in checkpoint.manifest["tables"]}
    schema = dataclasses.replace(
        records.schema,
        tables=tuple(
            dataclasses.replace(table, num_rows=sizes.get(table.name, table.num_rows))
            for table in records.schema.tables
        ),
    )
    model = build_model(options, schema, world)
    restore_checkpoint(model, checkpoint)
    vocabularies = {
        table.name: read_vocabulary(records.path, table.name)[: (table.num_rows or 1) - 1]
        for table in schema.tables
        if table.keys == "vocabulary"
    }
    return LoadedRun(options, records, model), vocabularies


def _with_records(
    options: TrainOptions, run: str, folder: str | None
) -> tuple[TrainOptions, gm.Records]:
    """The run's options with the folder of records that is meant, and the records."""
    if folder is not None:
        return dataclasses.replace(options, records=folder), gm.Records.open(folder)
    try:
        return options, gm.Records.open(options.records)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the records that {pathlib.Path(run) / 'config.yaml'} names are not there: {error} "
            "If they lie elsewhere now, say where: --records FOLDER."
        ) from error


def as_found_before(options: TrainOptions, checkpoint: CheckedCheckpoint) -> TrainOptions:
    """The options, with what was found in the records when the checkpoint's model was made."""
    saved = checkpoint.details.get("options") or {}
    found: dict[str, Any] = {
        name: saved.get(name) for name in FOUND if getattr(options, name) is None
    }
    return dataclasses.replace(options, **found)


def options_of_model(options: TrainOptions) -> dict[str, Any]:
    """The options that a model's weights belong to, for its checkpoints: JSON values."""
    return {name: getattr(options, name) for name in _OF_MODEL}


def check_records(
    checkpoint: CheckedCheckpoint,
    records: gm.Records,
    world: gm.World,
    *,
    to_go_on: bool = False,
) -> None:
    """Checks that the records are those that a checkpoint was trained on. Every rank must call it.

    Args:
        checkpoint: those of earlier versions do not say what they were trained on.
        records: what is to be trained or evaluated on.
        world: the ranks.
        to_go_on: they are to be trained on. The rows must be there too, and not only the schema and
            the vocabularies; rows and values that were appended to them are no fault.

    Raises:
        ValueError: they are others.
    """
    saved = checkpoint.details.get("records")

    def check() -> None:
        if saved is None:
            return
        check_fingerprint(saved, records, checkpoint.path, may_grow=to_go_on)
        other = has_other_rows(saved, records) if to_go_on else None
        if other is not None:
            raise ValueError(
                f"{records.path} holds other data than the checkpoint {checkpoint.path} was "
                f"trained on: {other}. Were they prepared anew? Give the records of the run, or "
                "train anew."
            )
        if records.generation > saved["generation"]:
            print(
                f"{records.path} was appended to since: generation {saved['generation']} is now "
                f"{records.generation}",
                file=sys.stderr,
            )

    on_chief(check, world, name="records_of_checkpoint")


def _as_trained(
    options: TrainOptions, checkpoint: CheckedCheckpoint, world: gm.World
) -> TrainOptions:
    """The run's options, with those of the model as the checkpoint has them.

    A run's config.yaml is a file for people, and newer than its checkpoint where a run that went on
    with other options has been killed.
    """
    saved = checkpoint.details.get("options")
    if not isinstance(saved, dict):
        return options
    known = {name: value for name, value in saved.items() if name in _OF_MODEL}
    changed = [name for name, value in known.items() if value != getattr(options, name)]
    found = [name for name in FOUND if getattr(options, name) is None]
    changed = [name for name in changed if name not in found]
    if changed and world.is_chief:
        said = ", ".join(f"{name} {getattr(options, name)}, not {known[name]}" for name in changed)
        print(
            f"{checkpoint.path} was trained with other options than config.yaml says ({said}); "
            "the checkpoint's count",
            file=sys.stderr,
        )
    return dataclasses.replace(options, **known)
