"""`gmeta-tf export`: a run to a SavedModel."""

from __future__ import annotations

import pathlib

import gmeta_tf as gm
from gmeta_tf.cli.options import ExportOptions
from gmeta_tf.cli.runs import load_run
from gmeta_tf.saving.export import check_export_output

__all__ = ["export"]


def export(options: ExportOptions) -> None:
    """`gmeta-tf export`, in one process.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: the output exists and was not made by `export`, or the records do not fit.
        OSError: the disk is full; an earlier export is as it was.
    """
    run = pathlib.Path(options.run)
    output = pathlib.Path(options.output) if options.output else run / "saved_model"
    check_export_output(output)
    _, records, model = load_run(
        options.run,
        gm.World(),
        records_folder=options.records,
        checkpoint=options.checkpoint,
        fall_back=options.fall_back,
    )
    gm.export_saved_model(model, output, records)
    print(output)
