"""The last rows of a task before each of its rows: sequences out of the log itself.

Rows come by task and time, so that a pass over them is all that it takes, in blocks and with the
last rows of the block before. The past of a row is the task's rows of an earlier time: rows of one
time are not in each other's past, whatever their order in the files. A split by time cuts a task
in parts, which are passed one after the other; between them the last keys of each task are in a
file.
"""

from __future__ import annotations

import pathlib

import numpy as np

from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY

__all__ = ["History", "distinct_known", "last_keys_file"]

_FILLED_ROWS = 1 << 14


class History:
    """The keys of the N rows before each row, of one field.

    Args:
        num_rows: N.
        last_keys: the last keys of each task in the splits before, int64 `[tasks, N]`, the newest
            first, -1 after the last; it is updated. None where a task is in one split alone.

    Example, a task with the keys 5, 6, 7 at the times 1, 2, 2, and another one:
        >>> task, time = np.array([0, 0, 0, 1]), np.array([1, 2, 2, 9])
        >>> History(2).add(task, time, np.array([5, 6, 7, 8])).tolist()
        [[-1, -1], [5, -1], [5, -1], [-1, -1]]
    """

    def __init__(self, num_rows: int, last_keys: np.ndarray | None = None) -> None:
        self._num_rows, self._last_keys = num_rows, last_keys
        self._carried = (np.zeros(0, np.int64),) * 3

    def add(self, task: np.ndarray, time: np.ndarray, key: np.ndarray) -> np.ndarray:
        """The past of the rows that come next.

        Args:
            task: int64 `[n]`, ascending within a split.
            time: int64 `[n]`, ascending within a task; only told apart.
            key: int64 `[n]`.

        Returns:
            int64 `[n, N]`, the newest first, -1 after the last.
        """
        num_carried = len(self._carried[0])
        rows = zip(self._carried, (task, time, key), strict=True)
        task, time, key = (np.concatenate(both) for both in rows)
        first_of_task = np.ones(len(task), bool)
        first_of_task[1:] = task[1:] != task[:-1]
        first_of_time = first_of_task.copy()
        first_of_time[1:] |= time[1:] != time[:-1]
        place = np.arange(len(task))
        begins = np.maximum.accumulate(np.where(first_of_task, place, 0))
        tied = np.maximum.accumulate(np.where(first_of_time, place, 0))
        new = place[num_carried:]
        past = self._before(tied[new], begins[new], task[new], key)
        if len(new):
            self._keep(np.flatnonzero(first_of_task)[1:] - 1, begins, task, key)
            self._carry(int(begins[-1]), int(tied[-1]), task, time, key)
        return past

    def end_of_split(self) -> None:
        """Rows that follow are of another split, whose tasks begin anew or where others ended."""
        task, _, key = self._carried
        if len(task):
            self._keep(np.array([len(task) - 1]), np.zeros(len(task), np.int64), task, key)
        self._carried = (np.zeros(0, np.int64),) * 3

    def _before(
        self, end: np.ndarray, begins: np.ndarray, task: np.ndarray, key: np.ndarray
    ) -> np.ndarray:
        """The keys of the N places before each `end`; those before its task's first are older."""
        back = end[:, np.newaxis] - 1 - np.arange(self._num_rows)
        is_here = back >= begins[:, np.newaxis]
        if self._last_keys is None:
            older: np.ndarray | int = PADDING_KEY
        else:
            place = np.maximum(begins[:, np.newaxis] - 1 - back, 0)
            older = np.take_along_axis(self._last_keys[task], place, axis=1)
        return np.where(is_here, key[np.maximum(back, 0)], older)

    def _keep(
        self, last: np.ndarray, begins: np.ndarray, task: np.ndarray, key: np.ndarray
    ) -> None:
        """Notes the last keys of tasks that have ended, by the places of their last rows."""
        if self._last_keys is not None and len(last):
            keys = self._before(last + 1, begins[last], task[last], key)
            self._last_keys[task[last]] = keys

    def _carry(
        self, begin: int, tied: int, task: np.ndarray, time: np.ndarray, key: np.ndarray
    ) -> None:
        """Keeps of the last task what the next rows may have in their past.

        N rows before the last time, for further rows of that time; and N of it, for later ones.
        """
        first_tied = max(tied, len(task) - self._num_rows)
        kept = np.r_[max(begin, tied - self._num_rows) : tied, first_tied : len(task)]
        self._carried = (task[kept], time[kept], key[kept])


def distinct_known(past: np.ndarray) -> np.ndarray:
    """The keys of a multi-valued field: missing, unknown and repeated ones are left out.

    >>> distinct_known(np.array([[5, 0, 5, 2], [0, 0, -1, -1]])).tolist()
    [[5, 2, -1, -1], [0, -1, -1, -1]]
    """
    is_kept = past > UNKNOWN_KEY
    for place in range(1, past.shape[1]):
        repeats = past[:, :place] == past[:, place : place + 1]
        is_kept[:, place] &= ~repeats.any(axis=1)
    order = np.argsort(~is_kept, axis=1, kind="stable")
    keys = np.take_along_axis(np.where(is_kept, past, PADDING_KEY), order, axis=1)
    keys[:, 0] = np.where(keys[:, 0] == PADDING_KEY, UNKNOWN_KEY, keys[:, 0])
    return keys


def last_keys_file(path: pathlib.Path, num_tasks: int, num_rows: int) -> np.ndarray:
    """A new file of the last keys of tasks, all -1, as an array int64 `[tasks, N]`."""
    # Written and not only made long: a full disk is then an error here, and no SIGBUS later.
    with open(path, "wb") as file:
        for first in range(0, num_tasks, _FILLED_ROWS):
            shape = (min(_FILLED_ROWS, num_tasks - first), num_rows)
            file.write(np.full(shape, PADDING_KEY, np.int64).tobytes())
    return np.memmap(path, np.int64, "r+", shape=(num_tasks, num_rows))
