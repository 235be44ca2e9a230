"""The plan assigns task samples to steps and ranks, from the index alone.

A whole epoch is planned before a byte of a record is read. Each rank gets one run of the records
and goes through it window by window. So every rank knows how many steps the others have, and what a
stopped epoch has used is known without reading it again.

index -> shares of the ranks -> blocks -> windows -> samples -> steps
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from gmeta_tf.meta_io.batches.task_samples import SAMPLE_MEMBERS, Cut, TaskSamples, draw, drawn_rows
from gmeta_tf.meta_io.records.codec import TFRECORD_FRAME_BYTES
from gmeta_tf.meta_io.records.index_checks import index_chunks

__all__ = ["EpochPlan", "Segment", "Window", "run_of"]

_BLOCKS_IN_WINDOW = 16
# A read from a remote store costs a round trip, whatever its length.
_BLOCK_BYTES = 1 << 20

# What a number is drawn for, so that draws for different things are independent.
_BLOCK_ORDER, _SAMPLE_ORDER, _ROW_ORDER, _FIRST_ROW, _STEP_ORDER = range(5)
_EMPTY = -1


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps that an epoch has had: `steps` on each of `size` ranks, of `tasks` tasks each."""

    size: int
    tasks: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Window:
    """What a rank reads at once, and the steps that it gives.

    All samples of a step are of one bucket. Samples that do not fill a step wait for the next
    window; the last window fills up with empty samples (record -1).

    Attributes:
        blocks: `(file, offset, bytes, records)` of each run of records, int64 `[G, 4]`.
        records: the positions in the index of the records, in the order in which they are read.
        samples: of each bucket, in the order of the steps. `record` is a position in `records`.
        steps: the bucket of each of its steps, int32 `[steps]`.
    """

    blocks: np.ndarray
    records: np.ndarray
    samples: tuple[TaskSamples, ...]
    steps: np.ndarray


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """One epoch of all ranks.

    Attributes:
        index: of the split, `IndexEntry [episodes]`.
        cut: how episodes become samples.
        tasks: T, the tasks in a step of the first bucket.
        size: W.
        buckets: how many sizes of samples are kept apart: up to S + Q rows, up to half of it, up to
            a quarter, and so on. A step of a later bucket has more tasks, so that all steps have
            room for about as many rows.
        shuffle: the order of blocks, samples and steps; otherwise they keep the index's.
        seed: of the draws.
        epoch: which epoch.
        window_rows: about how many rows are read, and shuffled, at once.
        row_bytes: of a row in the files, which decides how much one read fetches.
        done: the steps before the epoch was stopped; their samples are left out.
    """

    index: np.ndarray
    cut: Cut
    tasks: int
    size: int
    buckets: int = 1
    shuffle: bool = True
    seed: int = 0
    epoch: int = 0
    window_rows: int = 1 << 17
    row_bytes: int = 64
    done: tuple[Segment, ...] = ()

    one_record_a_sample: ClassVar[bool] = True
    """Whether all rows of a sample are of one record."""

    @functools.cached_property
    def capacities(self) -> tuple[int, ...]:
        """The rows that a sample of each bucket has room for, the largest first."""
        return tuple(max(2, -(-self.cut.most_rows >> bucket)) for bucket in range(self.buckets))

    @functools.cached_property
    def tasks_of_buckets(self) -> tuple[int, ...]:
        """The tasks in a step of each bucket."""
        return tuple(self.tasks * self.cut.most_rows // rows for rows in self.capacities)

    @functools.cached_property
    def num_steps(self) -> int:
        """The steps of the epoch, or of its rest; equal on every rank."""
        return int(self._steps_of_ranks.max())

    @property
    def num_rows(self) -> int:
        """The support and query rows of all ranks, without padding."""
        return self._shares[2]

    @property
    def num_padded_rows(self) -> int:
        """The rows that the steps of all ranks have room for, without empty steps."""
        whole = -(-self.samples_of_ranks // self.tasks_of_buckets) * self.tasks_of_buckets
        return int((whole * self.capacities).sum())

    @property
    def samples_of_ranks(self) -> np.ndarray:
        """The samples of each rank and bucket, int64 `[W, buckets]`."""
        return self._shares[1]

    def windows(self, rank: int) -> Iterator[Window]:
        """A rank's windows, at least one; their steps add up to `num_steps`."""
        runs = self._window_blocks(rank)
        sizes = np.array(self.tasks_of_buckets)
        waiting = np.zeros(self.buckets, np.int64)
        steps_left = self.num_steps
        for number, blocks in enumerate(runs):
            is_last = number == len(runs) - 1
            ranges = [np.arange(first, last) for first, last, _ in blocks]
            records = np.concatenate([np.zeros(0, np.int64), *ranges])
            samples = [
                self._in_order(part, records) for part in self._by_bucket(self._samples(records))
            ]
            waiting += [len(part) for part in samples]
            whole = -(-waiting // sizes) if is_last else waiting // sizes
            steps = np.repeat(np.arange(self.buckets), whole)
            if self.shuffle:
                draws = self._draw(_STEP_ORDER, rank, number, np.arange(len(steps)))
                steps = steps[np.argsort(draws, kind="stable")]
            if is_last:
                missing = whole * sizes - waiting
                # A rank without samples left takes empty steps until the others have ended.
                empty_steps = steps_left - len(steps)
                missing[0] += empty_steps * sizes[0]
                steps = np.append(steps, np.zeros(empty_steps, np.int64))
                samples = [
                    _with_empty(part, int(count))
                    for part, count in zip(samples, missing, strict=True)
                ]
            waiting -= whole * sizes
            steps_left -= len(steps)
            yield Window(self._reads(blocks), records, tuple(samples), steps.astype(np.int32))

    def entries(self, window: Window) -> np.ndarray:
        """The index entries of a window's records, in the order in which they are read."""
        return self.index[window.records]

    def row_places(self, window: Window) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Where each row of each sample stands, by bucket.

        Returns:
            Of each bucket `(record, row)`: a position in `entries`, int64 `[M, 1]` or `[M, rows]`,
            and the position in that record, int32 `[M, rows]`, -1 where no row is.
        """
        return tuple(
            (part.record[:, np.newaxis], rows)
            for part, rows in zip(window.samples, self.row_positions(window), strict=True)
        )

    def row_positions(self, window: Window) -> tuple[np.ndarray, ...]:
        """The position in its record of each row of each sample, by bucket, int32 `[M, rows]`.

        The first min(S, rows - 1) columns are the support's and the others the query's; -1 where
        no row is.
        """
        entries = self.index[window.records]
        rows = entries["rows"].astype(np.int32)
        first = np.cumsum(rows, dtype=np.int32) - rows
        if self.cut.in_order:
            drawn = np.arange(rows.sum(), dtype=np.int32) - np.repeat(first, rows)
        else:
            drawn = drawn_rows(rows, self._draw(_ROW_ORDER, entries["task"], entries["part"]))
        first = np.append(first, np.int32(0))  # for empty samples, whose record is -1
        drawn = np.append(drawn, np.int32(_EMPTY))  # for missing rows
        positions = []
        for part, capacity in zip(window.samples, self.capacities, strict=True):
            num_support = min(self.cut.support, capacity - 1)
            where = np.concatenate(
                [
                    run_of(first[part.record] + begin, length, columns, len(drawn) - 1)
                    for begin, length, columns in (
                        (part.first_support, part.num_support, num_support),
                        (part.first_query, part.num_query, capacity - num_support),
                    )
                ],
                axis=1,
            )
            positions.append(drawn.take(where))
        return tuple(positions)

    @functools.cached_property
    def _shares(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Where each rank's records begin `[W + 1]`, its samples `[W, buckets]`, and all rows.

        Shares are even by the rows that steps have room for, since those cost the time.
        """
        counts = np.zeros([self.size, self.buckets], np.int64)
        records_of = np.zeros(self.size, np.int64)
        num_rows, cost_before = 0, 0
        total = sum(int(self._costs(samples, n).sum()) for n, samples in self._all_samples())
        for num_records, samples in self._all_samples():
            costs = self._costs(samples, num_records)
            before = cost_before + np.cumsum(costs) - costs
            rank = np.minimum(before * self.size // max(total, 1), self.size - 1)
            records_of += np.bincount(rank, minlength=self.size)
            cell = rank[samples.record] * self.buckets + self._bucket_of(samples)
            counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)
            num_rows += int(samples.num_rows.sum())
            cost_before += int(costs.sum())
        return np.concatenate([[0], np.cumsum(records_of)]), counts, num_rows

    @property
    def _steps_of_ranks(self) -> np.ndarray:
        return (-(-self.samples_of_ranks // self.tasks_of_buckets)).sum(axis=1)

    def _all_samples(self) -> Iterator[tuple[int, TaskSamples]]:
        """The samples of the whole index in parts: how many records, and their samples."""
        first = 0
        for entries in index_chunks(self.index):
            yield len(entries), self._samples(np.arange(first, first + len(entries)))
            first += len(entries)

    def _samples(self, records: np.ndarray) -> TaskSamples:
        """The samples of records that are not done; `record` is a position in `records`."""
        entries = self.index[records]
        samples = self.cut.samples(
            entries["rows"], self._draw(_FIRST_ROW, entries["task"], entries["part"])
        )
        if not self.done:
            return samples
        return samples.take(
            ~self._is_done[self._first_sample[records][samples.record] + samples.chunk]
        )

    def _bucket_of(self, samples: TaskSamples) -> np.ndarray:
        return (samples.num_rows[:, np.newaxis] <= self.capacities).sum(axis=1) - 1

    def _by_bucket(self, samples: TaskSamples) -> list[TaskSamples]:
        bucket = self._bucket_of(samples)
        return [samples.take(bucket == one) for one in range(self.buckets)]

    def _costs(self, samples: TaskSamples, num_records: int) -> np.ndarray:
        room = np.array(self.capacities)[self._bucket_of(samples)]
        return np.bincount(samples.record, weights=room, minlength=num_records).astype(np.int64)

    def _in_order(self, samples: TaskSamples, records: np.ndarray) -> TaskSamples:
        """The samples in the order of the steps."""
        if not self.shuffle:
            return samples
        entries = self.index[records[samples.record]]
        # In evaluation an episode's samples stay together: metrics of tasks need that.
        chunk = 0 if self.cut.coverage == "evaluate" else samples.chunk
        draws = self._draw(_SAMPLE_ORDER, entries["task"], entries["part"], chunk)
        return samples.take(np.argsort(draws, kind="stable"))

    def _window_blocks(self, rank: int) -> list[np.ndarray]:
        """The blocks of each window: `(first record, last record, rows)`, int64 `[G, 3]`."""
        blocks = self._blocks(rank)
        if self.shuffle:
            blocks = blocks[np.argsort(self._draw(_BLOCK_ORDER, blocks[:, 0]), kind="stable")]
        window = (np.cumsum(blocks[:, 2]) - blocks[:, 2]) // self.window_rows
        return np.split(blocks, np.flatnonzero(np.diff(window)) + 1)

    def _blocks(self, rank: int) -> np.ndarray:
        """A rank's runs of records, one for each read: `(first, last, rows)`, in index order."""
        first, last = (int(bound) for bound in self._shares[0][rank : rank + 2])
        block_rows = self._block_rows
        blocks = []
        for entries in index_chunks(self.index[first:last]):
            ends = np.cumsum(entries["rows"], dtype=np.int64)
            is_start = np.diff((ends - entries["rows"]) // block_rows, prepend=-1) > 0
            is_start |= np.diff(entries["file"], prepend=-1) != 0
            starts = np.flatnonzero(is_start)
            rows = np.add.reduceat(entries["rows"].astype(np.int64), starts)
            stops = np.append(starts[1:], len(entries))
            blocks.append(np.stack([first + starts, first + stops, rows], axis=1))
            first += len(entries)
        found = np.concatenate([np.zeros([0, 3], np.int64), *blocks])
        return self._not_done(found)

    @property
    def _block_rows(self) -> int:
        block_rows = max(self.window_rows // _BLOCKS_IN_WINDOW, _BLOCK_BYTES // self.row_bytes)
        return min(block_rows, self.window_rows)

    def _not_done(self, blocks: np.ndarray) -> np.ndarray:
        """The blocks that still have samples."""
        if not self.done:
            return blocks
        return blocks[[self._has_samples(*block) for block in blocks[:, :2]]]

    def _has_samples(self, first: int, last: int) -> bool:
        return len(self._samples(np.arange(first, last))) > 0

    def _reads(self, blocks: np.ndarray) -> np.ndarray:
        """`Window.blocks` of blocks of records."""
        starts, ends = self.index[blocks[:, 0]], self.index[blocks[:, 1] - 1]
        num_bytes = ends["offset"] + ends["length"] + TFRECORD_FRAME_BYTES - starts["offset"]
        columns = (starts["file"], starts["offset"], num_bytes, blocks[:, 1] - blocks[:, 0])
        return np.stack(columns, axis=1).astype(np.int64)

    @functools.cached_property
    def _first_sample(self) -> np.ndarray:
        """The number of each record's first sample, where all samples are numbered."""
        counts = self.cut.num_samples(self.index["rows"])
        return np.cumsum(counts) - counts

    @functools.cached_property
    def _is_done(self) -> np.ndarray:
        """Which of all the numbered samples were in the steps of `done`."""
        is_done = np.zeros(int(self.cut.num_samples(self.index["rows"]).sum()), bool)
        *earlier, last = self.done
        before = dataclasses.replace(self, size=last.size, tasks=last.tasks, done=tuple(earlier))
        if earlier:
            is_done |= before._is_done
        for rank in range(last.size):
            is_done[before._samples_until(rank, last.steps)] = True
        return is_done

    def _samples_until(self, rank: int, num_steps: int) -> np.ndarray:
        """The numbers of the samples in a rank's first steps."""
        samples: list[list[np.ndarray]] = [[] for _ in range(self.buckets)]
        steps = np.zeros(0, np.int32)
        for window in self.windows(rank):
            for bucket, part in enumerate(window.samples):
                there = part.record != _EMPTY
                records = window.records[part.record] if len(window.records) else part.record
                first = self._first_sample[records]
                samples[bucket].append(np.where(there, first + part.chunk, _EMPTY))
            steps = np.append(steps, window.steps)
            if len(steps) >= num_steps:
                break
        used = np.bincount(steps[:num_steps], minlength=self.buckets) * self.tasks_of_buckets
        numbers = np.concatenate(
            [np.concatenate(part)[:count] for part, count in zip(samples, used, strict=True)]
        )
        return numbers[numbers != _EMPTY]

    def _draw(self, kind: int, *coordinates: np.ndarray | int) -> np.ndarray:
        return draw(self.seed, self.epoch, kind, *coordinates)


def _with_empty(samples: TaskSamples, count: int) -> TaskSamples:
    """The samples, followed by some without rows."""
    return TaskSamples(
        *(
            np.append(getattr(samples, name), np.full(count, _EMPTY if name == "record" else 0))
            for name in SAMPLE_MEMBERS
        )
    )


def run_of(first: np.ndarray, length: np.ndarray, columns: int, nothing: int) -> np.ndarray:
    """`first`, `first + 1`, ... as far as `length`, then `nothing`: int32 `[M, columns]`."""
    column = np.arange(columns, dtype=np.int32)
    where = first.astype(np.int32)[:, np.newaxis] + column
    where[column >= length.astype(np.int32)[:, np.newaxis]] = nothing
    return where
