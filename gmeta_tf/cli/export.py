"""`gmeta-tf export`: a run to a SavedModel, or to a delta on the one that is served."""

from __future__ import annotations

import gc
import os
import pathlib

import gmeta_tf as gm
from gmeta_tf.cli.look_ups import read_look_ups
from gmeta_tf.cli.next_step import tell_next
from gmeta_tf.cli.options import ExportOptions
from gmeta_tf.cli.runs import load_chosen_run, load_earlier
from gmeta_tf.meta_io.preparing.stages import Progress
from gmeta_tf.saving.deltas.delta_files import check_delta_output
from gmeta_tf.saving.deltas.export_delta import ServedState, export_delta, served_state
from gmeta_tf.saving.exports.export_output import check_export_output
from gmeta_tf.saving.exports.version_folders import drop_older, next_version
from gmeta_tf.saving.runs.exported import note_exported

__all__ = ["export"]


def export(options: ExportOptions) -> None:
    """`gmeta-tf export`, in one process.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: the output exists and was not made by `export`, or the records do not fit.
        OSError: the disk is full; an earlier export is as it was.
    """
    run = pathlib.Path(options.run)
    output = _output(options)
    if options.since is None:
        check_export_output(output)
    else:
        check_delta_output(output)
    before = None if options.since is None else _state_before(options)
    shown = Progress(True)
    with shown.stage("loading the model"):
        (_, records, model), chosen = load_chosen_run(
            options.run,
            gm.World(),
            records_folder=options.records,
            checkpoint=options.checkpoint,
            fall_back=options.fall_back,
        )
    name = chosen.checked.path.name
    look_ups = read_look_ups(records.schema, options.look_up or [])
    if before is None:
        with shown.stage("writing the SavedModel"):
            gm.export_saved_model(
                model,
                output,
                records,
                checkpoint=name,
                look_ups=look_ups,
                warm_up=options.warm_up,
            )
        print(output)
        tell_next("gmeta-tf", "play", "--saved-model", output)
    else:
        version = export_delta(
            model,
            output,
            records,
            before=before,
            checkpoint=name,
            look_ups=look_ups,
            warm_up=options.warm_up,
        )
        print(f"{output}: from {before.version.describe()} to {version.describe()}")
    note_exported(run, name)
    if options.versions is not None and options.keep is not None:
        for number in drop_older(output.parent, options.keep):
            print(f"{output.parent / str(number)}: removed")


def _output(options: ExportOptions) -> pathlib.Path:
    if options.versions is not None:
        return next_version(pathlib.Path(options.versions))
    default = pathlib.Path(options.run) / ("saved_model" if options.since is None else "delta")
    return default if options.output is None else pathlib.Path(options.output)


def _state_before(options: ExportOptions) -> ServedState:
    """What the export of the earlier checkpoint has; its model is gone when this returns."""
    since = options.since or ""
    path = pathlib.Path(since)
    if os.sep not in since and not path.is_dir():
        path = pathlib.Path(options.run) / "checkpoint" / since
    (_, _, model), vocabularies = load_earlier(options.run, path, records_folder=options.records)
    state = served_state(model, vocabularies, checkpoint=path.name)
    del model
    gc.collect()  # a model is in circles of references
    return state
