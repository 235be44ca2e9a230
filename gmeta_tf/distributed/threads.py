"""The cores of a rank: one for an op, and ops side by side.

A step of T tasks is some hundred small ops. Spread over the threads of TensorFlow's pool, as is its
default, each of them waits for its slowest part; on one thread each, with the tasks in as many
parts as there are cores, they do not wait (docs/performance.md has the figures).
"""

from __future__ import annotations

import logging
import os

import tensorflow as tf

from gmeta_tf.distributed.world import World
from gmeta_tf.number_texts import whole_number

__all__ = ["cores_of_rank", "num_lanes", "share_cores"]

_LOG = logging.getLogger(__name__)
_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def cores_of_rank(world: World) -> int:
    """The cores that are this rank's: those that it may use, shared out to the ranks of its host.

    Args:
        world: the ranks. A launcher that binds each rank to cores of its own leaves nothing to
            share out.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    usable, installed = usable or 1, os.cpu_count() or 1
    return usable if usable < installed else max(1, usable // world.local_size)


def share_cores(world: World) -> None:
    """Lets TensorFlow run each op on one thread, and as many ops at once as the rank has cores.

    Where the user has said how many (by `tf.config.threading` or `TF_NUM_INTRAOP_THREADS` and
    `TF_NUM_INTEROP_THREADS`), where there is a GPU, and where TensorFlow has run an op already,
    nothing is done.

    Args:
        world: the ranks.
    """
    threading = tf.config.threading
    told = threading.get_intra_op_parallelism_threads()
    told = told or threading.get_inter_op_parallelism_threads()
    if told or any(os.environ.get(name) for name in _VARIABLES) or _has_gpu():
        return
    try:
        threading.set_intra_op_parallelism_threads(1)
        # The input pipeline's ops run on the same threads.
        threading.set_inter_op_parallelism_threads(max(2, cores_of_rank(world)))
    except RuntimeError:
        _LOG.info(
            "TensorFlow's threads stay as they are: an op has run before the run started. "
            "Set TF_NUM_INTRAOP_THREADS=1 in the environment for quicker steps on CPUs."
        )


def num_lanes(world: World) -> int:
    """In how many parts a step's tasks are computed side by side: one for each core that is idle
    while an op runs."""
    if _has_gpu():
        return 1
    cores = cores_of_rank(world)
    told = tf.config.threading.get_intra_op_parallelism_threads()
    threads_an_op = told or _in_environment(_VARIABLES[0]) or cores
    return max(1, cores // threads_an_op)


def _in_environment(name: str) -> int:
    text = os.environ.get(name) or "0"
    try:
        return whole_number(text)
    except ValueError as error:
        raise ValueError(
            f"the environment's {name} should be a whole number, got {text!r}. Correct or unset it."
        ) from error


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
