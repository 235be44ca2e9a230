"""The tables' memory on each rank and their traffic in a step, before anything is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gmeta_tf.embedding.replication_rule import ReplicationChoice
from gmeta_tf.planner.table_sizes import TableSize
from gmeta_tf.planner.traffic import (
    StepShape,
    Wire,
    exchange_bytes,
    of_others,
    ring_bytes,
)

__all__ = ["Placement", "TablePlacement", "place", "tables_to_replicate"]


@dataclasses.dataclass(frozen=True, eq=False)
class TablePlacement:
    """The cost of one table's exchange in a step, and that of a replica on every rank.

    Attributes:
        size: the table's memory.
        requests: float64 `[W, W]`, how many distinct keys of the table each rank (row) wants of
            each owner (column) in a step, on average; the diagonal has its own keys.
        sent: float64 `[W]`, the bytes that each rank sends to others in a step.
        received: float64 `[W]`, the bytes that each rank gets from others.
        replica_bytes: the bytes that a rank would send if every rank held the whole table; None for
            a table that grows.
        replicate: whether a replica on every rank is cheaper, by `tables_to_replicate`.
    """

    size: TableSize
    requests: np.ndarray
    sent: np.ndarray
    received: np.ndarray
    replica_bytes: float | None
    replicate: bool = False

    @property
    def distinct_keys(self) -> float:
        """U of this table: a rank's distinct keys in a step, averaged over the ranks."""
        return float(self.requests.sum(axis=1).mean())

    @property
    def remote_keys(self) -> float:
        """How many of `distinct_keys` another rank owns."""
        return float(of_others(self.requests).sum(axis=1).mean())

    @property
    def served(self) -> np.ndarray:
        """The rows that each owner sends to other ranks in a step, float64 `[W]`."""
        return of_others(self.requests).sum(axis=0)

    @property
    def busiest_bytes(self) -> float:
        """The most bytes of this table that any rank sends or gets."""
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
        dense_weights: K, the numbers that the AllReduce sums; None leaves it out.
        replication: which tables training replicates, and why; None leaves it out. `tables` has
            their traffic without replication.
    """

    world_size: int
    shape: StepShape
    wire: Wire
    requests_from: str
    tables: tuple[TablePlacement, ...]
    dense_weights: int | None = None
    replication: ReplicationChoice | None = None

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
        """The rank that sends or gets the most; a step waits for it."""
        return int(np.maximum(self.sent, self.received).argmax())

    @property
    def dense_bytes(self) -> float | None:
        """The bytes that a rank sends for the dense weights' gradients in a step."""
        if self.dense_weights is None:
            return None
        return ring_bytes(self.dense_weights, self.world_size)

    @property
    def replicated(self) -> tuple[str, ...]:
        """The tables that every rank should hold in full."""
        return tuple(table.size.name for table in self.tables if table.replicate)

    @property
    def bytes_of_advice(self) -> tuple[float, float]:
        """The bytes that the busiest rank moves in a step, now and as advised."""
        now = np.maximum(self.sent, self.received).max()
        kept = [table for table in self.tables if not table.replicate]
        zeros = np.zeros(self.world_size)
        sent = np.sum([zeros, *(table.sent for table in kept)], axis=0)
        received = np.sum([zeros, *(table.received for table in kept)], axis=0)
        replicas = sum(table.replica_bytes or 0.0 for table in self.tables if table.replicate)
        return float(now), float(np.maximum(sent, received).max() + replicas)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; bytes are per rank, and traffic per step."""
        busiest, before_after = self.busiest_rank, self.bytes_of_advice
        choice = None if self.replication is None else dataclasses.asdict(self.replication)
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
            # "copies" is the name of earlier versions, for one release more.
            "copies": choice,
            "replication": choice,
            "busiest_bytes_now": before_after[0],
            "busiest_bytes_as_advised": before_after[1],
        }


def place(
    sizes: Sequence[TableSize],
    requests: Mapping[str, np.ndarray],
    shape: StepShape,
    *,
    requests_from: str,
    wire: Wire = Wire(),  # noqa: B008, frozen
    dense_weights: int | None = None,
    replication: ReplicationChoice | None = None,
) -> Placement:
    """The traffic of the tables' exchange in a step, and which tables to replicate instead.

    Args:
        sizes: what `table_sizes` gave.
        requests: a table's name -> float `[W, W]`; see `TablePlacement`.
        shape: of a rank's step.
        requests_from: where the requests come from, for people.
        wire: how payloads travel.
        dense_weights: K.
        replication: what training replicates.

    Raises:
        ValueError: a table without requests, or with requests of another shape than `[W, W]`.
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
        numbers = None if size.num_rows is None else size.num_rows * size.width
        tables.append(
            TablePlacement(
                size,
                shown,
                sent,
                received,
                None if numbers is None else ring_bytes(numbers, world_size),
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
        replication,
    )


def tables_to_replicate(
    tables: Sequence[TablePlacement], *, least_saving: float = 0.01
) -> tuple[str, ...]:
    """The tables that are cheaper replicated on every rank than exchanged, by bytes.

    A step waits for its busiest rank, the one that sends or gets the most. So the cost of a
    placement is what the busiest rank moves in the exchange of the sharded tables, plus what every
    rank sends in the AllReduce of the replicated ones, `2 rows D 4 (W - 1) / W` bytes each: the
    gradient of the whole table, since ranks touch different rows of it. The tables of one width
    travel together, and `ShardedEmbedding(replicate=...)` takes all of them or none: such groups
    are tried from the smallest on, and one is replicated if that lowers the cost. All stay sharded
    if the replicas save less than `least_saving` together. Training by
    itself follows another rule, `replication_rule.choose_replicated`: it replicates all tables,
    where that saves a collective.

    Where ranks are even, exchanging U keys costs `U (key + 8 D) (W - 1) / W` and replicating
    `8 rows D (W - 1) / W`: a replica is cheaper only if nearly every rank reads nearly every row
    in nearly every step. A table of fewer rows than ranks differs: its few owners serve all the
    others, and replicas spread that evenly.

    The rule counts neither memory nor the time of an update of all rows, which are small for the
    tables that it chooses, nor round trips: an exchange stays as long as one table is sharded.
    A table that grows is never replicated.

    Args:
        tables: with their traffic.
        least_saving: the least share of the cost that replicas must save; counts of a few steps
            vary by about as much.

    Returns:
        Their names, those of the smallest group first.
    """
    if not tables:
        return ()
    load = np.sum([[table.sent, table.received] for table in tables], axis=0)  # [2, W]
    groups: dict[str, list[TablePlacement]] = {}
    for table in tables:
        if table.replica_bytes is not None:
            groups.setdefault(table.size.group, []).append(table)
    bytes_of = {group: sum(t.replica_bytes or 0.0 for t in own) for group, own in groups.items()}
    chosen: list[str] = []
    saved, most = 0.0, load.max()
    for group in sorted(groups, key=bytes_of.__getitem__):
        without = load - np.sum([[t.sent, t.received] for t in groups[group]], axis=0)
        saving = load.max() - without.max() - bytes_of[group]
        if saving > 0:
            chosen += [table.size.name for table in groups[group]]
            load, saved = without, saved + saving
    return tuple(chosen) if saved >= least_saving * most else ()


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
