"""A model's values in a checkpoint's files: what a rank writes, and loads of all ranks' files.

The names of the files are those that checkpoint.py tells of. What is loaded has been found whole
and to fit before, so that rows go from the files to their variables some at a time.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from gmeta_tf.embedding.static_shard import TableRange
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.checkpoints.dynamic_files import check_dynamic, dynamic_files, load_dynamic
from gmeta_tf.saving.checkpoints.grown_tables import grown_tables, ranges_before
from gmeta_tf.saving.checkpoints.manifest import damaged
from gmeta_tf.saving.checkpoints.row_files import check_rows, load_rows, rows_name
from gmeta_tf.saving.checkpoints.tensor_files import LazyRows, Tensors, save_tensors
from gmeta_tf.saving.digested_file import Piece, write_digested
from gmeta_tf.side_threads import Work, begin

__all__ = [
    "check_fits",
    "check_heads",
    "dense_variables",
    "load_files",
    "own_files",
    "write_files",
]

_DENSE = "dense.safetensors"


def own_files(model: MetaModel) -> Iterator[tuple[str, Tensors | str]]:
    """The files that this rank writes: their names and tensors, the rows read when written."""
    world = model.world
    yield (
        rows_name(world.rank, world.size),
        {
            f"{group}/{name}": LazyRows(
                (shard.num_state_rows, int(variable.shape[1])),
                functools.partial(shard.read_state, name),
            )
            for group, shard in model.embedding.indexed.items()
            for name, variable in shard.state_variables.items()
        },
    )
    if world.is_chief:
        dense = dense_variables(model)
        yield _DENSE, {name: np.asarray(variable) for name, variable in dense.items()}
    yield from dynamic_files(model.embedding, int(model.optimizer.iterations))


def write_files(
    files: Iterable[tuple[str, Tensors | str]], built: pathlib.Path, path: pathlib.Path
) -> dict[str, FileDigest]:
    """Writes files, which are on the disk when this returns: their digests.

    Args:
        files: names and tensors or text; the next one is made while one is written.
        built: the folder.
        path: what it is called later.

    Raises:
        OSError: a file cannot be written; it is named as it would be in `path`.
    """
    works: dict[str, Work[FileDigest]] = {}
    earlier: Work[FileDigest] | None = None
    try:
        for name, content in files:
            if earlier is not None:
                earlier.result()
            works[name] = earlier = Work(functools.partial(_write, content, built, path, name))
            begin(earlier)
        return {name: work.result() for name, work in works.items()}
    finally:
        if earlier is not None:
            earlier.drop()


def _write(
    content: Tensors | str, built: pathlib.Path, path: pathlib.Path, name: str
) -> FileDigest:
    if isinstance(content, str):
        piece = Piece.of(content.encode())
        return write_digested(built / name, [piece], shown=path / name)
    return save_tensors(content, built / name, shown=path / name)


def check_heads(path: pathlib.Path, size: int) -> None:
    """Opens each file of a checkpoint without digests."""
    # One at a time: without a digest the number of ranks may be any.
    for name in itertools.chain([_DENSE], (rows_name(rank, size) for rank in range(size))):
        try:
            check_inside(path, name)
            with safe_open(path / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise damaged(path, f"{path / name}: {error}") from error


def check_fits(
    model: MetaModel, path: pathlib.Path, manifest: dict[str, Any], *, grow: bool = False
) -> dict[str, tuple[TableRange, ...]]:
    """Raises unless a checkpoint fits the model; loads nothing.

    Args:
        model: compiled.
        path: the checkpoint.
        manifest: its manifest.
        grow: whether tables with a vocabulary may be larger than the checkpoint's. Their new rows
            are those before the first step.

    Returns:
        Group -> where the rows of its tables were in the checkpoint; groups that have grown alone.
    """
    before = _check_manifest(manifest, model, path, grow)
    try:
        _check_variables(load_file(path / _DENSE), model, path)
        for group, shard in model.embedding.indexed.items():
            check_rows(path, group, shard, manifest["size"], before.get(group))
        check_dynamic(model.embedding, path, manifest["size"])
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    return before


def load_files(
    model: MetaModel,
    path: pathlib.Path,
    manifest: dict[str, Any],
    before: Mapping[str, Sequence[TableRange]],
) -> None:
    """Gives a model the values of a checkpoint that fits, as far as they are this rank's.

    Args:
        model: compiled.
        path: the checkpoint.
        manifest: its manifest.
        before: what `check_fits` returned.
    """
    dense = load_file(path / _DENSE)
    for name, variable in dense_variables(model).items():
        variable.assign(dense[name])
    for group, shard in model.embedding.indexed.items():
        load_rows(path, group, shard, manifest["size"], before.get(group))
    load_dynamic(model.embedding, path, manifest["size"])


def dense_variables(model: MetaModel) -> dict[str, Any]:
    """Dense variables by names that a rebuilt model shares: their order and last path parts."""
    own = {f"weight/{i:04d}/{v.name}": v for i, v in enumerate(model.variables)}
    optimizer = model.optimizer.variables
    return {**own, **{f"optimizer/{i:04d}/{v.name}": v for i, v in enumerate(optimizer)}}


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
