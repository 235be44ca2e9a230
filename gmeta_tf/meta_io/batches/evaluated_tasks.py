"""The tasks of a split, each with all its episodes: what an evaluation reads."""

from __future__ import annotations

import dataclasses

import numpy as np

from gmeta_tf.meta_io.records.codec import IndexEntry
from gmeta_tf.meta_io.records.index_checks import index_chunks
from gmeta_tf.meta_io.records.records import Records

__all__ = ["EvaluatedTasks", "splits_before"]

_SPLITS_IN_TIME = ("train", "valid", "test")


def splits_before(records: Records, split: str) -> tuple[str, ...]:
    """The splits with earlier rows of the same tasks, the earliest first; only a split by time.

    Otherwise tasks are in one split each, and nothing says that one split is earlier than another.
    """
    if records.details.get("split", {}).get("by") != "time" or split not in _SPLITS_IN_TIME:
        return ()
    before = _SPLITS_IN_TIME[: _SPLITS_IN_TIME.index(split)]
    return tuple(name for name in before if name in records.splits)


@dataclasses.dataclass(frozen=True)
class EvaluatedTasks:
    """The tasks of a split with their episodes, those of earlier splits first.

    Attributes:
        files: the paths of the record files; `IndexEntry`'s `file` counts in it.
        episodes: `IndexEntry [episodes]`: task after task in ascending order, and of a task the
            episodes in the order of their rows.
        first_episode: where each task's episodes begin, int64 `[tasks + 1]`.
        num_earlier: how many of each task's first rows are of earlier splits, int64 `[tasks]`.
        num_own: how many rows each task has in the split itself, int64 `[tasks]`.
    """

    files: tuple[str, ...]
    episodes: np.ndarray
    first_episode: np.ndarray
    num_earlier: np.ndarray
    num_own: np.ndarray

    @classmethod
    def of(cls, records: Records, split: str, most_earlier: int | None = None) -> EvaluatedTasks:
        """Puts the index of a split, and those of the splits before it, in the order of tasks.

        Args:
            records: the data.
            split: the split to evaluate.
            most_earlier: where only so many of a task's latest earlier rows are wanted, episodes
                with none of them are left out; None keeps all.

        Example: task 7 has 4 rows in "train" and 3 in "test", task 9 has 2 in "test" only. Then
        `num_earlier` is `[4 0]`, `num_own` is `[3 2]`, and task 8 of "train" is left out.
        """
        files: list[str] = []
        found, ages = [], []
        tasks = np.unique(records.index(split)["task"])
        names = (*splits_before(records, split), split)
        for age, name in enumerate(names):
            for entries in index_chunks(records.index(name)):
                wanted = entries[np.isin(entries["task"], tasks)]
                wanted["file"] += len(files)
                found.append(wanted)
                ages.append(np.full(len(wanted), age))
            files += records.files(name)
        episodes = np.concatenate([np.zeros(0, IndexEntry), *found])
        episode_ages = np.concatenate([np.zeros(0, np.int64), *ages])
        order = np.lexsort((episodes["part"], episode_ages, episodes["task"]))
        is_own = episode_ages[order] == len(names) - 1
        return cls._in_order(tuple(files), episodes[order], is_own, most_earlier)

    @classmethod
    def _in_order(
        cls, files: tuple[str, ...], episodes: np.ndarray, is_own: np.ndarray, most: int | None
    ) -> EvaluatedTasks:
        _, task = np.unique(episodes["task"], return_inverse=True)
        rows = episodes["rows"].astype(np.int64)
        earlier = np.where(is_own, 0, rows)
        if most is not None:
            so_far = np.cumsum(earlier)
            end = np.maximum.reduceat(so_far, np.flatnonzero(np.diff(task, prepend=-1)))
            is_wanted = is_own | (end[task] - so_far < most)
            episodes, is_own, task = episodes[is_wanted], is_own[is_wanted], task[is_wanted]
            rows, earlier = rows[is_wanted], earlier[is_wanted]
        starts = np.flatnonzero(np.diff(task, prepend=-1))
        num_earlier = np.add.reduceat(earlier, starts) if len(starts) else starts
        num_rows = np.add.reduceat(rows, starts) if len(starts) else starts
        return cls(
            files,
            episodes,
            np.append(starts, len(episodes)),
            num_earlier,
            num_rows - num_earlier,
        )

    def __len__(self) -> int:
        return len(self.num_own)

    def as_index(self, support: int) -> np.ndarray:
        """One entry a task, as if it were one record: the rows that its evaluation uses.

        These are its rows of the split, and up to S of the earlier ones.

        Returns:
            `IndexEntry [tasks]`, whose `file`, `offset`, `length` and `part` say nothing.
        """
        entries = np.zeros(len(self), IndexEntry)
        entries["task"] = self.episodes["task"][self.first_episode[:-1]]
        entries["rows"] = self.num_own + np.minimum(self.num_earlier, support)
        return entries

    def episodes_of(self, tasks: np.ndarray) -> np.ndarray:
        """The positions of the episodes of some tasks, in the order of the tasks, int64."""
        first = self.first_episode[tasks]
        counts = self.first_episode[tasks + 1] - first
        before = np.cumsum(counts) - counts
        return np.repeat(first - before, counts) + np.arange(counts.sum())
