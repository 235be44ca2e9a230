"""`ShardedEmbedding`: the embedding tables of a model, spread over the ranks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf

from gmeta_tf.collectives import agree, allgather_rows, allreduce_sum, start
from gmeta_tf.embedding import dynamic_state
from gmeta_tf.embedding.copy_rule import choose_copies
from gmeta_tf.embedding.dynamic import DynamicShard
from gmeta_tf.embedding.dynamic_state import KeyedShard
from gmeta_tf.embedding.dynamic_table import DynamicTable
from gmeta_tf.embedding.exchange import (
    Arrival,
    Departure,
    Route,
    departure_of,
    fetch,
    return_gradients,
    send_keys,
)
from gmeta_tf.embedding.finiteness import tables_not_finite
from gmeta_tf.embedding.replicated import ReplicatedShard
from gmeta_tf.embedding.row_optimizers import RowOptimizer
from gmeta_tf.embedding.sok import SokShard, SokStaticShard, choose_backend
from gmeta_tf.embedding.sok_dynamic import SokDynamicShard, unkept_rule
from gmeta_tf.embedding.table import StaticShard, TableRange
from gmeta_tf.meta_io.pipeline import key_groups
from gmeta_tf.schema import Schema
from gmeta_tf.world import World

__all__ = ["KeyedRows", "Located", "Returned", "ShardedEmbedding"]

_WIRES = ("float32", "bfloat16", "float16")

Keys = dict[str, tf.Tensor]
Rows = dict[str, tf.Tensor]
Updates = dict[str, tuple[tf.Tensor, tf.Tensor]]
# Of each group a `Route`, or the `SokRoute` that stands for it where SOK exchanges.
Routes = dict[str, Any]


class KeyedRows(NamedTuple):
    """What a dynamic table holds.

    Attributes:
        keys: int64 `[N]`, ascending.
        rows: float32 `[N, D]`.
        buckets: float32 `[W B, D]`, the shared rows of unknown keys, rank after rank.
    """

    keys: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray


class Located(NamedTuple):
    """Where a step's keys lie with this rank.

    Attributes:
        places: group -> int64 `[V]`, of `Route.owned`; of a copied group where this rank's own
            keys lie.
        problems: dynamic group -> int64 `[4]`, what a policy `"error"` objects to (see
            `dynamic.Located`).
    """

    places: dict[str, tf.Tensor]
    problems: dict[str, tf.Tensor]


class Returned(NamedTuple):
    """What the message of a step's gradients brought.

    Attributes:
        updates: group -> the places of this rank's touched rows, `[V]`, and the sums of their
            gradients over the ranks, float32 `[V, D]`; of a copied group the same on every rank.
        following: group -> the arrival of the next step's keys.
        totals: the sums of the totals.
    """

    updates: Updates
    following: dict[str, Arrival | None]
    totals: list[tf.Tensor]


Shard = StaticShard | DynamicShard | SokStaticShard | SokDynamicShard


class ShardedEmbedding(tf.Module):
    """The tables of a schema, row-sharded: rank r owns the keys with `key % W == r`.

    All tables are one exchange: keys to their owners, rows back, gradients to the owners. The rows
    come out as plain tensors before the inner loop, which therefore needs no communication. Small
    tables may be copied to every rank instead (`replicate`), which reads its rows without exchange.

    Attributes:
        schema: the schema, table sizes filled in.
        width: D of the tables that state none.
        wire: what rows and gradients travel as.
        dynamic: dynamic table -> its rules.
        world: the ranks.
        replicate: which tables are to be copied.
        backend: what exchanges, `"horovod"` or `"sok"`.
        copied: the groups of tables of which every rank holds all rows.
        shards: group name -> this rank's rows of the group's tables (see `key_groups`).
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
        replicate: str | bool = "auto",
    ) -> None:
        """Builds this rank's shards with their initial rows.

        It is what a run makes first, so it also connects the ranks (`collectives.start`).

        Args:
            schema: what `Records.schema` gives: every table with a vocabulary has its `num_rows`.
            width: D of the tables that state none.
            seed: of the initial rows, which are a function of (seed, table, key) alone.
            scale: the largest absolute initial value.
            wire: what rows and their gradients travel as between ranks: `"float32"`, or
                `"bfloat16"` or `"float16"` for half the bytes. Sums and rows stay float32.
            dynamic: the rules of the tables without a limit: of all, or by name. None, and tables
                that are not named, take `DynamicTable()`.
            world: None detects it.
            backend: what exchanges. `"horovod"`, on CPUs and GPUs; `"sok"`, NVIDIA's Sparse
                Operation Kit, on GPUs (docs/gpu.md); `"auto"` takes SOK where every rank can, and
                logs which it took. Of the rules of dynamic tables SOK keeps a part, and evaluation
                inserts keys there, which read zeros: see `SokDynamicShard`.
            replicate: which tables every rank holds a copy of. True, all of known size; False,
                none; `"auto"`, all where that makes a step shorter, by `copy_rule.choose_copies`,
                and otherwise none, nor with SOK. Results are equal but for rounding. Copies do not
                travel, so that `wire` is not for them.

        Raises:
            ValueError: a vocabulary without `num_rows`, a width below 1, another `wire` or
                `replicate`, rules of a table that is not dynamic, an unknown backend, what SOK can
                not do (widths not divisible by 4, a `wire` of 16 bits, a dynamic table without a
                capacity or with another rule of `sok_dynamic.unkept_rule`), or ranks that list
                different tables (on every rank).
            RuntimeError: `"sok"`, and a rank has no GPU or no merlin-sok (on every rank).
        """
        super().__init__(name="embedding")
        if width < 1:
            raise ValueError(f"ShardedEmbedding: expected a width of at least 1, got {width}.")
        if wire not in _WIRES:
            raise ValueError(
                f"ShardedEmbedding: expected wire to be one of {', '.join(_WIRES)}, got {wire!r}."
            )
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
        self.dynamic = _rules(schema, dynamic)
        self.world = World.detect() if world is None else world
        self.replicate = replicate
        copied = choose_copies(schema, width, self.world.size, replicate).groups
        start(self.world)
        agree({**self.describe(), "backend": backend}, self.world, name="the embedding tables")
        groups = key_groups(schema)
        widths = {
            group: schema.table(names[0]).width or width
            for group, names in groups.items()
            if replicate == "auto" or group not in copied
        }
        wanted = "horovod" if backend == "auto" and not widths else backend
        beyond = _unfit_wire(wire) or unkept_rule(self.dynamic)
        self.backend = choose_backend(wanted, widths, self.world, beyond=beyond)
        # What a copy is worth has been measured with Horovod's exchange alone.
        self.copied = () if self.backend == "sok" and replicate == "auto" else copied
        self.shards = {
            group: self._make_shard(
                tables, name=f"dynamic_{index}" if tables[0] in self.dynamic else group
            )
            for index, (group, tables) in enumerate(groups.items())
        }

    def _make_shard(self, tables: tuple[str, ...], *, name: str) -> Shard:
        width = self.schema.table(tables[0]).width or self.width
        if name in self.copied:
            return ReplicatedShard(self._ranges(tables), width, scale=self.scale, name=name)
        if tables[0] not in self.dynamic:
            make = SokStaticShard if self.backend == "sok" else StaticShard
            return make(self._ranges(tables), width, self.world, scale=self.scale, name=name)
        make_dynamic = SokDynamicShard if self.backend == "sok" else DynamicShard
        return make_dynamic(
            self.dynamic[tables[0]],
            table=tables[0],
            width=width,
            seed=_table_seed(self.seed, tables[0]),
            world=self.world,
            scale=self.scale,
            name=name,
        )

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
            "replicate": self.replicate,
        }

    @property
    def exchanged(self) -> tuple[str, ...]:
        """The groups of tables whose rows travel."""
        return tuple(group for group in self.shards if group not in self.copied)

    def departures(self, keys: Keys, counts: Keys | None = None) -> dict[str, Departure]:
        """A step's distinct keys of exchanged groups, made ready for their owners. No collective.

        SOK sends keys and rows in one look-up, so there `fetch` makes both AlltoAlls.

        Args:
            keys: group -> int64 `[U]`, as in `TaskBatches`.
            counts: group -> int32 `[W]`, as `keys_of_rank` there; None where keys are in any order.
        """
        return {
            group: departure_of(
                keys[group],
                counts[group] if counts else None,
                self.world,
                _key_type(self.shards[group]),
            )
            for group in self.exchanged
        }

    def local_routes(self, keys: Keys) -> Routes:
        """The routes of keys that stay here: those of copied groups. No collective."""
        return {group: self._copy(group).route(keys[group]) for group in self.copied}

    def routes(self, keys: Keys, counts: Keys | None = None) -> Routes:
        """This rank's distinct keys go to their owners; one AlltoAll. All must call it.

        Keys of copied groups stay here; where all are copied, nothing is sent, here or by `fetch`.
        SOK sends keys and rows in one look-up, so there `fetch` makes both AlltoAlls of a group.

        Args:
            keys: as for `departures`.
            counts: as for `departures`.

        Returns:
            group -> the route for `fetch` and `return_gradients`.
        """
        local = self.local_routes(keys)
        if self.backend == "sok":
            return local | {g: self._sok(g).route(keys[g]) for g in self.exchanged}
        departures = self.departures(keys, counts)
        arrivals = send_keys(list(departures.values()), self.world, name="keys")
        return local | {
            group: Route(departure, arrival)
            for (group, departure), arrival in zip(departures.items(), arrivals, strict=True)
        }

    def locate(
        self, routes: Routes, step: tf.Tensor | int = 0, *, training: bool = False
    ) -> Located:
        """Where the owners hold the keys that took the routes. No collective.

        Args:
            routes: of a step's keys.
            step: int64 scalar, the training steps done before.
            training: whether dynamic tables see the keys, and give rows to new ones.
        """
        places: dict[str, tf.Tensor] = {}
        problems: dict[str, tf.Tensor] = {}
        for group in self.copied:
            places[group] = self._copy(group).locate(routes[group].owned)
        if self.backend == "sok":
            for group in self.exchanged:
                routes[group].trains = training
            return Located(places, problems)
        for group in self.exchanged:
            shard, owned = self.shards[group], routes[group].owned
            if isinstance(shard, StaticShard):
                places[group] = shard.locate(owned)
                continue
            dynamic = cast(DynamicShard, shard)
            found = dynamic.locate(owned, tf.cast(step, tf.int64), training=training)
            places[group], problems[group] = found.places, found.problem
        return Located(places, problems)

    def fetch(self, routes: Routes, located: Located) -> Rows:
        """The rows of the keys that took the routes; one AlltoAll. All must call it.

        Returns:
            group -> float32 `[U, D]`, as they are now.
        """
        local = {group: self._copy(group).gather(located.places[group]) for group in self.copied}
        if self.backend == "sok":
            rows = [self._sok(group).fetch(routes[group]) for group in self.exchanged]
        else:
            rows = fetch(
                [routes[group] for group in self.exchanged],
                [self.shards[group].gather(located.places[group]) for group in self.exchanged],
                self.world,
                name="rows",
                wire=tf.as_dtype(self.wire),
            )
        found = local | dict(zip(self.exchanged, rows, strict=True))
        return {group: found[group] for group in self.shards}

    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: dict[str, Departure] | None = None,
        totals: Sequence[tf.Tensor] = (),
    ) -> Returned:
        """The owners' sums of the gradients; one AlltoAll. Every rank must call it.

        Args:
            gradients: group -> float32 `[U, D]`.
            routes: the ways that their keys took.
            located: where the owners hold the keys.
            following: the next step's keys, which travel along.
            totals: float32, what is summed over the ranks, along with it where that is cheap.
        """
        of_copies = [
            self._copy(group).gradients_of_all_rows(gradients[group], located.places[group])
            for group in self.copied
        ]
        totals = [*of_copies, *totals]
        if self.backend == "sok":
            updates = {
                group: self._sok(group).return_gradients(gradients[group], routes[group])
                for group in self.exchanged
            }
            totals = allreduce_sum(totals, self.world, name="totals")
            return self._with_copies(Returned(updates, {}, totals))
        following = following or {}
        sums, arrivals, totals = return_gradients(
            [gradients[group] for group in self.exchanged],
            [routes[group] for group in self.exchanged],
            self.world,
            name="gradients",
            wire=tf.as_dtype(self.wire),
            following=list(following.values()),
            totals=totals,
        )
        return self._with_copies(
            Returned(
                {
                    group: (located.places[group], summed)
                    for group, summed in zip(self.exchanged, sums, strict=True)
                },
                dict(zip(following, arrivals, strict=True)),
                totals,
            )
        )

    def _with_copies(self, returned: Returned) -> Returned:
        """The updates of copied groups as well, whose sums are the first of the totals."""
        of_copies = zip(self.copied, returned.totals)
        copies = {group: self._copy(group).touched(summed) for group, summed in of_copies}
        totals = returned.totals[len(self.copied) :]
        return returned._replace(updates={**copies, **returned.updates}, totals=totals)

    def not_finite(self, gradients: Rows, keys: Keys) -> tf.Tensor:
        """1 for each table whose rows have gradients that are NaN or infinite on this rank.

        They are looked at as they travel: a large one may be infinite in 16 bits.

        Returns:
            float32 `[tables]`, in the order of `table_names`.
        """
        return tf.concat(
            [
                tables_not_finite(
                    self._as_sent(gradients[group], group),
                    keys[group],
                    [self.schema.table(name).num_rows for name in tables],
                )
                for group, tables in key_groups(self.schema).items()
            ],
            axis=0,
        )

    def _as_sent(self, gradients: tf.Tensor, group: str) -> tf.Tensor:
        stays = group in self.copied or not self.world.is_distributed
        if self.wire == "float32" or stays:
            return gradients
        return tf.cast(tf.cast(gradients, self.wire), gradients.dtype)

    def apply_gradients(self, updates: Updates, optimizer: RowOptimizer, step: tf.Tensor) -> None:
        """Updates the touched rows with `Returned.updates`, scaled. No collective."""
        for group, (places, summed) in updates.items():
            self.shards[group].update(places, summed, optimizer, step)

    def make_slots(self, optimizer: RowOptimizer) -> None:
        """Makes what the optimizer keeps for each row."""
        for shard in self.shards.values():
            shard.make_slots(optimizer)

    def all_rows(self, group: str) -> tf.Tensor:
        """Every row of a group of tables, `[num_rows, D]`, on every rank; all must call it.

        Of a copied group no rank asks another.

        Raises:
            ValueError: a dynamic table, which has `all_keys`.
        """
        shard, size = self.shards[group], self.shards[group].world.size
        if isinstance(shard, KeyedShard):
            raise ValueError(
                f"all_rows: expected a group of tables of known size, got that of the dynamic "
                f"table {shard.table!r}. Use all_keys."
            )
        stacked = allgather_rows(shard.rows, shard.world, name=f"{group}_all_rows")
        keys = tf.concat([tf.range(rank, shard.num_rows, size) for rank in range(size)], axis=0)
        return tf.gather(stacked, tf.math.invert_permutation(keys))

    def all_keys(self, group: str, step: int = 0) -> KeyedRows:
        """Every key and row of a dynamic table, on every rank; all must call it.

        Args:
            group: the table's.
            step: the training steps done.

        Raises:
            ValueError: a group of tables of known size, which has `all_rows`.
        """
        shard = self.shards[group]
        if not isinstance(shard, KeyedShard):
            raise ValueError(
                f"all_keys: expected the group of a dynamic table, got {group!r}. Use all_rows."
            )
        states = list(dynamic_state.export(shard, step))
        name = f"tables_{list(self.shards).index(group)}"
        gathered = [
            allgather_rows(tf.concat(own, axis=0), self.world, name=f"{name}_all_{what}").numpy()
            for what, own in (
                ("keys", [state.keys for state in states]),
                ("rows", [state.rows for state in states]),
                ("buckets", [states[0].bucket_rows]),
            )
        ]
        keys, rows, buckets = gathered
        order = np.argsort(keys)
        return KeyedRows(keys[order], rows[order], buckets)

    def _sok(self, group: str) -> SokShard:
        return cast(SokShard, self.shards[group])

    def _copy(self, group: str) -> ReplicatedShard:
        return cast(ReplicatedShard, self.shards[group])

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables, in the order of `out_of_range` in a batch."""
        return tuple(name for names in key_groups(self.schema).values() for name in names)

    def metrics(self) -> dict[str, dict[str, int]]:
        """Dynamic table -> its counts over all ranks (see `DynamicShard.metrics`). A collective.

        SOK keeps one, `occupancy` (see `SokDynamicShard.metrics`).
        """
        shards = {s.table: s.metrics() for s in self.shards.values() if isinstance(s, KeyedShard)}
        if not shards:
            return {}
        counts = tf.stack([tf.stack(list(counts.values())) for counts in shards.values()])
        (summed,) = allreduce_sum([counts], self.world, name="table_metrics")
        return {
            table: dict(zip(counts, map(int, row), strict=True))
            for (table, counts), row in zip(shards.items(), summed.numpy(), strict=True)
        }

    def _ranges(self, names: tuple[str, ...]) -> tuple[TableRange, ...]:
        ranges, first_row = [], 0
        for name in names:
            num_rows = self.schema.table(name).num_rows or 0
            ranges.append(TableRange(name, first_row, num_rows, _table_seed(self.seed, name)))
            first_row += num_rows
        return tuple(ranges)


def _key_type(shard: Shard) -> tf.DType:
    """The narrowest type that a shard's keys fit in."""
    return shard.key_type if isinstance(shard, StaticShard) else tf.int64


def _unfit_wire(wire: str) -> str | None:
    if wire == "float32":
        return None
    return (
        f"expected wire='float32', which is what SOK's kernels move, got {wire!r}. State that, or "
        "use backend='horovod'."
    )


def _rules(
    schema: Schema, dynamic: DynamicTable | Mapping[str, DynamicTable] | None
) -> dict[str, DynamicTable]:
    """The rules of each dynamic table of the schema."""
    names = [table.name for table in schema.tables if table.is_dynamic]
    if dynamic is None or isinstance(dynamic, DynamicTable):
        return dict.fromkeys(names, dynamic or DynamicTable())
    others = [name for name in dynamic if name not in names]
    if others:
        raise ValueError(
            f"ShardedEmbedding: expected rules (dynamic=) of dynamic tables, which are "
            f"{', '.join(names) or 'none'} here, got some of {others[0]!r}. A table is dynamic "
            "whose keys are 'hash' or 'raw' and that states no num_rows."
        )
    return {name: dynamic.get(name, DynamicTable()) for name in names}


def _table_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
