"""A dynamic shard's state, by key: written at one number of ranks and read at another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.ownership import is_own
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.row_store import RowStore
from gmeta_tf.embedding.dynamic.rules import DynamicTable

__all__ = ["DynamicState", "KeyedShard", "check_fits", "export", "load", "nobody"]

if TYPE_CHECKING:
    from gmeta_tf.embedding.dynamic.shard import DynamicShard

KEYS_AT_A_TIME = 1 << 18


class KeyedShard(Protocol):
    """A rank's shard of a table whose rows come with their keys, wherever they are kept.

    Attributes:
        options: the table's rules.
        table: its name.
        width: D.
        world: the ranks.
    """

    options: DynamicTable
    table: str
    width: int
    world: World

    @property
    def slot_widths(self) -> dict[str, int | None]:
        """How many numbers the optimizer keeps of a row, by name."""

    def export_state(self, step: int) -> Iterator[DynamicState]:
        """What the shard holds after so many steps, in parts."""

    def load_state(self, states: Iterable[DynamicState]) -> None:
        """Loads this shard's part of a table's states, and forgets all else."""

    def bucket_of(self, keys: tf.Tensor) -> tf.Tensor:
        """The shared row of its owner that each key `[N]` reads without its own, int64 `[N]`."""

    def metrics(self) -> dict[str, tf.Tensor]:
        """This rank's counts, int64 scalars."""


class DynamicState(NamedTuple):
    """A part of what a rank's shard holds.

    Attributes:
        rank: whose.
        size: W.
        keys: int64 `[N]`.
        last_seen: int32 `[N]`, the steps.
        rows: float32 `[N, D]`.
        slots: name -> float32 `[N, D or 1]`.
        waiting_keys: int64 `[M]`, the keys that wait for a row.
        waiting_last_seen: int32 `[M]`.
        sightings: int32 `[M]`.
        bucket_rows: float32 `[B, D]`, in a rank's first part; no rows in the others.
        bucket_slots: name -> float32 `[B, D or 1]`.
    """

    rank: int
    size: int
    keys: np.ndarray
    last_seen: np.ndarray
    rows: np.ndarray
    slots: dict[str, np.ndarray]
    waiting_keys: np.ndarray
    waiting_last_seen: np.ndarray
    sightings: np.ndarray
    bucket_rows: np.ndarray
    bucket_slots: dict[str, np.ndarray]


def export(
    shard: DynamicShard, step: int, keys_at_a_time: int = KEYS_AT_A_TIME
) -> Iterator[DynamicState]:
    """A shard's state, in parts, so that memory never holds it twice.

    Args:
        shard: the shard.
        step: the training steps done; keys that have given their row up by then are left out.
        keys_at_a_time: the most keys of a part.

    Yields:
        At least one part.
    """
    keys, row_indices = shard.index.keys_and_row_indices()
    alive = shard.index.find(tf.constant(keys), tf.constant(step, tf.int64)).numpy() >= 0
    keys, row_indices = keys[alive], row_indices[alive]
    for first in range(0, max(len(keys), 1), keys_at_a_time):
        some = tf.constant(row_indices[first : first + keys_at_a_time])
        rows, slots = _at(shard.store, some)
        buckets = np.arange(1, shard.index.first_row if first == 0 else 1, dtype=np.int64)
        bucket_rows, bucket_slots = _at(shard.store, tf.constant(buckets))
        yield DynamicState(
            shard.world.rank,
            shard.world.size,
            keys[first : first + keys_at_a_time],
            shard.index.last_seen.gather(some).numpy(),
            rows,
            slots,
            *_waiting(shard, some=first == 0),
            bucket_rows,
            bucket_slots,
        )


def load(shard: DynamicShard, states: Iterable[DynamicState]) -> None:
    """Loads a shard's part of a table's states; what it held is forgotten.

    A shard of another W or capacity that gets too many keys keeps those seen last. Buckets are
    those of the same rank where W is the same, and otherwise the mean over all ranks, because a
    key's bucket is on its owner; where their number differs they begin anew. Counts begin at 0.

    Args:
        shard: the shard, its slots made if it is to train.
        states: of all ranks, in any order; taken one by one.

    Raises:
        ValueError: rows of another width, other slots, or a key that comes twice.
    """
    shard.clear()
    num_ranks, mean, exact = 0, None, None
    for state in states:
        check_fits(shard, state)
        _load_keys(shard, state)
        if len(state.bucket_rows):
            slots = [state.bucket_slots[name] for name in shard.store.slots]
            buckets = [state.bucket_rows, *slots]
            if (state.rank, state.size) == (shard.world.rank, shard.world.size):
                exact = buckets
            num_ranks += 1
            earlier = mean or buckets
            mean = [old + (new - old) / num_ranks for old, new in zip(earlier, buckets)]
    chosen = exact or mean
    row_indices = np.arange(1, shard.index.first_row, dtype=np.int64)
    if chosen is not None and len(row_indices) == len(chosen[0]):
        _write(shard.store, row_indices, chosen[0], dict(zip(shard.store.slots, chosen[1:])))


def _load_keys(shard: DynamicShard, state: DynamicState) -> None:
    own = is_own(state.keys, shard.world)
    stays, row_indices = shard.index.restore(state.keys[own], state.last_seen[own])
    shard.store.group.reach(shard.index.used)
    slots = {name: state.slots[name][own][stays] for name in shard.store.slots}
    _write(shard.store, row_indices, state.rows[own][stays], slots)
    if shard.waiting is not None:
        own = is_own(state.waiting_keys, shard.world)
        room = shard.waiting
        stays, row_indices = room.index.restore(
            state.waiting_keys[own], state.waiting_last_seen[own]
        )
        room.sightings.scatter(tf.constant(row_indices), tf.constant(state.sightings[own][stays]))


def check_fits(shard: KeyedShard, state: DynamicState) -> None:
    if state.rows.shape[1] != shard.width:
        raise ValueError(
            f"the table {shard.table!r}: expected rows of width {shard.width} to load, got "
            f"{state.rows.shape[1]}. Build the table with the width of the checkpoint."
        )
    expected = shard.slot_widths
    got = {name: slot.shape[1] for name, slot in state.slots.items()}
    if expected and expected != got:
        raise ValueError(
            f"the table {shard.table!r}: expected slots {expected} to load (name and width), got "
            f"{got}. Compile with the row optimizer of the checkpoint."
        )


def _at(store: RowStore, row_indices: tf.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    slots = {name: slot.gather(row_indices).numpy() for name, slot in store.slots.items()}
    return store.rows.gather(row_indices).numpy(), slots


def _write(
    store: RowStore, row_indices: np.ndarray, rows: np.ndarray, slots: dict[str, np.ndarray]
) -> None:
    store.rows.scatter(tf.constant(row_indices), tf.constant(rows))
    for name, slot in store.slots.items():
        slot.scatter(tf.constant(row_indices), tf.constant(slots[name]))


def _waiting(shard: DynamicShard, *, some: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The waiting keys, their last steps and their sightings; none where `some` is false."""
    if shard.waiting is None or not some:
        return nobody()
    keys, row_indices = shard.waiting.index.keys_and_row_indices()
    where = tf.constant(row_indices)
    last_seen = shard.waiting.index.last_seen.gather(where).numpy()
    return keys, last_seen, shard.waiting.sightings.gather(where).numpy()


def nobody() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32)
