"""What the input pipeline is measured against: pipelines as one writes them by hand with tf.data.

Every peer has `dataset(files, *, tasks, support, query, repeat=True)`, which gives batches:

    keys            int32 [U], the distinct keys of all rows of the step; 0 is the padding's
    support, query  each: key_of int32 [T, S, F], each key's place in `keys`; label and weight
                    float32 [T, S]; missing rows have weight 0
    task            int32 [T]

It asks less of the peers than `gmeta_tf.TaskBatches` gives: support rows are a window's first
ones and not drawn, windows come in the order in which they are full and are not shuffled, there is
no epoch and no rank, (task, key) pairs are not made distinct, ids are integers in the files
already, and nothing is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.made_log import KEY_COLUMNS, VOCABULARIES

__all__ = ["ROW", "batch_of_windows", "parallel_options"]

ROW = ("user", "label", *KEY_COLUMNS)
"""The columns of the peers' rows, int32."""

_SIZES = np.array(list(VOCABULARIES.values()))
_FIRST_KEYS = (1 + np.cumsum(_SIZES) - _SIZES).astype(np.int32)


def batch_of_windows(rows: tf.Tensor, num_rows: tf.Tensor, num_support: int) -> dict[str, Any]:
    """T windows to one batch.

    Args:
        rows: int32 `[T, S + Q, C]`, the columns of `ROW`; each window holds one task's rows.
        num_rows: int32 `[T]`, how many of a window's rows are there, the first ones.
        num_support: S. A window of n rows gives min(S, n - 1) support rows, the rest is query.
    """
    size = rows.shape[1]
    support_rows = tf.minimum(num_support, num_rows - 1)[:, tf.newaxis]
    places = tf.range(size)[tf.newaxis]
    in_support = places < num_support
    row_of = tf.where(in_support, places, support_rows + places - num_support)
    limit = tf.where(in_support, support_rows, num_rows[:, tf.newaxis])
    present = tf.cast(row_of < limit, tf.int32)
    rows = tf.gather(rows, row_of * present, batch_dims=1)
    keys = (rows[:, :, 2:] + _FIRST_KEYS) * present[:, :, tf.newaxis]
    distinct, key_of = tf.unique(tf.reshape(keys, [-1]))
    columns = {
        "key_of": tf.reshape(key_of, tf.shape(keys)),
        "label": tf.cast(rows[:, :, 1] * present, tf.float32),
        "weight": tf.cast(present, tf.float32),
    }
    return {
        "task": rows[:, num_support, 0],
        "keys": distinct,
        "support": {name: value[:, :num_support] for name, value in columns.items()},
        "query": {name: value[:, num_support:] for name, value in columns.items()},
    }


def parallel_options(num_threads: int) -> tf.data.Options:
    """Options of a pipeline that may deliver in any order, on threads of its own."""
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = num_threads
    return options
