"""Records to batches of tasks, each with the distinct keys of its step.

plan -> read windows -> check, pick rows -> steps of T tasks -> distinct keys -> prefetch
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch
from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.batches.assembly import (
    assemble_batch,
)
from gmeta_tf.meta_io.batches.evaluated_tasks import EvaluatedTasks, splits_before
from gmeta_tf.meta_io.batches.evaluation_plan import EvaluationPlan
from gmeta_tf.meta_io.batches.plan import EpochPlan, Segment
from gmeta_tf.meta_io.batches.task_samples import Cut
from gmeta_tf.meta_io.batches.windows import WindowReader
from gmeta_tf.meta_io.records.codec import num_planes
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import Schema

__all__ = ["Progress", "TaskBatches"]

_MOST_WORDS = 1 << 30
_EVALUATION_PADDING = 16
# Steps come in bursts, a window at a time. tf.data's own choice would grow with every burst.
_READY_STEPS = 16


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is in its data: what to save so that it can go on, at another W too.

    Attributes:
        epoch: the current epoch.
        done: its steps so far; more than one segment if it was stopped more than once.
        drawn_by: the settings that, beside W and T, decide which rows each step has; batches with
            other settings cannot go on. "" where nothing was done yet.
    """

    epoch: int = 0
    done: tuple[Segment, ...] = ()
    drawn_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` undoes it."""
        return dataclasses.asdict(self) | {"done": [dataclasses.asdict(one) for one in self.done]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Reads what `to_json` gave."""
        segments = tuple(Segment(**one) for one in values["done"])
        return cls(values["epoch"], segments, values["drawn_by"])


@dataclasses.dataclass(frozen=True)
class TaskBatches:
    """The steps of one rank: T tasks each, every task with its support and its query rows.

    A batch is a dict (shape letters: docs/architecture.md):

        keys            group -> int64 [U], the distinct keys of all rows; a table's keys start
                        where the rows of the tables before it in the group end; on several
                        ranks those of rank 0 come first, then those of rank 1, and so on
        keys_of_rank    on several ranks: group -> int32 [W], how many keys each rank owns
        pair_to_key     group -> int32 [P]; entry 0 is the padding's, entry p > 0 says that the
                        (task, key) pair p reads keys[pair_to_key[p] - 1]; pairs are numbered task
                        after task
        support, query  each: pairs: group -> int32 [T, S, slots] (0 is padding),
                        dense float32 [T, S, num_dense], label and weight float32 [T, S]
        task            int64 [T], the tasks' numbers, -1 where the step has no task left
        out_of_range    int64 [tables], the largest key of each table that it has no row for, or -1

    An episode of n rows gives min(S, n - 1) support rows, so every task has a query row; missing
    rows have weight 0. Draws are a pure function of (seed, epoch, task, episode), whatever the
    number of ranks.

    Each rank reads one run of the records; the runs are even by the rows that steps compute. Every
    rank has the same number of steps, known from the index beforehand; a rank without tasks left
    gets empty ones of weight 0.

    Attributes:
        records: the data.
        split: which split of it.
        tasks: T, the tasks in a step of one rank.
        support: S.
        query: Q.
        every_row: read all rows in an epoch: an episode of more than S + Q rows gives several task
            samples of about equal size, each with its own support. Otherwise an episode gives one
            sample an epoch, of up to S + Q of its rows.
        every_query: evaluate each task of the split once, from all its episodes, on one rank. All
            its rows of the split that are not support are query rows; more than Q of them give
            several samples, one after the other, with the same support. Of records that were split
            by time the support is taken from the task's rows in earlier splits first. For
            evaluation.
        in_time_order: adapt on the earlier rows of an episode (with `every_query` of a task) and
            evaluate on the later ones; otherwise both are drawn at random, anew in every epoch.
        buckets: with more than one, episodes of up to (S + Q) / 2 rows, a quarter, ... get steps of
            their own, with more tasks and less padding; S and Q are then the largest.
        shuffle: the order of the files' blocks and of the episodes, new in every epoch.
        deterministic: steps come in the order of the plan. Otherwise the steps of an epoch come as
            they are ready, which may be quicker, and a run resumed within an epoch may repeat a
            task or miss one.
        seed: of the order and of the draws.
        window_rows: about how many rows are read and shuffled at once. Memory grows with it, and
            not with the data.
        world: whose shard; None detects it.
        begin: where an earlier run was stopped (see `progress`). At the same W and T the remaining
            steps are the same; otherwise the rest of the epoch is dealt anew, and still no sample
            comes twice.

    Raises:
        ValueError: a size below 1, `every_query` together with `every_row` or buckets, an unknown
            split, more tasks a step than any rank has, a window of more than 2**30 int32 words, or
            a `begin` that other settings drew.
    """

    records: Records
    split: str
    _: dataclasses.KW_ONLY
    tasks: int = 32
    support: int = 10
    query: int = 20
    every_row: bool = False
    every_query: bool = False
    in_time_order: bool = False
    buckets: int = 1
    shuffle: bool = True
    deterministic: bool = True
    seed: int = 0
    window_rows: int = 1 << 17
    world: World = dataclasses.field(default_factory=World.detect)
    begin: Progress = Progress()

    def __post_init__(self) -> None:
        for name in ("tasks", "support", "query", "buckets", "window_rows"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TaskBatches: expected {name} of at least 1, got {getattr(self, name)}."
                )
        if self.every_query and (self.every_row or self.buckets > 1):
            raise ValueError(
                "TaskBatches: expected every_row=False and buckets=1 with every_query=True, which "
                f"evaluates a task in consecutive steps, got every_row={self.every_row} and "
                f"buckets={self.buckets}. Leave them out, or set every_query=False."
            )
        if self.window_rows * num_planes(self.schema) > _MOST_WORDS:
            most = _MOST_WORDS // num_planes(self.schema)
            raise ValueError(
                f"TaskBatches: expected window_rows of at most {most} for rows of "
                f"{num_planes(self.schema)} int32 words, got {self.window_rows}."
            )
        if self.begin.done and self.begin.drawn_by != self._drawn_by:
            raise ValueError(
                f"TaskBatches: expected the settings that the stopped epoch was drawn by, "
                f"{self.begin.drawn_by}, got {self._drawn_by}. Give the earlier run's records and "
                "settings (W and T may differ), or begin with a new epoch."
            )
        if not len(self._index):
            raise ValueError(
                f"TaskBatches: the split {self.split!r} of {self.records.path} has no tasks. "
                "Prepare the data with a larger fraction for it."
            )
        most = int(self._plan(0).samples_of_ranks.sum(axis=1).max())
        if self.tasks > most:
            raise ValueError(
                f"TaskBatches: expected tasks of at most {most}, the most that any of "
                f"{self.world.size} rank(s) has of the split {self.split!r}, got {self.tasks}. "
                f"Lower tasks to {most} or less, or prepare more data."
            )

    @property
    def schema(self) -> Schema:
        """What a row is."""
        return self.records.schema

    @property
    def splits_read(self) -> tuple[str, ...]:
        """The splits whose records the steps read: an evaluation reads earlier ones, too."""
        before = splits_before(self.records, self.split) if self.every_query else ()
        return (*before, self.split)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch, equal on every rank and in every epoch."""
        return self._plan(0).num_steps

    @functools.cached_property
    def samples_per_epoch(self) -> int:
        """The support and query rows of all ranks in an epoch, without padding."""
        return self._plan(0).num_rows

    @functools.cached_property
    def padding(self) -> float:
        """The share of the rows in an epoch's steps that are padding."""
        plan = self._plan(0)
        return 1 - plan.num_rows / plan.num_padded_rows

    def progress(self, epoch: int, step: int) -> Progress:
        """What to save after some steps of an epoch.

        Args:
            epoch: which, from 0.
            step: the steps of it that each rank has taken from these batches.
        """
        begin = self.begin if self.begin.epoch == epoch else Progress(epoch)
        step += self._steps_before(begin)
        segment = (Segment(self.world.size, self.tasks, step),) if step else ()
        return Progress(epoch, self._dealt_before(begin) + segment, self._drawn_by)

    @functools.cached_property
    def steps_at_begin(self) -> int:
        """The steps of each rank in the rest of the epoch that `begin` stopped in."""
        return self._steps_left(self.begin)

    def _steps_left(self, begin: Progress) -> int:
        plan = self._plan(begin.epoch, self._dealt_before(begin))
        return plan.num_steps - self._steps_before(begin)

    # The functions that it maps are TensorFlow's ops alone, and AutoGraph takes seconds for them.
    @tf.autograph.experimental.do_not_convert
    def dataset(self, first_epoch: int | None = None) -> tf.data.Dataset:
        """The batches of an epoch, then those of the epochs after it, without end.

        The same seed, epoch and world give the same batches, whatever epoch came first.

        Args:
            first_epoch: counted from 0; None starts at `begin`.
        """
        options = tf.data.Options()
        options.deterministic = self.deterministic
        if self.deterministic:
            batches = self._assembled(self.picked(first_epoch))
        else:
            batches = self._epoch_after_epoch(first_epoch)
        return batches.prefetch(_READY_STEPS).with_options(options)

    def one_batch(self, epoch: int | None = None) -> Batch:
        """The first batch of an epoch on this rank, to look at; no other rank is asked.

        Args:
            epoch: counted from 0; None is that of `begin`.

        Returns:
            A dict of eager tensors, see the class: what the first step of `fit` gets, apart from
            the next step's keys.

        Example (`batches` of S = 10):
            batch = batches.one_batch()
            batch["support"]["label"].shape    # (T, 10)
            model(batch)                       # the query rows' adapted predictions, [T, Q]
        """
        return next(iter(self.dataset(epoch).take(1)))

    def _assembled(self, picked: tf.data.Dataset) -> tf.data.Dataset:
        assemble = functools.partial(
            assemble_batch,
            schema=self.schema,
            num_support=self.support,
            num_ranks=self.world.size,
        )
        return picked.map(assemble, num_parallel_calls=tf.data.AUTOTUNE)

    def _epoch_after_epoch(self, first_epoch: int | None) -> tf.data.Dataset:
        """Epochs that do not mix: a step that comes early stays in its epoch."""
        begin = self.begin if first_epoch is None else Progress(first_epoch)
        first = self._assembled(self.picked(first_epoch).take(self._steps_left(begin)))
        later = tf.data.Dataset.counter(begin.epoch + 1).flat_map(
            lambda epoch: self._assembled(self.picked(epoch).take(self.steps_per_epoch))
        )
        return first.concatenate(later)

    @tf.autograph.experimental.do_not_convert
    def picked(self, first_epoch: int | tf.Tensor | None = None) -> tf.data.Dataset:
        """The rows of each step's tasks, from which `dataset` makes batches.

        Each is a dict: task int64 `[T]`, -1 for an empty one; words int32 `[T, S + Q, C]`, the
        support rows and then the query rows (see `records`), -1 where rows are missing;
        num_support and num_query int32 `[T]`, the numbers of rows.
        """
        begin = self.begin if first_epoch is None else Progress()
        epoch = begin.epoch if first_epoch is None else first_epoch
        reader = WindowReader(
            list(self._evaluated.files) if self.every_query else self.records.files(self.split),
            num_planes(self.schema),
            self.records.compression,
            self._plan(0),
            self.world.rank,
        )

        def plan_of(epoch: int) -> EpochPlan:
            return self._plan(epoch, self._dealt_before(begin) if epoch == begin.epoch else ())

        return reader.steps(plan_of, epoch).skip(self._steps_before(begin))

    def _plan(self, epoch: int, done: tuple[Segment, ...] = ()) -> EpochPlan:
        coverage = "evaluate" if self.every_query else "all" if self.every_row else "one"
        plan_of = functools.partial(
            EpochPlan,
            cut=Cut(self.support, self.query, coverage, self.in_time_order),
            tasks=self.tasks,
            size=self.world.size,
            buckets=self.buckets,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            window_rows=self.window_rows,
            row_bytes=4 * num_planes(self.schema),
            done=done,
        )
        if not self.every_query:
            return plan_of(self._index)
        # A window of an evaluation is padded to a few times its rows.
        most = max(1, _MOST_WORDS // _EVALUATION_PADDING // num_planes(self.schema))
        options = {**plan_of.keywords, "window_rows": min(self.window_rows, most)}
        index = self._evaluated.as_index(self.support)
        return EvaluationPlan(index, evaluated=self._evaluated, **options)

    @functools.cached_property
    def _evaluated(self) -> EvaluatedTasks:
        most_earlier = self.support if self.in_time_order else None
        return EvaluatedTasks.of(self.records, self.split, most_earlier)

    @functools.cached_property
    def _drawn_by(self) -> str:
        names = "seed support query every_row every_query in_time_order buckets shuffle window_rows"
        settings = [f"{name}={getattr(self, name)}" for name in (*names.split(), "split")]
        return ", ".join([*settings, f"episodes={len(self._index)}"])

    @functools.cached_property
    def _index(self) -> np.ndarray:
        return self.records.index(self.split)

    def _goes_on(self, begin: Progress) -> bool:
        """Whether the last segment had this W and T, so that its steps continue unchanged."""
        sizes = [(segment.size, segment.tasks) for segment in begin.done[-1:]]
        return sizes == [(self.world.size, self.tasks)]

    def _dealt_before(self, begin: Progress) -> tuple[Segment, ...]:
        return begin.done[:-1] if self._goes_on(begin) else begin.done

    def _steps_before(self, begin: Progress) -> int:
        return begin.done[-1].steps if self._goes_on(begin) else 0
