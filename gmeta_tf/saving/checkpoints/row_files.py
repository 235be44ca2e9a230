"""The files of tables of known size in a checkpoint: rows and slots by key, read at any W.

    saved by 2 ranks   keys 0 2 4 6 8 | 1 3 5 7        loaded by 3   keys 0 3 6 | 1 4 7 | 2 5 8

Rank 0 of 3 takes rows 0 and 3 of the first file and row 1 of the second one. Each rank reads the
files some rows at a time and keeps those that it owns.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.ownership import is_own, local_row, num_own_rows, own_keys
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.static_shard import TableRange
from gmeta_tf.saving.checkpoints.grown_tables import moved_keys
from gmeta_tf.saving.checkpoints.manifest import damaged
from gmeta_tf.saving.checkpoints.tensor_files import TensorReader
from gmeta_tf.side_threads import side_by_side

__all__ = ["IndexedShard", "check_rows", "load_rows", "rows_name"]

_NUMBERS_AT_A_TIME = 1 << 20


class IndexedShard(Protocol):
    """A rank's shard of tables of known size; see `StaticShard`."""

    tables: tuple[TableRange, ...]
    world: World

    @property
    def state_variables(self) -> dict[str, tf.Variable]:
        """The variables of a checkpoint, by name."""

    def begin_anew(self) -> None:
        """Sets rows and slots to what they are before the first step."""

    def write_state(self, name: str, row_indices: np.ndarray, values: np.ndarray) -> None:
        """Sets some rows or slots."""


def rows_name(rank: int, size: int) -> str:
    """The name of a rank's file."""
    return f"rows-{rank:05d}-of-{size:05d}.safetensors"


def check_rows(
    path: pathlib.Path,
    group: str,
    shard: IndexedShard,
    saved_size: int,
    before: Sequence[TableRange] | None,
) -> None:
    """Raises unless all ranks' files have a group's rows, and slots of the model's row optimizer.

    Args:
        path: the checkpoint.
        group: the group.
        shard: this rank's, its slots made.
        saved_size: how many ranks wrote the checkpoint.
        before: where its tables were when they had fewer rows; None where they are as they were.

    Raises:
        ValueError: other slots, or slots of another width.
        DamagedCheckpointError: another number of rows.
        OSError, SafetensorError: a file cannot be read.
    """
    last_table = (before or shard.tables)[-1]
    total = last_table.first_row + last_table.num_rows
    for saved_rank in range(saved_size):
        expected = num_own_rows(0, total, World(saved_rank, saved_size))
        with TensorReader(path / rows_name(saved_rank, saved_size)) as file:
            _check_slots(set(file.shapes), group, shard, path)
            for name, variable in shard.state_variables.items():
                _check_shape(file, f"{group}/{name}", (expected, int(variable.shape[1])))


def load_rows(
    path: pathlib.Path,
    group: str,
    shard: IndexedShard,
    saved_size: int,
    before: Sequence[TableRange] | None,
) -> None:
    """Loads this rank's rows and slots of a group, or all of them where it is replicated.

    Args: as `check_rows`, which was called before.

    Raises:
        OSError: a file cannot be read.
    """
    if before is not None:
        shard.begin_anew()
    for saved_rank in range(saved_size):
        saved = World(saved_rank, saved_size)
        same_size = before is None and saved.size == shard.world.size
        if same_size and saved.rank != shard.world.rank:
            continue  # none of its rows is this rank's
        with TensorReader(path / rows_name(saved_rank, saved_size)) as file:
            for name in shard.state_variables:
                num_rows, width = file.shapes[f"{group}/{name}"]
                load = functools.partial(_load_block, file, group, name, shard, saved, before)
                step = max(1, _NUMBERS_AT_A_TIME // width)
                blocks = [(a, min(a + step, num_rows)) for a in range(0, num_rows, step)]
                side_by_side(load, blocks, os.cpu_count())


def _load_block(
    file: TensorReader,
    group: str,
    name: str,
    shard: IndexedShard,
    saved: World,
    before: Sequence[TableRange] | None,
    block: tuple[int, int],
) -> None:
    """Loads what is this rank's of some rows of a file."""
    rows = file.rows(f"{group}/{name}", *block)
    # They are the shard's, in its order.
    if before is None and saved.size == shard.world.size:
        shard.write_state(name, np.arange(*block), rows)
        return
    keys = own_keys(*block, saved).numpy()
    if before is not None:
        keys = moved_keys(keys, before, shard.tables)
    own = is_own(keys, shard.world)
    shard.write_state(name, local_row(keys[own], shard.world.size), rows[own])


def _check_slots(found: set[str], group: str, shard: IndexedShard, path: pathlib.Path) -> None:
    """Raises unless the slots are the row optimizer's; Ftrl has one of the name of Adagrad's."""
    expected = {f"{group}/{name}" for name in shard.state_variables}
    found = {name for name in found if name.rsplit("/", 1)[0] == group}
    for lacks, names in (("the checkpoint", expected - found), ("the model", found - expected)):
        if names:
            raise ValueError(
                f"the checkpoint {path} does not fit the model: {lacks} has no {min(names)}. "
                "Compile the model with the row optimizer that it was trained with."
            )


def _check_shape(file: TensorReader, name: str, expected: tuple[int, int]) -> None:
    path, found = file.path.parent, file.shapes[name]
    if not file.is_float32(name) or len(found) != 2 or found[0] != expected[0]:
        raise damaged(
            path,
            f"{file.path} holds {name} of the shape {found}, expected {expected} in float32",
        )
    if found != expected:
        raise ValueError(
            f"the checkpoint {path} does not fit the model: {name} has the shape {found} in the "
            f"checkpoint and {expected} in the model. Build the model with the same tables and row "
            "optimizer."
        )
