"""What a dynamic shard holds, by key: written at one number of ranks and read at another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.embedding.dynamic import DynamicShard
from gmeta_tf.embedding.row_store import RowStore
from gmeta_tf.embedding.sok_dynamic import SokDynamicShard

__all__ = ["DynamicState", "KeyedShard", "export", "load"]

KeyedShard = DynamicShard | SokDynamicShard

_KEYS_AT_A_TIME = 1 << 18


class DynamicState(NamedTuple):
    """A part of what a rank's shard holds.

    Attributes:
        rank: whose.
        size: W.
        keys: int64 `[N]`.
        last_seen: int32 `[N]`, the steps.
        rows: float32 `[N, D]`.
        slots: name -> float32 `[N, D or 1]`.
        waiting_keys: int64 `[M]`, which wait for a row.
        waiting_last_seen: int32 `[M]`.
        sightings: int32 `[M]`.
        bucket_rows: float32 `[B, D]`; of a rank's first part, and of no rows in the others.
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
    shard: KeyedShard, step: int, *, keys_at_a_time: int = _KEYS_AT_A_TIME
) -> Iterator[DynamicState]:
    """What a shard holds, in parts, so that no second copy of it is held.

    SOK gives all at once, in the host's memory, and keeps no steps: its keys are taken to have been
    seen in the last step.

    Args:
        shard: the shard.
        step: the training steps done; keys that have given up their row by then are left out.
        keys_at_a_time: the most keys of a part.

    Yields:
        At least one part.
    """
    if isinstance(shard, SokDynamicShard):
        yield from _export_sok(shard, step, keys_at_a_time)
        return
    keys, places = shard.index.keys_and_places()
    alive = shard.index.find(tf.constant(keys), tf.constant(step, tf.int64)).numpy() >= 0
    keys, places = keys[alive], places[alive]
    for first in range(0, max(len(keys), 1), keys_at_a_time):
        some = tf.constant(places[first : first + keys_at_a_time])
        rows, slots = _at(shard.store, some)
        buckets = np.arange(1, shard.index.first_place if first == 0 else 1, dtype=np.int64)
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


def load(shard: KeyedShard, states: Iterable[DynamicState]) -> None:
    """Makes a shard hold what is its own of a table's states; what it held is forgotten.

    A shard of another W, or of another capacity, keeps the keys seen last where they are too many.
    The buckets are those of the same rank of the same W, and otherwise the mean over all ranks,
    because a key's bucket is on its owner; of another number they begin anew. Counts begin at 0.

    SOK takes keys, rows and slots, and leaves what waits and buckets; a rank's own are held once in
    the host's memory.

    Args:
        shard: the shard, its slots made if it is to train.
        states: of all ranks, in any order; taken one by one.

    Raises:
        ValueError: rows of another width, other slots, or a key that comes twice.
    """
    if isinstance(shard, SokDynamicShard):
        _load_sok(shard, states)
        return
    shard.clear()
    num_ranks, mean, exact = 0, None, None
    for state in states:
        _check(shard, state)
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
    places = np.arange(1, shard.index.first_place, dtype=np.int64)
    if chosen is not None and len(places) == len(chosen[0]):
        _write(shard.store, places, chosen[0], dict(zip(shard.store.slots, chosen[1:])))


def _load_keys(shard: DynamicShard, state: DynamicState) -> None:
    own = state.keys % shard.world.size == shard.world.rank
    stays, places = shard.index.restore(state.keys[own], state.last_seen[own])
    shard.store.group.reach(shard.index.used)
    slots = {name: state.slots[name][own][stays] for name in shard.store.slots}
    _write(shard.store, places, state.rows[own][stays], slots)
    if shard.waiting is not None:
        own = state.waiting_keys % shard.world.size == shard.world.rank
        room = shard.waiting
        stays, places = room.index.restore(state.waiting_keys[own], state.waiting_last_seen[own])
        room.sightings.scatter(tf.constant(places), tf.constant(state.sightings[own][stays]))


def _export_sok(shard: SokDynamicShard, step: int, keys_at_a_time: int) -> Iterator[DynamicState]:
    keys, values = shard.export_shard()
    rows = values.pop("rows")
    last_seen = np.full(len(keys), max(step - 1, 0), np.int32)
    for first in range(0, max(len(keys), 1), keys_at_a_time):
        some = slice(first, first + keys_at_a_time)
        yield DynamicState(
            shard.world.rank,
            shard.world.size,
            keys[some],
            last_seen[some],
            rows[some],
            {name: slot[some] for name, slot in values.items()},
            *_nobody(),
            rows[:0],
            {name: slot[:0] for name, slot in values.items()},
        )


def _load_sok(shard: SokDynamicShard, states: Iterable[DynamicState]) -> None:
    parts: list[dict[str, np.ndarray]] = []
    for state in states:
        _check(shard, state)
        slots = {name: state.slots[name] for name in shard.slots}
        arrays = {"keys": state.keys, "last_seen": state.last_seen, "rows": state.rows, **slots}
        own = state.keys % shard.world.size == shard.world.rank
        parts.append({name: array[own] for name, array in arrays.items()})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys, last_seen = values.pop("keys"), values.pop("last_seen")
    distinct, counts = np.unique(keys, return_counts=True)
    if len(distinct) < len(keys):
        raise ValueError(
            f"the table {shard.table!r}: the key {distinct[counts > 1][0]} comes twice among the "
            "keys to load. Load each rank's part of one checkpoint once."
        )
    shard.clear()
    # What SOK meets last it drops last.
    order = np.lexsort((keys, last_seen))[-shard.capacity :]
    for first in range(0, len(order), _KEYS_AT_A_TIME):
        some = order[first : first + _KEYS_AT_A_TIME]
        shard.load_shard(keys[some], {name: value[some] for name, value in values.items()})


def _check(shard: KeyedShard, state: DynamicState) -> None:
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


def _at(store: RowStore, places: tf.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    slots = {name: slot.gather(places).numpy() for name, slot in store.slots.items()}
    return store.rows.gather(places).numpy(), slots


def _write(
    store: RowStore, places: np.ndarray, rows: np.ndarray, slots: dict[str, np.ndarray]
) -> None:
    store.rows.scatter(tf.constant(places), tf.constant(rows))
    for name, slot in store.slots.items():
        slot.scatter(tf.constant(places), tf.constant(slots[name]))


def _waiting(shard: DynamicShard, *, some: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The waiting keys, their last steps and their sightings; none where `some` is false."""
    if shard.waiting is None or not some:
        return _nobody()
    keys, places = shard.waiting.index.keys_and_places()
    where = tf.constant(places)
    last_seen = shard.waiting.index.last_seen.gather(where).numpy()
    return keys, last_seen, shard.waiting.sightings.gather(where).numpy()


def _nobody() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32)
