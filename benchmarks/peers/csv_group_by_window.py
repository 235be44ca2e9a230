"""The conventional pipeline: CSV lines, `group_by_window` on the task, windows of S + Q rows.

shards -> interleave -> parse a batch of lines -> unbatch -> group_by_window -> batch T -> keys

What was tried, on two cores that had other work too, as median samples a second and processor time
a sample. Within one run:

    calls side by side = cores, one grouper                 76 000   17 us   (what stands here)
    two calls, two groupers, autotune off                   70 000   18 us
    one call, autotune off                                  59 000   17 us
    AUTOTUNE                                                55 000   22 us
    AUTOTUNE, 4096 lines a batch and not 1024               49 000   22 us
    AUTOTUNE, 4096 lines a batch, two groupers              56 000   22 us

In a busier run, in which AUTOTUNE gave 30 000 and 43 us, slicing and casting the task in key_func,
and not beside the row as here, gave 13 000 and 76 us. A map over single lines gave 4 000.

Most of it is `group_by_window`, which runs key_func once a row on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from benchmarks.made_log import COLUMNS
from benchmarks.peers import ROW, batch_of_windows, parallel_options

__all__ = ["dataset"]

_READ_BYTES = 1 << 20


def dataset(
    files: Sequence[str],
    *,
    tasks: int,
    support: int,
    query: int,
    repeat: bool = True,
    lines_a_batch: int = 1024,
    groupers: int = 1,
) -> tf.data.Dataset:
    """Batches of a log in CSV files (see `benchmarks.peers`).

    Args:
        files: CSV files with a header, the columns of `made_log.COLUMNS`.
        tasks: T.
        support: S.
        query: Q.
        repeat: go on with the first file after the last, before the grouping: once the windows are
            filled, every window that comes out is a full one. Otherwise the files are read once,
            and the last batches hold the windows that are not full.
        lines_a_batch: how many lines are parsed by one op.
        groupers: how many `group_by_window` run side by side, each on its own share of the tasks;
            each parses every line.
    """
    size, num_cores = support + query, len(os.sched_getaffinity(0))

    def group(share: tf.Tensor) -> tf.data.Dataset:
        names = tf.data.Dataset.from_tensor_slices(list(files))
        if repeat:
            names = names.repeat()
        lines = names.interleave(
            lambda name: (
                tf.data.TextLineDataset(name, buffer_size=_READ_BYTES).skip(1).batch(lines_a_batch)
            ),
            cycle_length=min(8, len(files)),
            num_parallel_calls=num_cores,
            deterministic=False,
        )

        def parse(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = _parse(batch)
            if groupers > 1:
                rows = tf.boolean_mask(rows, rows[:, 0] % groupers == tf.cast(share, tf.int32))
            return tf.cast(rows[:, 0], tf.int64), rows

        parsed = lines.map(parse, num_parallel_calls=num_cores, deterministic=False)
        return parsed.unbatch().group_by_window(_task_of, _one_batch, window_size=size)

    def pad(_: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        num_rows = tf.shape(rows)[0]
        filled = tf.pad(rows, [[0, size - num_rows], [0, 0]])
        return tf.ensure_shape(filled, [size, len(ROW)]), num_rows

    def _one_batch(_: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        return window.batch(size)

    if groupers == 1:
        windows = group(tf.constant(0, tf.int64))
    else:
        windows = tf.data.Dataset.range(groupers).interleave(
            group, cycle_length=groupers, num_parallel_calls=groupers, deterministic=False
        )
    return (
        windows.map(pad, num_parallel_calls=num_cores, deterministic=False)
        .batch(tasks, drop_remainder=repeat)
        .map(
            lambda rows, num_rows: batch_of_windows(rows, num_rows, support),
            num_parallel_calls=num_cores,
            deterministic=False,
        )
        .prefetch(tf.data.AUTOTUNE)
        .with_options(parallel_options(num_cores))
    )


def _task_of(task: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    # No op at all: a cast or a slice here is run once a row, and costs more than the grouping.
    return task


def _parse(lines: tf.Tensor) -> Any:
    """Lines `[n]` to rows, int32 `[n, C]`."""
    wanted = sorted(COLUMNS.index(name) for name in ROW)
    columns = tf.io.decode_csv(lines, [tf.constant(0)] * len(ROW), select_cols=wanted)
    by_name = dict(zip([COLUMNS[place] for place in wanted], columns, strict=True))
    return tf.stack([by_name[name] for name in ROW], axis=1)
