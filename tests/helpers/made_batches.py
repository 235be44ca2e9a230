"""Made-up tasks, and the batches that the library makes of them.

A *global step* is a list of tasks. `batch` puts any part of it into a batch of T task slots, so
that one global step can be dealt to ranks in any way.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from made_data import key_words

import gmeta_tf as gm
from gmeta_tf.meta_io.batches.assembly import assemble_batch
from gmeta_tf.meta_io.records.codec import num_planes

SUPPORT, QUERY = 4, 5

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("genre", "multi", max_values=3), gm.Field("price", "dense")),
    "label",
    "user",
).with_num_rows({"item": 13, "genre": 7})

WEIGHTED = dataclasses.replace(SCHEMA, weight="importance")

# The same fields; genre's rows are of width 2, and a tensor of their own.
TWO_WIDTHS = dataclasses.replace(
    SCHEMA, tables=(gm.Table("item", 13), gm.Table("genre", 7, width=2))
)


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows of one task, support rows first; n of them in all.

    Attributes:
        number: names the task.
        num_support: how many rows are support.
        keys: int `[n, slots]`, one slot for each value of each key field; -1 is padding.
        dense: float `[n, num_dense]`.
        label: float `[n]`.
        weight: float `[n]`; None weighs each row 1.
    """

    number: int
    num_support: int
    keys: np.ndarray
    dense: np.ndarray
    label: np.ndarray
    weight: np.ndarray | None = None

    def part(self, name):
        """The support or the query rows: keys, dense, label."""
        rows = slice(self.num_support) if name == "support" else slice(self.num_support, None)
        return self.keys[rows], self.dense[rows], self.label[rows]


def made_tasks(seed, count=7):
    """A global step that has every awkward shape of task, in few keys, so that all overlap.

    Task 0 is full; its query repeats a key of its support, and its first row repeats a value in
    the multi-valued field. Task 1 has one row and so no support. Task 2 lacks support and query
    rows. The others are of random sizes. Some rows lack an item, or all genres. Item 12 and genre
    6 are never read.
    """
    rng = np.random.default_rng(seed)
    sizes = [(SUPPORT, QUERY), (0, 1), (2, 3)]
    while len(sizes) < count:
        sizes.append((int(rng.integers(1, SUPPORT + 1)), int(rng.integers(1, QUERY + 1))))
    tasks = []
    for number, (num_support, num_query) in enumerate(sizes[:count]):
        rows = num_support + num_query
        genres = rng.integers(0, 6, [rows, 3])
        genres[rng.random([rows, 3]) < 0.3] = -1
        keys = np.concatenate([rng.integers(0, 12, [rows, 1]), genres], axis=1)
        keys[rng.random(rows) < 0.15, 0] = -1
        if number == 0:
            keys[SUPPORT] = keys[0] = [3, 2, 2, -1]
        tasks.append(
            Task(
                100 * seed + number,
                num_support,
                keys,
                rng.normal(size=[rows, 1]).astype(np.float32),
                (rng.random(rows) < 0.5).astype(np.float32),
            )
        )
    return tasks


def weighted(tasks, seed=0):
    """The tasks with whole weights from 0 to 3; the query rows of the last one weigh nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for place, task in enumerate(tasks):
        weight = rng.integers(0, 4, len(task.label)).astype(np.float32)
        weight[-1] = 2.0
        if place == len(tasks) - 1:
            weight[task.num_support :] = 0.0
        made.append(dataclasses.replace(task, weight=weight))
    return made


def repeated(tasks):
    """The tasks without weights, each row as often as its weight says."""
    made = []
    for task in tasks:
        times = task.weight.astype(int)
        rows = np.repeat(np.arange(len(times)), times)
        made.append(
            Task(
                task.number,
                int(times[: task.num_support].sum()),
                task.keys[rows],
                task.dense[rows],
                task.label[rows],
            )
        )
    return made


def episodes(tasks, slots, schema=SCHEMA, support=SUPPORT, query=QUERY):
    """The tasks as the pipeline draws them, filled up to `slots` tasks: words `[T, S + Q, C]`."""
    drawn = {
        "task": np.full([slots], -1, np.int64),
        "words": np.full([slots, support + query, num_planes(schema)], -1, np.int32),
        "num_support": np.zeros([slots], np.int32),
        "num_query": np.zeros([slots], np.int32),
    }
    for index, task in enumerate(tasks):
        weight = np.ones(len(task.label)) if task.weight is None else task.weight
        floats = [task.label, *([] if schema.weight is None else [weight])]
        words = np.concatenate(
            [
                np.stack(floats).astype(np.float32).view(np.int32),
                key_words(task.keys.T, schema),
                np.ascontiguousarray(task.dense.T, np.float32).view(np.int32),
            ]
        ).T
        num_query = len(words) - task.num_support
        drawn["words"][index, : task.num_support] = words[: task.num_support]
        drawn["words"][index, support : support + num_query] = words[task.num_support :]
        drawn["task"][index] = task.number
        drawn["num_support"][index] = task.num_support
        drawn["num_query"][index] = num_query
    return drawn


def batch(tasks, slots=None, *, schema=SCHEMA, support=SUPPORT, query=QUERY):
    """One batch of the tasks, in `slots` task slots; the slots that are left are empty tasks."""
    drawn = episodes(tasks, slots or len(tasks), schema, support, query)
    return assemble_batch(tf.nest.map_structure(tf.constant, drawn), schema, support)


@tf.autograph.experimental.do_not_convert
def dataset(steps, slots, *, schema=SCHEMA, support=SUPPORT, query=QUERY):
    """The batches of steps of tasks, as a tf.data.Dataset whose U and P are left open."""
    drawn = [episodes(tasks, slots, schema, support, query) for tasks in steps]
    stacked = tf.nest.map_structure(lambda *values: np.stack(values), *drawn)
    assemble = functools.partial(assemble_batch, schema=schema, num_support=support)
    return tf.data.Dataset.from_tensor_slices(stacked).map(assemble)


def pooled(rows, keys):
    """What a learner reads, `[n, F, D]`, by the slow way: a loop over rows and fields.

    Args:
        rows: the item and the genre table, each `[num_rows, D]`.
        keys: `[n, 4]`: an item, and up to three genres.
    """
    items, genres = rows
    vectors = []
    for item, *values in keys:
        present = [value for value in values if value >= 0]
        mean = tf.zeros_like(genres[0])
        if present:
            mean = sum(genres[value] for value in present) / len(present)
        vectors.append(tf.stack([items[item] if item >= 0 else tf.zeros_like(mean), mean]))
    return tf.stack(vectors)
