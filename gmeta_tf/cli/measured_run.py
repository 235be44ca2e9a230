"""A run's model → what it does to each task of a split, and what its tables take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.batch import Batch
from gmeta_tf.cli.evaluation_details import value_of, why_no_inner_steps, with_inner_steps
from gmeta_tf.cli.options import ReportOptions
from gmeta_tf.cli.run_batches import evaluation_batches
from gmeta_tf.cli.run_placement import run_placement, run_tables
from gmeta_tf.cli.runs import load_chosen_run
from gmeta_tf.evaluation.evaluated_rows import SIDES, EvaluatedRows
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.evaluation.segments import keys_of_query_rows, segment_field, segments
from gmeta_tf.meta_io.preparing.stages import Progress
from gmeta_tf.planner.table_sizes import TableSize
from gmeta_tf.report.task_quality import (
    activity_segments,
    calibration,
    size_curve,
    task_aucs,
)

__all__ = ["measured_run", "with_support_rows"]

_SIZES = (0, 1, 2, 5, 10, 20, 40)
_INNER_STEPS = (0, 1, 2, 3, 5)


def measured_run(
    options: ReportOptions, evaluated: Mapping[str, Any], ranks: int | None
) -> dict[str, Any]:
    """Predicts a split with 0, 1, 2, ... support rows of each task, in one process.

    Args:
        options: of the report.
        evaluated: what `gmeta-tf evaluate` reported of the split, so that the same rows are taken.
        ranks: W, for the tables' shares.

    Returns:
        JSON values: `tables`, `traffic` (as `gmeta-tf plan --json`; None of one rank), `activity`,
        the curves that were not evaluated, `segments` where they are asked for, and for labels of
        0 and 1 `task_auc` and `calibration`.

    Raises:
        FileNotFoundError: no checkpoint or records.
        ValueError: no such split or field.
    """
    shown = Progress(options.progress)
    with shown.stage("loading the model"):
        (trained, records, model), chosen = load_chosen_run(
            options.run,
            gm.World(),
            records_folder=options.records,
            checkpoint=options.checkpoint,
            fall_back=options.fall_back,
        )
        if options.by is not None:
            segment_field(records.schema, options.by)
    support = int(evaluated.get("support") or trained.support)
    in_time_order = evaluated.get("in_time_order", trained.in_time_order)
    batches = evaluation_batches(
        records, options.split, support, options.seed, gm.World(), in_time_order=in_time_order
    )
    name = model.accumulator.names[0]
    placement = None
    if ranks is not None and ranks > 1:
        with shown.stage("counting what a step sends"):
            placement = run_placement(trained, records, ranks).to_json()
    with shown.stage("predicting the tasks"):
        predicted = model.predict(batches, verbose=0)
    found: dict[str, Any] = {
        "tables": _tables(run_tables(trained, records.schema, ranks or 1)[0]),
        "traffic": placement,
        "activity": activity_segments(predicted, name),
    }
    if not evaluated.get("support_sizes"):
        with shown.stage("fewer support rows"):
            rows = _rows_of_sizes(model, batches, predicted)
        found["support_curve"] = size_curve(rows, name)
    if not evaluated.get("inner_steps_curve") and why_no_inner_steps(trained) is None:
        with shown.stage("other inner steps"):
            of_steps = {trained.inner_steps: predicted}
            for num_steps in {*_INNER_STEPS} - {trained.inner_steps}:
                other = with_inner_steps(num_steps, trained, model, chosen.checked)
                of_steps[num_steps] = other.predict(batches, verbose=0)
        found["inner_steps_curve"] = size_curve(dict(sorted(of_steps.items())), name)
    if options.by is not None:
        found["segments"] = _segments(predicted, batches, options.by, name, records)
    if np.isin(predicted["label"], (0.0, 1.0)).all():
        found["task_auc"] = task_aucs(predicted)
        if all(
            np.abs(predicted[one] - 0.5).max(initial=0) <= 0.5 for one in ("adapted", "unadapted")
        ):
            found["calibration"] = calibration(predicted)
    return found


def _rows_of_sizes(
    model: gm.MetaModel, batches: gm.TaskBatches, predicted: Mapping[str, np.ndarray]
) -> dict[int, Mapping[str, np.ndarray]]:
    """Support rows -> predictions of the same query rows, which the largest number leaves.

    That is the largest of `_SIZES` of which half of the tasks have more rows, or else what was
    evaluated: a task of fewer rows gives all but one of them as support.
    """
    _, num_query = np.unique(predicted["task"], return_counts=True)
    have = np.median(num_query) + batches.support if len(num_query) else 0
    most = max([batches.support, *(size for size in _SIZES if size < have)])
    largest, rows = batches, predicted
    if most > batches.support:
        largest = dataclasses.replace(batches, support=most)
        rows = model.predict(largest, verbose=0)
    sizes = sorted({*_SIZES, batches.support})
    fewer = {
        size: model.predict(with_support_rows(largest, size), verbose=0)
        for size in sizes
        if size < most
    }
    return {**fewer, most: rows}


def _segments(
    predicted: Mapping[str, np.ndarray],
    batches: gm.TaskBatches,
    field: str,
    name: str,
    records: gm.Records,
) -> dict[str, Any]:
    """The figures of the field's most common values, as of an evaluation with --by."""
    columns = np.stack([predicted[one] for one in ("label", "adapted", "unadapted")], axis=1)
    rows, order = EvaluatedRows.sorted(columns, np.asarray(predicted["task"], np.int64))
    keys = keys_of_query_rows(batches, field)[order]
    found = segments([(rows, keys)], [metric(name)])
    of_value = [one.to_json(value_of(one.key, field, records)) for one in found]
    return {
        "field": field,
        "metric": name,
        "values": ["all others" if one["value"] is None else one["value"] for one in of_value],
        "rows": [one["rows"] for one in of_value],
        **{side: [one[f"{name}_{side}"] for one in of_value] for side in SIDES},
    }


def with_support_rows(batches: gm.TaskBatches, size: int) -> tf.data.Dataset:
    """One pass over the batches in which tasks adapt on their first `size` support rows.

    The query rows are the same for each size, and the support rows of a smaller size are among
    those of a larger one.
    """

    def limited(batch: Batch) -> dict[str, Any]:
        support = batch["support"]
        weight = support["weight"]
        kept = tf.range(tf.shape(weight)[1]) < size
        limited = {"weight": weight * tf.cast(kept, weight.dtype)}
        if "present" in support:
            limited["present"] = support["present"] & kept
        return {**batch, "support": {**support, **limited}}

    steps = batches.steps_per_epoch
    # AutoGraph takes seconds for a map of tensors alone.
    mapped = tf.autograph.experimental.do_not_convert(limited)
    once = batches.dataset(batches.begin.epoch).take(steps).map(mapped)
    return once.apply(tf.data.experimental.assert_cardinality(steps))


def _tables(sizes: Sequence[TableSize]) -> list[dict[str, Any]]:
    return [
        {
            "name": size.name,
            "rows": size.num_rows,
            "width": size.width,
            "bytes": size.num_rows and size.num_rows * (size.row_bytes + size.slot_bytes),
            "rank_bytes": size.bytes_of_ranks and max(size.bytes_of_ranks),
        }
        for size in sizes
    ]
