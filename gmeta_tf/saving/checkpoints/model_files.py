"""A model's values in a checkpoint's files: what a rank writes, and reads of all ranks' files.

The names of the files are those that checkpoint.py tells of.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from gmeta_tf.distributed.ownership import is_own, local_row, num_own_rows, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.static_shard import TableRange
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.checkpoints.dynamic_files import check_dynamic, save_dynamic
from gmeta_tf.saving.checkpoints.grown_tables import grown_tables, moved_keys, ranges_before
from gmeta_tf.saving.checkpoints.manifest import damaged
from gmeta_tf.saving.checkpoints.tensor_files import save_tensors
from gmeta_tf.saving.digests import digests_on_disk
from gmeta_tf.saving.writing import named_if_full

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
    model: MetaModel, path: pathlib.Path, manifest: dict[str, Any], *, grow: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """The dense variables and this rank's rows, by name; raises unless they fit the model.

    Args:
        model: compiled.
        path: the checkpoint.
        manifest: its manifest.
        grow: whether tables with a vocabulary may be larger than the checkpoint's. Their new rows
            are those before the first step.
    """
    before = _check_manifest(manifest, model, path, grow)
    try:
        dense = load_file(path / _DENSE)
        rows = {
            group: _rows_of_group(path, group, manifest["size"], model, before.get(group))
            for group in model.embedding.indexed
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


def _rows_of_group(
    path: pathlib.Path,
    group: str,
    saved_size: int,
    model: MetaModel,
    before: Sequence[TableRange] | None,
) -> dict[str, np.ndarray]:
    """This rank's rows and slots of a group of tables, or all of them where it is replicated.

    Args:
        path: the checkpoint.
        group: the group.
        saved_size: how many ranks wrote the checkpoint.
        model: compiled.
        before: where its tables were when they had fewer rows; None where they are as they were.
    """
    shard = model.embedding.indexed[group]
    saved = {
        name: _own_rows(path, f"{group}/{name}", saved_size, model, before)
        for name in shard.state_variables
    }
    if before is None:
        return {name: rows[np.argsort(keys)] for name, (keys, rows) in saved.items()}
    state = shard.initial_state()
    for name, (keys, rows) in saved.items():
        if rows.shape[1:] == state[name].shape[1:]:
            state[name][local_row(keys, shard.world.size)] = rows
        else:
            state[name] = rows  # of another width, which is then told
    return state


def _own_rows(
    path: pathlib.Path,
    name: str,
    saved_size: int,
    model: MetaModel,
    before: Sequence[TableRange] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of this rank's rows, and their numbers, from the files of all ranks."""
    group = name.rsplit("/", 1)[0]
    shard = model.embedding.indexed[group]
    parts, keys = [], []
    for saved_rank in range(saved_size):
        file_path, saved_world = (
            path / _rows_name(saved_rank, saved_size),
            World(saved_rank, saved_size),
        )
        with safe_open(file_path, framework="numpy") as file:
            _check_slots(set(file.keys()), group, model, path)
            rows = file.get_tensor(name)
        saved_keys = own_keys(0, len(rows), saved_world).numpy()
        if before is not None:
            _check_count(len(rows), before, saved_world, file_path)
            saved_keys = moved_keys(saved_keys, before, shard.tables)
        own = is_own(saved_keys, shard.world)
        parts.append(rows[own])
        keys.append(saved_keys[own])
    return np.concatenate(keys), np.concatenate(parts)


def _check_count(
    found: int, tables: Sequence[TableRange], saved_world: World, file: pathlib.Path
) -> None:
    expected = num_own_rows(0, tables[-1].first_row + tables[-1].num_rows, saved_world)
    if found != expected:
        raise damaged(file.parent, f"{file} holds {found} rows of a group, expected {expected}")


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


def _check_manifest(
    manifest: dict[str, Any], model: MetaModel, path: pathlib.Path, grow: bool
) -> dict[str, tuple[TableRange, ...]]:
    """Group -> where its tables were before they grew, if they have and may."""
    schema = model.embedding.schema
    grown = grown_tables(manifest.get("tables", ()), schema) if grow else None
    expected = {
        "tables": model.embedding.describe()["tables"] if grown is None else manifest["tables"],
        "width": model.embedding.width,
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise ValueError(
                f"the checkpoint {path} has {name} {manifest.get(name)!r}, the model has "
                f"{value!r}. Build the model from the same records and settings."
            )
    return ranges_before(grown or (), schema, model.embedding.seed)


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
