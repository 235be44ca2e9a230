"""`gmeta-tf evaluate`: a run on unseen tasks, beside a baseline."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import gmeta_tf as gm
from gmeta_tf.cli.options import EvaluateOptions
from gmeta_tf.cli.runs import evaluation_batches, load_run
from gmeta_tf.distributed.collectives import start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.evaluation.baseline import best_baseline
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.saving.writing import write_whole

__all__ = ["describe_evaluation", "evaluate", "undefined_metrics"]


def evaluate(options: EvaluateOptions) -> None:
    """`gmeta-tf evaluate`; the same under `horovodrun`.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: no such split, no such field for the baseline, metrics that the labels or the
            loss do not suit, or a metric without a value, once the report is written.
        OSError: the report cannot be written; on every rank.
    """
    world = gm.World.detect()
    start(world)
    trained, records, model = load_run(
        options.run,
        world,
        records_folder=options.records,
        metrics=options.metrics,
        checkpoint=options.checkpoint,
        fall_back=options.fall_back,
    )
    support = trained.support if options.support is None else options.support
    in_time_order = (
        trained.in_time_order if options.in_time_order is None else options.in_time_order
    )
    items = _baseline_items(options, records)

    def batches_of(ranks: gm.World) -> gm.TaskBatches:
        return evaluation_batches(
            records, options.split, support, options.seed, ranks, in_time_order=in_time_order
        )

    results = model.evaluate(batches_of(world), return_dict=True, verbose=0)
    undefined = undefined_metrics(results)
    reports: list[dict[str, Any]] = []

    def write() -> None:
        metrics = model.accumulator.names
        baseline = best_baseline(batches_of(gm.World()), options.train_split, items, metrics)
        report = {
            **results,
            "auc_baseline": None,
            **{f"{name}_baseline": value for name, value in baseline.values.items()},
            "baseline": baseline.field,
            "split": options.split,
            "support": support,
            "in_time_order": in_time_order,
            "auc": "pooled over the query rows",
            "positive_from": records.schema.positive_from,
        }
        report |= {name: int(results[name]) for name in ("tasks", "samples")}
        path = pathlib.Path(options.run) / f"evaluation-{options.split}.json"
        write_whole(path, json_report(report, indent=2))
        reports.append(report)

    on_chief(write, world, name="evaluated")
    for report in reports:
        print(json_report(report) if options.json else describe_evaluation(report))
    if undefined:
        raise ValueError(
            f"expected a number for every metric, got none for {', '.join(undefined)}: of the "
            f"split {options.split!r} every label is positive or none is, or the model diverged. "
            "Look at the labels and at positive_from, or give other --metrics."
        )


def undefined_metrics(results: dict[str, Any]) -> list[str]:
    """The names of the results that are not finite numbers."""
    return [
        name
        for name, value in results.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def describe_evaluation(report: dict[str, Any]) -> str:
    """A small table of an evaluation."""
    lines = [f"{'':14}{'adapted':>10}{'unadapted':>11}{'baseline':>10}"]
    for adapted in [name for name in report if name.endswith("_adapted")]:
        name = adapted.removesuffix("_adapted")
        columns = (
            _number(report[adapted], 10),
            _number(report[f"{name}_unadapted"], 11),
            _number(report.get(f"{name}_baseline"), 10),
        )
        lines.append(f"{name:14}{''.join(columns)}".rstrip())
    order = "in time order" if report.get("in_time_order") else "drawn at random"
    lines.append(
        f"{report['tasks']:,} tasks of the split {report['split']!r}, {report['samples']:,} query "
        f"rows, {report['support']} support rows each, {order}{_baseline_of(report)}"
    )
    return "\n".join(lines)


def _baseline_of(report: dict[str, Any]) -> str:
    """By what the baseline counts, as the end of a line."""
    if "baseline" not in report:
        return ""
    by = "task" if report["baseline"] is None else f"{report['baseline']!r}"
    return f"; baseline by {by}"


def _number(value: float | None, width: int) -> str:
    shown = "" if value is None else f"{value:.4f}" if math.isfinite(value) else "none"
    return shown.rjust(width)


def _baseline_items(options: EvaluateOptions, records: gm.Records) -> list[str]:
    """The fields whose keys the baseline tries; none where no field has one key a row.

    Raises:
        ValueError: no such field, or no split to count on.
    """
    items = [field.name for field in records.schema.fields if field.kind == "categorical"]
    if options.train_split not in records.splits:
        raise ValueError(
            f"expected --train-split to be one of {', '.join(records.splits)}, "
            f"got {options.train_split!r}."
        )
    for item in options.item or ():
        if item not in items:
            raise ValueError(
                f"expected --item to be a categorical field ({', '.join(items) or 'there is none'})"
                f", got {item!r}."
            )
    return options.item or items
