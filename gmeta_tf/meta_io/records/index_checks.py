"""Checks of a split's index, when a folder is opened and when it is verified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gmeta_tf.meta_io.records.codec import HEADER_WORDS, num_planes

if TYPE_CHECKING:
    from gmeta_tf.meta_io.records.records import Records

__all__ = ["index_chunks", "index_faults"]

_INDEX_CHUNK = 1 << 20
_LARGEST_FACTOR = 1032


def index_chunks(index: np.ndarray) -> Iterator[np.ndarray]:
    """An index in chunks of bounded size, so that one of any length takes little memory."""
    for first in range(0, len(index), _INDEX_CHUNK):
        yield np.asarray(index[first : first + _INDEX_CHUNK])


def index_faults(
    records: Records, split: str, index: np.ndarray, *, thorough: bool
) -> Iterator[str]:
    """What is wrong with an index, by itself and beside `schema.json`.

    Args:
        records: the folder.
        split: which split of it.
        index: `IndexEntry [episodes]`.
        thorough: also count the tasks and check the numbers of their episodes, which sorts all
            entries. Lengths are left to the caller, who reads the records and can name them.
    """
    num_rows = 0
    for entries in index_chunks(index):
        num_rows += int(entries["rows"].sum(dtype=np.int64))
        yield from _impossible_entries(records, split, entries, with_lengths=not thorough)
    found = {"episodes": len(index), "rows": num_rows}
    if thorough:
        order = np.lexsort([index["part"], index["task"]])
        task, part = index["task"][order], index["part"][order]
        begins = np.diff(task, prepend=-1) != 0
        found["tasks"] = int(begins.sum())
        follows = np.where(begins, part == 0, part == np.roll(part, 1) + 1)
        if not follows.all():
            first = int(np.argmin(follows))
            yield (
                f"the episodes of the task {int(task[first])} are not numbered 0, 1, 2, ...: found "
                f"{part[task == task[first]][:5].tolist()}"
            )
    for name, count in found.items():
        expected = getattr(records.contents[split], name)
        if count != expected:
            yield f"it has {count} {name}, schema.json says {expected}"


def _impossible_entries(
    records: Records, split: str, entries: np.ndarray, *, with_lengths: bool
) -> Iterator[str]:
    rows = entries["rows"].astype(np.int64)
    num_bytes = 4 * (HEADER_WORDS + num_planes(records.schema) * rows)
    good_rows = (rows >= 1) & (rows <= records.episode_rows)
    good_length = entries["length"] == num_bytes
    if records.compression != "none":
        # Deflate makes nothing smaller than by this factor, so that no entry asks for more memory
        # than its record can fill.
        good_length = (entries["length"] > 0) & (
            num_bytes <= _LARGEST_FACTOR * entries["length"].astype(np.int64)
        )
    num_files = len(records.contents[split].files)
    for name, good in (
        ("file", (entries["file"] >= 0) & (entries["file"] < num_files)),
        ("rows", good_rows),
        ("length", good_length | ~good_rows | (not with_lengths)),
        ("part", entries["part"] >= 0),
        ("task", entries["task"] >= 0),
    ):
        if not good.all():
            yield (
                f"{int((~good).sum())} entries have an impossible {name}, the first one "
                f"{int(entries[name][~good][0])}"
            )
