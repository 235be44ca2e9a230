"""The interface of an exchange, which Horovod, SOK and replicated tables each implement."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from gmeta_tf.batch import Rows
from gmeta_tf.embedding.exchange import Arrival, Departure

__all__ = ["Arrivals", "Departures", "ExchangeStrategy", "Located", "Returned", "Routes", "Updates"]

Keys = Mapping[str, tf.Tensor]
"""Group of tables -> int64 `[U]`, a step's distinct keys; or int32 `[W]`, their counts by owner."""
Departures = dict[str, Departure]
Arrivals = dict[str, Any]
"""Group -> the `Arrival` of its keys, or what `ExchangeStrategy.arrival_type` names; or None."""
Routes = dict[str, Any]
"""Group -> the way of its keys: a `Route`, or the `SokRoute` that stands for it over SOK."""
Updates = dict[str, tuple[tf.Tensor, tf.Tensor]]
"""Group -> the row indices of this rank's touched rows, `[V]`, and their gradients, `[V, D]`."""


class Located(NamedTuple):
    """Where a step's keys lie with this rank.

    Attributes:
        row_indices: group -> int64 `[V]`, of `Route.owned`; for a replicated group those of this
            rank's own keys.
        problems: dynamic group -> int64 `[4]`, what a policy `"error"` objects to (see
            `DynamicShard.locate`).
    """

    row_indices: dict[str, tf.Tensor]
    problems: dict[str, tf.Tensor]


class Returned(NamedTuple):
    """The results of returning a step's gradients.

    Attributes:
        updates: gradients summed over the ranks; for a replicated group the same on every rank.
        following: group -> the arrival of the next step's keys.
        totals: the sums of the totals.
    """

    updates: Updates
    following: Arrivals
    totals: list[tf.Tensor]


class ExchangeStrategy(abc.ABC):
    """How the rows of some groups of tables reach the ranks that read them, and gradients return.

    A step calls, in this order:

        departures = strategy.departures(keys, counts)
        routes = strategy.routes(keys, departures, strategy.arrivals(departures))
        located = strategy.locate(routes, step, training=True)
        rows = strategy.fetch(routes, located)
        returned = strategy.return_gradients(gradients, routes, located, totals=totals)

    `arrivals`, `fetch` and `return_gradients` may exchange, so every rank must call them.

    Attributes:
        groups: the groups of tables whose rows travel.
        sends_keys: whether keys travel in a message of their own, which can go a step ahead
            (`look_ahead`).
        arrival_type: of `arrivals`; a NamedTuple of tensors `[N]` with their `dtypes()`.
    """

    groups: tuple[str, ...]
    sends_keys: bool
    arrival_type: Any = Arrival

    def departures(self, keys: Keys, counts: Keys | None = None) -> Departures:
        """A step's distinct keys, made ready for their owners. No collective.

        Args:
            keys: group -> int64 `[U]`, as in `Batch`.
            counts: group -> int32 `[W]`, as `keys_of_rank` there; None where keys are in any order.

        Returns:
            Only the groups whose keys are sent.
        """
        return {}

    def arrivals(self, departures: Departures) -> Arrivals:
        """Sends keys to their owners; at most one AlltoAll."""
        return {}

    @abc.abstractmethod
    def routes(self, keys: Keys, departures: Departures, arrivals: Arrivals) -> Routes:
        """The ways of a step's keys, which its rows and gradients take too. No collective."""

    @abc.abstractmethod
    def locate(self, routes: Routes, step: tf.Tensor, *, training: bool) -> Located:
        """Where the owners hold the keys that took the routes. No collective.

        Args:
            routes: of a step's keys.
            step: int64 scalar, the training steps done before.
            training: whether dynamic tables note the keys, and give rows to new ones.
        """

    @abc.abstractmethod
    def fetch(self, routes: Routes, located: Located) -> Rows:
        """The rows of the keys that took the routes, float32 `[U, D]`, as they are now."""

    @abc.abstractmethod
    def return_gradients(
        self,
        gradients: Rows,
        routes: Routes,
        located: Located,
        *,
        following: Departures,
        totals: Sequence[tf.Tensor],
    ) -> Returned:
        """Brings the gradients of fetched rows to where the rows are updated.

        Args:
            gradients: group -> float32 `[U, D]`.
            routes: the ways that their keys took.
            located: where the owners hold the keys.
            following: the next step's keys, to travel in the same message.
            totals: float32, to be summed over the ranks, in the same message where that is cheap.
        """

    def as_sent(self, gradients: tf.Tensor, group: str) -> tf.Tensor:
        """A group's gradients as they travel: a large one may be infinite in 16 bits."""
        return gradients
