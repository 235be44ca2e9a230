"""The exchange over NVIDIA's Sparse Operation Kit, behind the interface of `ShardedEmbedding`.

SOK moves keys and rows between GPUs and finds a rank's rows; initial rows, row optimizers and
checkpoints are those of the Horovod back-end. docs/gpu.md says how to get it, and what has been run
where.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from gmeta_tf.allowed import BACKENDS, check_word
from gmeta_tf.distributed.collectives import gather_json, start
from gmeta_tf.distributed.gpus import physical_gpus
from gmeta_tf.distributed.world import World

__all__ = ["SokRoute", "SokShard", "choose_backend", "start_sok", "sum_duplicates"]

_LOG = logging.getLogger(__name__)
_HOW = (
    "docs/gpu.md tells how to build an environment with a GPU and merlin-sok; backend='horovod' "
    "needs neither, and backend='auto' takes what it finds."
)
# SOK's kernels move vectors of four floats.
_WIDTH_STEP = 4


def choose_backend(
    backend: str, widths: Mapping[str, int], world: World, *, beyond: str | None = None
) -> str:
    """The back-end of the tables, `"horovod"` or `"sok"`; the same on every rank.

    Every rank must call it with the same arguments, after `collectives.start`.

    Args:
        backend: `"horovod"`; `"sok"`, or an error; `"auto"`: SOK where every rank can, and
            otherwise Horovod. Rank 0 logs which and why.
        widths: group of tables -> D.
        world: the ranks.
        beyond: what else the user asks for that SOK does not do, in words; None for nothing.

    Raises:
        ValueError: another name, or `"sok"` for a width that SOK cannot move or with `beyond`.
        RuntimeError: `"sok"`, and a rank has no GPU or no merlin-sok (on every rank).
    """
    check_word("ShardedEmbedding: backend", backend, BACKENDS)
    if backend == "horovod":
        return backend
    obstacle = beyond or _unfit_width(widths)
    if obstacle and backend == "sok":
        raise ValueError(f"backend='sok': {obstacle}")
    if obstacle is None:
        found = gather_json(_missing_part(), world, name="sok_obstacles")
        missing = [f"rank {rank}: {text}" for rank, text in enumerate(found) if text]
        obstacle = missing[0] if missing else None
    if obstacle and backend == "sok":
        raise RuntimeError(f"backend='sok' cannot run here. On {obstacle}. {_HOW}")
    taken = "horovod" if obstacle else "sok"
    if world.is_chief:
        _log_once(f"embedding back-end: {taken} ({obstacle or 'every rank has a GPU and SOK'})")
    return taken


@functools.cache
def _log_once(text: str) -> None:
    _LOG.info(text)


def _unfit_width(widths: Mapping[str, int]) -> str | None:
    for group, width in widths.items():
        if width % _WIDTH_STEP:
            return (
                f"expected widths divisible by {_WIDTH_STEP}, which SOK's kernels move at a time, "
                f"got {width} (tables of {group!r}). Round the width up, or use backend='horovod'."
            )
    return None


def _missing_part() -> str | None:
    """What this process lacks for SOK, in words; None if nothing."""
    if not has_gpu():
        return "TensorFlow sees no GPU, and SOK has kernels for GPUs only"
    try:
        import horovod.tensorflow  # noqa: F401
    except ImportError as error:
        return f"SOK needs Horovod on one rank too, and importing it failed: {error}"
    try:
        _sparse_operation_kit()
    # Without its libraries SOK raises a bare Exception, and TensorFlow's loader its own errors.
    except Exception as error:
        return f"importing sparse_operation_kit (of the package merlin-sok) failed: {error}"
    return None


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(physical_gpus())


def _sparse_operation_kit() -> Any:
    import sparse_operation_kit

    return sparse_operation_kit


def start_sok(world: World) -> Any:
    """Starts Horovod and then SOK, unless they are started. Returns SOK's module.

    Args:
        world: the ranks; SOK needs Horovod on one rank too.

    Raises:
        RuntimeError: Horovod's idea of rank and size is not `world`'s.
    """
    start(world, alone_too=True)
    sok = _sparse_operation_kit()
    # A second `init` raises, whoever called the first.
    if sok.communication._COMM_TOOL is None:
        # True would replace tf.keras.optimizers by Keras 2's.
        sok.init(use_legacy_optimizer=False)
    return sok


@dataclasses.dataclass
class SokRoute:
    """A step's keys on their way through SOK. It lasts one step.

    SOK does not tell which key went where. So a tape records its look-up, and the gradients go back
    through the gradient of the look-up.

    Attributes:
        keys: int64 `[U]`, this rank's distinct keys.
        trains: whether the step trains, in which new keys of a dynamic table read their initial
            rows; otherwise they read zeros.
        rows: float32 `[U, D]`, what the look-up gave; None before `fetch`.
        tape: what recorded it.
    """

    keys: tf.Tensor
    trains: bool = False
    rows: tf.Tensor | None = None
    tape: tf.GradientTape | None = None


def sum_duplicates(slices: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct indices of sparse gradients, and the sum of the values of each.

    A row that two ranks looked up comes back from both:

        indices [4 1 4], values [a b c]  ->  [4 1], [a + c, b]

    Args:
        slices: indices `[N]`, values `[N, D]`.

    Returns:
        Indices `[V]` in the order in which they come first, and sums `[V, D]`.
    """
    indices, segments = tf.unique(slices.indices)
    return indices, tf.math.unsorted_segment_sum(slices.values, segments, tf.size(indices))


class SokShard:
    """A rank's rows of the tables of one width, in a variable of SOK.

    Not a `tf.Module`, nor another object that TensorFlow or Keras tracks: what they track they
    also save, broadcast and count, and they would take a shard for the table.

    Attributes:
        name: the group's.
        width: D.
        world: whose shard.
    """

    def __init__(self, variable: Any, width: int, world: World, *, name: str) -> None:
        """Wraps a variable of SOK."""
        self.name, self.width, self.world = name, width, world
        self._variable = variable

    def route(self, keys: tf.Tensor) -> SokRoute:
        """The route of distinct keys, int64 `[U]`. No collective: SOK's look-up sends them."""
        return SokRoute(keys)

    def fetch(self, route: SokRoute) -> tf.Tensor:
        """The rows of the route's keys, float32 `[U, D]`; two AlltoAlls. Every rank must call it.

        Raises:
            tf.errors.InvalidArgumentError: a negative key.
        """
        # SOK's kernels compute `key % W` unsigned, and its Python signed.
        message = (
            f"a key of the tables of {self.name} is negative, and SOK needs keys from 0: take them "
            "modulo 2**63, or make the tables with backend=horovod"
        )
        checked = tf.debugging.assert_non_negative(route.keys, message)
        with (
            tf.control_dependencies([checked] if checked is not None else []),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(self._variable)
            keys = tf.identity(route.keys)
            rows = _sparse_operation_kit().all2all_dense_embedding(self._variable, keys)
        route.rows, route.tape = rows, tape
        return self._rows_of(route, tf.ensure_shape(rows, [None, self.width]))

    def return_gradients(
        self, gradients: tf.Tensor, route: SokRoute
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The owners' sums of the gradients; one AlltoAll. Every rank must call it.

        Two ranks have both looked up key 4, which rank 0 owns as its row 2:

            rank 0 gives [g4 g3]  has rows [2], sums [g4 + h4]
            rank 1 gives [h4]     has rows [1], sums [g3]

        Args:
            gradients: float32 `[U, D]`, in the order of the keys that were fetched.
            route: what `fetch` was given.

        Returns:
            The row indices of this rank's touched rows, int64 `[V]`, distinct (the keys where the
            table is dynamic); and the *sum* over the ranks of their gradients, float32 `[V, D]`.

        Raises:
            ValueError: the route was not given to `fetch`.
        """
        if route.tape is None:
            raise ValueError(
                "return_gradients: expected a route whose rows were fetched, got one that was not "
                "passed to fetch. Call fetch with it first."
            )
        slices = route.tape.gradient(route.rows, self._variable, output_gradients=gradients)
        indices, sums = sum_duplicates(slices)
        return tf.cast(indices, tf.int64), sums

    def _rows_of(self, route: SokRoute, found: tf.Tensor) -> tf.Tensor:
        """The rows of the route's keys, given what the variable holds."""
        return found
