"""The tables' memory on each rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

from gmeta_tf.distributed.ownership import num_own_rows
from gmeta_tf.distributed.world import World
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["TableSize", "table_sizes"]

NUMBER_BYTES = 4  # of rows, slots and dense gradients where they are kept


@dataclasses.dataclass(frozen=True)
class TableSize:
    """The memory of one table.

    Attributes:
        name: the table's.
        group: of the tables that travel with it.
        num_rows: its rows; None for a table that grows.
        width: D.
        slot_numbers: how many numbers the row optimizer keeps for each row.
        group_rows: the rows of all tables of the group; None where one of them grows.
        rows_of_ranks: how many of its rows each rank owns, `[W]`; None for a table that grows.
        replicated: whether every rank holds all of its rows, whoever owns them.
    """

    name: str
    group: str
    num_rows: int | None
    width: int
    slot_numbers: int
    group_rows: int | None
    rows_of_ranks: tuple[int, ...] | None
    replicated: bool = False

    @property
    def held_by_ranks(self) -> tuple[int, ...] | None:
        """How many of its rows each rank holds, `[W]`; None for a table that grows."""
        if self.rows_of_ranks is None or not self.replicated:
            return self.rows_of_ranks
        return (self.num_rows or 0,) * len(self.rows_of_ranks)

    @property
    def row_bytes(self) -> int:
        """The bytes of one row in memory."""
        return NUMBER_BYTES * self.width

    @property
    def slot_bytes(self) -> int:
        """The bytes of one row's slots in memory."""
        return NUMBER_BYTES * self.slot_numbers

    @property
    def bytes_of_ranks(self) -> tuple[int, ...] | None:
        """Bytes of rows and slots on each rank, `[W]`; None for a table that grows."""
        if self.held_by_ranks is None:
            return None
        return tuple(rows * (self.row_bytes + self.slot_bytes) for rows in self.held_by_ranks)


def table_sizes(
    schema: Schema,
    width: int,
    slots: Callable[[int], Mapping[str, int]],
    world_size: int,
    *,
    replicated: Collection[str] = (),
) -> tuple[TableSize, ...]:
    """The memory of each table on each rank.

    The tables of one width lie one after the other, and rank r owns the keys, counted over all of
    them, with `key % W == r`: so the ranks' shares of a table differ by one row at most.

    Args:
        schema: with the sizes filled in; a table without `num_rows` grows.
        width: D of the tables that state none.
        slots: D -> the row optimizer's slots for a row of D numbers: name -> how many numbers, D
            or 1.
        world_size: W.
        replicated: the groups of tables of which every rank holds all rows.

    Raises:
        ValueError: a width or W below 1.
    """
    for name, value in (("width", width), ("world_size", world_size)):
        if value < 1:
            raise ValueError(f"table_sizes: expected {name} of at least 1, got {value}.")
    sizes = []
    for group, names in key_groups(schema).items():
        tables = [schema.table(name) for name in names]
        grows = any(table.num_rows is None for table in tables)
        group_rows = None if grows else sum(table.num_rows or 0 for table in tables)
        first_row = 0
        for table in tables:
            own_width = table.width or width
            sizes.append(
                TableSize(
                    table.name,
                    group,
                    table.num_rows,
                    own_width,
                    sum(slots(own_width).values()),
                    group_rows,
                    None
                    if table.num_rows is None
                    else _rows_of_ranks(first_row, table.num_rows, world_size),
                    group in replicated,
                )
            )
            first_row += table.num_rows or 0
    return tuple(sizes)


def _rows_of_ranks(first_row: int, num_rows: int, world_size: int) -> tuple[int, ...]:
    """How many of the keys `first_row <= key < first_row + num_rows` each rank owns."""
    return tuple(
        num_own_rows(first_row, num_rows, World(rank, world_size)) for rank in range(world_size)
    )
