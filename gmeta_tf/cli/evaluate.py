"""`gmeta-tf evaluate`: a run on unseen tasks, beside a baseline."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import gmeta_tf as gm
from gmeta_tf.cli.evaluation_details import (
    Draw,
    check_details,
    describe_details,
    details_of,
    evaluate_draw,
    mean_of,
    with_inner_steps,
)
from gmeta_tf.cli.next_step import tell_next
from gmeta_tf.cli.options import EvaluateOptions
from gmeta_tf.cli.run_batches import evaluation_batches
from gmeta_tf.cli.runs import load_chosen_run
from gmeta_tf.distributed.collectives import start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.evaluation.baseline import Baseline, best_baseline
from gmeta_tf.evaluation.catalogue import Catalogue
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.meta_io.preparing.stages import Progress
from gmeta_tf.saving.writing import write_whole

__all__ = ["describe_evaluation", "evaluate", "undefined_metrics"]


def evaluate(options: EvaluateOptions) -> None:
    """`gmeta-tf evaluate`; the same under `horovodrun`.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: no such split; no such field for the baseline or the segments; metrics, bins or
            draws that the labels, the loss or the order of rows do not suit; or a metric without a
            value, once the report is written.
        OSError: the report cannot be written; on every rank.
    """
    world = gm.World.detect()
    start(world)
    shown = Progress(world.is_chief and not options.json)
    with shown.stage("loading the model"):
        (trained, records, model), chosen = load_chosen_run(
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
    check_details(options, trained, model, in_time_order)

    def batches_of(ranks: gm.World, number: int) -> gm.TaskBatches:
        seed = options.seed + number
        return evaluation_batches(
            records, options.split, support, seed, ranks, in_time_order=in_time_order
        )

    catalogue = None
    if options.catalogue is not None:
        catalogue = Catalogue.of(records, options.split, options.catalogue, options.train_split)
    draws: list[Draw] = []
    with shown.stage("evaluating", lambda: len(draws) / options.draws):
        for number in range(options.draws):
            batches = batches_of(world, number)
            draws.append(evaluate_draw(model, batches, options, catalogue, number=number))
    inner_steps = []
    for num_steps in options.inner_steps_curve or []:
        other = with_inner_steps(num_steps, trained, model, chosen.checked)
        found = [
            other.evaluate(batches_of(world, number), return_dict=True, verbose=0)
            for number in range(options.draws)
        ]
        inner_steps.append({"inner_steps": num_steps, **mean_of(found)})
    results = mean_of([draw.results for draw in draws])
    undefined = undefined_metrics(results)
    reports: list[dict[str, Any]] = []

    def write() -> None:
        metrics = model.accumulator.names
        with shown.stage("counting the baseline"):
            baseline = _baseline(
                [batches_of(gm.World(), number) for number in range(options.draws)],
                options.train_split,
                items,
                metrics,
            )
        report: dict[str, Any] = {
            **results,
            "auc_baseline": None,
            **{f"{name}_baseline": value for name, value in baseline.values.items()},
            "baseline": baseline.field,
            "checkpoint": chosen.checked.path.name,
            "chosen": chosen.reason(),
            "split": options.split,
            "support": support,
            "in_time_order": in_time_order,
            "auc": "pooled over the query rows",
            "positive_from": records.schema.positive_from,
        }
        report |= {name: int(results[name]) for name in ("tasks", "samples")}
        if inner_steps:
            report["inner_steps_curve"] = inner_steps
        report |= details_of(draws, options, model, records)
        path = pathlib.Path(options.run) / f"evaluation-{options.split}.json"
        write_whole(path, json_report(report, indent=2))
        reports.append(report)

    on_chief(write, world, name="evaluated")
    for report in reports:
        print(json_report(report) if options.json else describe_evaluation(report))
        if not options.json:
            tell_next("gmeta-tf", "report", "--run", options.run)
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
    lines += describe_details(report)
    if report.get("chosen", "the newest") != "the newest":
        lines.append(f"{report['checkpoint']}: {report['chosen']}")
    return "\n".join(lines)


def _baseline(
    draws: Sequence[gm.TaskBatches], train_split: str, items: list[str], metrics: Sequence[str]
) -> Baseline:
    """The baseline of the first draw's best field, its values the means over the draws."""
    first = best_baseline(draws[0], train_split, items, metrics)
    field = items if first.field is None else [first.field]
    rest = [best_baseline(batches, train_split, field, metrics) for batches in draws[1:]]
    return Baseline(first.field, mean_of([one.values for one in (first, *rest)]))


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
    items = [field.name for field in records.schema.given_fields if field.kind == "categorical"]
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
