"""What the tables take on each rank and what a step sends of them, before anything is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gmeta_tf.embedding.copy_rule import Copies
from gmeta_tf.meta_io.pipeline import key_groups
from gmeta_tf.schema import Schema

__all__ = [
    "Placement",
    "StepShape",
    "TablePlacement",
    "TableSize",
    "Wire",
    "exchange_bytes",
    "place",
    "ring_bytes",
    "table_sizes",
    "tables_to_replicate",
]

WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NUMBER_BYTES = 4  # of rows, slots and dense gradients where they are kept
_LARGEST_NARROW_SIZE = 2**31


@dataclasses.dataclass(frozen=True)
class Wire:
    """What the exchange makes of its payloads.

    Attributes:
        numbers: the type in which rows and gradients travel: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: another type.
    """

    numbers: str = "float32"

    def __post_init__(self) -> None:
        if self.numbers not in WIRE_BYTES:
            raise ValueError(
                f"expected rows and gradients to travel as one of {', '.join(WIRE_BYTES)}, "
                f"got {self.numbers!r}."
            )

    def row_bytes(self, width: int) -> int:
        """Of a row, or of its gradient: 4 D, or 2 D in half precision."""
        return WIRE_BYTES[self.numbers] * width

    def key_bytes(self, num_keys: int | None) -> int:
        """Of a key: 4 where the tables of its width have no more than 2**31, otherwise 8.

        Args:
            num_keys: how many they have together; None without a limit.
        """
        is_narrow = num_keys is not None and num_keys <= _LARGEST_NARROW_SIZE
        return 4 if is_narrow else 8


@dataclasses.dataclass(frozen=True)
class StepShape:
    """A rank's step: T tasks of S support and Q query rows.

    Attributes:
        tasks: T.
        support: S.
        query: Q.

    Raises:
        ValueError: one of them is below 1.
    """

    tasks: int
    support: int
    query: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"a step's shape: expected {name} of at least 1, got {value}.")

    @property
    def rows(self) -> int:
        """The rows of the step: T (S + Q)."""
        return self.tasks * (self.support + self.query)


@dataclasses.dataclass(frozen=True)
class TableSize:
    """What one table takes.

    Attributes:
        name: the table's.
        group: of the tables that travel with it.
        num_rows: its rows; None of a table that grows.
        width: D.
        slot_numbers: what the row optimizer keeps for each row, counted in numbers.
        group_rows: the rows of all tables of the group; None where one of them grows.
        rows_of_ranks: how many of its rows each rank owns, `[W]`; None of a table that grows.
        copied: whether every rank holds all of its rows, whoever owns them.
    """

    name: str
    group: str
    num_rows: int | None
    width: int
    slot_numbers: int
    group_rows: int | None
    rows_of_ranks: tuple[int, ...] | None
    copied: bool = False

    @property
    def held_by_ranks(self) -> tuple[int, ...] | None:
        """How many of its rows each rank holds, `[W]`; None of a table that grows."""
        if self.rows_of_ranks is None or not self.copied:
            return self.rows_of_ranks
        return (self.num_rows or 0,) * len(self.rows_of_ranks)

    @property
    def row_bytes(self) -> int:
        """Of one row in memory."""
        return _NUMBER_BYTES * self.width

    @property
    def slot_bytes(self) -> int:
        """Of one row's slots in memory."""
        return _NUMBER_BYTES * self.slot_numbers

    @property
    def bytes_of_ranks(self) -> tuple[int, ...] | None:
        """Rows and slots on each rank, `[W]`; None of a table that grows."""
        if self.held_by_ranks is None:
            return None
        return tuple(rows * (self.row_bytes + self.slot_bytes) for rows in self.held_by_ranks)


@dataclasses.dataclass(frozen=True, eq=False)
class TablePlacement:
    """What one table's exchange costs in a step, and what a copy on every rank would.

    Attributes:
        size: what the table takes.
        requests: float64 `[W, W]`, how many distinct keys of the table each rank (row) wants of
            each owner (column) in a step, on the mean; its own keys stand on the diagonal.
        sent: float64 `[W]`, the bytes that each rank sends to others in a step.
        received: float64 `[W]`, the bytes that each rank gets of others.
        replica_bytes: what a rank would send if every rank had the whole table; None of a table
            that grows.
        replicate: whether a copy on every rank is cheaper, by `tables_to_replicate`.
    """

    size: TableSize
    requests: np.ndarray
    sent: np.ndarray
    received: np.ndarray
    replica_bytes: float | None
    replicate: bool = False

    @property
    def distinct_keys(self) -> float:
        """U of this table: a rank's distinct keys in a step, the mean of the ranks."""
        return float(self.requests.sum(axis=1).mean())

    @property
    def remote_keys(self) -> float:
        """Those of them that another rank owns."""
        return float(_others(self.requests).sum(axis=1).mean())

    @property
    def served(self) -> np.ndarray:
        """The rows that each owner sends to other ranks in a step, float64 `[W]`."""
        return _others(self.requests).sum(axis=0)

    @property
    def busiest_bytes(self) -> float:
        """What the rank that sends or gets the most of this table sends or gets."""
        return float(np.maximum(self.sent, self.received).max())


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """The report: tables, their traffic, and the dense weights beside them.

    Attributes:
        world_size: W.
        shape: of a rank's step.
        wire: how payloads travel.
        requests_from: where the numbers of distinct keys come from, for people.
        tables: in the order of their groups.
        dense_weights: K, the numbers that the AllReduce adds up; None leaves it out.
        copies: which tables training copies to every rank, and why; None leaves it out. What
            `tables` says of their traffic is what they would send without.
    """

    world_size: int
    shape: StepShape
    wire: Wire
    requests_from: str
    tables: tuple[TablePlacement, ...]
    dense_weights: int | None = None
    copies: Copies | None = None

    @property
    def sent(self) -> np.ndarray:
        """The exchange's bytes that each rank sends in a step, float64 `[W]`."""
        return np.sum([table.sent for table in self.tables], axis=0)

    @property
    def received(self) -> np.ndarray:
        """The exchange's bytes that each rank gets in a step, float64 `[W]`."""
        return np.sum([table.received for table in self.tables], axis=0)

    @property
    def served(self) -> np.ndarray:
        """The rows that each owner sends to other ranks in a step, float64 `[W]`."""
        return np.sum([table.served for table in self.tables], axis=0)

    @property
    def bytes_of_ranks(self) -> np.ndarray:
        """Rows and slots of the tables that do not grow, int64 `[W]`."""
        sizes = [table.size.bytes_of_ranks for table in self.tables]
        known = [np.array(size, np.int64) for size in sizes if size is not None]
        return np.sum([np.zeros(self.world_size, np.int64), *known], axis=0)

    @property
    def busiest_rank(self) -> int:
        """The rank that sends or gets the most: a step waits for it."""
        return int(np.maximum(self.sent, self.received).argmax())

    @property
    def dense_bytes(self) -> float | None:
        """What a rank sends for the dense weights' gradients in a step."""
        if self.dense_weights is None:
            return None
        return ring_bytes(self.dense_weights, self.world_size)

    @property
    def replicated(self) -> tuple[str, ...]:
        """The tables of which every rank should have a copy."""
        return tuple(table.size.name for table in self.tables if table.replicate)

    @property
    def bytes_of_advice(self) -> tuple[float, float]:
        """What the busiest rank moves for all tables in a step: as it is, and as advised."""
        now = np.maximum(self.sent, self.received).max()
        kept = [table for table in self.tables if not table.replicate]
        zeros = np.zeros(self.world_size)
        sent = np.sum([zeros, *(table.sent for table in kept)], axis=0)
        received = np.sum([zeros, *(table.received for table in kept)], axis=0)
        copies = sum(table.replica_bytes or 0.0 for table in self.tables if table.replicate)
        return float(now), float(np.maximum(sent, received).max() + copies)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; bytes are of a rank, and those of traffic of a step."""
        busiest, before_after = self.busiest_rank, self.bytes_of_advice
        return {
            "world_size": self.world_size,
            "step": dataclasses.asdict(self.shape),
            "wire": dataclasses.asdict(self.wire),
            "requests_from": self.requests_from,
            "tables": [_table_json(table) for table in self.tables],
            "memory_bytes": _spread(self.bytes_of_ranks),
            "sent_bytes": _spread(self.sent),
            "received_bytes": _spread(self.received),
            "served_rows": _spread(self.served),
            "busiest_rank": busiest,
            "busiest_sent_bytes": float(self.sent[busiest]),
            "busiest_received_bytes": float(self.received[busiest]),
            "dense_weights": self.dense_weights,
            "allreduce_bytes": self.dense_bytes,
            "replicate": list(self.replicated),
            "copies": None if self.copies is None else dataclasses.asdict(self.copies),
            "busiest_bytes_now": before_after[0],
            "busiest_bytes_as_advised": before_after[1],
        }


def table_sizes(
    schema: Schema,
    width: int,
    slots: Callable[[int], Mapping[str, int]],
    world_size: int,
    *,
    copied: Collection[str] = (),
) -> tuple[TableSize, ...]:
    """What each table takes on each rank.

    The tables of one width lie one after the other, and rank r owns the keys, counted over all of
    them, with `key % W == r`: so the ranks' shares of a table differ by one row at most.

    Args:
        schema: with the sizes filled in; a table without `num_rows` grows.
        width: D of the tables that state none.
        slots: D -> what the row optimizer keeps for each row of D numbers: a name -> how many
            numbers, D or 1.
        world_size: W.
        copied: the groups of tables of which every rank holds all rows.

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
                    group in copied,
                )
            )
            first_row += table.num_rows or 0
    return tuple(sizes)


def place(
    sizes: Sequence[TableSize],
    requests: Mapping[str, np.ndarray],
    shape: StepShape,
    *,
    requests_from: str,
    wire: Wire = Wire(),
    dense_weights: int | None = None,
    copies: Copies | None = None,
) -> Placement:
    """What the exchange of the tables sends in a step, and which tables to copy instead.

    Args:
        sizes: what `table_sizes` gave.
        requests: a table's name -> float `[W, W]`; see `TablePlacement`.
        shape: of a rank's step.
        requests_from: where the requests come from, for people.
        wire: how payloads travel.
        dense_weights: K.
        copies: what training copies to every rank.

    Raises:
        ValueError: no requests of a table, or not `[W, W]` of them.
    """
    world_size = len(next(iter(requests.values()), np.zeros([1, 1])))
    tables = []
    for size in sizes:
        shown = requests.get(size.name, np.zeros([0, 0]))
        if shown.shape != (world_size, world_size):
            raise ValueError(
                f"the table {size.name!r}: expected requests of shape {[world_size, world_size]}, "
                f"got {list(shown.shape)}. Count them for all tables and one number of ranks."
            )
        sent, received = exchange_bytes(
            shown,
            key_bytes=wire.key_bytes(size.group_rows),
            row_bytes=wire.row_bytes(size.width),
        )
        copy = None if size.num_rows is None else size.num_rows * size.width
        tables.append(
            TablePlacement(
                size,
                shown,
                sent,
                received,
                None if copy is None else ring_bytes(copy, world_size),
            )
        )
    chosen = tables_to_replicate(tables)
    return Placement(
        world_size,
        shape,
        wire,
        requests_from,
        tuple(dataclasses.replace(t, replicate=t.size.name in chosen) for t in tables),
        dense_weights,
        copies,
    )


def exchange_bytes(
    requests: np.ndarray, *, key_bytes: int, row_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bytes that each rank sends to others, and gets of them, in an exchange.

    A rank sends a key for each distinct key that another rank owns, and its gradient later; and a
    row for each key that another rank wants of it.

        rank 0 wants 5 keys of rank 1, rank 1 wants 2 of rank 0; a key has 8 bytes, a row 64
        rank 0 sends 5 * (8 + 64) + 2 * 64, rank 1 sends 2 * (8 + 64) + 5 * 64

    Args:
        requests: float `[W, W]`; see `TablePlacement`.
        key_bytes: of a key that travels.
        row_bytes: of a row, or of a gradient, that travels.

    Returns:
        Each float64 `[W]`.
    """
    others = _others(requests)
    wanted, served = others.sum(axis=1), others.sum(axis=0)
    request = key_bytes + row_bytes
    return wanted * request + served * row_bytes, served * request + wanted * row_bytes


def ring_bytes(numbers: int, world_size: int) -> float:
    """What a rank sends in a ring AllReduce of float32 numbers: `2 (W - 1) / W` of their bytes."""
    return 2 * _NUMBER_BYTES * numbers * (world_size - 1) / world_size


def tables_to_replicate(
    tables: Sequence[TablePlacement], *, least_saving: float = 0.01
) -> tuple[str, ...]:
    """The tables that each are cheaper copied to every rank than exchanged, by bytes.

    A step waits for its busiest rank, the one that sends or gets the most. So the cost of a
    placement is what the busiest rank moves in the exchange of the sharded tables, plus what every
    rank sends in the AllReduce of the copied ones, `2 rows D 4 (W - 1) / W` bytes each: the
    gradient of the whole table, since ranks touch different rows of it. The tables are tried from
    the smallest on, and one is copied if that lowers the cost; all stay sharded if the copies save
    less than `least_saving` together. What training copies is chosen by another rule,
    `copy_rule.choose_copies`: all tables, where that saves a collective.

    Where ranks are even, exchanging U keys costs `U (key + 8 D) (W - 1) / W` and copying
    `8 rows D (W - 1) / W`: a copy is cheaper only if nearly every rank reads nearly every row in
    nearly every step. A table of fewer rows than ranks is another case: its few owners serve all
    the others, and a copy spreads that evenly.

    The rule counts neither memory nor the time of an update of all rows, which are small for the
    tables that it chooses, nor round trips: an exchange stays as long as one table is sharded.
    A table that grows is never copied.

    Args:
        tables: with their traffic.
        least_saving: the share of the cost from which on copies are worth having; counts of a few
            steps differ by about as much.

    Returns:
        Their names, the smallest table first.
    """
    if not tables:
        return ()
    load = np.sum([[table.sent, table.received] for table in tables], axis=0)  # [2, W]
    chosen, saved, most = [], 0.0, load.max()
    known = [(table.replica_bytes, table) for table in tables if table.replica_bytes is not None]
    for copy_bytes, table in sorted(known, key=lambda pair: pair[0]):
        without = load - [table.sent, table.received]
        saving = load.max() - without.max() - copy_bytes
        if saving > 0:
            chosen.append(table.size.name)
            load, saved = without, saved + saving
    return tuple(chosen) if saved >= least_saving * most else ()


def _rows_of_ranks(first_row: int, num_rows: int, world_size: int) -> tuple[int, ...]:
    """How many of the keys `first_row <= key < first_row + num_rows` each rank owns."""
    firsts = (first_row + (rank - first_row) % world_size for rank in range(world_size))
    return tuple(len(range(first, first_row + num_rows, world_size)) for first in firsts)


def _others(requests: np.ndarray) -> np.ndarray:
    """The requests without those of a rank's own keys, which do not travel."""
    return requests * (1 - np.eye(len(requests)))


def _table_json(table: TablePlacement) -> dict[str, Any]:
    size = table.size
    rows = size.held_by_ranks
    return {
        "table": size.name,
        "group": size.group,
        "rows": size.num_rows,
        "grows": size.num_rows is None,
        "width": size.width,
        "row_bytes": size.row_bytes,
        "slot_bytes": size.slot_bytes,
        "rows_of_a_rank": None if rows is None else _spread(np.array(rows)),
        "memory_bytes": None if rows is None else _spread(np.array(size.bytes_of_ranks)),
        "distinct_keys": table.distinct_keys,
        "remote_keys": table.remote_keys,
        "served_rows": _spread(table.served),
        "sent_bytes": _spread(table.sent),
        "received_bytes": _spread(table.received),
        "replica_bytes": table.replica_bytes,
        "replicate": table.replicate,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"least": values.min().item(), "mean": float(values.mean()), "most": values.max().item()}
