"""What changed between two states of a model's tables: pure functions of arrays, and their inverse.

A row has changed where one of its bits has. Row optimizers leave the rows alone that no step has
read, so these are the rows that training has touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "IndexedChanges",
    "KeyedChanges",
    "Moved",
    "changes_of_indexed",
    "changes_of_keyed",
    "indexed_after",
    "keyed_after",
]


class Moved(NamedTuple):
    """Where the rows of one table are in its group, before and now.

    Attributes:
        before: the index of its first row.
        now: the same, of the later state.
        rows: how many it had before; new ones follow these.
    """

    before: int
    now: int
    rows: int


class IndexedChanges(NamedTuple):
    """Of a group of tables of known size.

    Attributes:
        num_rows: of the later state, int64 scalar.
        indices: int64 `[N]`, the rows of the later state that are new or have changed.
        rows: float32 `[N, D]`.
    """

    num_rows: np.ndarray
    indices: np.ndarray
    rows: np.ndarray


class KeyedChanges(NamedTuple):
    """Of a dynamic table.

    Attributes:
        evicted: int64 `[M]`, the keys that have no row any more.
        keys: int64 `[N]`, ascending, those whose rows are new or have changed.
        rows: float32 `[N, D]`.
        shared: float32 `[B, D]`, the rows that unknown keys read.
    """

    evicted: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    shared: np.ndarray


def changes_of_indexed(
    before: np.ndarray, now: np.ndarray, moved: Sequence[Moved]
) -> IndexedChanges:
    """What turns the rows `[n, D]` of a group into those of a later state, `[m, D]`.

    >>> rows = np.float32([[0], [1], [2]])
    >>> changes_of_indexed(rows[:2], rows, [Moved(0, 0, 1), Moved(1, 2, 1)]).indices.tolist()
    [1, 2]
    """
    is_changed = np.ones(len(now), bool)
    for table in moved:
        earlier = before[table.before : table.before + table.rows]
        later = now[table.now : table.now + table.rows]
        is_changed[table.now : table.now + table.rows] = _differ(earlier, later)
    indices = np.flatnonzero(is_changed).astype(np.int64)
    return IndexedChanges(np.array(len(now)), indices, now[indices])


def indexed_after(
    before: np.ndarray, changes: IndexedChanges, moved: Sequence[Moved]
) -> np.ndarray:
    """The rows of the later state, `[m, D]`."""
    now = np.zeros([int(changes.num_rows), before.shape[1]], before.dtype)
    for table in moved:
        earlier = before[table.before : table.before + table.rows]
        now[table.now : table.now + table.rows] = earlier
    now[changes.indices] = changes.rows
    return now


def changes_of_keyed(
    keys_before: np.ndarray, before: np.ndarray, keys_now: np.ndarray, now: np.ndarray
) -> KeyedChanges:
    """What turns a dynamic table into its later state.

    Args:
        keys_before: int64 `[n]`, ascending.
        before: float32 `[n + B, D]`, the rows of the keys, then those of unknown keys.
        keys_now: int64 `[m]`, ascending.
        now: float32 `[m + B, D]`.
    """
    places = np.searchsorted(keys_before, keys_now)
    is_old = places < len(keys_before)
    is_old[is_old] = keys_before[places[is_old]] == keys_now[is_old]
    is_changed = ~is_old
    is_changed[is_old] = _differ(before[places[is_old]], now[: len(keys_now)][is_old])
    return KeyedChanges(
        np.setdiff1d(keys_before, keys_now, assume_unique=True),
        keys_now[is_changed],
        now[: len(keys_now)][is_changed],
        now[len(keys_now) :],
    )


def keyed_after(
    keys_before: np.ndarray, before: np.ndarray, changes: KeyedChanges
) -> tuple[np.ndarray, np.ndarray]:
    """The keys and rows of the later state, as `changes_of_keyed` takes them."""
    gone = np.concatenate([changes.evicted, changes.keys])
    stays = ~np.isin(keys_before, gone, assume_unique=True)
    keys = np.concatenate([keys_before[stays], changes.keys])
    rows = np.concatenate([before[: len(keys_before)][stays], changes.rows])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([rows[order], changes.shared])


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows differ in a bit, bool `[n]`: NaN is equal to itself."""
    words = np.dtype(f"u{one.dtype.itemsize}")
    one, other = (np.ascontiguousarray(rows).view(words) for rows in (one, other))
    return (one != other).any(axis=1)
