"""Several tensors packed into one AlltoAll, with piggybacked sums over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.collectives import allreduce_sum, alltoall
from gmeta_tf.distributed.world import World

__all__ = ["Payload", "Received", "exchange_payloads", "may_piggyback"]

# How much a message may grow to save a collective: at 1 GB/s, 0.1 ms.
_MOST_EXTRA_BYTES = 1 << 17
# The same for totals in a message of their own: an AllReduce of a few kB takes about 3 ms longer
# than an AlltoAll of them (`python -m benchmarks.replicated`); these bytes take 1 ms.
_MOST_EXTRA_BYTES_ALONE = 1 << 20
_MOST_PIGGYBACKED_BYTES = 1 << 22
# Lengths and splits are int32, as Horovod's are.
_MOST_WORDS = (1 << 31) - 1


class Payload(NamedTuple):
    """A tensor's rows, some for each rank.

    Attributes:
        values: `[N, ...]`, the rows for rank 0, then those for rank 1, and so on; of a type of 2, 4
            or 8 bytes.
        sent: int32 `[W]`, the rows for each rank, N in all.
        received: int32 `[W]`, the rows received from each; None where this rank has to be told.
    """

    values: tf.Tensor
    sent: tf.Tensor
    received: tf.Tensor | None = None


class Received(NamedTuple):
    """What a rank received of a payload.

    Attributes:
        values: `[M, ...]`, the rows of rank 0, then those of rank 1, and so on.
        counts: int32 `[W]`, the rows of each rank, M in all.
    """

    values: tf.Tensor
    counts: tf.Tensor


def exchange_payloads(
    payloads: Sequence[Payload], world: World, *, name: str, totals: Sequence[tf.Tensor] = ()
) -> tuple[list[Received], list[tf.Tensor]]:
    """Sends each rank its rows of every payload, and sums some tensors over the ranks.

    A collective costs a step the time in which the ranks agree on it, whatever it carries. So one
    AlltoAll carries all payloads, and the totals as well where that costs few bytes: every rank
    sends its totals to every other, `(W - 1) K`, where a ring would send `2 K (W - 1) / W` in
    `2 (W - 1)` turns. Without payloads, the totals are a message of their own by the same rule.

    Two ranks, two payloads and one total; a message to a rank is contiguous:

        rank 0 has [a b | c] and [x |]  and 1    sends c      1    has [a b | d]   [x | y]  and 3
        rank 1 has [d | e f] and [y | z] and 2   sends d  y   2    has [c | e f]   [  | z]  and 3

    Args:
        payloads: the same number, types and shapes of a row on every rank.
        world: the world.
        name: of the collectives; fixed over steps.
        totals: float32, the same shapes on every rank.

    Returns:
        What was received of each payload; and the sums of the totals, to the last bit the same on
        every rank.

    Raises:
        tf.errors.InvalidArgumentError: more than 2**31 - 1 numbers in a rank's payloads.
    """
    if not world.is_distributed:
        return [Received(payload.values, payload.sent) for payload in payloads], list(totals)
    piggybacks = bool(totals) and _may_piggyback(totals, world, alone=not payloads)
    if totals and not piggybacks:
        totals = allreduce_sum(totals, world, name=f"{name}_totals")
    if not payloads and not piggybacks:
        return [], list(totals)
    with tf.control_dependencies([_fits(payloads, name)] if payloads else []):
        payloads = [payload._replace(values=tf.identity(payload.values)) for payload in payloads]
    if len(payloads) == 1 and not piggybacks:
        return [_exchange_alone(payloads[0], world, name=name)], list(totals)
    message = _Message(payloads, totals if piggybacks else (), world)
    words, lengths = alltoall(*message.packed(), world, name=name)
    arrived, sums = message.unpacked(words, lengths)
    return arrived, sums if piggybacks else list(totals)


def _exchange_alone(payload: Payload, world: World, *, name: str) -> Received:
    # Horovod's AlltoAll knows no bfloat16.
    as_words = payload.values.dtype == tf.bfloat16
    values = _words(payload.values) if as_words else payload.values
    received, counts = alltoall(values, payload.sent, world, name=name)
    return Received(_from_words(received, payload.values) if as_words else received, counts)


def _fits(payloads: Sequence[Payload], name: str) -> tf.Operation:
    """Raises where a message would have more values than int32 can count."""
    num_values = tf.add_n([tf.size(payload.values, tf.int64) for payload in payloads])
    return tf.debugging.Assert(
        num_values <= _MOST_WORDS,
        [
            f"the message {name} of this rank's step has more numbers than the {_MOST_WORDS:,} "
            "that an AlltoAll may carry:",
            num_values,
            "Lower the tasks of a step (T), or the widths of tables.",
        ],
    )


def may_piggyback(numbers: int, world_size: int, *, alone: bool = False) -> bool:
    """Whether so many float32 numbers are summed by an AlltoAll, and not by an AllReduce.

    Args:
        numbers: how many a rank has.
        world_size: W.
        alone: nothing else travels with them.
    """
    riding = 4 * numbers
    to_all, ring = (world_size - 1) * riding, 2 * riding * (world_size - 1) / world_size
    extra = _MOST_EXTRA_BYTES_ALONE if alone else _MOST_EXTRA_BYTES
    return riding <= _MOST_PIGGYBACKED_BYTES and to_all - ring <= extra


def _may_piggyback(totals: Sequence[tf.Tensor], world: World, *, alone: bool) -> bool:
    if any(total.dtype != tf.float32 for total in totals):
        return False
    return may_piggyback(sum(_size(total) for total in totals), world.size, alone=alone)


class _Message:
    """One rank's message: for each other rank the untold counts of rows, the payloads, the totals.

    It consists of 32-bit words, typed float32, which every device moves directly. Nothing computes
    with them: a key may look like a NaN on the way. This rank's own rows stay here.
    """

    def __init__(
        self, payloads: Sequence[Payload], totals: Sequence[tf.Tensor], world: World
    ) -> None:
        self._rank, self._size = world.rank, world.size
        self._others = [rank for rank in range(world.size) if rank != world.rank]
        self._payloads = payloads
        words = [_words(payload.values) for payload in payloads]
        self._row_words = [int(each.shape[1]) for each in words]
        self._runs = [
            tf.split(each, payload.sent, num=world.size)
            for each, payload in zip(words, payloads, strict=True)
        ]
        self._told = [index for index, payload in enumerate(payloads) if payload.received is None]
        self._totals = totals
        self._flat_totals = tf.concat([tf.reshape(total, [-1]) for total in totals] or [[]], axis=0)
        self._num_totals = sum(_size(total) for total in totals)

    def packed(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The words for rank 0, 1, ..., and how many they are, int32 `[W]`."""
        blocks = []
        for rank in self._others:
            told = [self._payloads[index].sent[rank] for index in self._told]
            blocks += [tf.bitcast(tf.reshape(count, [1]), tf.float32) for count in told]
            blocks += [tf.reshape(runs[rank], [-1]) for runs in self._runs]
            blocks.append(self._flat_totals)
        lengths = tf.reduce_sum(self._lengths([payload.sent for payload in self._payloads]), axis=1)
        is_other = np.arange(self._size) != self._rank
        return tf.concat(blocks, axis=0), lengths * is_other.astype(np.int32)

    def unpacked(
        self, words: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[list[Received], list[tf.Tensor]]:
        """The payloads and the totals that rank 0, 1, ... sent."""
        counts = self._counts(words, lengths)
        parts_of = {self._rank: [None, *(runs[self._rank] for runs in self._runs)]}
        part_lengths = tf.gather(self._lengths(counts), self._others)
        num_parts = len(self._payloads) + 2
        parts = tf.split(words, tf.reshape(part_lengths, [-1]), num=len(self._others) * num_parts)
        for index, rank in enumerate(self._others):
            parts_of[rank] = parts[index * num_parts : (index + 1) * num_parts]
        parts_of[self._rank].append(self._flat_totals)
        by_part = list(zip(*(parts_of[rank] for rank in range(self._size)), strict=True))
        received = []
        for index, payload in enumerate(self._payloads):
            runs = [tf.reshape(run, [-1, self._row_words[index]]) for run in by_part[1 + index]]
            received.append(
                Received(_from_words(tf.concat(runs, axis=0), payload.values), counts[index])
            )
        if not self._totals:
            return received, []
        # One reduction in the order of the ranks, so that every rank gets the same to the last bit:
        # TensorFlow would reorder single additions where this rank's are constants.
        summed = tf.reduce_sum(tf.stack(by_part[-1]), axis=0)
        sums = tf.split(summed, [_size(total) for total in self._totals])
        return received, [
            tf.reshape(one, total.shape) for one, total in zip(sums, self._totals, strict=True)
        ]

    def _lengths(self, counts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The words of each part of the messages with so many rows, int32 `[W, payloads + 2]`."""
        rows = [count * words for count, words in zip(counts, self._row_words, strict=True)]
        told, totals = (tf.fill([self._size], n) for n in (len(self._told), self._num_totals))
        return tf.stack([told, *rows, totals], axis=1)

    def _counts(self, words: tf.Tensor, lengths: tf.Tensor) -> list[tf.Tensor]:
        """The rows of each payload received from each rank, int32 `[W]` each."""
        starts = tf.gather(tf.cumsum(lengths, exclusive=True), self._others)
        counts = []
        for index, payload in enumerate(self._payloads):
            count = payload.received
            if count is None:
                told = tf.bitcast(tf.gather(words, starts + self._told.index(index)), tf.int32)
                own = payload.sent[self._rank : self._rank + 1]
                count = tf.concat([told[: self._rank], own, told[self._rank :]], axis=0)
            counts.append(count)
        return counts


def _words(values: tf.Tensor) -> tf.Tensor:
    """Rows `[N, ...]` as float32 words `[N, words of a row]`, bit for bit."""
    row = _row_size(values)
    flat = tf.reshape(values, [-1, row])
    if values.dtype.size == 2:
        flat = tf.pad(flat, [[0, 0], [0, row % 2]])
        flat = tf.reshape(flat, [-1, (row + 1) // 2, 2])
    words = tf.bitcast(flat, tf.float32)
    return tf.reshape(words, [-1, (row * values.dtype.size + 3) // 4])


def _from_words(words: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The values that `_words` packed, in the type and row shape of `like`."""
    row = _row_size(like)
    if like.dtype.size == 8:
        words = tf.reshape(words, [-1, row, 2])
    values = tf.bitcast(words, like.dtype)
    if like.dtype.size == 2:
        values = tf.reshape(values, [-1, row + row % 2])[:, :row]
    return tf.reshape(values, [-1, *like.shape[1:]])


def _row_size(values: tf.Tensor) -> int:
    return int(values.shape[1:].num_elements() or 1)


def _size(tensor: tf.Tensor) -> int:
    return int(tensor.shape.num_elements())
