"""Checkpoints: safetensors files and a manifest, complete or absent.

<path>/manifest.json                     format, W, tables, the digest of each file, what the
                                         caller adds (manifest.py)
<path>/dense.safetensors                 the dense weights and the Keras optimizer's variables
<path>/rows-00001-of-00002.safetensors   rank 1's rows and slots: local row r is the key
                                         r * W + rank of its group, whether the group is sharded
                                         or replicated on every rank
<path>/keys-00001-of-00002-...           rank 1's keys, rows and slots of dynamic tables
                                         (dynamic_files.py)
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import re
import uuid
from typing import Any

from gmeta_tf.distributed.collectives import gather_json
from gmeta_tf.distributed.verdicts import on_chief, on_every_rank
from gmeta_tf.distributed.world import World
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.saving.checkpoints.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedCheckpointError,
    damaged,
    read_manifest,
    write_manifest,
)
from gmeta_tf.saving.checkpoints.model_files import (
    check_fits,
    check_heads,
    load_files,
    own_files,
    write_files,
)
from gmeta_tf.saving.digests import check_files, share_of
from gmeta_tf.saving.writing import named_if_full

__all__ = [
    "CheckedCheckpoint",
    "checked_checkpoint",
    "complete_checkpoints",
    "is_own_file",
    "latest_checkpoint",
    "load_checkpoint",
    "restore_checkpoint",
    "save_checkpoint",
]

_OWN_FILES = re.compile(r"manifest\.json|dense\.safetensors|(rows|keys)-\d{5}-of-\d{5}[-\w]*\.\w+")
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckedCheckpoint:
    """A checkpoint whose files are as they were written.

    Attributes:
        path: the folder.
        manifest: its manifest's values.
    """

    path: pathlib.Path
    manifest: dict[str, Any]

    @property
    def details(self) -> dict[str, Any]:
        """What was saved beside the model."""
        return self.manifest["details"]


def save_checkpoint(model: MetaModel, path: str | pathlib.Path, **details: Any) -> None:
    """Writes a compiled model so that training can resume. Every rank must call it.

    The folder is built under a hidden name beside `path` and renamed when it is whole. What a
    killed process leaves of it is removed by the next save to this path, and by the next run of
    `RunFolder` in the folder.

    Args:
        model: compiled.
        path: a folder on a file system that all ranks see; an existing checkpoint is replaced.
        details: JSON values to keep in the manifest, such as the epoch.

    Raises:
        ValueError: `path` exists and is not a checkpoint.
        OSError: a file cannot be written, on some rank; it is named, and an older checkpoint is as
            it was.
    """
    path, world = pathlib.Path(path), model.world
    with contextlib.ExitStack() as stack:

        def begin() -> str:
            _check_replaceable(path)
            with named_if_full(path):
                work = stack.enter_context(work_folder(path.absolute()))
                (work / "checkpoint").mkdir()
            return str(work)

        work = on_chief(begin, world, name="checkpoint_begin")
        built = pathlib.Path(work) / "checkpoint"
        with named_if_full(path):
            files = on_every_rank(
                lambda: write_files(own_files(model), built, path),
                world,
                name="checkpoint_written",
            )
        shares = gather_json(files, world, name="checkpoint_files")

        def commit() -> None:
            manifest = {
                "format_version": FORMAT_VERSION,
                "size": world.size,
                "save_id": uuid.uuid4().hex,
                "files": {name: digest for share in shares for name, digest in share.items()},
                "tables": model.embedding.describe()["tables"],
                "width": model.embedding.width,
                "details": details,
            }
            with named_if_full(path / MANIFEST):
                write_manifest(built, manifest)
                replace_folder(built, path, pathlib.Path(work))

        on_chief(commit, world, name="checkpoint_end")


def load_checkpoint(
    model: MetaModel, path: str | pathlib.Path, *, grow: bool = False
) -> dict[str, Any]:
    """Loads a checkpoint into a compiled model, at any number of ranks. Every rank must call it.

    All files are checked first: each rank reads a share of them, and every rank raises what one
    has found.

    Args:
        model: compiled, of the same learner, tables and optimizers.
        path: what `save_checkpoint` wrote.
        grow: whether tables with a vocabulary may have more rows than the checkpoint: those of
            values that were appended to it since. They are as before the first step; the others,
            and what the row optimizer keeps of them, are the checkpoint's. See to it that the
            vocabulary begins with the values that the checkpoint was trained on.

    Returns:
        The `details` that were saved.

    Raises:
        FileNotFoundError: no complete checkpoint there.
        ValueError: another format, other tables or other variables, or a damaged file (then a
            `DamagedCheckpointError`). The model is then unchanged.
        OSError: a file that was whole cannot be read any more; the model is then partly loaded, so
            load this or another checkpoint again.
    """
    return restore_checkpoint(model, checked_checkpoint(path, model.world), grow=grow)


def checked_checkpoint(path: str | pathlib.Path, world: World) -> CheckedCheckpoint:
    """Reads all of a checkpoint and compares it with its manifest. Every rank must call it.

    Checkpoints of earlier versions have no digests: of them the manifest and the files' heads are
    read, and a line of the log says so.

    Raises:
        FileNotFoundError: no complete checkpoint there.
        DamagedCheckpointError: a file is missing, or is not what was saved.
        ValueError: another format, or a name or link that leaves the folder.
    """
    path = pathlib.Path(path)

    def check() -> dict[str, Any]:
        manifest = read_manifest(path)
        if "files" in manifest:
            files = manifest["files"]
            for fault in check_files(path, files, share_of(files, world)):
                raise damaged(path, fault)
        elif world.is_chief:
            check_heads(path, manifest["size"])
            _LOG.warning(
                "the checkpoint %s was saved by an earlier version, without digests: changed bytes "
                "in it cannot be found. The next save writes them.",
                path,
            )
        return manifest

    manifest = on_every_rank(
        check, world, name="checkpoint_checked", kinds=(DamagedCheckpointError,)
    )
    return CheckedCheckpoint(path, manifest)


def restore_checkpoint(
    model: MetaModel, checkpoint: CheckedCheckpoint, *, grow: bool = False
) -> dict[str, Any]:
    """Loads a checkpoint that has been checked; as `load_checkpoint`. Every rank must call it."""
    path, manifest = checkpoint.path, checkpoint.manifest
    before = on_every_rank(
        lambda: check_fits(model, path, manifest, grow=grow),
        model.world,
        name="checkpoint_fits",
        kinds=(DamagedCheckpointError,),
    )
    on_every_rank(
        lambda: load_files(model, path, manifest, before), model.world, name="checkpoint_loaded"
    )
    return manifest["details"]


def latest_checkpoint(folder: str | pathlib.Path) -> pathlib.Path | None:
    """The newest complete checkpoint in a folder, by name; None if there is none."""
    return max(complete_checkpoints(folder), default=None)


def complete_checkpoints(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The complete checkpoints in a folder, by name; none that is half written."""
    found = [manifest.parent for manifest in pathlib.Path(folder).glob(f"*/{MANIFEST}")]
    return sorted(path for path in found if path.suffix != ".partial" and path.name[0] != ".")


def is_own_file(name: str) -> bool:
    """Whether a file of this name in a checkpoint's folder is one that `save_checkpoint` writes.

    Example:
        >>> [is_own_file(name) for name in ("dense.safetensors", "keys-00000-of-00001-000.json",
        ...                                 "thesis.tex")]
        [True, True, False]
    """
    return _OWN_FILES.fullmatch(name) is not None


def _check_replaceable(path: pathlib.Path) -> None:
    """Raises unless what is at `path` was a checkpoint, whole or half removed."""
    if path.is_dir() and not path.is_symlink():
        others = [found.name for found in path.iterdir() if not is_own_file(found.name)]
        if not others:
            return
        what = f"it holds {min(others)}"
    elif path.is_symlink() or path.exists():
        what = "it is not a folder"
    else:
        return
    raise ValueError(
        f"{path} exists and is not a checkpoint ({what}), so it is not replaced. "
        "Choose another folder."
    )
