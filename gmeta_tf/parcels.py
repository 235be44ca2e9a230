"""Several tensors in one AlltoAll, and sums over the ranks that ride along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.collectives import allreduce_sum, alltoall
from gmeta_tf.world import World

__all__ = ["Came", "Part", "exchange_parts", "may_ride"]

# What a message may grow by to save a collective of its own: at 1 GB/s, 0.1 ms.
_MOST_EXTRA_BYTES = 1 << 17
# The same of totals that have a message for themselves: an AllReduce of a few kB takes about 3 ms
# longer than an AlltoAll of them (`python -m benchmarks.replicated`), of which this takes 1 ms.
_MOST_EXTRA_BYTES_ALONE = 1 << 20
_MOST_RIDING_BYTES = 1 << 22
# Lengths and splits are int32, as Horovod's are.
_MOST_WORDS = (1 << 31) - 1


class Part(NamedTuple):
    """A tensor's rows, some for each rank.

    Attributes:
        values: `[N, ...]`, the rows for rank 0, then those for rank 1, and so on; of a type of 2, 4
            or 8 bytes.
        sent: int32 `[W]`, the rows for each rank, N in all.
        received: int32 `[W]`, the rows that come from each; None where this rank has to be told.
    """

    values: tf.Tensor
    sent: tf.Tensor
    received: tf.Tensor | None = None


class Came(NamedTuple):
    """What came of a part.

    Attributes:
        values: `[M, ...]`, the rows of rank 0, then those of rank 1, and so on.
        counts: int32 `[W]`, the rows of each rank, M in all.
    """

    values: tf.Tensor
    counts: tf.Tensor


def exchange_parts(
    parts: Sequence[Part], world: World, *, name: str, totals: Sequence[tf.Tensor] = ()
) -> tuple[list[Came], list[tf.Tensor]]:
    """Sends each rank its rows of every part, and sums some tensors over the ranks.

    A collective costs a step the time in which the ranks agree on it, whatever it carries. So one
    AlltoAll carries all parts, and the totals as well where that costs few bytes: every rank sends
    its totals to every other, `(W - 1) K`, where a ring would send `2 K (W - 1) / W` in
    `2 (W - 1)` turns. Without parts, the totals are a message of their own by the same rule.

    Two ranks, two parts and one total; a message to a rank lies in one piece:

        rank 0 has [a b | c] and [x |]  and 1    sends c      1    has [a b | d]   [x | y]  and 3
        rank 1 has [d | e f] and [y | z] and 2   sends d  y   2    has [c | e f]   [  | z]  and 3

    Args:
        parts: the same number, types and shapes of a row on every rank.
        world: the world.
        name: of the collectives; fixed over steps.
        totals: float32, the same shapes on every rank.

    Returns:
        What came of each part; and the sums of the totals, to the last bit the same on every rank.

    Raises:
        tf.errors.InvalidArgumentError: more than 2**31 - 1 numbers in a rank's parts.
    """
    if not world.is_distributed:
        return [Came(part.values, part.sent) for part in parts], list(totals)
    rides = bool(totals) and _may_ride(totals, world, alone=not parts)
    if totals and not rides:
        totals = allreduce_sum(totals, world, name=f"{name}_totals")
    if not parts and not rides:
        return [], list(totals)
    with tf.control_dependencies([_fits(parts, name)] if parts else []):
        parts = [part._replace(values=tf.identity(part.values)) for part in parts]
    if len(parts) == 1 and not rides:
        return [_exchange_alone(parts[0], world, name=name)], list(totals)
    message = _Message(parts, totals if rides else (), world)
    words, lengths = alltoall(*message.packed(), world, name=name)
    arrived, sums = message.unpacked(words, lengths)
    return arrived, sums if rides else list(totals)


def _exchange_alone(part: Part, world: World, *, name: str) -> Came:
    # Horovod's AlltoAll knows no bfloat16.
    as_words = part.values.dtype == tf.bfloat16
    values = _words(part.values) if as_words else part.values
    came, counts = alltoall(values, part.sent, world, name=name)
    return Came(_from_words(came, part.values) if as_words else came, counts)


def _fits(parts: Sequence[Part], name: str) -> tf.Operation:
    """Raises where a message would have more values than are counted by int32."""
    num_values = tf.add_n([tf.size(part.values, tf.int64) for part in parts])
    return tf.debugging.Assert(
        num_values <= _MOST_WORDS,
        [
            f"the message {name} of this rank's step has more numbers than the {_MOST_WORDS:,} "
            "that an AlltoAll may carry:",
            num_values,
            "Lower the tasks of a step (T), or the widths of tables.",
        ],
    )


def may_ride(numbers: int, world_size: int, *, alone: bool = False) -> bool:
    """Whether so many float32 numbers are summed by an AlltoAll, and not by an AllReduce.

    Args:
        numbers: how many a rank has.
        world_size: W.
        alone: nothing else travels with them.
    """
    riding = 4 * numbers
    to_all, ring = (world_size - 1) * riding, 2 * riding * (world_size - 1) / world_size
    extra = _MOST_EXTRA_BYTES_ALONE if alone else _MOST_EXTRA_BYTES
    return riding <= _MOST_RIDING_BYTES and to_all - ring <= extra


def _may_ride(totals: Sequence[tf.Tensor], world: World, *, alone: bool) -> bool:
    if any(total.dtype != tf.float32 for total in totals):
        return False
    return may_ride(sum(_size(total) for total in totals), world.size, alone=alone)


class _Message:
    """What one rank sends: to each other rank how many rows are told, the parts, the totals.

    It is made of 32-bit words of float32, which is the type that every device moves without a
    detour. Nothing computes with them: a key may look like a NaN on the way. This rank's own rows
    stay here.
    """

    def __init__(self, parts: Sequence[Part], totals: Sequence[tf.Tensor], world: World) -> None:
        self._rank, self._size = world.rank, world.size
        self._others = [rank for rank in range(world.size) if rank != world.rank]
        self._parts = parts
        words = [_words(part.values) for part in parts]
        self._row_words = [int(each.shape[1]) for each in words]
        self._runs = [
            tf.split(each, part.sent, num=world.size)
            for each, part in zip(words, parts, strict=True)
        ]
        self._told = [index for index, part in enumerate(parts) if part.received is None]
        self._totals = totals
        self._flat_totals = tf.concat([tf.reshape(total, [-1]) for total in totals] or [[]], axis=0)
        self._num_totals = sum(_size(total) for total in totals)

    def packed(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The words for rank 0, 1, ..., and how many they are, int32 `[W]`."""
        blocks = []
        for rank in self._others:
            told = [self._parts[index].sent[rank] for index in self._told]
            blocks += [tf.bitcast(tf.reshape(count, [1]), tf.float32) for count in told]
            blocks += [tf.reshape(runs[rank], [-1]) for runs in self._runs]
            blocks.append(self._flat_totals)
        lengths = tf.reduce_sum(self._lengths([part.sent for part in self._parts]), axis=1)
        is_other = np.arange(self._size) != self._rank
        return tf.concat(blocks, axis=0), lengths * is_other.astype(np.int32)

    def unpacked(self, words: tf.Tensor, lengths: tf.Tensor) -> tuple[list[Came], list[tf.Tensor]]:
        """The parts and the totals, of what came from rank 0, 1, ..."""
        counts = self._counts(words, lengths)
        pieces_of = {self._rank: [None, *(runs[self._rank] for runs in self._runs)]}
        piece_lengths = tf.gather(self._lengths(counts), self._others)
        num_pieces = len(self._parts) + 2
        pieces = tf.split(
            words, tf.reshape(piece_lengths, [-1]), num=len(self._others) * num_pieces
        )
        for index, rank in enumerate(self._others):
            pieces_of[rank] = pieces[index * num_pieces : (index + 1) * num_pieces]
        pieces_of[self._rank].append(self._flat_totals)
        by_piece = list(zip(*(pieces_of[rank] for rank in range(self._size)), strict=True))
        came = []
        for index, part in enumerate(self._parts):
            runs = [tf.reshape(run, [-1, self._row_words[index]]) for run in by_piece[1 + index]]
            came.append(Came(_from_words(tf.concat(runs, axis=0), part.values), counts[index]))
        if not self._totals:
            return came, []
        # One reduction in the order of the ranks, so that every rank gets the same to the last bit:
        # additions one by one would be put in another order where this rank's are constants.
        summed = tf.reduce_sum(tf.stack(by_piece[-1]), axis=0)
        sums = tf.split(summed, [_size(total) for total in self._totals])
        return came, [
            tf.reshape(one, total.shape) for one, total in zip(sums, self._totals, strict=True)
        ]

    def _lengths(self, counts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The words of each piece of the messages with so many rows, int32 `[W, parts + 2]`."""
        rows = [count * words for count, words in zip(counts, self._row_words, strict=True)]
        told, totals = (tf.fill([self._size], n) for n in (len(self._told), self._num_totals))
        return tf.stack([told, *rows, totals], axis=1)

    def _counts(self, words: tf.Tensor, lengths: tf.Tensor) -> list[tf.Tensor]:
        """The rows of each part that came from each rank, int32 `[W]` each."""
        starts = tf.gather(tf.cumsum(lengths, exclusive=True), self._others)
        counts = []
        for index, part in enumerate(self._parts):
            count = part.received
            if count is None:
                told = tf.bitcast(tf.gather(words, starts + self._told.index(index)), tf.int32)
                own = part.sent[self._rank : self._rank + 1]
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
    """What `_words` made words of, in the type and the shape of a row of `like`."""
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
