"""A checkpoint's manifest: JSON that ends in the SHA-256 of all that stands before it.

{
  "format_version": 1, "size": W, "save_id": ..., "files": {name: {"bytes": ..., "sha256": ...}},
  "tables": ..., "width": ..., "details": ...,
  "digest": "sha256:<64 hexadecimal digits>"
}
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.sealed_json import fault_of_seal, sealed

__all__ = [
    "EARLIER",
    "FORMAT_VERSION",
    "MANIFEST",
    "DamagedCheckpointError",
    "damaged",
    "read_manifest",
    "write_manifest",
]

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
EARLIER = "Use an earlier one; for a run `--checkpoint NAME` or `--fall-back` chooses it."

# Only manifests with digests have these.
_WITH_DIGEST = ("digest", "files", "save_id")


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is not what was saved; another checkpoint may be whole."""


def damaged(path: pathlib.Path, what: str) -> DamagedCheckpointError:
    """The error of a checkpoint of which something is missing or was changed."""
    return DamagedCheckpointError(
        f"the checkpoint {path} is damaged or incomplete: {what}. {EARLIER}"
    )


def write_manifest(folder: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes the manifest: JSON values with the names of `read_manifest`."""
    (folder / MANIFEST).write_text(sealed(values), encoding="utf-8")


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """Reads and checks a manifest; one of an earlier version has no `files` and no digest.

    Args:
        path: the checkpoint.

    Returns:
        `size`, `tables`, `width` and `details`; `save_id` and `files` too since they are written.

    Raises:
        FileNotFoundError: no complete checkpoint there.
        DamagedCheckpointError: it is not as it was written.
        ValueError: another format version, or a name of a file outside of the folder.
    """
    if not (path / MANIFEST).exists():
        raise FileNotFoundError(
            f"{path} is not a checkpoint: expected {path / MANIFEST}. "
            "Give the folder that save_checkpoint wrote."
        )
    check_inside(path, MANIFEST)
    content = (path / MANIFEST).read_bytes()
    values = _parsed(content, path)
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"the checkpoint {path} has format_version {values.get('format_version')!r}, this "
            f"version of gmeta_tf reads {FORMAT_VERSION}. {EARLIER}"
        )
    _check_digest(content, values, path)
    _check_kinds(values, path)
    for name in values.get("files", ()):
        check_inside(path, name)
    return values


def _parsed(content: bytes, path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{MANIFEST} is not JSON, {error}") from error
    if not isinstance(values, dict):
        raise damaged(path, f"{MANIFEST} holds {type(values).__name__}, expected an object")
    return values


def _check_digest(content: bytes, values: dict[str, Any], path: pathlib.Path) -> None:
    # Manifests of earlier versions have no digest.
    fault = fault_of_seal(content) if any(name in values for name in _WITH_DIGEST) else None
    if fault is not None:
        raise damaged(path, f"{MANIFEST} {fault}")


def _check_kinds(values: dict[str, Any], path: pathlib.Path) -> None:
    """Manifests without a digest may hold anything."""
    size = values.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise damaged(path, f"{MANIFEST} says {size!r} ranks, expected a number of at least 1")
    if not isinstance(values.get("details"), dict):
        raise damaged(path, f"{MANIFEST} has no details")
