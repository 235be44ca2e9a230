"""Tables whose vocabularies have grown since a checkpoint, and where its rows are now.

The tables of one width lie one after the other, so that new rows of one move those of the next:

    before   item 0 1 2, genre 0 1        the group's keys 0 1 2 | 3 4
    after    item 0 1 2 3 4, genre 0 1    the old rows are at 0 1 2 | 5 6; 3 and 4 are new
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmeta_tf.embedding.static_shard import TableRange, table_ranges
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["GrownTable", "grown_tables", "moved_keys", "ranges_before"]


class GrownTable(NamedTuple):
    """A table that has more rows than in a checkpoint.

    Attributes:
        name: the table's.
        before: its rows in the checkpoint.
        now: its rows.
    """

    name: str
    before: int
    now: int

    def describe(self) -> str:
        """A line for a person."""
        return (
            f"{self.name}: {self.now - self.before} rows added for new values, {self.now} in all; "
            "the others, and what the row optimizer keeps of them, are as they were"
        )


def grown_tables(
    saved: Sequence[Mapping[str, Any]], schema: Schema
) -> tuple[GrownTable, ...] | None:
    """The tables with a vocabulary that have more rows than a checkpoint's.

    Args:
        saved: the tables of the checkpoint's manifest.
        schema: the model's.

    Returns:
        None where the tables differ in anything else.
    """
    now = [dataclasses.asdict(table) for table in schema.tables]
    if len(saved) != len(now):
        return None
    grown = []
    for before, after in zip(saved, now, strict=True):
        if before == after:
            continue
        num_before, num_now = before.get("num_rows"), after["num_rows"]
        # A hash or a raw key of another number of rows is another key.
        if after["keys"] != "vocabulary" or {**before, "num_rows": num_now} != after:
            return None
        if not isinstance(num_before, int) or num_before > num_now:
            return None
        grown.append(GrownTable(after["name"], num_before, num_now))
    return tuple(grown)


def ranges_before(
    grown: Sequence[GrownTable], schema: Schema, seed: int
) -> dict[str, tuple[TableRange, ...]]:
    """Group -> where the rows of its tables were in the checkpoint; groups that grew alone."""
    before = {table.name: table.before for table in grown}
    return {
        group: table_ranges(
            {name: before.get(name, schema.table(name).num_rows or 0) for name in names}, seed
        )
        for group, names in key_groups(schema).items()
        if any(name in before for name in names)
    }


def moved_keys(
    keys: np.ndarray, before: Sequence[TableRange], now: Sequence[TableRange]
) -> np.ndarray:
    """A group's keys, as they are since its tables have grown.

    >>> before, now = ((TableRange("item", 0, 3, 0), TableRange("genre", 3, 2, 0)),
    ...                (TableRange("item", 0, 5, 0), TableRange("genre", 5, 2, 0)))
    >>> moved_keys(np.array([0, 2, 3, 4]), before, now).tolist()
    [0, 2, 5, 6]
    """
    first = np.array([table.first_row for table in before], np.int64)
    moves = np.array([table.first_row for table in now], np.int64) - first
    return keys + moves[np.searchsorted(first, keys, side="right") - 1]
