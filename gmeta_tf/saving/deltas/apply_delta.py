"""A delta on an exported model: the later model, equal to its full export.

With TensorFlow and NumPy alone, so that it runs where the server does:

    python -m gmeta_tf.saving.deltas.apply_delta --saved-model DIR --delta DIR --output DIR
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
from collections.abc import Sequence

from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.saving.deltas.delta import values_after
from gmeta_tf.saving.deltas.delta_files import GRAPH, OpenedDelta, open_delta
from gmeta_tf.saving.exports.export_digests import check_export
from gmeta_tf.saving.exports.export_output import check_export_output, commit_export
from gmeta_tf.saving.exports.export_version import (
    ExportVersion,
    read_version,
    version_of,
    write_version,
)
from gmeta_tf.saving.exports.served_values import read_values, write_values
from gmeta_tf.saving.writing import named_if_full

__all__ = ["apply_delta", "main"]


def apply_delta(
    saved_model: str | os.PathLike[str],
    delta: str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> ExportVersion:
    """Makes the later model of an exported one and a delta.

    Everything is checked: the files of both, that the delta leads on from this very model, and that
    what comes out has the values that the full export would have. The output appears when it is
    whole.

    Args:
        saved_model: the exported model that the delta was made for; it stays as it is.
        delta: what `gmeta-tf export --since` wrote.
        output: the new folder. An earlier export is replaced when the new one is whole; any other
            folder that is not empty is left alone. May be `saved_model`.

    Returns:
        The version of the output.

    Raises:
        FileNotFoundError: no delta there.
        ValueError: the model is not the one that the delta leads on from, a file was changed or is
            missing, or `output` exists and is not an export.
        OSError: the disk is full; an earlier export is as it was.
    """
    saved_model, delta, output = (pathlib.Path(path) for path in (saved_model, delta, output))
    check_export_output(output)
    opened = open_delta(delta)
    found = read_version(saved_model)
    _check_base(saved_model, found, opened)
    check_export(saved_model)
    try:
        values = values_after(read_values(saved_model), opened.delta)
    except ValueError as error:
        raise ValueError(f"the delta {delta}: {error}. Export in full.") from error
    version = version_of(values, opened.result.steps, opened.result.checkpoint)
    if version != opened.result:
        raise ValueError(
            f"the delta {delta} and {saved_model} give {version.describe()}, expected "
            f"{opened.result.describe()}. Export in full."
        )
    target = pathlib.Path(os.path.realpath(output))
    with named_if_full(output), work_folder(target) as work:
        built = work / "saved_model"
        for name in opened.graph_files:
            (built / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(delta / GRAPH / name, built / name)
        write_values(built, values)
        write_version(built, version)
        commit_export(built, target, work)
    return version


def _check_base(saved_model: pathlib.Path, found: ExportVersion, opened: OpenedDelta) -> None:
    if found.content == opened.base.content:
        return
    what = "is already what the delta makes" if found.content == opened.result.content else ""
    raise ValueError(
        f"the delta {opened.path} leads from {opened.base.describe()} to "
        f"{opened.result.describe()}; {saved_model} "
        f"{what or 'is ' + found.describe()}. Apply deltas in their order, or export in full."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of this module; `gmeta-tf apply-delta` is the same."""
    parser = argparse.ArgumentParser(prog="apply-delta", description=__doc__)
    for name in ("--saved-model", "--delta", "--output"):
        parser.add_argument(name, required=True, metavar="DIR")
    words = parser.parse_args(arguments)
    try:
        version = apply_delta(words.saved_model, words.delta, words.output)
    except (OSError, ValueError) as error:
        raise SystemExit(f"apply-delta: {error}") from error
    print(f"{words.output}: {version.describe()}")


if __name__ == "__main__":
    main()
