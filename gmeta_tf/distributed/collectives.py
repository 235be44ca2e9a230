"""Every collective of the library. One rank alone is the identity and needs no Horovod."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.gpus import pin_gpu
from gmeta_tf.distributed.threads import share_cores
from gmeta_tf.distributed.world import World

__all__ = [
    "agree",
    "allgather_rows",
    "allreduce_sum",
    "alltoall",
    "barrier",
    "broadcast",
    "broadcast_json",
    "gather_json",
    "start",
    "stop",
]

_XLA_OPS = "HOROVOD_ENABLE_XLA_OPS"
_CYCLE, _CYCLE_MILLISECONDS = "HOROVOD_CYCLE_TIME", "0.1"
_process_sets: dict[tuple[int, ...], Any] = {}
"""The ranks of a part of the run -> Horovod's process set of them."""


def start(world: World, *, alone_too: bool = False, parts: Sequence[tuple[int, ...]] = ()) -> None:
    """Connects the ranks and shares out GPUs and cores; call it before anything else. Idempotent.

    Args:
        world: the world. Of size 1, Horovod is not imported. Otherwise, where
            `HOROVOD_CYCLE_TIME` is not set, Horovod looks for work every 0.1 ms: a step waits for
            that up to four times.
        alone_too: start Horovod for one rank alone, too.
        parts: sets of ranks that will exchange among themselves (`World.members`), each of at
            least two and not of all. Horovod learns of them as it starts: parts that are added
            later cost it an agreement of all ranks in every cycle.

    Raises:
        ImportError: more than one rank and no Horovod with TensorFlow.
        RuntimeError: Horovod's idea of rank and size is not `world`'s, a GPU is in use already, or
            Horovod has been started without these parts.
        ValueError: the ranks name different parts, fewer GPUs than ranks on this host, or
            `HOROVOD_ENABLE_XLA_OPS` is set and Horovod was built without these operations.
    """
    pin_gpu(world)
    share_cores(world)
    if not world.is_distributed and not alone_too:
        return
    os.environ.setdefault(_CYCLE, _CYCLE_MILLISECONDS)
    hvd = _horovod()
    _check_xla_ops()
    _begin(hvd, parts)
    if (hvd.rank(), hvd.size()) != (world.rank, world.size):
        raise RuntimeError(
            f"expected Horovod to have rank {world.rank} of {world.size}, it has "
            f"{hvd.rank()} of {hvd.size()}. Start the ranks with `horovodrun -np {world.size}`."
        )


def stop(world: World) -> None:
    """Leaves the ranks, so that those that wait for this one fail at once instead of hanging."""
    if world.is_distributed:
        _horovod().shutdown()
        _process_sets.clear()


def alltoall(
    tensor: tf.Tensor, splits: tf.Tensor, world: World, *, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sends each rank its run of rows and returns the rows that the ranks sent to this one.

    Two ranks, `tensor` first rank by rank, then what comes back:

        rank 0 sends [a b | c]    splits [2 1]        rank 0 has [a b | d]    splits [2 1]
        rank 1 sends [d | e f]    splits [1 2]        rank 1 has [c | e f]    splits [1 2]

    Args:
        tensor: `[N, ...]`, the rows for rank 0, then those for rank 1, and so on.
        splits: int32 `[W]`, the rows for each rank, N in all.
        world: the world.
        name: the same on every rank, fixed over steps.

    Returns:
        The rows received, `[M, ...]`, those of rank 0 first; and int32 `[W]`, how many came from
        each rank.
    """
    if not world.is_distributed:
        return tensor, splits
    # The name must not depend on where in the graph the AlltoAll is, for instance in a branch.
    rows, received = _horovod().alltoall(
        tensor, splits=splits, name=name, ignore_name_scope=True, **_among(world)
    )
    return rows, tf.ensure_shape(received, [world.size])


def allreduce_sum(tensors: Sequence[tf.Tensor], world: World, *, name: str) -> list[tf.Tensor]:
    """The sum of each tensor over the ranks, all in one grouped AllReduce.

    A sum and not Horovod's default, the mean: the divisor is defined in one place
    (`MetaModel._outer_update`).

        rank 0 has [1 2], rank 1 has [10 20]  ->  both have [11 22]

    Args:
        tensors: of any shapes, the same on every rank.
        world: the world.
        name: the same on every rank, fixed over steps.
    """
    if not world.is_distributed:
        return list(tensors)
    hvd = _horovod()
    return hvd.grouped_allreduce(list(tensors), op=hvd.Sum, name=name, **_among(world))


def broadcast(tensor: tf.Tensor, world: World, *, name: str) -> tf.Tensor:
    """Rank 0's tensor on every rank; of the same shape everywhere."""
    if not world.is_distributed:
        return tensor
    return _horovod().broadcast(tensor, root_rank=0, name=name)


def allgather_rows(tensor: tf.Tensor, world: World, *, name: str) -> tf.Tensor:
    """The ranks' rows one after the other, `[N_0 + N_1 + ..., ...]`, on every rank."""
    if not world.is_distributed:
        return tensor
    return _horovod().allgather(tensor, name=name)


def barrier(world: World, *, name: str) -> None:
    """Returns when every rank has come here."""
    allreduce_sum([tf.zeros([1])], world, name=f"barrier_{name}")


def broadcast_json(value: Any, world: World, *, name: str) -> Any:
    """Rank 0's `value`, any JSON value, on every rank."""
    return _allgather_json(value, world, name)[0]


def gather_json(value: Any, world: World, *, name: str) -> list[Any]:
    """Each rank's `value`, any JSON value, rank 0's first, on every rank."""
    return _allgather_json(value, world, name)


def agree(value: Any, world: World, *, name: str) -> None:
    """Raises on every rank when the ranks do not hold the same JSON value.

    Args:
        value: what must be equal everywhere: a configuration, a table list, a data fingerprint.
        world: the world.
        name: what the value is, for the message; the same on every rank.

    Raises:
        ValueError: on every rank, naming the ranks that differ and the first entry that does.
    """
    values = _allgather_json(value, world, f"agree_{name}")
    for rank, other in enumerate(values):
        if other != values[0]:
            raise ValueError(
                f"the ranks disagree on {name}: {_first_difference(values[0], other, rank)}. "
                "Start every rank with the same command, files and code."
            )


def _allgather_json(value: Any, world: World, name: str) -> list[Any]:
    text = json.dumps(value, sort_keys=True).encode()
    if not world.is_distributed:
        return [json.loads(text)]
    lengths = allgather_rows(tf.constant([len(text)], tf.int64), world, name=f"{name}_lengths")
    data = allgather_rows(
        tf.constant(np.frombuffer(text, np.uint8)), world, name=f"{name}_bytes"
    ).numpy()
    ends = np.cumsum(lengths.numpy())
    return [
        json.loads(bytes(data[end - length : end]))
        for end, length in zip(ends, lengths.numpy(), strict=True)
    ]


def _first_difference(first: Any, other: Any, rank: int, path: str = "") -> str:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted(set(first) | set(other)):
            if first.get(key) != other.get(key):
                return _first_difference(first.get(key), other.get(key), rank, f"{path}.{key}")
    where = f"{path[1:]} " if path else ""
    return f"{where}is {first!r} on rank 0 and {other!r} on rank {rank}"


def _begin(hvd: Any, parts: Sequence[tuple[int, ...]]) -> None:
    """Initializes Horovod with a process set for each part, or finds that it has them."""
    if not parts:
        hvd.init()
        return
    if hvd.is_initialized():
        missing = [part for part in parts if part not in _process_sets]
        if missing:
            raise RuntimeError(
                f"expected Horovod to know the ranks {list(missing[0])} as a part of the run, but "
                "it was started without it. Make the model that exchanges by host before any other "
                "in this process, or use exchange='flat'."
            )
        return
    sets = {part: hvd.ProcessSet(list(part)) for part in parts}
    try:
        hvd.init(process_sets=list(sets.values()))
    except ValueError as error:
        raise ValueError(
            f"expected every rank to see the same parts of the run, this one has {len(parts)}, and "
            f"Horovod did not start: {error} Start as many ranks on every host, or use "
            "exchange='flat'."
        ) from error
    _process_sets.update(sets)


def _among(world: World) -> dict[str, Any]:
    """What limits a collective to a part of the run; nothing where that is all of it."""
    if world.members is None:
        return {}
    hvd = _horovod()
    if len(world.members) == hvd.size():
        return {}
    return {"process_set": _process_sets[world.members]}


def _check_xla_ops() -> None:
    """Horovod would ignore the variable; launch/build_horovod.sh says when it leaves them out."""
    is_set = os.environ.get(_XLA_OPS, "0") not in ("", "0")
    if is_set and importlib.util.find_spec("horovod.tensorflow.without_xla_ops"):
        raise ValueError(
            f"expected {_XLA_OPS} not to be set, got {os.environ[_XLA_OPS]}: this Horovod was "
            "built without its XLA operations, which this TensorFlow does not compile. Unset it."
        )


def _horovod() -> Any:
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise ImportError(
            "more than one rank needs Horovod built for TensorFlow, and importing "
            f"horovod.tensorflow failed: {error}. Run `bash launch/setup.sh`, which builds it."
        ) from error
    return hvd
