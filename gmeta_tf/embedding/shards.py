"""Chooses the shard and the exchange of each group of tables; nothing else does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gmeta_tf.distributed.host_layout import HostLayout
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic.rules import DynamicTable
from gmeta_tf.embedding.dynamic.shard import DynamicShard
from gmeta_tf.embedding.dynamic.state import KeyedShard
from gmeta_tf.embedding.exchange_strategy import ExchangeStrategy
from gmeta_tf.embedding.horovod_exchange import HorovodExchange
from gmeta_tf.embedding.host_exchange import HostExchange
from gmeta_tf.embedding.replicated import ReplicatedExchange, ReplicatedShard
from gmeta_tf.embedding.sok.backend import choose_backend
from gmeta_tf.embedding.sok.dynamic import SokDynamicShard, unkept_rule
from gmeta_tf.embedding.sok.exchange import SokExchange
from gmeta_tf.embedding.sok.static import SokStaticShard
from gmeta_tf.embedding.static_shard import StaticShard, TableRange, table_ranges, table_seed
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["Shards", "TableSettings", "make_shards"]

_NO_HOSTS_OVER_SOK = (
    "expected exchange='flat' or 'auto', got 'by-host': SOK makes the AlltoAlls itself, among all "
    "ranks. State that, or use backend='horovod'."
)

IndexedShard = StaticShard | SokStaticShard


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """The settings that all tables of a model share.

    Attributes:
        width: D of the tables that state none.
        seed: of the initial rows.
        scale: the largest absolute initial value.
        wire: the type in which rows and gradients travel.
        dynamic: dynamic table -> its rules.
    """

    width: int
    seed: int
    scale: float
    wire: str
    dynamic: Mapping[str, DynamicTable]


@dataclasses.dataclass(frozen=True)
class Shards:
    """This rank's rows of each group of tables, and their exchange.

    Attributes:
        backend: `"horovod"` or `"sok"`.
        indexed: group -> the rows of tables of known size, whose row index follows from the key.
        keyed: group -> the rows of a dynamic table, which come with their keys.
        replicated: the groups in `indexed` whose rows every rank holds in full.
        exchange: how rows and gradients travel.
        exchange_name: `"flat"` or `"by-host"`.
    """

    backend: str
    indexed: dict[str, IndexedShard]
    keyed: dict[str, KeyedShard]
    replicated: tuple[str, ...]
    exchange: ExchangeStrategy
    exchange_name: str


def make_shards(
    schema: Schema,
    settings: TableSettings,
    world: World,
    *,
    backend: str,
    replicated: tuple[str, ...],
    keep_with_sok: bool,
    layout: HostLayout | None = None,
    needs_layout: bool = False,
) -> Shards:
    """Builds this rank's shards with their initial rows. Every rank must call it.

    Args:
        schema: with the sizes filled in.
        settings: of all tables.
        world: the ranks.
        backend: as for `ShardedEmbedding`.
        replicated: the groups to replicate on every rank.
        keep_with_sok: whether to replicate over SOK too. The gain of replication has been measured
            with Horovod's exchange only.
        layout: which ranks share a host, to exchange by host; None to exchange flat.
        needs_layout: whether the user asks for that, and it is not a choice of ours.

    Raises:
        ValueError: an unknown back-end, or something that SOK cannot do.
        RuntimeError: `"sok"`, and a rank has no GPU or no merlin-sok.
    """
    groups = key_groups(schema)
    width_of = {
        group: schema.table(names[0]).width or settings.width for group, names in groups.items()
    }
    exchanged = [g for g in groups if g not in replicated or not keep_with_sok]
    chosen = choose_backend(
        "horovod" if backend == "auto" and not exchanged else backend,
        {group: width_of[group] for group in exchanged},
        world,
        beyond=_unfit_wire(settings.wire)
        or unkept_rule(settings.dynamic)
        or (_NO_HOSTS_OVER_SOK if needs_layout else None),
    )
    over_sok = chosen == "sok"
    replicated = replicated if keep_with_sok or not over_sok else ()
    make_indexed: Callable[..., Any] = SokStaticShard if over_sok else StaticShard
    make_keyed: Callable[..., Any] = SokDynamicShard if over_sok else DynamicShard

    def make_exchange(shards: Mapping[str, Any]) -> ExchangeStrategy:
        if over_sok:
            return SokExchange(shards, world)
        # Without keys there are only totals, for which see `host_routes.return_gradients`.
        if layout is None or not shards:
            return HorovodExchange(shards, world, settings.wire)
        return HostExchange(shards, layout, settings.wire)

    def ranges(group: str) -> tuple[TableRange, ...]:
        sizes = {name: schema.table(name).num_rows or 0 for name in groups[group]}
        return table_ranges(sizes, settings.seed)

    indexed: dict[str, IndexedShard] = {}
    keyed: dict[str, KeyedShard] = {}
    replicas: dict[str, ReplicatedShard] = {}
    sharded: dict[str, Any] = {}
    for index, (group, (table, *_)) in enumerate(groups.items()):
        width, scale = width_of[group], settings.scale
        if table in settings.dynamic:
            sharded[group] = keyed[group] = make_keyed(
                settings.dynamic[table],
                table=table,
                width=width,
                seed=table_seed(settings.seed, table),
                world=world,
                scale=scale,
                name=f"dynamic_{index}",
            )
        elif group in replicated:
            replicas[group] = indexed[group] = ReplicatedShard(
                ranges(group), width, world, scale=scale, name=group
            )
        else:
            sharded[group] = indexed[group] = make_indexed(
                ranges(group), width, world, scale=scale, name=group
            )
    others = make_exchange(sharded)
    name = "by-host" if isinstance(others, HostExchange) else "flat"
    exchange = ReplicatedExchange(replicas, others)
    return Shards(chosen, indexed, keyed, tuple(replicas), exchange, name)


def _unfit_wire(wire: str) -> str | None:
    if wire == "float32":
        return None
    return (
        f"expected wire='float32', which is what SOK's kernels move, got {wire!r}. State that, or "
        "use backend='horovod'."
    )
