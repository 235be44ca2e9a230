"""The files of dynamic tables in a checkpoint: by key, in parts, for any number of ranks.

<path>/keys-00001-of-00002-000-0003.safetensors   rank 1's part 3 of the first dynamic table
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.state import DynamicState
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.checkpoints.manifest import damaged
from gmeta_tf.saving.checkpoints.tensor_files import Tensors

__all__ = ["check_dynamic", "dynamic_files", "load_dynamic"]

_ARRAYS = tuple(
    name for name in DynamicState._fields if name not in ("rank", "size", "slots", "bucket_slots")
)
_SLOTS = ("slots", "bucket_slots")


def dynamic_files(embedding: ShardedEmbedding, step: int) -> Iterator[tuple[str, Tensors | str]]:
    """This rank's files of the dynamic tables: their names and tensors or text. No collective.

    Args:
        embedding: the tables.
        step: the training steps done.
    """
    world = embedding.world
    for index, shard in enumerate(embedding.keyed.values()):
        parts = 0
        for part, state in enumerate(shard.export_state(step)):
            arrays = {name: getattr(state, name) for name in _ARRAYS}
            for kind in _SLOTS:
                arrays |= {f"{kind}/{name}": v for name, v in getattr(state, kind).items()}
            yield _name(world.rank, world.size, index, part), arrays
            parts = part + 1
        yield _count_name(world, index), json.dumps({"parts": parts})


def check_dynamic(embedding: ShardedEmbedding, folder: pathlib.Path, size: int) -> None:
    """Raises unless the parts of all ranks exist and fit; loads nothing.

    Args:
        embedding: the tables, their slots made.
        folder: the checkpoint.
        size: the ranks that wrote it.

    Raises:
        ValueError: rows or slots of another width, or other slots.
        FileNotFoundError, SafetensorError: a part is missing or damaged.
    """
    for index, shard in enumerate(embedding.keyed.values()):
        expected: dict[str, int | None] = {"rows": shard.width}
        expected |= {f"slots/{name}": slot_width for name, slot_width in shard.slot_widths.items()}
        for file in _files(folder, size, index):
            with safe_open(file, framework="numpy") as opened:
                names = [n for n in opened.keys() if n == "rows" or n.startswith("slots/")]  # noqa: SIM118
                found = {name: opened.get_slice(name).get_shape()[1] for name in names}
            if found != expected:
                raise ValueError(
                    f"the checkpoint {folder} does not fit the model: the dynamic table "
                    f"{shard.table!r} has {found} numbers a row there, and {expected} in the "
                    "model. Build the model with the same width and row optimizer."
                )


def load_dynamic(embedding: ShardedEmbedding, folder: pathlib.Path, size: int) -> None:
    """Loads this rank's shards from the parts of all ranks. No collective."""
    for index, shard in enumerate(embedding.keyed.values()):
        shard.load_state(_states(folder, size, index))


def _states(folder: pathlib.Path, size: int, index: int) -> Iterator[DynamicState]:
    for file in _files(folder, size, index):
        fields: dict[str, Any] = load_file(file)
        for kind in _SLOTS:
            names = [name for name in fields if name.startswith(f"{kind}/")]
            fields[kind] = {name.removeprefix(f"{kind}/"): fields.pop(name) for name in names}
        yield DynamicState(rank=int(file.name.split("-")[1]), size=size, **fields)


def _files(folder: pathlib.Path, size: int, index: int) -> list[pathlib.Path]:
    files = []
    for rank in range(size):
        name = _count_name(World(rank, size), index)
        for part in range(_num_parts(folder, name)):
            files.append(folder / _name(rank, size, index, part))
            check_inside(folder, files[-1].name)
            # One at a time: a damaged count of an earlier version may be any number.
            if not files[-1].exists():
                raise damaged(folder, f"{files[-1]} is missing")
    return files


def _num_parts(folder: pathlib.Path, name: str) -> int:
    check_inside(folder, name)
    try:
        count = json.loads((folder / name).read_text(encoding="utf-8"))["parts"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{folder / name} holds no number of parts: {error!r}") from error
    if not isinstance(count, int) or count < 0:
        raise damaged(folder, f"{folder / name} holds {count!r} parts")
    return count


def _name(rank: int, size: int, index: int, part: int) -> str:
    return f"keys-{rank:05d}-of-{size:05d}-{index:03d}-{part:04d}.safetensors"


def _count_name(world: World, index: int) -> str:
    return f"keys-{world.rank:05d}-of-{world.size:05d}-{index:03d}.json"
