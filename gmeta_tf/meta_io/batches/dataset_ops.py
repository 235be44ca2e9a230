"""What is added to the batches of any dataset: how long a step waited, and the next step's keys."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.batch import Batch, NextKeys

__all__ = ["timed", "with_next_keys"]


@tf.autograph.experimental.do_not_convert
def timed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `waited`: the seconds for which its step waited, float64."""
    clock = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())
    options = tf.data.Options()
    # A buffer behind the clocks would take its own time and not the step's; a map that runs in
    # parallel has one.
    options.experimental_optimization.inject_prefetch = False
    options.experimental_optimization.map_parallelization = False
    return (
        tf.data.Dataset.zip((clock, dataset, clock))
        .map(lambda before, batch, after: {**batch, "waited": after - before})
        .with_options(options)
    )


@tf.autograph.experimental.do_not_convert
def with_next_keys(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, each with `next`: what is known of the batch that follows it.

        keys, keys_of_rank  its keys, as in `TaskBatches`
        known   bool, whether one follows: the keys behind the last batch are nobody's

    The data is read once: a batch is held until the one behind it has come.
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
    # What is held at first is nothing, and left out.
    return ended.scan(nothing, lambda held, batch: hold(held, *batch)).skip(1)
