"""A run's model → what it does to each task of a split, and what its tables take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.allowed import replicate_of
from gmeta_tf.batch import Batch
from gmeta_tf.cli.options import ReportOptions, TrainOptions
from gmeta_tf.cli.runs import evaluation_batches, load_run
from gmeta_tf.embedding.replication_rule import choose_replicated
from gmeta_tf.embedding.row_optimizers import row_optimizer
from gmeta_tf.planner.table_sizes import table_sizes
from gmeta_tf.report.task_quality import calibration, size_curve, task_aucs

__all__ = ["measured_run", "with_support_rows"]

_SIZES = (0, 1, 2, 5, 10, 20, 40)


def measured_run(
    options: ReportOptions, evaluated: Mapping[str, Any], ranks: int | None
) -> dict[str, Any]:
    """Predicts a split with 0, 1, 2, ... support rows of each task, in one process.

    Args:
        options: of the report.
        evaluated: what `gmeta-tf evaluate` reported of the split, so that the same rows are taken.
        ranks: W, for the tables' shares.

    Returns:
        JSON values: `support_curve`, `tables`, and for labels of 0 and 1 `task_auc` and
        `calibration` with all support rows.

    Raises:
        FileNotFoundError: no checkpoint or records.
        ValueError: no such split.
    """
    trained, records, model = load_run(
        options.run,
        gm.World(),
        records_folder=options.records,
        checkpoint=options.checkpoint,
        fall_back=options.fall_back,
    )
    support = int(evaluated.get("support") or trained.support)
    in_time_order = evaluated.get("in_time_order", trained.in_time_order)
    batches = evaluation_batches(
        records, options.split, support, options.seed, gm.World(), in_time_order=in_time_order
    )
    sizes = () if evaluated.get("support_sizes") else _SIZES
    rows = {
        size: model.predict(with_support_rows(batches, size), verbose=0)
        for size in sorted({support, *(size for size in sizes if size < support)})
    }
    found: dict[str, Any] = {
        "support_curve": size_curve(rows, model.accumulator.names[0]),
        "tables": _tables(trained, records.schema, ranks or 1),
    }
    predicted = rows[support]
    if np.isin(predicted["label"], (0.0, 1.0)).all():
        found["task_auc"] = task_aucs(predicted)
        if all(
            np.abs(predicted[one] - 0.5).max(initial=0) <= 0.5 for one in ("adapted", "unadapted")
        ):
            found["calibration"] = calibration(predicted)
    return found


def with_support_rows(batches: gm.TaskBatches, size: int) -> tf.data.Dataset:
    """One pass over the batches in which tasks adapt on their first `size` support rows.

    The query rows are the same for each size, and the support rows of a smaller size are among
    those of a larger one.
    """

    def limited(batch: Batch) -> dict[str, Any]:
        weight = batch["support"]["weight"]
        kept = tf.cast(tf.range(tf.shape(weight)[1]) < size, weight.dtype)
        return {**batch, "support": {**batch["support"], "weight": weight * kept}}

    steps = batches.steps_per_epoch
    # AutoGraph takes seconds for a map of tensors alone.
    mapped = tf.autograph.experimental.do_not_convert(limited)
    once = batches.dataset(batches.begin.epoch).take(steps).map(mapped)
    return once.apply(tf.data.experimental.assert_cardinality(steps))


def _tables(trained: TrainOptions, schema: gm.Schema, ranks: int) -> list[dict[str, Any]]:
    optimizer = row_optimizer(trained.row_optimizer)
    sizes = table_sizes(
        schema,
        trained.width,
        lambda width: {name: slot.width for name, slot in optimizer.slots(width).items()},
        ranks,
        replicated=choose_replicated(
            schema, trained.width, ranks, replicate_of(trained.replicate)
        ).groups,
    )
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
