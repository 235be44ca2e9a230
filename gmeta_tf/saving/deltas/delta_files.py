"""A delta on the disk.

<path>/delta.json                  the versions that it leads from and to, what is kept of which
                                   values, and the digest of each other file
<path>/variables/variables...      the changes, in TensorFlow's own format (`delta.Delta.arrays`)
<path>/saved_model/...             the later model without its variables: graph and schema
"""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple

from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.digest import digest_of
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.sealed_json import fault_of_seal, sealed
from gmeta_tf.saving.deltas.delta import Delta
from gmeta_tf.saving.digests import check_files, share_of
from gmeta_tf.saving.exports.export_version import ExportVersion
from gmeta_tf.saving.exports.served_values import read_values, write_values

__all__ = ["GRAPH", "OpenedDelta", "check_delta_output", "open_delta", "write_delta"]

GRAPH = "saved_model"
_DESCRIPTION = "delta.json"
_FORMAT_VERSION = 1


class OpenedDelta(NamedTuple):
    """A delta whose files are as they were written.

    Attributes:
        path: the folder.
        base: the version that it applies to.
        result: the version that it makes.
        delta: the changes.
        graph_files: the names of the later model's other files, in `<path>/saved_model`.
    """

    path: pathlib.Path
    base: ExportVersion
    result: ExportVersion
    delta: Delta
    graph_files: tuple[str, ...]


def write_delta(
    folder: pathlib.Path, base: ExportVersion, result: ExportVersion, delta: Delta
) -> None:
    """Writes a delta to a folder that has the later model's graph already."""
    write_values(folder, delta.arrays)
    files = {
        path.relative_to(folder).as_posix(): digest_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    description = {
        "format_version": _FORMAT_VERSION,
        "base": base._asdict(),
        "result": result._asdict(),
        "parts": delta.parts_as_json(),
        "files": files,
    }
    (folder / _DESCRIPTION).write_text(sealed(description), encoding="utf-8")


def open_delta(folder: pathlib.Path) -> OpenedDelta:
    """Reads a delta and checks each of its files before TensorFlow reads it.

    Raises:
        FileNotFoundError: no delta there.
        ValueError: a file is missing, was changed or lies elsewhere, or another format.
    """
    if not (folder / _DESCRIPTION).exists():
        raise FileNotFoundError(
            f"{folder} is not a delta: expected {folder / _DESCRIPTION}. Make one with "
            "`gmeta-tf export --since`."
        )
    check_inside(folder, _DESCRIPTION)
    content = (folder / _DESCRIPTION).read_bytes()
    if fault := fault_of_seal(content):
        raise _damaged(folder, f"{folder / _DESCRIPTION} {fault}")
    description = json.loads(content)
    if description["format_version"] != _FORMAT_VERSION:
        raise ValueError(
            f"the delta {folder} has format_version {description['format_version']!r}, this "
            f"version of gmeta_tf reads {_FORMAT_VERSION}. Apply it with the one that made it."
        )
    files = description["files"]
    for name in files:
        check_inside(folder, name)
    for fault in check_files(folder, files, share_of(files, World())):
        raise _damaged(folder, fault)
    return OpenedDelta(
        folder,
        ExportVersion.from_json(description["base"]),
        ExportVersion.from_json(description["result"]),
        Delta.of(description["parts"], read_values(folder)),
        tuple(n.removeprefix(f"{GRAPH}/") for n in files if n.startswith(f"{GRAPH}/")),
    )


def check_delta_output(path: pathlib.Path) -> None:
    """Checks that a delta may be written to `path`, and touches nothing.

    Raises:
        ValueError: it exists, is not empty and is not a delta, so it must not be replaced.
    """
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_free and not (path / _DESCRIPTION).is_file():
        raise ValueError(
            f"{path} exists and is not a delta (expected {_DESCRIPTION} in it), so it is not "
            "replaced. Choose another output."
        )


def _damaged(folder: pathlib.Path, what: str) -> ValueError:
    return ValueError(f"the delta {folder} is damaged or incomplete: {what}. Export it again.")
