"""Crosses of fields: keys of several fields together, hashed to one key.

The values of a cross are combinations of one key of each of its fields, in the order in which the
cross names them. A combination is the text of its keys with commas between, `"12,3"`, and its key
is that of a table with hashed keys: `1 + Fingerprint64(text) % (num_rows - 1)` (see `hashing`). Of
keys and not of the values' texts, since keys are what every way to a served model has: texts,
integers and keys. A missing or an unknown value is the key 0 there as in its own field, and so a
part of a combination like any other.

Of multi-valued fields all combinations are taken, the values of the first field outermost; the
first `max_values` are kept. `saving.exports.served_keys.crossed_keys` does the same in the graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.schema import PADDING_KEY, Table

__all__ = ["combinations", "crossed_keys"]


def combinations(num_slots: Sequence[int]) -> np.ndarray:
    """The slot of each part in each combination, int `[combinations, parts]`.

    >>> combinations([1, 3]).tolist()
    [[0, 0], [0, 1], [0, 2]]
    """
    return np.array(list(itertools.product(*map(range, num_slots))))


def crossed_keys(
    parts: Sequence[np.ndarray], table: Table, num_slots: int
) -> tuple[np.ndarray, int]:
    """The keys of a cross.

    Args:
        parts: the keys of each of its fields, int64 `[n, slots of the field]`, -1 after the last.
        table: of the cross, with hashed keys.
        num_slots: L, how many combinations of a row are kept.

    Returns:
        int64 `[n, L]`, -1 after the last; and how many combinations were cut off.

    Example, two rows of a user's one age group and of up to two genres:
        >>> age, genre = np.array([[4], [4]]), np.array([[7, 2], [7, -1]])
        >>> keys, _ = crossed_keys([age, genre], Table("age_x_genre", 100, keys="hash"), 2)
        >>> keys.tolist(), hashed_keys(["4,7", "4,2"], Table("any", 100, keys="hash")).tolist()
        ([[34, 14], [34, -1]], [34, 14])
    """
    slots = combinations([part.shape[1] for part in parts])
    keys = [part[:, slots[:, place]] for place, part in enumerate(parts)]
    there = np.logical_and.reduce([one > PADDING_KEY for one in keys])
    num_cut = int(np.maximum(there.sum(axis=1) - num_slots, 0).sum())
    # Those that are there come first, in their order.
    first = np.argsort(~there, axis=1, kind="stable")[:, :num_slots]
    keys = [np.take_along_axis(one, first, axis=1) for one in keys]
    there = np.take_along_axis(there, first, axis=1)
    found = np.full([len(there), num_slots], PADDING_KEY, np.int64)
    found[:, : there.shape[1]][there] = _hashed([one[there] for one in keys], table)
    return found, num_cut


def _hashed(parts: Sequence[np.ndarray], table: Table) -> np.ndarray:
    """The keys of combinations, int64 `[m]`; each distinct one is hashed once."""
    code = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        # Numbers below m each, so that the product of two fits.
        values, place = np.unique(part, return_inverse=True)
        _, code = np.unique(code * len(values) + place, return_inverse=True)
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    texts = [",".join(map(str, one)) for one in zip(*(part[first] for part in parts), strict=True)]
    return hashed_keys(texts, table)[place] if texts else np.zeros(0, np.int64)
