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
import itertools
import logging
import pathlib
import re
import uuid
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from gmeta_tf.distributed.collectives import gather_json
from gmeta_tf.distributed.ownership import is_own, own_keys
from gmeta_tf.distributed.verdicts import on_chief, on_every_rank
from gmeta_tf.distributed.world import World
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.saving.digests import check_files, digests_on_disk, share_of
from gmeta_tf.saving.dynamic_files import check_dynamic, load_dynamic, save_dynamic
from gmeta_tf.saving.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedCheckpointError,
    damaged,
    read_manifest,
    write_manifest,
)
from gmeta_tf.saving.writing import named_if_full, save_tensors

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

_DENSE = "dense.safetensors"
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
            work = stack.enter_context(work_folder(path.absolute()))
            (work / "checkpoint").mkdir()
            return str(work)

        work = on_chief(begin, world, name="checkpoint_begin")
        built = pathlib.Path(work) / "checkpoint"
        with named_if_full(path):
            files = on_every_rank(
                lambda: _write_own_files(model, built, path),
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


def load_checkpoint(model: MetaModel, path: str | pathlib.Path) -> dict[str, Any]:
    """Loads a checkpoint into a compiled model, at any number of ranks. Every rank must call it.

    All files are checked first: each rank reads a share of them, and every rank raises what one
    has found.

    Args:
        model: compiled, of the same learner, tables and optimizers.
        path: what `save_checkpoint` wrote.

    Returns:
        The `details` that were saved.

    Raises:
        FileNotFoundError: no complete checkpoint there.
        ValueError: another format, other tables or other variables, or a damaged file (then a
            `DamagedCheckpointError`). The model is then unchanged.
    """
    return restore_checkpoint(model, checked_checkpoint(path, model.world))


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
            _check_heads(path, manifest["size"])
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


def restore_checkpoint(model: MetaModel, checkpoint: CheckedCheckpoint) -> dict[str, Any]:
    """Loads a checkpoint that has been checked; as `load_checkpoint`. Every rank must call it."""
    path, manifest = checkpoint.path, checkpoint.manifest
    dense, rows = on_every_rank(
        lambda: _read(model, path, manifest),
        model.world,
        name="checkpoint_read",
        kinds=(DamagedCheckpointError,),
    )
    for name, variable in _dense(model).items():
        variable.assign(dense[name])
    for group, state in rows.items():
        model.embedding.indexed[group].load_state(state)
    load_dynamic(model.embedding, path, manifest["size"])
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


def _write_own_files(
    model: MetaModel, built: pathlib.Path, path: pathlib.Path
) -> dict[str, FileDigest]:
    """Writes this rank's files to the folder `built`, later called `path`: their digests."""
    world = model.world
    rows = {
        f"{group}/{name}": values
        for group, shard in model.embedding.indexed.items()
        for name, values in shard.export_state().items()
    }
    arrays = {_rows_name(world.rank, world.size): rows}
    if world.is_chief:
        arrays[_DENSE] = {name: np.asarray(variable) for name, variable in _dense(model).items()}
    for name, tensors in arrays.items():
        save_tensors(tensors, built / name, shown=path / name)
    step = int(model.optimizer.iterations)
    names = [*arrays, *save_dynamic(model.embedding, built, step, shown=path)]
    # Here, as another host's rank 0 cannot wait for this one's disk.
    with named_if_full(path):
        return digests_on_disk(built, names)


def _check_heads(path: pathlib.Path, size: int) -> None:
    """Opens each file of a checkpoint without digests."""
    # One at a time: without a digest the number of ranks may be any.
    for name in itertools.chain([_DENSE], (_rows_name(rank, size) for rank in range(size))):
        try:
            check_inside(path, name)
            with safe_open(path / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise damaged(path, f"{path / name}: {error}") from error


def _read(
    model: MetaModel, path: pathlib.Path, manifest: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """The dense variables and this rank's rows, by name; raises unless they fit the model."""
    _check_manifest(manifest, model, path)
    try:
        dense = load_file(path / _DENSE)
        rows = {
            group: {
                name: _own_rows(path, f"{group}/{name}", manifest["size"], model)
                for name in shard.state_variables
            }
            for group, shard in model.embedding.indexed.items()
        }
        check_dynamic(model.embedding, path, manifest["size"])
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    _check_variables(dense, model, path)
    _check_rows(rows, model, path)
    return dense, rows


def _dense(model: MetaModel) -> dict[str, Any]:
    """Dense variables by names that a rebuilt model shares: their order and last path parts."""
    own = {f"weight/{i:04d}/{v.name}": v for i, v in enumerate(model.variables)}
    optimizer = model.optimizer.variables
    return {**own, **{f"optimizer/{i:04d}/{v.name}": v for i, v in enumerate(optimizer)}}


def _own_rows(path: pathlib.Path, name: str, saved_size: int, model: MetaModel) -> np.ndarray:
    """This rank's rows, from the files of all ranks; all rows of replicated tables."""
    holder = model.embedding.indexed[name.rsplit("/", 1)[0]].world
    parts, keys = [], []
    for saved_rank in range(saved_size):
        with safe_open(path / _rows_name(saved_rank, saved_size), framework="numpy") as file:
            _check_slots(set(file.keys()), name.rsplit("/", 1)[0], model, path)
            rows = file.get_tensor(name)
        saved_keys = own_keys(0, len(rows), World(saved_rank, saved_size)).numpy()
        own = is_own(saved_keys, holder)
        parts.append(rows[own])
        keys.append(saved_keys[own])
    return np.concatenate(parts)[np.argsort(np.concatenate(keys))]


def _check_slots(found: set[str], group: str, model: MetaModel, path: pathlib.Path) -> None:
    """Raises unless the slots are the row optimizer's; Ftrl has one of the name of Adagrad's."""
    expected = {f"{group}/{name}" for name in model.embedding.indexed[group].state_variables}
    found = {name for name in found if name.rsplit("/", 1)[0] == group}
    for lacks, names in (("the checkpoint", expected - found), ("the model", found - expected)):
        if names:
            raise ValueError(
                f"the checkpoint {path} does not fit the model: {lacks} has no {min(names)}. "
                "Compile the model with the row optimizer that it was trained with."
            )


def _check_manifest(manifest: dict[str, Any], model: MetaModel, path: pathlib.Path) -> None:
    expected = {
        "tables": model.embedding.describe()["tables"],
        "width": model.embedding.width,
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise ValueError(
                f"the checkpoint {path} has {name} {manifest.get(name)!r}, the model has "
                f"{value!r}. Build the model from the same records and settings."
            )


def _check_variables(dense: dict[str, np.ndarray], model: MetaModel, path: pathlib.Path) -> None:
    expected = {name: tuple(variable.shape) for name, variable in _dense(model).items()}
    found = {name: value.shape for name, value in dense.items()}
    if expected != found:
        differing = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"the checkpoint {path} does not fit the model: {differing} has the shape "
            f"{found.get(differing)} in the checkpoint and {expected.get(differing)} in the model. "
            "Build the model with the same learner, inner loop and optimizer."
        )


def _check_rows(
    rows: dict[str, dict[str, np.ndarray]], model: MetaModel, path: pathlib.Path
) -> None:
    for group, state in rows.items():
        for name, variable in model.embedding.indexed[group].state_variables.items():
            if state[name].shape != tuple(variable.shape):
                raise ValueError(
                    f"the checkpoint {path} does not fit the model: {group}/{name} has the shape "
                    f"{state[name].shape} in the checkpoint and {tuple(variable.shape)} in the "
                    "model. Build the model with the same tables and row optimizer."
                )


def _rows_name(rank: int, size: int) -> str:
    return f"rows-{rank:05d}-of-{size:05d}.safetensors"
