"""The keys of the next step, exchanged while this one computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from gmeta_tf.embedding.exchange import Route
from gmeta_tf.embedding.sharded import ShardedEmbedding

__all__ = ["LookAhead"]

_MEMBERS = {"keys": tf.int64, "owned": tf.int64}


class LookAhead:
    """Keeps the routes of a step's keys from the step before, which exchanged them.

    Keys can go ahead of time and rows can not: rows of the next step are fetched after this step
    has updated them, so nothing that a step reads is older than without.

        step n      rows n, compute n         | gradients n, update n
                            keys n + 1 beside |
        step n + 1                                                    rows n + 1, ...

    Each rank decides by a flag whether to exchange a step's own keys, and since an exchange hangs
    when some ranks take part, the flag has to be the same everywhere: it depends on the number of
    steps since `forget`, and on where the data ends, and never on the keys.
    """

    def __init__(self, embedding: ShardedEmbedding) -> None:
        """Makes the variables that routes are kept in; nothing is known at first."""
        self._embedding = embedding
        self._known = tf.Variable(False, trainable=False, name="next_keys_known")
        self._kept = {
            group: Route(
                *(
                    tf.Variable(
                        tf.zeros([0], _MEMBERS.get(member, tf.int32)),
                        shape=[None],
                        trainable=False,
                        name=f"{group}_next_{member}",
                    )
                    for member in Route._fields
                )
            )
            for group in embedding.shards
        }

    def forget(self) -> tf.Operation:
        """The step that follows exchanges its own keys. Every rank must call it."""
        return self._known.assign(False)

    def routes(self, keys: dict[str, tf.Tensor]) -> dict[str, Route]:
        """The routes of a step's keys: kept since the step before, or else exchanged now.

        Args:
            keys: group -> int64 `[U]`.

        Raises:
            tf.errors.InvalidArgumentError: the keys are not those that the step before announced.
        """
        return tf.cond(
            self._known, lambda: self._kept_routes(keys), lambda: self._embedding.routes(keys)
        )

    def announce(
        self, following: dict[str, Any] | None, after: Iterable[tf.Tensor]
    ) -> list[tf.Operation]:
        """Exchanges the next step's keys, and keeps their routes.

        Args:
            following: `next` of a batch (see `with_next_keys`); None forgets.
            after: what has to be there before. Once a step's rows are, its exchanges are still
                until the gradients, and the keys of the next do not stand in their way.

        Returns:
            What is done when all is kept.
        """
        if following is None:
            return [self.forget()]
        with tf.control_dependencies(list(after)):
            keys = {group: _of_any_size(value) for group, value in following["keys"].items()}
        routes = self._embedding.routes(keys, name="next_keys")
        kept = [
            variable.assign(value)
            for group, route in routes.items()
            for variable, value in zip(self._kept[group], route, strict=True)
        ]
        return [*kept, self._known.assign(following["known"])]

    def _kept_routes(self, keys: dict[str, tf.Tensor]) -> dict[str, Route]:
        routes = tf.nest.map_structure(lambda variable: variable.read_value(), self._kept)
        same = [_are_same(keys[group], route.keys) for group, route in routes.items()]
        announced = tf.debugging.Assert(
            tf.reduce_all(same),
            [
                "the keys of a step are not those that the step before announced. Train by `fit`, "
                "or on `with_next_keys` of one dataset, or compile with look_ahead=False."
            ],
        )
        with tf.control_dependencies([announced] if announced is not None else []):
            return tf.nest.map_structure(tf.identity, routes)


def _of_any_size(keys: tf.Tensor) -> tf.Tensor:
    """The keys, all of them, in a tensor whose size is not known before they are.

    TensorFlow's optimizer takes what a variable is assigned in a step for the shape of what was
    read of it before, too. So a stated U must not reach a variable.
    """
    return tf.boolean_mask(keys, keys >= 0)


def _are_same(keys: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    equal = tf.raw_ops.Equal(x=keys, y=others, incompatible_shape_error=False)
    # The sizes too: one key and none are of compatible shapes.
    return tf.logical_and(tf.equal(tf.size(keys), tf.size(others)), tf.reduce_all(equal))
