"""Episodes to task samples: which rows a task of a step adapts on, and which evaluate it.

A *task sample* is one task in one step: up to S support and Q query rows of one episode.
"""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Cut", "TaskSamples", "draw", "drawn_rows"]

_EPISODE_BITS, _POSITION_BITS = 20, 14
_SORTED_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class TaskSamples:
    """M task samples, before their rows are drawn. Every member is int64 `[M]`.

    Attributes:
        record: the record of the sample, as a position in the index or in a window.
        chunk: which sample of its record it is.
        first_support: where its support begins in the record's rows, in drawn order.
        num_support: how many support rows it has.
        first_query: where its query begins.
        num_query: how many query rows it has.
    """

    record: np.ndarray
    chunk: np.ndarray
    first_support: np.ndarray
    num_support: np.ndarray
    first_query: np.ndarray
    num_query: np.ndarray

    def __len__(self) -> int:
        return len(self.record)

    def take(self, which: np.ndarray) -> TaskSamples:
        """The samples of a mask, or of positions."""
        return TaskSamples(*(getattr(self, name)[which] for name in SAMPLE_MEMBERS))

    @property
    def num_rows(self) -> np.ndarray:
        """The rows of each, `[M]`."""
        return self.num_support + self.num_query


SAMPLE_MEMBERS = tuple(member.name for member in dataclasses.fields(TaskSamples))


@dataclasses.dataclass(frozen=True)
class Cut:
    """How an episode becomes samples of up to S support and Q query rows.

    A sample of u rows has min(S, u - 1) support rows, so each has a query row.

    Attributes:
        support: S.
        query: Q.
        coverage: what an episode of n rows gives. `"one"`: one sample of up to S + Q rows. `"all"`:
            ceil(n / (S + Q)) samples of about equal size, which together have every row once.
            `"evaluate"`: samples with the same support, whose queries are all the other rows.
        in_order: rows keep their order, so that the support comes before the query; otherwise
            their order is drawn.
    """

    support: int
    query: int
    coverage: str = "one"
    in_order: bool = False

    @property
    def most_rows(self) -> int:
        """S + Q."""
        return self.support + self.query

    def num_samples(self, rows: np.ndarray) -> np.ndarray:
        """How many samples episodes of so many rows give, int64 `[n]`."""
        rows = np.asarray(rows, np.int64)
        if self.coverage == "one":
            return np.ones_like(rows)
        if self.coverage == "all":
            return -(-rows // self.most_rows)
        return -(-(rows - np.minimum(self.support, rows - 1)) // self.query)

    def samples(self, rows: np.ndarray, draws: np.ndarray) -> TaskSamples:
        """The samples of episodes, one episode after the other.

        Args:
            rows: the rows of each, `[n]`.
            draws: a random uint64 for each; with `in_order` it picks where the one sample begins.
        """
        rows = np.asarray(rows, np.int64)
        counts = self.num_samples(rows)
        record = np.repeat(np.arange(len(rows)), counts)
        chunk = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows, counts = rows[record], counts[record]
        if self.coverage == "evaluate":
            num_support = np.minimum(self.support, rows - 1)
            first_query = num_support + chunk * self.query
            num_query = np.minimum(self.query, rows - first_query)
            return TaskSamples(
                record, chunk, np.zeros_like(chunk), num_support, first_query, num_query
            )
        if self.coverage == "all":
            first = chunk * rows // counts
            used = (chunk + 1) * rows // counts - first
        else:
            used = np.minimum(rows, self.most_rows)
            room = (rows - used + 1).astype(np.uint64)
            first = (draws % room).astype(np.int64) if self.in_order else np.zeros_like(chunk)
        num_support = np.minimum(self.support, used - 1)
        return TaskSamples(
            record, chunk, first, num_support, first + num_support, used - num_support
        )


def draw(*coordinates: np.ndarray | int) -> np.ndarray:
    """A pseudo-random uint64 for each tuple of integers, the same on every machine.

    Each coordinate is mixed in by a round of splitmix64 (Steele, Lea, Flood 2014, doi
    10.1145/2660193.2660195).
    """
    state = np.zeros(np.broadcast_shapes(*(np.shape(one) for one in coordinates)), np.uint64)
    # Arrays of one element at least: NumPy warns when an integer scalar wraps around.
    state = np.atleast_1d(state)
    for coordinate in coordinates:
        state = _splitmix64(state ^ np.asarray(coordinate, np.int64).astype(np.uint64))
    return state


def drawn_rows(rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """A permutation of each episode's rows, one episode after the other.

    Two episodes of 3 and 2 rows may give `[2 0 1 1 0]`.

    Args:
        rows: the rows of each, int64 `[n]`.
        draws: a uint64 for each, which picks the permutation.

    Returns:
        int32 `[sum(rows)]`.
    """
    rows = np.asarray(rows, np.int64)
    first = np.cumsum(rows) - rows
    position = np.arange(rows.sum(), dtype=np.uint64)
    position -= np.repeat(first.astype(np.uint64), rows)
    noise = np.repeat(draws, rows)
    noise += position
    noise = _splitmix64(noise) >> np.uint64(34)
    if len(rows) > 1 << _EPISODE_BITS or rows.max(initial=0) > 1 << _POSITION_BITS:
        episode = np.repeat(np.arange(len(rows)), rows)
        return position[np.lexsort((position, noise, episode))].astype(np.int32)
    # One integer a row, for one sort of integers: the episode, 30 random bits, the position.
    keys = np.repeat(np.arange(len(rows), dtype=np.uint64) << np.uint64(64 - _EPISODE_BITS), rows)
    noise <<= np.uint64(_POSITION_BITS)
    keys |= noise
    keys |= position
    _sort_episodes(keys, first + rows)
    keys &= np.uint64((1 << _POSITION_BITS) - 1)
    return keys.astype(np.int32)


def _sort_episodes(keys: np.ndarray, ends: np.ndarray) -> None:
    """Sorts keys that already stand episode by episode, a few episodes at a time.

    What fits into the first cache is sorted three times as fast as a window at once.
    """
    bounds = np.searchsorted(ends, np.arange(_SORTED_AT_ONCE, len(keys), _SORTED_AT_ONCE))
    first = 0
    for last in [*ends[bounds].tolist(), len(keys)]:
        keys[first:last].sort()
        first = last


def _splitmix64(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    return state
