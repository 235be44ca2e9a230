"""What one rank finds wrong becomes one error that every rank raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gmeta_tf.distributed.collectives import gather_json
from gmeta_tf.distributed.world import World

__all__ = ["on_chief", "on_every_rank"]

Result = TypeVar("Result")

_BUILT_IN = {kind.__name__: kind for kind in (FileNotFoundError, OSError, ValueError)}


def on_every_rank(
    act: Callable[[], Result], world: World, *, name: str, kinds: tuple[type[Exception], ...] = ()
) -> Result:
    """Has each rank act; if any fails, every rank raises the error of the first that did.

    A collective: every rank must call it.

        rank 0 finds nothing, rank 1 raises ValueError("x")  ->  both raise ValueError("x")

    Args:
        act: what a rank does, without collectives.
        world: the ranks.
        name: the same on every rank.
        kinds: further classes of errors, made of one message, that other ranks raise as they are.

    Returns:
        What `act` gave on this rank.

    Raises:
        ValueError, OSError: what `act` raised on some rank. Other errors are raised at once, and on
            that rank alone.
    """
    result, own = None, None
    try:
        result = act()
    except (ValueError, OSError) as error:
        own = error
    verdicts = gather_json(None if own is None else _described(own, kinds), world, name=name)
    first = next((rank for rank, verdict in enumerate(verdicts) if verdict is not None), None)
    if first is None:
        return result  # type: ignore[return-value]  # without an error it has been set
    if first == world.rank and own is not None:
        raise own
    kind, text = verdicts[first]
    raise ({k.__name__: k for k in kinds} | _BUILT_IN)[kind](text) from own


def on_chief(act: Callable[[], Any], world: World, *, name: str) -> Any:
    """Has rank 0 act; every rank gets the JSON value that it gave, or raises what it raised.

    A collective: every rank must call it, and none returns before rank 0 has acted.
    """
    given: list[Any] = []

    def on_rank_0() -> None:
        if world.is_chief:
            given.append(act())

    on_every_rank(on_rank_0, world, name=f"{name}_verdict")
    return gather_json(given[0] if given else None, world, name=f"{name}_value")[0]


def _described(error: Exception, kinds: tuple[type[Exception], ...]) -> tuple[str, str]:
    known = {*kinds, *_BUILT_IN.values()}
    kind = next(kind for kind in type(error).__mro__ if kind in known)
    return kind.__name__, str(error)
