"""One `tf.train.Example` a sample in TFRecord files, which an earlier job has sorted by task.

files -> interleave -> parse a batch of Examples -> cut into windows at the tasks -> batch T -> keys

What was tried, on two cores that had other work too, as median samples a second and processor time
a sample, within one run:

    parse_single_example, group_by_window                      3 100   240 us
    parse_example on 1024, group_by_window                    66 000    20 us
    parse_example, windows cut by ops, 1024 rows a batch     296 000   4.5 us
    the same, 4096 rows a batch                              264 000   3.9 us   (what stands here)
    the same, 16384 rows a batch                             245 000   4.4 us

The last three differ by less than their own spread (up to 457 000). That windows can be cut by ops
rests on the sorted files, whose sorting is not counted.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import duckdb
import tensorflow as tf

from benchmarks.made_log import MadeLog
from benchmarks.peers import ROW, batch_of_windows, parallel_options

__all__ = ["dataset", "write_examples"]

_READ_BYTES = 1 << 20
_AUTOTUNE = tf.data.AUTOTUNE
_FEATURES = {name: tf.io.FixedLenFeature([], tf.int64) for name in ROW}


def dataset(
    files: Sequence[str],
    *,
    tasks: int,
    support: int,
    query: int,
    repeat: bool = True,
    rows_a_batch: int = 4096,
) -> tf.data.Dataset:
    """Batches of `write_examples`' files (see `benchmarks.peers`).

    Args:
        files: the TFRecord files; a task's Examples stand together in one of them.
        tasks: T.
        support: S.
        query: Q.
        repeat: go on with the first file after the last.
        rows_a_batch: how many Examples are parsed by one op. A task that goes on in the next batch
            is cut there, which gives a window that is not full.
    """
    size = support + query
    names = tf.data.Dataset.from_tensor_slices(list(files))
    if repeat:
        names = names.repeat()
    return (
        names.interleave(
            lambda name: tf.data.TFRecordDataset(name, buffer_size=_READ_BYTES).batch(rows_a_batch),
            cycle_length=min(4, len(files)),
            num_parallel_calls=_AUTOTUNE,
            deterministic=False,
        )
        .map(
            lambda examples: _windows(_parse(examples), size),
            num_parallel_calls=_AUTOTUNE,
            deterministic=False,
        )
        .rebatch(tasks, drop_remainder=repeat)
        .map(
            lambda rows, num_rows: batch_of_windows(rows, num_rows, support),
            num_parallel_calls=_AUTOTUNE,
            deterministic=False,
        )
        .prefetch(_AUTOTUNE)
        .with_options(parallel_options(len(os.sched_getaffinity(0))))
    )


def write_examples(log: MadeLog, num_files: int = 8) -> list[str]:
    """The log's rows as Examples, sorted by task and time, written once to the log's folder."""
    made = log.folder / f"examples-{num_files}"
    if not made.is_dir():
        parquet = ", ".join(f"'{file}'" for file in log.parquet_files())
        work = pathlib.Path(tempfile.mkdtemp(prefix=".examples-", dir=log.folder))
        try:
            with duckdb.connect() as database:
                database.execute("SET enable_progress_bar=false")
                for file in range(num_files):
                    found = database.execute(
                        f"SELECT {', '.join(ROW)} FROM read_parquet([{parquet}]) "
                        f"WHERE user % {num_files} = {file} ORDER BY user, time"
                    )
                    _write_file(work / f"{file:05d}.tfrecord", found)
            work.rename(made)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return sorted(str(file) for file in made.glob("*.tfrecord"))


def _write_file(path: pathlib.Path, rows: duckdb.DuckDBPyConnection) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        while some := rows.fetchmany(10_000):
            for row in some:
                example = tf.train.Example()
                feature = example.features.feature
                for name, value in zip(ROW, row, strict=True):
                    feature[name].int64_list.value.append(value)
                writer.write(example.SerializeToString())


def _parse(examples: tf.Tensor) -> Any:
    """Examples `[n]` to rows, int32 `[n, C]`."""
    columns = tf.io.parse_example(examples, _FEATURES)
    return tf.cast(tf.stack([columns[name] for name in ROW], axis=1), tf.int32)


def _windows(rows: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows that are sorted by task to windows of one task each.

    Args:
        rows: int32 `[n, C]`.
        size: the most rows of a window, S + Q.

    Returns:
        int32 `[windows, S + Q, C]`, and how many rows of each are there, int32 `[windows]`.
    """
    task = rows[:, 0]
    place = tf.range(tf.size(task))
    begins = tf.concat([[True], task[1:] != task[:-1]], axis=0)
    first = tf.gather(tf.where(begins)[:, 0], tf.cumsum(tf.cast(begins, tf.int32)) - 1)
    slot = (place - tf.cast(first, tf.int32)) % size
    window = tf.cumsum(tf.cast(slot == 0, tf.int32)) - 1
    num_windows = window[-1] + 1
    where = tf.stack([window, slot], axis=1)
    windows = tf.scatter_nd(where, rows, tf.stack([num_windows, size, len(ROW)]))
    num_rows = tf.math.segment_sum(tf.ones_like(window), window)
    return tf.ensure_shape(windows, [None, size, len(ROW)]), num_rows
