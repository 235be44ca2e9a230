"""The exchange over NVIDIA's Sparse Operation Kit, behind the face of `ShardedEmbedding`.

SOK moves keys and rows between GPUs and finds a rank's rows; initial rows, row optimizers and
checkpoints are those of the Horovod back-end. docs/gpu.md tells how to get it, and what of this has
been run where.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from gmeta_tf.collectives import gather_json, start
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.table import StaticShard, TableRange
from gmeta_tf.gpus import physical_gpus
from gmeta_tf.world import World

__all__ = [
    "BACKENDS",
    "SokDynamicShard",
    "SokRoute",
    "SokStaticShard",
    "choose_backend",
    "start_sok",
    "sum_duplicates",
]

BACKENDS = ("auto", "horovod", "sok")

_LOG = logging.getLogger(__name__)
_HOW = (
    "docs/gpu.md tells how to build an environment with a GPU and merlin-sok; backend='horovod' "
    "needs neither, and backend='auto' takes what is there."
)
# The widths that SOK's kernels copy: vectors of four floats.
_WIDTH_STEP = 4
# What HierarchicalKV writes into a row when it first meets the key. Finite, since a row that
# training has made NaN must not pass for one that is new.
_UNSET = -3e38
_SMALLEST_CAPACITY = 1024


# Which back-end -------------------------------------------------------------------------------


def choose_backend(backend: str, widths: Mapping[str, int], world: World) -> str:
    """The back-end that the tables get, `"horovod"` or `"sok"`; the same on every rank.

    Every rank must call it with the same arguments, after `collectives.start`.

    Args:
        backend: `"horovod"`; `"sok"`, or an error; `"auto"`: SOK where every rank can, and
            otherwise Horovod. Rank 0 logs which and why.
        widths: group of tables -> D.
        world: the ranks.

    Raises:
        ValueError: another name, or `"sok"` for a width that SOK can not copy.
        RuntimeError: `"sok"`, and a rank has no GPU or no merlin-sok (on every rank).
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"ShardedEmbedding: expected a backend of {', '.join(BACKENDS)}, got {backend!r}."
        )
    if backend == "horovod":
        return backend
    obstacle = _unfit_width(widths)
    if obstacle and backend == "sok":
        raise ValueError(f"backend='sok': {obstacle}")
    if obstacle is None:
        found = gather_json(_missing_part(), world, name="sok_obstacles")
        missing = [f"rank {rank}: {text}" for rank, text in enumerate(found) if text]
        obstacle = missing[0] if missing else None
    if obstacle and backend == "sok":
        raise RuntimeError(f"backend='sok' can not run here. On {obstacle}. {_HOW}")
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
                f"expected widths divisible by {_WIDTH_STEP}, which SOK's kernels copy at a time, "
                f"got {width} (tables of {group!r}). Round the width up, or use backend='horovod'."
            )
    return None


def _missing_part() -> str | None:
    """What this process lacks for SOK, in words; None when nothing."""
    if not has_gpu():
        return "TensorFlow sees no GPU, and SOK has kernels for GPUs only"
    try:
        import horovod.tensorflow  # noqa: F401
    except ImportError as error:
        return f"SOK needs Horovod on one rank too, and importing it failed: {error}"
    try:
        _sparse_operation_kit()
    # Without its libraries SOK raises a bare Exception, and TensorFlow's loader errors of its own.
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
    """Starts Horovod and then SOK, unless they have been. Returns the module of SOK.

    Args:
        world: the ranks; of one rank alone Horovod is started, too.

    Raises:
        RuntimeError: Horovod's idea of rank and size is not `world`'s.
    """
    start(world, alone_too=True)
    sok = _sparse_operation_kit()
    # A second `init` raises, whoever made the first.
    if sok.communication._COMM_TOOL is None:
        # True would put Keras 2's optimizers in the place of tf.keras.optimizers.
        sok.init(use_legacy_optimizer=False)
    return sok


# The exchange ---------------------------------------------------------------------------------


@dataclasses.dataclass
class SokRoute:
    """A step's keys on their way through SOK. It lasts one step.

    SOK keeps to itself which key went where. So its look-up is recorded, and the gradients go back
    by the gradient of the look-up.

    Attributes:
        keys: int64 `[U]`, this rank's distinct keys.
        rows: float32 `[U, D]`, what the look-up gave; None before `fetch`.
        tape: what recorded it.
    """

    keys: tf.Tensor
    rows: tf.Tensor | None = None
    tape: tf.GradientTape | None = None


def sum_duplicates(slices: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct indices of sparse gradients, and the sum of the values of each.

    A row that two ranks have looked up comes back from both:

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

    Not a `tf.Module`, and no other object that TensorFlow or Keras looks into: what they track they
    also save, broadcast and count, and each of them would take a shard for the table.

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
        # SOK's kernels take the rest of `key / W` of unsigned numbers, and its Python of signed.
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
        return self._rows_of(keys, tf.ensure_shape(rows, [None, self.width]))

    def return_gradients(
        self, gradients: tf.Tensor, route: SokRoute
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The owners' sums of the gradients; one AlltoAll. Every rank must call it.

        Two ranks, of which both have looked up key 4, which rank 0 owns as its row 2:

            rank 0 gives [g4 g3]  has rows [2], sums [g4 + h4]
            rank 1 gives [h4]     has rows [1], sums [g3]

        Args:
            gradients: float32 `[U, D]`, in the order of the keys that were fetched.
            route: what `fetch` was given.

        Returns:
            The places of this rank's own touched rows, int64 `[V]`, distinct (of a dynamic table
            the keys); and the *sum* over the ranks of their gradients, float32 `[V, D]`.

        Raises:
            ValueError: nothing has been fetched by the route.
        """
        if route.tape is None:
            raise ValueError(
                "return_gradients: expected a route that rows were fetched by, got one that was "
                "never passed to fetch. Call fetch with it first."
            )
        slices = route.tape.gradient(route.rows, self._variable, output_gradients=gradients)
        indices, sums = sum_duplicates(slices)
        return tf.cast(indices, tf.int64), sums

    def _rows_of(self, keys: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        """What a key's row is, given what the variable holds."""
        return found


class SokStaticShard(SokShard):
    """The rows of known vocabularies that this rank owns: `key % W == rank`, at row `key // W`.

    That is SOK's rule and that of `StaticShard` alike, which therefore does all that is local: the
    initial rows, the slots and the updates, on a variable of SOK.
    """

    def __init__(
        self,
        tables: tuple[TableRange, ...],
        width: int,
        world: World,
        *,
        scale: float,
        name: str,
    ) -> None:
        """Builds the shard with its initial rows. Starts SOK.

        Args:
            tables: the tables, in order and without gaps.
            width: D.
            world: whose shard.
            scale: the largest absolute initial value.
            name: of the variable.
        """
        sok = start_sok(world)

        def make_rows(num_rows: int) -> tf.Variable:
            # Of an initial value every rank would hold the whole table; an initializer is called
            # for this rank's rows alone.
            return sok.Variable(
                shape=(num_rows, width),
                initializer=lambda shape, dtype: tf.zeros(shape, dtype),
                dtype=tf.float32,
                name=f"{name}/rows",
            )

        self._shard = StaticShard(tables, width, world, scale=scale, name=name, make_rows=make_rows)
        super().__init__(self._shard.rows, width, world, name=name)
        self.tables, self.num_rows = tables, self._shard.num_rows
        self.make_slots, self.update = self._shard.make_slots, self._shard.update
        self.gather = self._shard.gather

    @property
    def rows(self) -> tf.Variable:
        """SOK's variable, float32 `[ceil((num_rows - rank) / W), D]`."""
        return self._shard.rows

    @property
    def slots(self) -> dict[str, tf.Variable]:
        """What the row optimizer keeps: plain variables, a row for each of this rank's."""
        return self._shard.slots


class SokDynamicShard(SokShard):
    """Rows of keys without a limit, in SOK's `DynamicVariable` over HierarchicalKV.

    A look-up inserts keys that are not there. Their rows are marked as unset, and whoever reads one
    takes its initial row, a function of the key, instead; the first update writes it. When a
    table is full, HierarchicalKV drops the rows least recently used, which are new when they come
    back; rows and slots are tables of their own, and drop each by itself.

    Attributes:
        slots: name -> `DynamicVariable` of the same width.
    """

    def __init__(
        self,
        width: int,
        world: World,
        initial_rows: Callable[[tf.Tensor], tf.Tensor],
        *,
        capacity: int,
        name: str,
    ) -> None:
        """Builds an empty shard. Starts SOK.

        Args:
            width: D.
            world: whose shard.
            initial_rows: int64 `[N]` -> float32 `[N, D]`, what rows hold before training.
            capacity: the most rows on this rank; rounded up to a power of two.
            name: of the variables.

        Raises:
            ValueError: a capacity below 1.
        """
        if capacity < 1:
            raise ValueError(
                f"the dynamic table {name!r}: expected a capacity of at least 1 row, "
                f"got {capacity}."
            )
        self._sok = start_sok(world)
        self._capacity = max(_SMALLEST_CAPACITY, 1 << (capacity - 1).bit_length())
        self._initial_rows = initial_rows
        self.slots: dict[str, Any] = {}
        self.name, self.width = name, width
        super().__init__(self._dynamic("rows", _UNSET), width, world, name=name)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the variables that the optimizer keeps, of the rows' width."""
        self.slots = {
            name: self._dynamic(name, slot.start, slot.width)
            for name, slot in optimizer.slots(self.width).items()
        }

    def gather(self, keys: tf.Tensor) -> tf.Tensor:
        """The rows `[N, D]` of distinct keys `[N]` that this rank owns; inserts new ones."""
        return self._rows_of(keys, self._variable.sparse_read(keys))

    def update(
        self, keys: tf.Tensor, gradients: tf.Tensor, optimizer: RowOptimizer, step: tf.Tensor
    ) -> None:
        """Applies the optimizer to the rows of `keys`.

        Args:
            keys: int64 `[N]`, distinct and this rank's own.
            gradients: float32 `[N, D]`.
            optimizer: the one that `make_slots` was called with.
            step: int64 scalar, the steps done before this one.
        """

        def apply() -> tf.Tensor:
            # HierarchicalKV's scatter_update passes over keys that are not there. Reading inserts.
            old = {name: slot.sparse_read(keys) for name, slot in self.slots.items()}
            rows, slots = optimizer.update(self.gather(keys), gradients, old, step)
            self._variable.scatter_update(tf.IndexedSlices(rows, keys))
            for name, slot in self.slots.items():
                slot.scatter_update(tf.IndexedSlices(slots[name], keys))
            return tf.size(keys)

        # No keys would be kernels of no blocks, which CUDA refuses.
        tf.cond(tf.size(keys) > 0, apply, lambda: tf.constant(0))

    def export_shard(self) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """What has been trained: keys, int64 `[N]`, and `rows` and each slot, `[N, D]`, on CPU."""
        keys, rows = self._sok.export(self._variable)
        keys = tf.boolean_mask(keys, ~_is_unset(rows))
        variables = {"rows": self._variable, **self.slots}
        values = {name: self._exported(variable, keys) for name, variable in variables.items()}
        return keys, values

    def load_shard(self, keys: tf.Tensor, values: Mapping[str, tf.Tensor]) -> None:
        """Writes rows and slots, of any world's keys; keeps those that this rank owns.

        Args:
            keys: int64 `[N]`.
            values: `rows` and each slot -> float32 `[N, D]`.
        """
        own = keys % self.world.size == self.world.rank
        variables = {"rows": self._variable, **self.slots}
        for name, variable in variables.items():
            with tf.device("CPU"):
                own_keys = tf.boolean_mask(keys, own)
                own_values = tf.boolean_mask(values[name], own)
            if len(own_keys):
                self._sok.assign(variable, own_keys, own_values)

    def _exported(self, variable: Any, keys: tf.Tensor) -> tf.Tensor:
        """A variable's values of keys, `[N, D]`: what it starts from where it has dropped a key.

        Each variable exports in an order of its own, and drops keys by itself when it is full.
        """
        found, values = self._sok.export(variable)
        start = float(variable.initializer_str)
        found = tf.concat([found, [-1]], axis=0)  # keys are 0 or more, so this one is nobody's
        values = tf.concat([values, tf.fill([1, variable.dimension], start)], axis=0)
        order = tf.argsort(found)
        places = tf.searchsorted(tf.gather(found, order), keys)
        places = tf.gather(order, tf.minimum(places, tf.size(found) - 1))
        there = tf.gather(found, places) == keys
        return tf.where(there[:, tf.newaxis], tf.gather(values, places), start)

    def _rows_of(self, keys: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return tf.where(_is_unset(found)[:, tf.newaxis], self._initial_rows(keys), found)

    def _dynamic(self, name: str, initial_value: float, width: int | None = None) -> Any:
        return self._sok.DynamicVariable(
            dimension=width or self.width,
            initializer=repr(float(initial_value)),
            var_type="hybrid",
            name=f"{self.name}_{name}",
            key_type=tf.int64,
            dtype=tf.float32,
            init_capacity=min(self._capacity, 1 << 16),
            max_capacity=self._capacity,
        )


def _is_unset(rows: tf.Tensor) -> tf.Tensor:
    """Which rows `[N, D]` were inserted and never written: bool `[N]`."""
    return rows[:, 0] == tf.constant(_UNSET, rows.dtype)
