"""Ranking a catalogue: for each task the items that it may be shown, in the order of predictions.

Clicks alone say nothing of what was not shown. So a task's held-out positives are ranked among
other items of the catalogue: all of them, or some that are drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.distributed.collectives import allgather_rows, allreduce_sum
from gmeta_tf.evaluation.metric_accumulator import MetricAccumulator
from gmeta_tf.meta_io.batches.assembly import assemble_batch
from gmeta_tf.meta_io.batches.evaluated_tasks import splits_before
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import UNKNOWN_KEY, Schema

__all__ = ["Catalogue", "RankedTask", "check_catalogue_field", "rank_catalogue", "ranked_tasks"]

_ROWS_AT_ONCE = 1 << 16
_QUERY_ROWS = 256
_LABEL = 0  # the plane


def check_catalogue_field(schema: Schema, name: str) -> int:
    """The position of a field whose values can be ranked.

    Raises:
        ValueError: no field of one value a row.
    """
    known = [field.name for field in schema.fields if field.kind == "categorical"]
    if name not in known:
        raise ValueError(
            f"evaluate: expected --catalogue to be a field with one value a row, "
            f"{', '.join(known) or 'which this schema has not'}, got {name!r}."
        )
    return [field.name for field in schema.fields].index(name)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The values of a field, and the other fields that describe them.

    Rows of a missing or unknown value are left out, as if they were not there.

    Attributes:
        keys: the field's keys, ascending, int64 `[I]`.
        words: a row of each, int32 `[I, C]`, see `Records.read`; of it the planes of `is_item`.
        is_item: whether a plane is the same in all rows of an item, bool `[C]`.
        key_planes: the planes `[first, last)` of the field itself.
        least_key: the smallest key of a known value.
        positives: how many positive rows each has in the training split, int64 `[I]`.
        seen: task -> the keys of its rows in the splits before the evaluated one.
    """

    keys: np.ndarray
    words: np.ndarray
    is_item: np.ndarray
    key_planes: tuple[int, int]
    least_key: int
    positives: np.ndarray
    seen: dict[int, np.ndarray]

    @classmethod
    def of(cls, records: Records, split: str, field: str, train_split: str) -> Catalogue:
        """Reads the training split and the evaluated one.

        Args:
            records: the data.
            split: the split to evaluate.
            field: whose values are ranked.
            train_split: the split that says how popular a value is.

        Raises:
            ValueError: no such field, or another field that describes neither the value nor the
                task, so that nobody knows what it is in a row that was never there.
        """
        schema = records.schema
        planes = slot_ranges(schema)[check_catalogue_field(schema, field)]
        earlier = splits_before(records, split)
        tasks, episodes = np.unique(records.index(split)["task"], return_counts=True)
        found = _Items(schema, field, planes, tasks[episodes > 1])
        for name in dict.fromkeys((train_split, *earlier, split)):
            for task, words in records.read(name):
                found.add(task, words.T, counts=name == train_split, is_seen=name in earlier)
        found.merge()
        found.check()
        seen = {task: np.unique(np.concatenate(parts)) for task, parts in found.seen.items()}
        return cls(
            *(found.keys, found.words, found.is_item, planes),
            *(found.least_key, found.positives, seen),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, words: np.ndarray) -> np.ndarray:
        """The places in the catalogue of the known values of rows int32 `[n, C]`."""
        keys = _keys(words, self.key_planes)
        return np.searchsorted(self.keys, keys[keys >= self.least_key])


class _Items:
    """A catalogue while it is read."""

    def __init__(
        self, schema: Schema, field: str, planes: tuple[int, int], cut_tasks: np.ndarray
    ) -> None:
        # A row of each evaluated task of several episodes, which must not differ between them.
        self._row_of: dict[int, np.ndarray | None] = dict.fromkeys(cut_tasks.tolist())
        ranges = zip(schema.fields, slot_ranges(schema), strict=True)
        self.planes_of = {one.name: slice(*own) for one, own in ranges}
        self.schema, self.field, self.key_planes = schema, field, planes
        table = schema.table(next(one for one in schema.fields if one.name == field).table_name)
        self.least_key = 0 if table.keys == "raw" else UNKNOWN_KEY + 1
        self.differs_by_item = dict.fromkeys(self.planes_of, False)
        self.differs_by_task = dict.fromkeys(self.planes_of, False)
        self.keys, self.positives = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.words: np.ndarray = np.zeros((0, 0), np.int32)
        self.seen: dict[int, list[np.ndarray]] = {}
        self._waiting: list[tuple[np.ndarray, bool]] = []
        self._num_waiting = 0

    def add(self, task: int, words: np.ndarray, *, counts: bool, is_seen: bool) -> None:
        """Adds the rows of an episode, int32 `[n, C]`."""
        words = words[_keys(words, self.key_planes) >= self.least_key]
        if not len(words):
            return
        first = words[0]
        if task in self._row_of:
            earlier = self._row_of[task]
            first = self._row_of[task] = first if earlier is None else earlier
        for name, planes in self.planes_of.items():
            self.differs_by_task[name] |= bool((words[:, planes] != first[planes]).any())
        if is_seen:
            self.seen.setdefault(task, []).append(_keys(words, self.key_planes))
        self._waiting.append((words, counts))
        self._num_waiting += len(words)
        if self._num_waiting >= _ROWS_AT_ONCE:
            self.merge()

    def merge(self) -> None:
        """Puts the rows that wait among the items."""
        if not self._waiting:
            return
        words = np.concatenate([part for part, _ in self._waiting])
        counts = np.repeat([flag for _, flag in self._waiting], [len(p) for p, _ in self._waiting])
        self._waiting, self._num_waiting = [], 0
        keys = _keys(words, self.key_planes)
        all_words = np.concatenate([self.words.reshape(-1, words.shape[1]), words])
        merged, first = np.unique(np.concatenate([self.keys, keys]), return_index=True)
        positives = np.zeros(len(merged), np.int64)
        positives[np.searchsorted(merged, self.keys)] = self.positives
        self.keys, self.words, self.positives = merged, all_words[first], positives
        place = np.searchsorted(merged, keys)
        is_positive = counts & _is_positive(words, self.schema)
        self.positives += np.bincount(place[is_positive], minlength=len(merged))
        for name, planes in self.planes_of.items():
            self.differs_by_item[name] |= bool(
                (self.words[place, planes] != words[:, planes]).any()
            )

    def check(self) -> None:
        """Raises for a field that is neither the item's nor the task's."""
        for name, differs in self.differs_by_item.items():
            if differs and self.differs_by_task[name]:
                raise ValueError(
                    f"evaluate: expected fields that are the same in all rows of a value of "
                    f"{self.field!r}, or of a task, with --catalogue {self.field}: {name!r} is "
                    "neither, so nobody knows it for a row that was never there. Leave --catalogue "
                    "out, or prepare records without that field."
                )

    @property
    def is_item(self) -> np.ndarray:
        """Whether a plane belongs to the item, bool `[C]`."""
        found = np.zeros(self.words.shape[1], bool)
        for name, planes in self.planes_of.items():
            found[planes] = not self.differs_by_item[name]
        return found


class RankedTask(NamedTuple):
    """A task with the items to rank for it.

    Attributes:
        task: its number.
        support: what it adapts on, int32 `[s, C]`.
        row: a query row of it, int32 `[C]`, for the fields that describe the task.
        items: places in the catalogue, int64 `[n]`.
        is_positive: bool `[n]`.
    """

    task: int
    support: np.ndarray
    row: np.ndarray
    items: np.ndarray
    is_positive: np.ndarray


def ranked_tasks(
    batches: TaskBatches, catalogue: Catalogue, negatives: int | None
) -> Iterator[RankedTask]:
    """This rank's tasks that have a positive query row, each with its items.

    Items that the task is known to have are left out: those of its support rows and of the splits
    before. With `negatives` so many others are drawn among those it has no row of; the draw follows
    from the batches' seed and the task's number, at any W.

    Args:
        batches: with `every_query=True`.
        catalogue: of the same records.
        negatives: how many others; None takes all.
    """
    for task, samples in itertools.groupby(_samples(batches), key=lambda sample: sample[0]):
        parts = [rest for _, *rest in samples]
        support, query = parts[0][0], np.concatenate([own for _, own in parts])
        known = catalogue.places(support)
        if task in catalogue.seen:
            known = np.union1d(known, np.searchsorted(catalogue.keys, catalogue.seen[task]))
        positive = catalogue.places(query[_is_positive(query, batches.schema)])
        positive = np.setdiff1d(positive, known)
        if not len(positive):
            continue
        if negatives is None:
            items = np.setdiff1d(np.arange(len(catalogue)), known)
        else:
            taken = np.union1d(known, catalogue.places(query))
            others = np.setdiff1d(np.arange(len(catalogue)), taken)
            draw = np.random.default_rng([batches.seed, task])
            drawn = draw.choice(others, min(negatives, len(others)), replace=False)
            items = np.union1d(positive, drawn)
        yield RankedTask(task, support, query[0], items, np.isin(items, positive))


def rank_catalogue(
    model: Any,
    batches: TaskBatches,
    catalogue: Catalogue,
    metrics: Sequence[str],
    negatives: int | None = None,
) -> dict[str, float]:
    """How well each task's positives are ranked in a catalogue. Every rank must call it.

    Args:
        model: a compiled `MetaModel`.
        batches: of this rank, with `every_query=True`.
        catalogue: of the same records.
        metrics: such as `recall@10`, `ndcg@10` and `mrr`.
        negatives: how many other items each task's positives are ranked among; None takes all. A
            metric of drawn ones is not that of all, and may order models otherwise (Krichene and
            Rendle, KDD 2020).

    Returns:
        `tasks` and `samples`; `<metric>_adapted`, `<metric>_unadapted`, and `<metric>_baseline` of
        the items in the order of their positives in training.
    """
    popular = MetricAccumulator(metrics)
    num_samples, most = 0, 1
    for one in ranked_tasks(batches, catalogue, negatives):
        score = catalogue.positives[one.items].astype(np.float64)
        label = one.is_positive.astype(np.float64)
        popular.update(np.full(len(label), one.task), label, score, score)
        num_samples += -(-len(label) // _QUERY_ROWS)
        most = max(most, len(label))
    shape = tf.constant([[-(-num_samples // batches.tasks), most]], tf.int64)
    steps, most = allgather_rows(shape, batches.world, name="ranked").numpy().max(axis=0).tolist()
    if steps == 0:
        raise ValueError(
            f"evaluate: expected tasks with a positive query row in the split {batches.split!r} "
            "with --catalogue, found none. Look at the labels and at positive_from."
        )
    with _reporting(model, metrics):
        dataset = _dataset(batches, catalogue, negatives, steps, min(most, _QUERY_ROWS))
        found: dict[str, float] = model.evaluate(dataset, return_dict=True, verbose=0)
    (sums,) = allreduce_sum([tf.constant(popular.sums())], batches.world, name="popular")
    results = popular.results(sums.numpy())
    found |= {f"{name}_baseline": results[f"{name}_adapted"] for name in metrics}
    return {name: value for name, value in found.items() if name != "loss"}


@contextlib.contextmanager
def _reporting(model: Any, metrics: Sequence[str]) -> Iterator[None]:
    """The model, with other metrics."""
    before = model.accumulator
    model.accumulator = MetricAccumulator(metrics)
    try:
        yield
    finally:
        model.accumulator = before


def _dataset(
    batches: TaskBatches, catalogue: Catalogue, negatives: int | None, steps: int, query: int
) -> tf.data.Dataset:
    """Batches of the items to rank, their labels 0 and 1 as the schema has them."""
    schema = batches.schema
    tasks, support, planes = batches.tasks, batches.support, catalogue.words.shape[1]
    positive = 1.0 if schema.positive_from is None else schema.positive_from
    labels = np.array([positive - 1, positive], np.float32).view(np.int32)

    def samples() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for one in ranked_tasks(batches, catalogue, negatives):
            for first in range(0, len(one.items), query):
                items = one.items[first : first + query]
                rows = np.where(catalogue.is_item, catalogue.words[items], one.row)
                rows[:, _LABEL] = labels[one.is_positive[first : first + query].astype(int)]
                yield one.task, one.support, rows

    def in_steps() -> Iterator[dict[str, np.ndarray]]:
        remaining = samples()
        for _ in range(steps):
            numbers = np.full(tasks, -1, np.int64)
            words = np.full((tasks, support + query, planes), -1, np.int32)
            sizes = np.zeros((2, tasks), np.int32)
            for place, (task, known, rows) in enumerate(itertools.islice(remaining, tasks)):
                numbers[place], sizes[:, place] = task, (len(known), len(rows))
                words[place, : len(known)] = known
                words[place, support : support + len(rows)] = rows
            yield {
                "task": numbers,
                "words": words,
                "num_support": sizes[0],
                "num_query": sizes[1],
            }

    signature = {
        "task": tf.TensorSpec([tasks], tf.int64),
        "words": tf.TensorSpec([tasks, support + query, planes], tf.int32),
        "num_support": tf.TensorSpec([tasks], tf.int32),
        "num_query": tf.TensorSpec([tasks], tf.int32),
    }
    assemble = functools.partial(
        assemble_batch, schema=schema, num_support=support, num_ranks=batches.world.size
    )
    dataset = tf.data.Dataset.from_generator(in_steps, output_signature=signature)
    dataset = dataset.map(tf.autograph.experimental.do_not_convert(assemble)).prefetch(2)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


def _samples(batches: TaskBatches) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The task, the support and the query rows of each sample, `[n, C]`."""
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        parts = zip(step["task"], step["words"], step["num_support"], step["num_query"])
        for task, words, num_support, num_query in parts:
            if task >= 0:
                query = words[batches.support : batches.support + num_query]
                yield int(task), words[:num_support], query


def _is_positive(words: np.ndarray, schema: Schema) -> np.ndarray:
    """Which rows int32 `[n, C]` have a positive label, bool `[n]`."""
    labels = np.ascontiguousarray(words[:, _LABEL]).view(np.float32)
    return labels > 0.5 if schema.positive_from is None else labels >= schema.positive_from


def _keys(words: np.ndarray, planes: tuple[int, int]) -> np.ndarray:
    """The keys of a field of one value, int64 `[n]`, of rows int32 `[n, C]`."""
    own = words[:, slice(*planes)].astype(np.int64)
    return own[:, 0] if own.shape[1] == 1 else (own[:, 1] << 32) | (own[:, 0] & 0xFFFFFFFF)
