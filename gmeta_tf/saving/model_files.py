"""A model's values in a checkpoint's files: what a rank writes, and reads of all ranks' files.

The names of the files are those that checkpoint.py tells of.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from gmeta_tf.distributed.ownership import is_own, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.digests import digests_on_disk
from gmeta_tf.saving.dynamic_files import check_dynamic, save_dynamic
from gmeta_tf.saving.manifest import damaged
from gmeta_tf.saving.writing import named_if_full, save_tensors

__all__ = ["check_heads", "dense_variables", "read_own_files", "write_own_files"]

_DENSE = "dense.safetensors"


def write_own_files(
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
        arrays[_DENSE] = {
            name: np.asarray(variable) for name, variable in dense_variables(model).items()
        }
    for name, tensors in arrays.items():
        save_tensors(tensors, built / name, shown=path / name)
    step = int(model.optimizer.iterations)
    names = [*arrays, *save_dynamic(model.embedding, built, step, shown=path)]
    # Here, as another host's rank 0 cannot wait for this one's disk.
    with named_if_full(path):
        return digests_on_disk(built, names)


def check_heads(path: pathlib.Path, size: int) -> None:
    """Opens each file of a checkpoint without digests."""
    # One at a time: without a digest the number of ranks may be any.
    for name in itertools.chain([_DENSE], (_rows_name(rank, size) for rank in range(size))):
        try:
            check_inside(path, name)
            with safe_open(path / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise damaged(path, f"{path / name}: {error}") from error


def read_own_files(
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


def dense_variables(model: MetaModel) -> dict[str, Any]:
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
    expected = {name: tuple(variable.shape) for name, variable in dense_variables(model).items()}
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
