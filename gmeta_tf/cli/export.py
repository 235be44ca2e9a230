"""`gmeta-tf export`: a run to a SavedModel."""

from __future__ import annotations

import pathlib

import gmeta_tf as gm
from gmeta_tf.cli.options import (
    ExportOptions,
)
from gmeta_tf.cli.runs import load_run

__all__ = ["export"]


def export(options: ExportOptions) -> None:
    """`gmeta-tf export`, in one process."""
    run = pathlib.Path(options.run)
    output = pathlib.Path(options.output) if options.output else run / "saved_model"
    _, records, model = load_run(options.run, gm.World())
    gm.export_saved_model(model, output, records)
    print(output)
