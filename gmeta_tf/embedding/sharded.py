"""`ShardedEmbedding`: the embedding tables of a model, spread over the ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from gmeta_tf import _moved
from gmeta_tf.allowed import EXCHANGES, WIRES, check_word
from gmeta_tf.batch import Rows
from gmeta_tf.distributed.collectives import agree, start
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.rules import DynamicTable, rules_of_tables
from gmeta_tf.embedding.dynamic.state import KeyedShard
from gmeta_tf.embedding.exchange_strategy import (
    Arrivals,
    Departures,
    Keys,
    Located,
    Returned,
    Routes,
    Updates,
)
from gmeta_tf.embedding.layout_choice import agreed_layout, possible_layout
from gmeta_tf.embedding.replication_rule import Replicate, as_json, choose_replicated
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.shards import IndexedShard, TableSettings, make_shards
from gmeta_tf.embedding.whole_tables import KeyedRows, all_keys, all_rows, counts_of_tables
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["ShardedEmbedding"]


class ShardedEmbedding(tf.Module):
    """The tables of a schema, row-sharded: rank r owns the keys with `key % W == r`.

        schema = gm.Schema(task="user", label="click", fields=(gm.Field("item"),),
                           tables=(gm.Table("item", num_rows=1000),))
        embedding = gm.ShardedEmbedding(schema, width=16)
        model = gm.MetaModel(learner, embedding)

    All tables share one exchange: keys to their owners, rows back, gradients to the owners. Rows
    become plain tensors before the inner loop, which then needs no communication. Small tables may
    be replicated instead (`replicate`): every rank reads their rows without an exchange.

    Attributes:
        schema: the schema, table sizes filled in.
        width: D of the tables that state none.
        wire: the type in which rows and gradients travel.
        dynamic: dynamic table -> its rules.
        world: the ranks.
        replicate: which tables to replicate.
        backend: `"horovod"` or `"sok"`.
        exchange: `"flat"` or `"by-host"`, as chosen.
        replicated: the groups of tables that every rank holds in full.
        indexed: group (see `key_groups`) -> this rank's rows of tables of known size.
        keyed: group -> this rank's rows of a dynamic table.
    """

    def __init__(
        self,
        schema: Schema,
        width: int,
        *,
        seed: int = 0,
        scale: float = 0.05,
        wire: str = "float32",
        dynamic: DynamicTable | Mapping[str, DynamicTable] | None = None,
        world: World | None = None,
        backend: str = "auto",
        replicate: Replicate = "auto",
        exchange: str = "flat",
    ) -> None:
        """Builds this rank's shards with their initial rows.

        A run makes it first, so it also connects the ranks (`collectives.start`).

        Args:
            schema: what `Records.schema` gives: every table with a vocabulary has its `num_rows`.
            width: D of the tables that state none.
            seed: of the initial rows, which are a function of (seed, table, key).
            scale: the largest absolute initial value.
            wire: the type in which rows and gradients travel: `"float32"`, or `"bfloat16"` or
                `"float16"` for half the bytes. Rows and sums stay float32.
            dynamic: the rules of dynamic tables, of all or by name; the default is
                `DynamicTable()`.
            world: None detects it.
            backend: `"horovod"`, on CPUs and GPUs; `"sok"`, NVIDIA's Sparse Operation Kit, on GPUs
                (docs/gpu.md); `"auto"` takes SOK where every rank can, and logs its choice. SOK
                keeps only some rules of dynamic tables, and its evaluation inserts keys, which
                read zeros: see `SokDynamicShard`.
            replicate: which tables every rank holds in full. True, all of known size; False, none;
                `"auto"`, all where that shortens a step (`replication_rule.choose_replicated`),
                else none, and none with SOK; or names of tables, such as `{"genre"}`: all those of
                one width. Results are equal but for rounding. `wire` does not affect them.
            exchange: how what is not replicated travels. `"flat"`: every rank with every other;
                `"by-host"`: within each host first, so that what several of its ranks want crosses
                hosts once, and with equal results but for the rounding of sums (`host_routes`);
                `"auto"`: by host where there are several hosts with as many ranks each, and more
                than one, else flat.

        Raises:
            ValueError: a vocabulary without `num_rows`, a width below 1, another `wire`,
                `exchange` or `replicate`, rules of a table that is not dynamic, an unknown
                backend, something that SOK cannot do (widths not divisible by 4, a `wire` of 16
                bits, `"by-host"`, a rule of `sok.dynamic.unkept_rule`), `"by-host"` where hosts
                have different numbers of ranks or with `wire="float16"`, or ranks with different
                tables (on every rank).
            RuntimeError: `"sok"`, and a rank has no GPU or no merlin-sok (on every rank).
        """
        super().__init__(name="embedding")
        if width < 1:
            raise ValueError(f"ShardedEmbedding: expected a width of at least 1, got {width}.")
        check_word("ShardedEmbedding: wire", wire, WIRES)
        check_word("ShardedEmbedding: exchange", exchange, EXCHANGES)
        unsized = [t.name for t in schema.tables if t.num_rows is None and not t.is_dynamic]
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
        self.dynamic = rules_of_tables(schema, dynamic)
        self.world = World.detect() if world is None else world
        self.replicate = replicate
        replicated = choose_replicated(schema, width, self.world.size, replicate).groups
        layout = possible_layout(exchange, self.world, wire)
        start(self.world, parts=layout.parts if layout else ())
        chosen = {
            "backend": backend,
            "exchange": exchange,
            "ranks_per_host": layout.ranks_per_host if layout else None,
        }
        agree({**self.describe(), **chosen}, self.world, name="the embedding tables")
        layout = agreed_layout(exchange, layout, self.world)
        made = make_shards(
            schema,
            TableSettings(width, seed, scale, wire, self.dynamic),
            self.world,
            backend=backend,
            replicated=replicated,
            keep_with_sok=replicate != "auto",
            layout=layout,
            needs_layout=exchange == "by-host",
        )
        self.backend = made.backend
        self.replicated = made.replicated
        self.indexed: dict[str, IndexedShard] = made.indexed
        self.keyed: dict[str, KeyedShard] = made.keyed
        self._exchange = made.exchange
        self.exchange = made.exchange_name

    def describe(self) -> dict[str, Any]:
        """What must be the same on every rank, as JSON values."""
        tables = [dataclasses.asdict(table) for table in self.schema.tables]
        return {
            "tables": tables,
            "width": self.width,
            "seed": self.seed,
            "scale": self.scale,
            "wire": self.wire,
            "dynamic": {name: dataclasses.asdict(rules) for name, rules in self.dynamic.items()},
            "replicate": as_json(self.replicate),
        }

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of tables, in the schema's order."""
        return tuple(key_groups(self.schema))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables, in the order of `out_of_range` in a batch."""
        return tuple(name for names in key_groups(self.schema).values() for name in names)

    @property
    def shards(self) -> dict[str, Any]:
        """Group -> this rank's rows of its tables, `indexed` and `keyed` ones."""
        both = {**self.indexed, **self.keyed}
        return {group: both[group] for group in self.groups}

    copied = _moved.renamed("ShardedEmbedding", "copied", "replicated")

    # A step, in the order of its calls.

    @property
    def exchanged(self) -> tuple[str, ...]:
        """The groups of tables whose rows travel."""
        return self._exchange.groups

    @property
    def sends_keys(self) -> bool:
        """Whether keys travel in a message of their own, which can go a step ahead."""
        return self._exchange.sends_keys

    @property
    def arrival_type(self) -> Any:
        """The type of `arrivals`: see `ExchangeStrategy`."""
        return self._exchange.arrival_type

    def departures(self, keys: Keys, counts: Keys | None = None) -> Departures:
        """A step's distinct keys, made ready for their owners: see `ExchangeStrategy.departures`.

        Replicated groups are left out, as is all over SOK: their keys are not sent.
        """
        return self._exchange.departures(keys, counts)

    def arrivals(self, departures: Departures) -> Arrivals:
        """Sends keys to their owners; one AlltoAll, if there are any. All must call it."""
        return self._exchange.arrivals(departures)

    def routes(
        self,
        keys: Keys,
        counts: Keys | None = None,
        *,
        sent: tuple[Departures, Arrivals] | None = None,
    ) -> Routes:
        """Sends this rank's distinct keys to their owners; one AlltoAll. All must call it.

        Keys of replicated groups stay here; where all are replicated, neither this nor `fetch`
        sends anything. SOK sends keys and rows in one look-up, so there `fetch` makes both
        AlltoAlls.

        Args:
            keys: as for `departures`.
            counts: as for `departures`.
            sent: the departures and arrivals of these keys, if they have been sent already.

        Returns:
            group -> the route for `fetch` and `return_gradients`.
        """
        if sent is None:
            departures = self.departures(keys, counts)
            sent = departures, self.arrivals(departures)
        return self._exchange.routes(keys, *sent)

    def locate(
        self, routes: Routes, step: tf.Tensor | int = 0, *, training: bool = False
    ) -> Located:
        """Where the owners hold the keys of the routes: see `ExchangeStrategy.locate`."""
        return self._exchange.locate(routes, tf.cast(step, tf.int64), training=training)

    def fetch(self, routes: Routes, located: Located) -> Rows:
        """The current rows of the keys, float32 `[U, D]`; one AlltoAll. All must call it."""
        rows = self._exchange.fetch(routes, located)
        return {group: rows[group] for group in self.groups}

    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: Departures | None = None,
        totals: Sequence[tf.Tensor] = (),
    ) -> Returned:
        """The owners' sums of the gradients; one AlltoAll. All must call it.

        Args:
            gradients: group -> float32 `[U, D]`.
            routes: those of their keys.
            located: where the owners hold the keys.
            following: the next step's keys, in the same message.
            totals: float32, to be summed over the ranks, in the same message where that is cheap.
        """
        return self._exchange.return_gradients(
            gradients, routes, located, following=following or {}, totals=totals
        )

    def as_sent(self, gradients: tf.Tensor, group: str) -> tf.Tensor:
        """A group's gradients as they travel: a large one may be infinite in 16 bits."""
        return self._exchange.as_sent(gradients, group)

    def apply_gradients(self, updates: Updates, optimizer: RowOptimizer, step: tf.Tensor) -> None:
        """Updates the touched rows with `Returned.updates`, scaled. No collective."""
        shards = self.shards
        for group, (row_indices, summed) in updates.items():
            shards[group].update(row_indices, summed, optimizer, step)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes the slots of the optimizer."""
        for shard in self.shards.values():
            shard.make_slots(optimizer)

    def all_rows(self, group: str) -> tf.Tensor:
        """Every row of a group of tables of known size, `[num_rows, D]`; all must call it.

        Raises:
            ValueError: a dynamic table, which has `all_keys`.
        """
        if group in self.keyed:
            raise ValueError(
                f"all_rows: expected a group of tables of known size, got that of the dynamic "
                f"table {self.keyed[group].table!r}. Use all_keys."
            )
        return all_rows(self.indexed[group], name=group)

    def all_keys(self, group: str, step: int = 0) -> KeyedRows:
        """Every key and row of a dynamic table, on every rank; all must call it.

        Args:
            group: the table's.
            step: the training steps done.

        Raises:
            ValueError: a group of tables of known size, which has `all_rows`.
        """
        if group in self.indexed:
            raise ValueError(
                f"all_keys: expected the group of a dynamic table, got {group!r}. Use all_rows."
            )
        return all_keys(self.keyed[group], step, name=f"tables_{self.groups.index(group)}")

    def metrics(self) -> dict[str, dict[str, int]]:
        """Dynamic table -> its counts over all ranks: see `metrics` of its shard. A collective."""
        return counts_of_tables(self.keyed, self.world)
