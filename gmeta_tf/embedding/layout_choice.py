"""Chooses whether keys and rows are exchanged by host."""

from __future__ import annotations

from gmeta_tf.distributed.collectives import gather_json
from gmeta_tf.distributed.host_layout import RANKS_PER_HOST, HostLayout
from gmeta_tf.distributed.world import World

__all__ = ["agreed_layout", "possible_layout"]

_REMEDY = "Use exchange='flat', or 'auto', which falls back to it."


def possible_layout(exchange: str, world: World, wire: str) -> HostLayout | None:
    """The layout by which this rank would exchange; None for flat. No collective.

    Args:
        exchange: `"flat"`, `"by-host"` or `"auto"`.
        world: the ranks.
        wire: the type in which rows and gradients travel.

    Raises:
        ValueError: `"by-host"` with `"float16"`.
    """
    if exchange == "by-host" and wire == "float16":
        raise ValueError(
            "exchange='by-host': expected wire='float32' or 'bfloat16', got 'float16': the sum of "
            "a host's gradients may exceed its largest number, 65,504, where none of them does. "
            "Use 'bfloat16', or exchange='flat'."
        )
    if exchange == "flat" or wire == "float16" or not world.is_distributed:
        return None
    layout, _ = HostLayout.detect(world)
    if layout is None or (exchange == "auto" and not layout.has_both):
        return None
    return layout


def agreed_layout(exchange: str, layout: HostLayout | None, world: World) -> HostLayout | None:
    """The layout that all ranks use; None for flat. A collective unless all have None.

    Args:
        exchange: as for `possible_layout`.
        layout: what that gave; of as many ranks a host on every rank.
        world: the ranks.

    Raises:
        ValueError: `"by-host"`, and hosts have different numbers of ranks, or ranks are not laid
            out host by host (on every rank).
    """
    if exchange == "by-host" and layout is None and world.is_distributed:
        raise ValueError(
            f"exchange='by-host': expected as many ranks on every host, got {world.size} ranks of "
            f"which {world.local_size} are on the host of rank {world.rank}. {_REMEDY}"
        )
    if layout is None:
        return None
    fits = gather_json(HostLayout.detect(world)[1], world, name="places_in_hosts")
    if all(fits):
        return layout
    if exchange == "auto":
        return None
    raise ValueError(
        f"exchange='by-host': expected the ranks host by host, {layout.ranks_per_host} on each, so "
        f"that rank {fits.index(False)} has local rank "
        f"{fits.index(False) % layout.ranks_per_host}, and it has another. Start them so "
        f"(or set {RANKS_PER_HOST}). {_REMEDY}"
    )
