"""`gmeta-tf apply-delta`: an exported model and a delta to the next version."""

from __future__ import annotations

import pathlib

from gmeta_tf.cli.options import ApplyDeltaOptions
from gmeta_tf.saving.deltas.apply_delta import apply_delta as apply
from gmeta_tf.saving.exports.version_folders import drop_older, next_version, versions_in

__all__ = ["apply_delta"]


def apply_delta(options: ApplyDeltaOptions) -> None:
    """`gmeta-tf apply-delta`; the output appears when it is whole.

    Raises:
        FileNotFoundError: no delta, or no exported model.
        ValueError: the delta does not lead on from the model, a file was changed, or the output
            exists and is not an export.
        OSError: the disk is full; an earlier export is as it was.
    """
    folder = pathlib.Path(options.saved_model)
    versions = versions_in(folder)
    if options.output is not None:
        output = pathlib.Path(options.output)
    elif versions:
        output = next_version(folder)
    else:
        raise ValueError(
            f"apply-delta: expected --output, as {folder} is not a folder of versions, such as "
            f"{folder}/1. Give the folder to write."
        )
    base = versions[max(versions)] if versions else folder
    version = apply(base, options.delta, output)
    print(f"{output}: {version.describe()}")
    if options.keep is not None and output.parent == folder:
        for number in drop_older(folder, options.keep):
            print(f"{folder / str(number)}: removed")
