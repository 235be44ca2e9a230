"""The keys of the next step, exchanged while this one computes."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.batch import Batch
from gmeta_tf.embedding.exchange_strategy import Arrivals, Departures, Routes
from gmeta_tf.embedding.sharded import ShardedEmbedding

__all__ = ["LookAhead"]


class LookAhead:
    """Sends a step's keys with the gradients of the step before, and keeps where they arrived.

    Keys can go ahead of time, but rows cannot: rows of the next step are fetched after this step
    has updated them, so a step reads the same rows as without looking ahead.

        step n        rows n   compute n   gradients n, keys n + 1   update n
        step n + 1                                                             rows n + 1   ...

    Each rank decides by a flag whether to exchange a step's own keys. An exchange hangs unless all
    ranks take part, so the flag has to be the same everywhere: it depends on the number of steps
    since `forget` and on where the data ends, never on the keys.
    """

    def __init__(self, embedding: ShardedEmbedding) -> None:
        """Makes the variables that keep arrivals; nothing is known at first.

        Keys of replicated groups do not travel, and so not ahead either.

        Raises:
            ValueError: no keys could go ahead: on one rank, where all tables are replicated, or
                over SOK, whose look-up sends a step's keys itself.
        """
        if not embedding.sends_keys:
            raise ValueError(
                "look_ahead: expected tables whose keys travel in a message of their own, got "
                f"backend={embedding.backend!r} on {embedding.world.size} rank(s) with "
                f"{len(embedding.exchanged)} exchanged group(s) of tables. Compile with "
                "look_ahead=False."
            )
        self._embedding = embedding
        kept = {"keys": tf.int64, **embedding.arrival_type.dtypes()}
        self._known = tf.Variable(False, trainable=False, name="next_keys_known")
        self._kept = {
            group: {
                name: tf.Variable(
                    tf.zeros([0], kind), shape=[None], trainable=False, name=f"{group}_next_{name}"
                )
                for name, kind in kept.items()
            }
            for group in embedding.exchanged
        }

    def forget(self) -> tf.Operation:
        """Has the next step exchange its own keys. Every rank must call it."""
        return self._known.assign(False)

    def routes(self, batch: Batch) -> Routes:
        """The routes of a step's keys: kept since the step before, or else exchanged now.

        Args:
            batch: uses its `keys` and `keys_of_rank`.

        Raises:
            tf.errors.InvalidArgumentError: the step before announced other keys.
        """
        keys, counts = batch["keys"], batch.get("keys_of_rank")
        departures = self._embedding.departures(keys, counts)

        arrivals = tf.cond(
            self._known,
            lambda: self._kept_arrivals(departures),
            lambda: self._embedding.arrivals(departures),
        )
        return self._embedding.routes(keys, sent=(departures, arrivals))

    def following(self, batch: Batch) -> Departures | None:
        """The next step's keys, to travel with this step's gradients; None if unknown."""
        if "next" not in batch:
            return None
        return self._embedding.departures(batch["next"]["keys"], batch["next"].get("keys_of_rank"))

    def keep(
        self, departures: Departures | None, arrivals: Arrivals, batch: Batch
    ) -> list[tf.Operation]:
        """Keeps where the next step's keys arrived.

        Args:
            departures: what `following` gave; with None this forgets.
            arrivals: of those keys.
            batch: its `next` says whether a step follows.

        Returns:
            The operations that keep them.
        """
        if departures is None:
            return [self.forget()]
        kept = [
            self._kept[group][name].assign(_of_any_size(value))
            for group, arrival in arrivals.items()
            if arrival is not None
            for name, value in {"keys": departures[group].keys, **arrival._asdict()}.items()
        ]
        return [*kept, self._known.assign(batch["next"]["known"])]

    def _kept_arrivals(self, departures: Departures) -> Arrivals:
        arrival_type = self._embedding.arrival_type
        kept = tf.nest.map_structure(lambda variable: variable.read_value(), self._kept)
        same = [_are_same(one.keys, kept[group]["keys"]) for group, one in departures.items()]
        announced = tf.debugging.Assert(
            tf.reduce_all(same),
            [
                "the keys of a step are not those that the step before announced. Train by `fit`, "
                "or on `with_next_keys` of one dataset, or compile with look_ahead=False."
            ],
        )
        with tf.control_dependencies([announced] if announced is not None else []):
            return {
                group: arrival_type(*(tf.identity(one[name]) for name in arrival_type._fields))
                for group, one in kept.items()
            }


def _of_any_size(values: tf.Tensor) -> tf.Tensor:
    """The values, in a tensor of unknown size.

    TensorFlow's graph optimizer infers the shape of a variable's earlier reads from its assignment
    in the step. So a static U must not reach a variable.
    """
    if values.shape.rank is not None and None in values.shape:
        return values
    return tf.boolean_mask(values, tf.ones_like(values, tf.bool))


def _are_same(keys: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    both = tf.minimum(tf.size(keys), tf.size(others))
    return tf.logical_and(
        tf.equal(tf.size(keys), tf.size(others)), tf.reduce_all(keys[:both] == others[:both])
    )
