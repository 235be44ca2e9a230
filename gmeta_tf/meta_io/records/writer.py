"""Rows of tasks to record files: cut into episodes, encoded, dealt to files, indexed."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import zlib
from collections.abc import Iterator

import numpy as np

from gmeta_tf.allowed import COMPRESSIONS, check_word
from gmeta_tf.meta_io.records.codec import (
    HEADER_WORDS,
    TFRECORD_FRAME_BYTES,
    IndexEntry,
    episode_headers,
    num_planes,
)
from gmeta_tf.meta_io.records.frames import frame
from gmeta_tf.meta_io.records.records import SplitFiles
from gmeta_tf.schema import Schema

__all__ = ["EpisodeWriter", "episode_sizes"]

_BUFFER_BYTES = 1 << 18


def episode_sizes(num_rows: int, episode_rows: int) -> list[int]:
    """The rows of the episodes that a task is cut into, in order.

    Full episodes first; the rest, up to two episodes' worth, is halved, so that no episode is
    tiny.

    Example:
        >>> [episode_sizes(n, 10) for n in (3, 10, 11, 25, 30)]
        [[3], [10], [6, 5], [10, 8, 7], [10, 10, 10]]
    """
    full = max(0, -(-num_rows // episode_rows) - 2)
    rest = num_rows - full * episode_rows
    if rest <= episode_rows:
        return [episode_rows] * full + [rest]
    return [episode_rows] * full + [rest - rest // 2, rest // 2]


class EpisodeWriter:
    """Writes one split's record files and its index.

    Each episode goes to the file with the fewest rows, so that files are even.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        schema: Schema,
        *,
        num_files: int,
        episode_rows: int = 1024,
        compression: str = "none",
        generation: int = 0,
        first_part: np.ndarray | None = None,
        old: SplitFiles | None = None,
    ) -> None:
        """Opens the files.

        Args:
            folder: an existing local records folder.
            split: the split's name.
            schema: what the planes mean.
            num_files: how many files to write.
            episode_rows: the most rows of an episode.
            compression: of each record: "none" or "zlib".
            generation: of the folder; part of the files' names.
            first_part: int32 `[tasks]`, how many episodes the tasks of that number already have;
                later tasks have none. For a folder that is appended to.
            old: the split's existing files. The new index covers them and the new ones.

        Raises:
            ValueError: an argument out of its range.
        """
        check_word("compression", compression, COMPRESSIONS)
        if num_files < 1 or episode_rows < 2:
            raise ValueError(
                "expected num_files of at least 1 and episode_rows of at least 2, "
                f"got {num_files} and {episode_rows}."
            )
        self._folder = pathlib.Path(folder)
        self._index_name = f"index-{split}-{generation:03d}.npy"
        self._names = [
            f"{split}-{generation:03d}-{file:05d}-of-{num_files:05d}.tfrecord"
            for file in range(num_files)
        ]
        self._old = old or SplitFiles((), "", 0, 0, 0)
        self._first_part = np.zeros(0, np.int32) if first_part is None else first_part
        self._episode_rows = episode_rows
        self._compression = compression
        self._planes = num_planes(schema)
        self._writers = [(self._folder / name).open("wb", _BUFFER_BYTES) for name in self._names]
        self._offsets = [0] * num_files
        self._rows_of = np.zeros(num_files, np.int64)
        self._entries: list[np.ndarray] = []
        self._held_task: int | None = None
        self._held: list[np.ndarray] = []
        self._held_rows = 0
        self._held_part = 0
        self._num_new_tasks = 0

    def write(self, task: np.ndarray, words: np.ndarray) -> None:
        """Takes rows in the records' order.

        A task's rows stand together, over several calls too, and tasks come in ascending order. At
        most two episodes' rows of the last task wait for the next call.

        Args:
            task: int64 `[n]`.
            words: the planes, int32 `[C, n]`.

        Raises:
            ValueError: tasks out of order, or another number of planes.
        """
        task, words = np.asarray(task, np.int64), np.asarray(words)
        if words.shape != (self._planes, len(task)):
            raise ValueError(
                f"expected words [{self._planes}, {len(task)}], got {list(words.shape)}."
            )
        if not len(task):
            return
        starts = np.concatenate([[0], np.flatnonzero(np.diff(task)) + 1])
        ends = np.append(starts[1:], len(task))
        tasks = task[starts]
        before = 0 if self._held_task is None else self._held_task
        if (np.diff(tasks) <= 0).any() or tasks[0] < before:
            raise ValueError(
                "expected tasks from 0 on and in ascending order, got "
                f"{tasks[:5].tolist()}... after {before}."
            )
        if tasks[0] == self._held_task:
            self._hold(words[:, : ends[0]])
            tasks, starts = tasks[1:], starts[1:]
        if len(tasks):
            self._end_held()
            self._write_whole(tasks[:-1], np.diff(starts), words[:, starts[0] : starts[-1]])
            self._held_task = int(tasks[-1])
            self._held_part = int(self._begin(tasks[-1:])[0])
            self._hold(words[:, starts[-1] :])

    def close(self) -> SplitFiles:
        """Finishes the files, writes the index, and says what the folder holds of the split now."""
        self._end_held()
        for file, writer in enumerate(self._writers):
            with self._named(file):
                writer.close()
        new = np.concatenate([np.zeros(0, IndexEntry), *self._entries])
        new = new[np.lexsort([new["offset"], new["file"]])]
        new["file"] += len(self._old.files)
        index = new
        if self._old.index:
            index = np.concatenate([np.load(self._folder / self._old.index), new])
        np.save(self._folder / self._index_name, index, allow_pickle=False)
        return SplitFiles(
            files=(*self._old.files, *self._names),
            index=self._index_name,
            tasks=self._old.tasks + self._num_new_tasks,
            episodes=len(index),
            rows=self._old.rows + int(new["rows"].sum(dtype=np.int64)),
        )

    def abandon(self) -> None:
        """Closes the files without an index."""
        for writer in self._writers:
            with contextlib.suppress(OSError):  # of a full disk, which was told
                writer.close()

    @contextlib.contextmanager
    def _named(self, file: int) -> Iterator[None]:
        """An error of writing names the file, as one of opening does."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._folder / self._names[file])
            raise

    def _begin(self, tasks: np.ndarray) -> np.ndarray:
        """The first part of tasks that begin, int64 `[tasks]`; counts those that are new."""
        known = tasks < len(self._first_part)
        parts = np.zeros(len(tasks), np.int64)
        parts[known] = self._first_part[tasks[known]]
        self._num_new_tasks += int((parts == 0).sum())
        return parts

    def _hold(self, words: np.ndarray) -> None:
        """Keeps rows of the task that may go on, and writes the episodes that are sure."""
        self._held.append(words)
        self._held_rows += words.shape[1]
        sure = -(-self._held_rows // self._episode_rows) - 2
        if sure > 0:
            self._write_held([self._episode_rows] * sure)

    def _end_held(self) -> None:
        if self._held_task is not None:
            self._write_held(episode_sizes(self._held_rows, self._episode_rows))
            self._held_task = None

    def _write_held(self, sizes: list[int]) -> None:
        words = np.concatenate(self._held, axis=1)
        written = sum(sizes)
        parts = self._held_part + np.arange(len(sizes))
        self._write_episodes(
            np.full(len(sizes), self._held_task), parts, np.array(sizes), words[:, :written]
        )
        self._held, self._held_rows = [words[:, written:]], words.shape[1] - written
        self._held_part += len(sizes)

    def _write_whole(self, tasks: np.ndarray, rows: np.ndarray, words: np.ndarray) -> None:
        """Writes tasks that are there from their first row to their last."""
        first_part = self._begin(tasks)
        if (rows <= self._episode_rows).all():
            self._write_episodes(tasks, first_part, rows, words)
            return
        sizes = [episode_sizes(int(count), self._episode_rows) for count in rows]
        repeats = [len(cut) for cut in sizes]
        place = np.concatenate([np.arange(count) for count in repeats])
        self._write_episodes(
            np.repeat(tasks, repeats),
            np.repeat(first_part, repeats) + place,
            np.concatenate(sizes),
            words,
        )

    def _write_episodes(
        self, tasks: np.ndarray, parts: np.ndarray, rows: np.ndarray, words: np.ndarray
    ) -> None:
        """Encodes and writes episodes whose rows stand one after the other in `words`."""
        stream, starts = _encoded(tasks, parts, rows, words)
        data = stream.tobytes()
        bounds = (4 * np.append(starts, len(stream))).tolist()
        entries = np.zeros(len(tasks), IndexEntry)
        entries["task"], entries["rows"], entries["part"] = tasks, rows, parts
        placed = []
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            record = data[first:last]
            if self._compression == "zlib":
                record = zlib.compress(record, 1)
            file = int(np.argmin(self._rows_of))
            with self._named(file):
                self._writers[file].write(frame(record))
            placed.append((file, self._offsets[file], len(record)))
            self._offsets[file] += len(record) + TFRECORD_FRAME_BYTES
            self._rows_of[file] += rows[number]
        columns = np.array(placed, np.int64).reshape(-1, 3)
        for column, name in enumerate(("file", "offset", "length")):
            entries[name] = columns[:, column]
        self._entries.append(entries)


def _encoded(
    tasks: np.ndarray, parts: np.ndarray, rows: np.ndarray, words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The words of records, one after the other, and where each begins."""
    planes, num_rows = words.shape
    lengths = HEADER_WORDS + planes * rows
    starts = np.cumsum(lengths) - lengths
    stream = np.empty(int(lengths.sum()), "<i4")
    headers = episode_headers(tasks, rows, parts).view("<i4")
    stream[starts[:, np.newaxis] + np.arange(HEADER_WORDS)] = headers
    first_row = np.cumsum(rows) - rows
    place = np.arange(num_rows) + np.repeat(starts + HEADER_WORDS - first_row, rows)
    stride = np.repeat(rows, rows)
    for plane in range(planes):
        stream[place] = words[plane]
        place += stride
    return stream, starts
