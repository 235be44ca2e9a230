"""The GPU of a rank: one each, picked by its place among the ranks of its host."""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from gmeta_tf.distributed.world import World

__all__ = ["physical_gpus", "pin_gpu"]

_LOG = logging.getLogger(__name__)


def physical_gpus() -> list[Any]:
    """The GPUs that TensorFlow sees, pinned ones and others alike; touches none of them."""
    return tf.config.list_physical_devices("GPU")


def pin_gpu(world: World) -> Any:
    """Gives this rank its own GPU, whose memory TensorFlow takes as it is needed. Idempotent.

    Call it before anything runs on a GPU: TensorFlow takes all memory of all GPUs otherwise, and
    leaves none to the other ranks, to NCCL and to tables that are kept outside of TensorFlow.
    Without a GPU nothing is done.

    Args:
        world: the ranks. The GPU is that of `local_rank`; where one alone is visible (a launcher
            has set `CUDA_VISIBLE_DEVICES` for each rank, or the ranks share it) it is that one.

    Returns:
        The GPU; None where there is none.

    Raises:
        ValueError: fewer GPUs than ranks on this host.
        RuntimeError: a GPU is in use already, and not as it must be.
    """
    gpus = physical_gpus()
    if not gpus:
        return None
    own = gpus[0] if len(gpus) == 1 else _gpu_of_rank(gpus, world)
    if tf.config.get_visible_devices("GPU") == [own] and _grows(own):
        return own
    try:
        tf.config.set_visible_devices([own], "GPU")
        tf.config.experimental.set_memory_growth(own, True)
    except RuntimeError as error:
        if world.local_size == 1 and len(gpus) == 1:
            _LOG.warning(
                "the GPU's memory was taken whole before the run started; a table that is kept "
                "outside of TensorFlow may find none left. Make the ShardedEmbedding first."
            )
            return own
        raise RuntimeError(
            f"expected to pin rank {world.rank} to {own.name} before any GPU is in use, and one "
            f"is: {error}. Make the ShardedEmbedding (or call "
            "gmeta_tf.distributed.collectives.start) before anything that "
            "runs an op, such as reading a batch."
        ) from error
    return own


def _gpu_of_rank(gpus: list[Any], world: World) -> Any:
    if world.local_rank >= len(gpus):
        raise ValueError(
            f"expected a GPU for each rank of a host, got {len(gpus)} for "
            f"{max(world.local_size, world.local_rank + 1)} ranks. Start fewer ranks on each "
            "host, or set CUDA_VISIBLE_DEVICES='' to train on CPUs."
        )
    return gpus[world.local_rank]


def _grows(gpu: Any) -> bool:
    return bool(tf.config.experimental.get_memory_growth(gpu))
