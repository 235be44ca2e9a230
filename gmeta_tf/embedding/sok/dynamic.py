"""Dynamic tables in SOK's `DynamicVariable`, which keeps keys and rows in a GPU's memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.ownership import is_own
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.rules import DynamicTable
from gmeta_tf.embedding.dynamic.state import KEYS_AT_A_TIME, DynamicState, check_fits, nobody
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.sok.backend import SokRoute, SokShard, start_sok
from gmeta_tf.embedding.static_shard import initial_rows

__all__ = ["SokDynamicShard", "unkept_rule"]

# What HierarchicalKV writes into the row of a new key. Finite, since a row that training has made
# NaN must not pass for a new one.
_UNSET = -3e38
_SMALLEST_CAPACITY = 1024
# The value of each rule that SOK can keep, and why only that.
_KEPT: dict[str, tuple[Any, str]] = {
    "when_full": ("evict", "SOK drops the rows used least recently"),
    "admit_after": (1, "SOK gives a key its row at the first look-up"),
    "admit_probability": (1.0, "SOK gives every key a row"),
    "time_to_live": (None, "SOK drops rows only where a table is full"),
    "unknown_in_training": ("insert", "SOK inserts the keys that it looks up"),
    "unknown_otherwise": ("default", "SOK inserts the keys that it looks up, and shares no rows"),
}


def unkept_rule(rules: Mapping[str, DynamicTable]) -> str | None:
    """The first rule of dynamic tables that SOK cannot keep, in words; None where it keeps all.

    Args:
        rules: dynamic table -> its rules.
    """
    for table, options in rules.items():
        if options.capacity is None:
            return (
                f"expected a capacity of the dynamic table {table!r}, which SOK needs to make the "
                "table, got capacity=None. State one, or use backend='horovod'."
            )
        for rule, (kept, reason) in _KEPT.items():
            value = getattr(options, rule)
            if value != kept:
                return (
                    f"expected {rule}={kept!r} of the dynamic table {table!r} ({reason}), got "
                    f"{value!r}. State that, or use backend='horovod'."
                )
    return None


@final
class SokDynamicShard(SokShard):
    """The rows of a dynamic table that this rank owns, in SOK's `DynamicVariable`.

    The counterpart of `DynamicShard`, with the rules that SOK can keep (`unkept_rule`). Every
    look-up of SOK inserts. So a new key gets a row that is marked as unset, and readers take
    something else instead: in training its initial row, a function of the key, which the step's
    update then writes; otherwise zeros. Marked rows are neither saved nor served, but they count
    towards the capacity.

    A full table drops the rows used least recently, marked or not. Rows and slots are separate
    tables, and each drops its own: a key that comes back starts anew, with its slots; where only a
    slot was dropped, only that slot starts anew.

    Attributes:
        options: the table's rules.
        table: its name.
        capacity: the most rows on this rank: the rules', rounded up to a power of two.
        slots: name -> `DynamicVariable`, of width D or 1.
    """

    def __init__(
        self,
        options: DynamicTable,
        *,
        table: str,
        width: int,
        seed: int,
        world: World,
        scale: float,
        name: str,
    ) -> None:
        """Builds a shard without keys. Starts SOK.

        Args:
            options: the table's rules.
            table: its name.
            width: D.
            seed: of the initial rows.
            world: whose shard.
            scale: the largest absolute initial value.
            name: of the variables.

        Raises:
            ValueError: a rule that SOK cannot keep.
        """
        unkept = unkept_rule({table: options})
        if unkept:
            raise ValueError(f"SokDynamicShard: {unkept}")
        self._sok = start_sok(world)
        self.options, self.table = options, table
        self._seed, self._scale = seed, scale
        own = options.keys_of_a_rank(world.size) or 1
        self.capacity = max(_SMALLEST_CAPACITY, 1 << (own - 1).bit_length())
        self.slots: dict[str, Any] = {}
        super().__init__(self._dynamic(f"{name}_rows", _UNSET, width), width, world, name=name)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the slots of the optimizer; what those of an earlier one held goes.

        SOK frees no variable before the process ends. So one that fits is used again.
        """
        earlier, self.slots = self.slots, {}
        for name, slot in optimizer.slots(self.width).items():
            variable = earlier.get(name)
            if variable is not None and _shape_of(variable) == (slot.width, slot.start):
                self._fill(variable)
                self.slots[name] = variable
            else:
                self.slots[name] = self._dynamic(f"{self.name}_{name}", slot.start, slot.width)

    @property
    def slot_widths(self) -> dict[str, int | None]:
        """How many numbers the optimizer keeps of a row, by name."""
        return {name: slot.dimension for name, slot in self.slots.items()}

    def gather(self, keys: tf.Tensor) -> tf.Tensor:
        """The rows `[N, D]` of keys `[N]` that this rank owns, as training reads them; inserts."""
        found = self._read(self._variable, keys)
        return self._rows_of(SokRoute(keys, trains=True), found)

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
            found = self._read(self._variable, keys)
            is_new = _is_unset(found)[:, tf.newaxis]
            # A dropped row may have left its slots behind.
            old = {
                name: tf.where(is_new, _shape_of(slot)[1], self._read(slot, keys))
                for name, slot in self.slots.items()
            }
            rows = tf.where(is_new, self._initial_rows(keys), found)
            rows, slots = optimizer.update(rows, gradients, old, step)
            self._variable.scatter_update(tf.IndexedSlices(rows, keys))
            for name, slot in self.slots.items():
                slot.scatter_update(tf.IndexedSlices(slots[name], keys))
            return tf.size(keys)

        # Without keys SOK would launch kernels of no blocks, which CUDA rejects.
        tf.cond(tf.size(keys) > 0, apply, lambda: tf.constant(0))

    def bucket_of(self, keys: tf.Tensor) -> tf.Tensor:
        """Bucket 0: `unkept_rule` has rejected tables with shared rows."""
        return tf.zeros_like(keys)

    def metrics(self) -> dict[str, tf.Tensor]:
        """This rank's counts, int64 scalars: SOK keeps one.

        `occupancy`: the rows in use, also those of keys that were only looked up.
        """
        return {"occupancy": tf.cast(self._variable.size[0], tf.int64)}

    def clear(self) -> None:
        """Forgets every key. Other keys may take the rows when the table is full.

        SOK removes no key, and a traced step would not see a new variable.
        """
        self._fill(self._variable)

    def export_shard(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The trained keys, int64 `[N]`, ascending; and `rows` and each slot, `[N, D]`."""
        keys, rows = self._export(self._variable)
        trained = rows[:, 0] != np.float32(_UNSET)
        keys, rows = keys[trained], rows[trained]
        order = np.argsort(keys)
        keys = keys[order]
        slots = {name: self._values_of(slot, keys) for name, slot in self.slots.items()}
        return keys, {"rows": rows[order], **slots}

    def load_shard(self, keys: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Writes the rows and slots of those keys that this rank owns.

        Args:
            keys: int64 `[N]`.
            values: `rows` and each slot -> float32 `[N, D]`.
        """
        own = is_own(keys, self.world)
        if not own.any():
            return
        for name, variable in {"rows": self._variable, **self.slots}.items():
            with tf.device("CPU"):
                own_keys, own_values = tf.constant(keys[own]), tf.constant(values[name][own])
            self._sok.assign(variable, own_keys, own_values)

    def export_state(
        self, step: int, *, keys_at_a_time: int = KEYS_AT_A_TIME
    ) -> Iterator[DynamicState]:
        """The shard's state, by key: see `dynamic.state.export`.

        SOK gives all at once, in the host's memory, and keeps no steps: its keys count as seen in
        the last step.
        """
        keys, values = self.export_shard()
        rows = values.pop("rows")
        last_seen = np.full(len(keys), max(step - 1, 0), np.int32)
        for first in range(0, max(len(keys), 1), keys_at_a_time):
            some = slice(first, first + keys_at_a_time)
            yield DynamicState(
                self.world.rank,
                self.world.size,
                keys[some],
                last_seen[some],
                rows[some],
                {name: slot[some] for name, slot in values.items()},
                *nobody(),
                rows[:0],
                {name: slot[:0] for name, slot in values.items()},
            )

    def load_state(self, states: Iterable[DynamicState]) -> None:
        """Loads this shard's part of a table's states: see `dynamic.state.load`.

        SOK takes keys, rows and slots, but neither waiting keys nor buckets. The host's memory
        holds a rank's part once.
        """
        parts: list[dict[str, np.ndarray]] = []
        for state in states:
            check_fits(self, state)
            slots = {name: state.slots[name] for name in self.slots}
            arrays = {"keys": state.keys, "last_seen": state.last_seen, "rows": state.rows, **slots}
            own = is_own(state.keys, self.world)
            parts.append({name: array[own] for name, array in arrays.items()})
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        keys, last_seen = values.pop("keys"), values.pop("last_seen")
        distinct, counts = np.unique(keys, return_counts=True)
        if len(distinct) < len(keys):
            raise ValueError(
                f"the table {self.table!r}: the key {distinct[counts > 1][0]} comes twice among "
                "the keys to load. Load each rank's part of one checkpoint once."
            )
        self.clear()
        # SOK drops last what it was given last.
        order = np.lexsort((keys, last_seen))[-self.capacity :]
        for first in range(0, len(order), KEYS_AT_A_TIME):
            some = order[first : first + KEYS_AT_A_TIME]
            self.load_shard(keys[some], {name: value[some] for name, value in values.items()})

    def _initial_rows(self, keys: tf.Tensor) -> tf.Tensor:
        return initial_rows(keys, self.width, self._seed, self._scale)

    def _rows_of(self, route: SokRoute, found: tf.Tensor) -> tf.Tensor:
        new = self._initial_rows(route.keys) if route.trains else tf.zeros_like(found)
        return tf.where(_is_unset(found)[:, tf.newaxis], new, found)

    def _read(self, variable: Any, keys: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(variable.sparse_read(keys), [None, variable.dimension])

    def _export(self, variable: Any) -> tuple[np.ndarray, np.ndarray]:
        """All keys and values of a variable, in SOK's order."""
        # SOK would ask CUDA for 0 bytes of memory, which is an error there.
        if int(variable.size[0]) == 0:
            return np.zeros([0], np.int64), np.zeros([0, variable.dimension], np.float32)
        keys, values = self._sok.export(variable)
        return keys.numpy(), values.numpy()

    def _values_of(self, variable: Any, keys: np.ndarray) -> np.ndarray:
        """A variable's values for keys, `[N, D]`; a dropped key has the start value."""
        found, values = self._export(variable)
        order = np.argsort(found)
        # Keys are 0 or more, so no key equals the -1 that stands behind the last.
        found = np.append(found[order], -1)
        values = np.append(values[order], [[_shape_of(variable)[1]] * variable.dimension], axis=0)
        positions = np.searchsorted(found[:-1], keys)
        positions = np.where(found[positions] == keys, positions, len(order))
        return values[positions].astype(np.float32)

    def _fill(self, variable: Any) -> None:
        """Gives all rows of a variable the start value."""
        keys, _ = self._export(variable)
        width, start = _shape_of(variable)
        for first in range(0, len(keys), KEYS_AT_A_TIME):
            some = tf.constant(keys[first : first + KEYS_AT_A_TIME])
            values = tf.fill([len(some), width], tf.constant(start, tf.float32))
            variable.scatter_update(tf.IndexedSlices(values, some))

    def _dynamic(self, name: str, start: float, width: int) -> Any:
        return self._sok.DynamicVariable(
            dimension=width,
            initializer=repr(float(start)),
            var_type="hybrid",
            name=name,
            key_type=tf.int64,
            dtype=tf.float32,
            init_capacity=min(self.capacity, 1 << 16),
            max_capacity=self.capacity,
        )


def _shape_of(variable: Any) -> tuple[int, float]:
    """How many numbers a row of a variable has, and the value that each starts from."""
    return variable.dimension, float(variable.initializer_str)


def _is_unset(rows: tf.Tensor) -> tf.Tensor:
    """Which rows `[N, D]` were inserted and never written: bool `[N]`."""
    return rows[:, 0] == tf.constant(_UNSET, rows.dtype)
