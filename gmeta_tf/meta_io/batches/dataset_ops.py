"""Additions to the batches of any dataset: how long a step waited, and the next step's keys."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.batch import Batch, NextKeys

__all__ = ["timed", "with_next_keys"]


@tf.autograph.experimental.do_not_convert
def timed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `waited`: the seconds that its step waited, float64."""
    clock = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())
    options = tf.data.Options()
    # A buffer behind the clocks would measure itself and not the step; a parallel map has one.
    options.experimental_optimization.inject_prefetch = False
    options.experimental_optimization.map_parallelization = False
    return (
        tf.data.Dataset.zip((clock, dataset, clock))
        .map(lambda before, batch, after: {**batch, "waited": after - before})
        .with_options(options)
    )


@tf.autograph.experimental.do_not_convert
def with_next_keys(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `next`: what is known of the following batch.

        keys, keys_of_rank  its keys, as in `TaskBatches`
        known   bool, whether one follows; after the last batch the keys mean nothing

    The data is read once: each batch is held until the next one has come.
    """
    nothing = tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype), dataset.element_spec
    )

    def hold(held: Batch, batch: Batch, known: tf.Tensor) -> tuple[Batch, Batch]:
        following: NextKeys = {"keys": batch["keys"], "known": known}
        if "keys_of_rank" in batch:
            following["keys_of_rank"] = batch["keys_of_rank"]
        return batch, {**held, "next": following}

    known = tf.data.Dataset.from_tensors(True).repeat()
    batches = tf.data.Dataset.zip((dataset, known))
    ended = batches.concatenate(tf.data.Dataset.from_tensors((nothing, False)))
    # The scan first gives out `nothing`, which is left out.
    return ended.scan(nothing, lambda held, batch: hold(held, *batch)).skip(1)
