"""The plan of an evaluation: every task once, from all its episodes, on one rank."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from gmeta_tf.meta_io.batches.evaluated_tasks import EvaluatedTasks
from gmeta_tf.meta_io.batches.plan import EpochPlan, Window, run_of
from gmeta_tf.meta_io.batches.task_samples import drawn_rows
from gmeta_tf.meta_io.records.codec import TFRECORD_FRAME_BYTES

__all__ = ["EvaluationPlan"]

_OWN_ROW_ORDER, _EARLIER_ROW_ORDER = 2, 5  # the first is that of an episode's rows in `EpochPlan`
# A window has at most so many records for each that would fill it.
_RECORDS_FOR_A_FULL_ONE = 4


@dataclasses.dataclass(frozen=True)
class EvaluationPlan(EpochPlan):
    """An `EpochPlan` whose records are whole tasks, of any number of episodes in any files.

    A task's support is min(S, n - 1) of its n rows: of the rows that earlier splits have of it as
    many as there are, and of its rows of the split the rest. In order these are the last of the
    earlier rows, and then the first of the split; otherwise both are drawn. All other rows of the
    split are query rows. So a row of an earlier split is never evaluated, and with enough of them
    every row of the split is.

    Attributes:
        index: `evaluated.as_index(S)`, one entry a task.
        evaluated: the tasks and their episodes.
    """

    evaluated: EvaluatedTasks = dataclasses.field(kw_only=True)
    one_record_a_sample = False

    def entries(self, window: Window) -> np.ndarray:
        return self._as_read(window.records)

    def row_places(self, window: Window) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        (samples,) = window.samples
        used = self._used_rows(window.records)
        rows = self.index["rows"][window.records].astype(np.int64)
        first = np.append(np.cumsum(rows) - rows, 0)  # the last is that of empty samples
        where = np.concatenate(
            [
                run_of(first[samples.record] + begin, length, columns, len(used))
                for begin, length, columns in (
                    (samples.first_support, samples.num_support, self.cut.support),
                    (samples.first_query, samples.num_query, self.cut.query),
                )
            ],
            axis=1,
        )
        place = np.append(used, -1)[where]
        return (self._in_records(window.records, place),)

    def _used_rows(self, tasks: np.ndarray) -> np.ndarray:
        """The rows of each task, those that may be support first: places in all rows of all tasks.

        All rows are those of the tasks' episodes, one after the other; int64 `[sum(rows)]`.
        """
        earlier, own = self.evaluated.num_earlier[tasks], self.evaluated.num_own[tasks]
        first = np.cumsum(earlier + own) - (earlier + own)
        kept = np.minimum(earlier, self.cut.support)
        rows = kept + own
        if self.cut.in_order:
            place = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
            return place + np.repeat(first + earlier - kept, rows)
        task = self.index["task"][tasks]
        used = np.zeros(rows.sum(), np.int64)
        end = np.cumsum(rows)
        for kind, of_all, of_used, begin, start in (
            (_EARLIER_ROW_ORDER, earlier, kept, first, end - rows),
            (_OWN_ROW_ORDER, own, own, first + earlier, end - own),
        ):
            drawn = drawn_rows(of_all, self._draw(kind, task, 0))
            column = np.arange(of_used.sum()) - np.repeat(np.cumsum(of_used) - of_used, of_used)
            chosen = drawn[np.repeat(np.cumsum(of_all) - of_all, of_used) + column]
            used[np.repeat(start, of_used) + column] = chosen + np.repeat(begin, of_used)
        return used

    def _in_records(self, tasks: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in all rows of all tasks -> the record as it is read, and the row in it."""
        entries, by_file = self._episodes(tasks)
        rows = np.append(0, entries["rows"].astype(np.int64))
        first = np.cumsum(rows)[:-1]
        read_as = np.zeros(len(entries) + 1, np.int64)  # the last is for a window without records
        read_as[by_file] = np.arange(len(entries))
        episode = np.maximum(np.searchsorted(first, place, side="right") - 1, 0)
        row = np.where(place < 0, -1, place - np.append(first, 0)[episode])
        return read_as[episode], row.astype(np.int32)

    def _episodes(self, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The episodes of some tasks, and their order in the files."""
        entries = self.evaluated.episodes[self.evaluated.episodes_of(tasks)]
        return entries, np.lexsort([entries["offset"], entries["file"]])

    def _as_read(self, tasks: np.ndarray) -> np.ndarray:
        entries, by_file = self._episodes(tasks)
        return entries[by_file]

    @functools.cached_property
    def _costs_of_reading(self) -> np.ndarray:
        """The rows that each task takes of a window, int64 `[tasks]`.

        Blocks are padded to the longest, and many short records may lie far apart. So each counts
        for a part of the longest record at least, and a window stays bounded.
        """
        rows = self.evaluated.episodes["rows"].astype(np.int64)
        rows = np.maximum(rows, rows.max(initial=0) // _RECORDS_FOR_A_FULL_ONE)
        return np.add.reduceat(rows, self.evaluated.first_episode[:-1])

    def _blocks(self, rank: int) -> np.ndarray:
        first, last = (int(bound) for bound in self._shares[0][rank : rank + 2])
        costs = self._costs_of_reading[first:last]
        before = np.cumsum(costs) - costs
        starts = np.flatnonzero(np.diff(before // self._block_rows, prepend=-1))
        stops = np.append(starts[1:], last - first)[: len(starts)]
        sums = np.add.reduceat(costs, starts) if len(starts) else starts
        return self._not_done(np.stack([first + starts, first + stops, sums], axis=1))

    def _reads(self, blocks: np.ndarray) -> np.ndarray:
        tasks = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(first, last) for first, last, _ in blocks)]
        )
        entries = self._as_read(tasks)
        ends = entries["offset"] + entries["length"] + TFRECORD_FRAME_BYTES
        begins = np.ones(len(entries), bool)
        begins[1:] = (entries["offset"][1:] != ends[:-1]) | (np.diff(entries["file"]) != 0)
        rows = entries["rows"].astype(np.int64)
        room = min(int(rows.sum()) // max(int(begins.sum()), 1), self._block_rows)
        room = max(room, int(rows.max(initial=1)))
        begins |= np.diff((np.cumsum(rows) - rows) // room, prepend=-1) > 0
        starts = np.flatnonzero(begins)
        stops = np.append(starts[1:], len(entries))[: len(starts)]
        offsets = entries["offset"][starts]
        columns = (entries["file"][starts], offsets, ends[stops - 1] - offsets, stops - starts)
        return np.stack(columns, axis=1).astype(np.int64)
