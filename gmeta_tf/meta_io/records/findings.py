"""What is likely to go wrong with records, told before the training, each with its remedy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from gmeta_tf.meta_io.records.codec import WEIGHT_PLANE, slot_ranges
from gmeta_tf.meta_io.records.dense_scale import unscaled_fields
from gmeta_tf.meta_io.records.index_checks import index_chunks
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.time_units import NO_UNIT, span_of
from gmeta_tf.schema import Field

__all__ = ["findings"]

_ROWS_READ = 1 << 17
_EPISODES_READ = 1 << 12
# Fewer rows tell nothing: in ten of them anything is constant, or goes with the label.
_LEAST_ROWS = 50
_SMALL_TASKS = 0.5  # of the tasks
_ONE_CLASS = 0.5
_MISSED = 0.1
_WEIGHTLESS = 0.1  # of the tasks
_EXPLAINED = 0.95  # of the label's variance


def findings(
    records: Records, *, support: int = 10, labels: tuple[float, float] | None = (0.0, 1.0)
) -> list[str]:
    """Looks at the counts, and at the first training rows.

    Args:
        records: what prepare made.
        support: S, the support rows that training will ask for.
        labels: what the loss takes, as `RowLoss.labels`; None is any number.

    Returns:
        Sentences, the gravest first; none where nothing was found.
    """
    split = records.splits[0]
    sample = _Sample(records, split)
    return [
        *_of_schema(records),
        *_of_labels(records, sample, labels),
        *_of_weights(records, sample),
        *unscaled_fields(records),
        *_of_leaks(records, sample),
        *_of_constants(records, sample),
        *_of_sizes(records, split, support),
        *_of_classes(records, sample),
        *_of_times(records),
        *_of_dropped(records),
    ]


class _Sample:
    """The first episodes of a split."""

    def __init__(self, records: Records, split: str) -> None:
        read, rows = [], 0
        for task, words in itertools.islice(records.read(split), _EPISODES_READ):
            read.append((task, words))
            rows += words.shape[1]
            if rows >= _ROWS_READ:
                break
        self.rows = rows
        self.words = (
            np.concatenate([w for _, w in read], axis=1) if read else np.zeros([1, 0], "i4")
        )
        self.task = np.repeat([t for t, _ in read], [w.shape[1] for _, w in read]).astype(np.int64)
        self.label = self.words[0].view(np.float32).astype(np.float64)
        fields = records.schema.fields
        self.ranges = dict(
            zip((field.name for field in fields), slot_ranges(records.schema), strict=True)
        )
        self.positive_from = records.schema.positive_from

    @property
    def target(self) -> np.ndarray:
        """The labels as training has them."""
        if self.positive_from is None:
            return self.label
        return (self.label >= self.positive_from).astype(np.float64)

    def planes(self, field: Field) -> np.ndarray:
        return self.words[slice(*self.ranges[field.name])]


def _of_schema(records: Records) -> Iterator[str]:
    schema = records.schema
    for field in schema.fields:
        if field.column_name == schema.label:
            yield (
                f"the field {field.name!r} reads the column {schema.label!r}, which is the label: "
                "a learner would only copy it. Drop the field."
            )


def _of_labels(
    records: Records, sample: _Sample, labels: tuple[float, float] | None
) -> Iterator[str]:
    if not sample.rows:
        return
    smallest, largest = sample.label.min(), sample.label.max()
    target = sample.target
    if sample.rows >= _LEAST_ROWS and target.min() == target.max():
        what = f"all of the first {sample.rows:,} training rows have the label {smallest:g}"
        if sample.positive_from is not None:
            what = (
                f"labels go from {smallest:g} to {largest:g}, so that with positive_from "
                f"{sample.positive_from:g} all of the first {sample.rows:,} training rows are "
                f"{target[0]:g}"
            )
        yield (
            f"{what}: there is nothing to learn. Look at the column {records.schema.label!r}, and "
            "at positive_from."
        )
    elif (
        labels is not None
        and sample.positive_from is None
        and (smallest < labels[0] or largest > labels[1])
    ):
        yield (
            f"labels go from {smallest:g} to {largest:g}, and the loss takes {labels[0]:g} to "
            f"{labels[1]:g}. State positive_from in the schema, from which on a label is 1, or "
            "train with --loss mse, or --loss ratings over positive_from."
        )


def _of_weights(records: Records, sample: _Sample) -> Iterator[str]:
    """Tasks that nothing is learned from, as none of their rows weighs anything."""
    column = records.schema.weight
    if column is None or sample.rows < _LEAST_ROWS:
        return
    tasks, task = np.unique(sample.task, return_inverse=True)
    heaviest = np.zeros(len(tasks))
    np.maximum.at(heaviest, task, sample.words[WEIGHT_PLANE].view(np.float32))
    if (share := float((heaviest == 0).mean())) > _WEIGHTLESS:
        yield (
            f"in {share:.0%} of the first {len(tasks):,} training tasks all rows have the weight "
            f"0, so that nothing is learned from them. Look at the column {column!r}."
        )


def _of_leaks(records: Records, sample: _Sample) -> Iterator[str]:
    """Fields that nearly tell the label."""
    target = sample.target
    if sample.rows < _LEAST_ROWS or not target.std():
        return
    for field in records.schema.fields:
        if field.column_name == records.schema.label or field.kind == "multi":
            continue
        share = _explained(field, sample, target)
        if share > _EXPLAINED:
            yield (
                f"the field {field.name!r} tells {share:.0%} of the label's variance by itself in "
                f"the first {sample.rows:,} training rows. Is it known before the label is (not a "
                "later rating, a dwell time, an outcome)? If not, drop it: a served model will "
                "not have it."
            )


def _explained(field: Field, sample: _Sample, target: np.ndarray) -> float:
    """The share of the label's variance that a field explains: by a line, or by value."""
    planes = sample.planes(field)
    if field.kind == "dense":
        values = planes[0].view(np.float32).astype(np.float64)
        there = np.isfinite(values)
        if there.sum() < _LEAST_ROWS or not values[there].std() or not target[there].std():
            return 0.0
        return float(np.corrcoef(values[there], target[there])[0, 1] ** 2)
    _, value, counts = np.unique(planes[0], return_inverse=True, return_counts=True)
    if sample.rows < 10 * len(counts):
        return 0.0  # a value of few rows goes with its label by chance
    means = np.bincount(value, target) / counts
    return 1.0 - float(np.square(target - means[value]).mean() / target.var())


def _of_constants(records: Records, sample: _Sample) -> Iterator[str]:
    if sample.rows < _LEAST_ROWS:
        return
    for field in records.schema.fields:
        planes = sample.planes(field)
        if field.kind == "dense":
            numbers = planes[0].view(np.float32)
            is_constant = len(np.unique(numbers[~np.isnan(numbers)])) <= 1
            is_constant &= field.missing != "indicator" or bool(np.isnan(numbers).all())
        else:
            is_constant = bool((planes == planes[:, :1]).all())
        if is_constant:
            yield (
                f"the field {field.name!r} (column {field.column_name!r}) has one value in the "
                f"first {sample.rows:,} training rows, or none, and tells nothing. Drop it, or "
                "correct the column."
            )


def _of_sizes(records: Records, split: str, support: int) -> Iterator[str]:
    """Tasks of too few rows; a task counts with all of its rows."""
    index = records.index(split)
    num_tasks = 1 + max((int(part["task"].max()) for part in index_chunks(index)), default=-1)
    rows = np.zeros(num_tasks, np.int64)
    for part in index_chunks(index):
        np.add.at(rows, part["task"], part["rows"])
    rows = rows[rows > 0]
    if rows.sum() >= _LEAST_ROWS and (share := float((rows <= support).mean())) > _SMALL_TASKS:
        yield (
            f"{share:.0%} of the {len(rows):,} training tasks have at most {support} rows, and "
            f"half at most {int(np.median(rows)):,}: with --support {support} only one row of each "
            "such task is evaluated. Take "
            f"--support {max(1, int(np.median(rows)) // 2)}, or a task with more rows."
        )


def _of_classes(records: Records, sample: _Sample) -> Iterator[str]:
    """Tasks whose labels are all alike."""
    if sample.rows < _LEAST_ROWS or np.ptp(sample.target) == 0:
        return
    _, task, counts = np.unique(sample.task, return_inverse=True, return_counts=True)
    means = np.bincount(task, sample.target) / counts
    differs = np.bincount(task, np.square(sample.target - means[task])) > 1e-9
    several = counts > 1
    if several.any() and (share := float((~differs[several]).mean())) > _ONE_CLASS:
        yield (
            f"in {share:.0%} of the first {int(several.sum()):,} training tasks of more than one "
            "row all labels are alike, so that they have no AUC of their own and little to adapt "
            "to. Look at positive_from and at what a task is; a log of clicks needs the "
            "impressions without a click too."
        )


def _of_times(records: Records) -> Iterator[str]:
    """Times that are not likely, or of another unit than the rest."""
    time = records.details.get("time") or {}
    others, column = time.get("others") or {}, records.schema.time
    span = span_of(time)
    mixed = {unit: count for unit, count in others.items() if unit != NO_UNIT}
    if mixed:
        seen = ", ".join(f"{count:,} look like {unit}" for unit, count in mixed.items())
        yield (
            f"most times (column {column!r}) are {time['unit']}, but of the others {seen}: such "
            "rows stand in the wrong order, and in the wrong split of one by time. Bring them to "
            "one unit."
        )
    if unlikely := others.get(NO_UNIT, 0):
        yield (
            f"{unlikely:,} times (column {column!r}) are not between 1973 and 2100: {span}. If "
            "one stands for a missing time, make it an empty cell (--null-words); if the numbers "
            "count something else, state time_unit: none in the schema."
        )


def _of_dropped(records: Records) -> Iterator[str]:
    details = records.details
    dropped = details.get("dropped_rows") or {}
    num_dropped = sum(dropped.values())
    num_rows = num_dropped + details.get("rows", 0) + details.get("left_out_rows", 0)
    if num_dropped:
        by_reason = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        yield (
            f"{num_dropped:,} rows, {num_dropped / num_rows:.1%} of all, were bad and were left "
            f"out. By reason: {by_reason}. Correct them, or say how the file is written "
            "(--null-words, --separator)."
        )
    for table, missed in (details.get("missed_rows") or {}).items():
        if num_rows and missed / num_rows > _MISSED:
            yield (
                f"{missed:,} of {num_rows:,} rows ({missed / num_rows:.1%}) found nothing in the "
                f"table {table!r}. Look whether keys are written alike in both."
            )
