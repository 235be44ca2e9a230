"""Checkpoints: safetensors files and a manifest, complete or absent.

<path>/manifest.json                     format, W, tables, variables, what the caller adds
<path>/dense.safetensors                 the dense weights and the Keras optimizer's variables
<path>/rows-00001-of-00002.safetensors   rank 1's rows and slots: local row r is the key
                                         r * W + rank of its group, whether the group is sharded
                                         or replicated on every rank
<path>/keys-00001-of-00002-...           rank 1's keys, rows and slots of dynamic tables
                                         (dynamic_files.py)
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from gmeta_tf.distributed.collectives import barrier
from gmeta_tf.distributed.ownership import is_own, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.saving.dynamic_files import check_dynamic, load_dynamic, save_dynamic

__all__ = ["latest_checkpoint", "load_checkpoint", "replace_folder", "save_checkpoint"]

FORMAT_VERSION = 1


def save_checkpoint(model: MetaModel, path: str | pathlib.Path, **details: Any) -> None:
    """Writes a compiled model so that training can resume. Every rank must call it.

    The folder gets its name once it is complete; a killed run leaves at most a `<path>.partial`.

    Args:
        model: compiled.
        path: a folder on a file system that all ranks see; an existing one is replaced.
        details: JSON values to keep in the manifest, such as the epoch.
    """
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    world = model.world
    if world.is_chief:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier(world, name="checkpoint_begin")
    rows = {
        f"{group}/{name}": values
        for group, shard in model.embedding.indexed.items()
        for name, values in shard.export_state().items()
    }
    save_file(rows, partial / _rows_name(world.rank, world.size))
    save_dynamic(model.embedding, partial, int(model.optimizer.iterations))
    if world.is_chief:
        dense = {name: np.asarray(variable) for name, variable in _dense(model).items()}
        save_file(dense, partial / "dense.safetensors")
    barrier(world, name="checkpoint_written")
    if world.is_chief:
        manifest = {
            "format_version": FORMAT_VERSION,
            "size": world.size,
            "tables": model.embedding.describe()["tables"],
            "width": model.embedding.width,
            "details": details,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2))
        replace_folder(partial, path)
    barrier(world, name="checkpoint_end")


def load_checkpoint(model: MetaModel, path: str | pathlib.Path) -> dict[str, Any]:
    """Loads a checkpoint into a compiled model, at any number of ranks. No collective.

    Args:
        model: compiled, of the same learner, tables and optimizers.
        path: what `save_checkpoint` wrote.

    Returns:
        The `details` that were saved.

    Raises:
        FileNotFoundError: no complete checkpoint there.
        ValueError: another format, other tables or other variables, or a damaged file. The model
            is then unchanged.
    """
    path = pathlib.Path(path)
    if not (path / "manifest.json").is_file():
        raise FileNotFoundError(
            f"{path} is not a checkpoint: expected {path / 'manifest.json'}. "
            "Give the folder that save_checkpoint wrote."
        )
    manifest = json.loads((path / "manifest.json").read_text())
    _check_manifest(manifest, model, path)
    try:
        dense = load_file(path / "dense.safetensors")
        rows = {
            group: {
                name: _own_rows(path, f"{group}/{name}", manifest["size"], model)
                for name in shard.state_variables
            }
            for group, shard in model.embedding.indexed.items()
        }
        check_dynamic(model.embedding, path, manifest["size"])
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"the checkpoint {path} is damaged or incomplete: {error}. Use an earlier one."
        ) from error
    _check_variables(dense, model, path)
    _check_rows(rows, model, path)
    for name, variable in _dense(model).items():
        variable.assign(dense[name])
    for group, state in rows.items():
        model.embedding.indexed[group].load_state(state)
    load_dynamic(model.embedding, path, manifest["size"])
    return manifest["details"]


def latest_checkpoint(folder: str | pathlib.Path) -> pathlib.Path | None:
    """The newest complete checkpoint in a folder, by name; None if there is none."""
    complete = [found.parent for found in pathlib.Path(folder).glob("*/manifest.json")]
    return max((path for path in complete if path.suffix != ".partial"), default=None)


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
        "format_version": FORMAT_VERSION,
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


def replace_folder(new: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a complete folder to `path`; an older one goes only when the new one is there."""
    old = path.with_name(path.name + ".old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
