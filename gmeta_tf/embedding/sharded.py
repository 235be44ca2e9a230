"""`ShardedEmbedding`: the embedding tables of a model, spread over the ranks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from gmeta_tf.collectives import agree, allgather_rows, start
from gmeta_tf.embedding.exchange import (
    Arrival,
    Departure,
    Route,
    departure_of,
    fetch,
    return_gradients,
    send_keys,
)
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.table import StaticShard, TableRange
from gmeta_tf.meta_io.pipeline import key_groups
from gmeta_tf.schema import Schema
from gmeta_tf.world import World

__all__ = ["Returned", "ShardedEmbedding"]

_WIRES = ("float32", "bfloat16", "float16")

Keys = dict[str, tf.Tensor]
Rows = dict[str, tf.Tensor]


class Returned(NamedTuple):
    """What the message of a step's gradients brought.

    Attributes:
        rows: group -> this rank's touched keys, int64 `[V]`, and the sums of their gradients over
            the ranks, float32 `[V, D]`.
        following: group -> the arrival of the next step's keys.
        totals: the sums of the totals.
    """

    rows: dict[str, tuple[tf.Tensor, tf.Tensor]]
    following: dict[str, Arrival | None]
    totals: list[tf.Tensor]


class ShardedEmbedding(tf.Module):
    """The tables of a schema, row-sharded: rank r owns the keys with `key % W == r`.

    All tables are one exchange: keys to their owners, rows back, gradients to the owners. The rows
    come out as plain tensors before the inner loop, which therefore needs no communication.

    Attributes:
        schema: the schema, table sizes filled in.
        width: D of the tables that state none.
        wire: what rows and gradients travel as.
        world: the ranks.
        shards: group name -> this rank's rows of the tables of one width.
    """

    def __init__(
        self,
        schema: Schema,
        width: int,
        *,
        seed: int = 0,
        scale: float = 0.05,
        wire: str = "float32",
        world: World | None = None,
    ) -> None:
        """Builds this rank's shards with their initial rows.

        It is what a run makes first, so it also connects the ranks (`collectives.start`).

        Args:
            schema: what `Records.schema` gives: every table has its `num_rows`.
            width: D of the tables that state none.
            seed: of the initial rows, which are a function of (seed, table, key) alone.
            scale: the largest absolute initial value.
            wire: what rows and their gradients travel as between ranks: `"float32"`, or
                `"bfloat16"` or `"float16"` for half the bytes. Sums and rows stay float32.
            world: None detects it.

        Raises:
            ValueError: a table without `num_rows`, a width below 1, another `wire`, or ranks that
                list different tables (on every rank).
        """
        super().__init__(name="embedding")
        if width < 1:
            raise ValueError(f"ShardedEmbedding: expected a width of at least 1, got {width}.")
        if wire not in _WIRES:
            raise ValueError(
                f"ShardedEmbedding: expected wire to be one of {', '.join(_WIRES)}, got {wire!r}."
            )
        unsized = [table.name for table in schema.tables if table.num_rows is None]
        if unsized:
            raise ValueError(
                f"ShardedEmbedding: the table {unsized[0]!r} has no num_rows. Pass the schema of "
                "prepared records (Records.schema), or state num_rows."
            )
        self.schema = schema
        self.width = width
        self.seed = seed
        self.scale = scale
        self.wire = wire
        self.world = World.detect() if world is None else world
        start(self.world)
        agree(self.describe(), self.world, name="the embedding tables")
        self.shards = {
            group: StaticShard(
                self._ranges(tables),
                schema.table(tables[0]).width or width,
                self.world,
                scale=scale,
                name=group,
            )
            for group, tables in key_groups(schema).items()
        }

    def describe(self) -> dict[str, Any]:
        """What must be the same on every rank, as JSON values."""
        tables = [dataclasses.asdict(table) for table in self.schema.tables]
        return {
            "tables": tables,
            "width": self.width,
            "seed": self.seed,
            "scale": self.scale,
            "wire": self.wire,
        }

    def departures(self, keys: Keys, counts: Keys | None = None) -> dict[str, Departure]:
        """A step's distinct keys, made ready for their owners. No collective.

        Args:
            keys: group -> int64 `[U]`, as in `TaskBatches`.
            counts: group -> int32 `[W]`, as `keys_of_rank` there; None where keys are in any order.
        """
        return {
            group: departure_of(
                keys[group], counts[group] if counts else None, self.world, shard.key_type
            )
            for group, shard in self.shards.items()
        }

    def routes(self, keys: Keys, counts: Keys | None = None) -> dict[str, Route]:
        """This rank's distinct keys go to their owners; one AlltoAll. All must call it.

        Args:
            keys: as for `departures`.
            counts: as for `departures`.

        Returns:
            group -> the route for `fetch` and `return_gradients`.
        """
        departures = self.departures(keys, counts)
        arrivals = send_keys(list(departures.values()), self.world, name="keys")
        return {
            group: Route(departure, arrival)
            for (group, departure), arrival in zip(departures.items(), arrivals, strict=True)
        }

    def fetch(self, routes: dict[str, Route]) -> Rows:
        """The rows of the keys that took the routes; one AlltoAll. All must call it.

        Returns:
            group -> float32 `[U, D]`, as they are now.
        """
        gathers = [shard.gather for shard in self.shards.values()]
        wire = tf.as_dtype(self.wire)
        rows = fetch(list(routes.values()), gathers, self.world, name="rows", wire=wire)
        return dict(zip(routes, rows, strict=True))

    def return_gradients(
        self,
        gradients: Rows,
        routes: dict[str, Route],
        *,
        following: dict[str, Departure] | None = None,
        totals: Sequence[tf.Tensor] = (),
    ) -> Returned:
        """The owners' sums of the gradients; one AlltoAll. Every rank must call it.

        Args:
            gradients: group -> float32 `[U, D]`.
            routes: the ways that their keys took.
            following: the next step's keys, which travel along.
            totals: float32, what is summed over the ranks, along with it where that is cheap.
        """
        following = following or {}
        sums, arrivals, totals = return_gradients(
            [gradients[group] for group in routes],
            list(routes.values()),
            self.world,
            name="gradients",
            wire=tf.as_dtype(self.wire),
            following=list(following.values()),
            totals=totals,
        )
        of_rows = {
            group: (route.owned, summed)
            for (group, route), summed in zip(routes.items(), sums, strict=True)
        }
        return Returned(of_rows, dict(zip(following, arrivals, strict=True)), totals)

    def apply_gradients(
        self,
        gradients: dict[str, tuple[tf.Tensor, tf.Tensor]],
        optimizer: RowOptimizer,
        step: tf.Tensor,
    ) -> None:
        """Updates the touched rows with `Returned.rows`, scaled. No collective."""
        for group, (keys, sums) in gradients.items():
            self.shards[group].update(keys, sums, optimizer, step)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes what the optimizer keeps for each row."""
        for shard in self.shards.values():
            shard.make_slots(optimizer)

    def all_rows(self, group: str) -> tf.Tensor:
        """Every row of a group of tables, `[num_rows, D]`, on every rank; all must call it."""
        shard, size = self.shards[group], self.world.size
        stacked = allgather_rows(shard.rows, self.world, name=f"{group}_all_rows")
        keys = tf.concat([tf.range(rank, shard.num_rows, size) for rank in range(size)], axis=0)
        return tf.gather(stacked, tf.math.invert_permutation(keys))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables, in the order of `out_of_range` in a batch."""
        return tuple(table.name for shard in self.shards.values() for table in shard.tables)

    def _ranges(self, names: tuple[str, ...]) -> tuple[TableRange, ...]:
        ranges, first_row = [], 0
        for name in names:
            num_rows = self.schema.table(name).num_rows or 0
            ranges.append(TableRange(name, first_row, num_rows, _table_seed(self.seed, name)))
            first_row += num_rows
        return tuple(ranges)


def _table_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
