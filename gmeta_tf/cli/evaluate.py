"""`gmeta-tf evaluate`: a run on unseen tasks, beside a baseline."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

import gmeta_tf as gm
from gmeta_tf.cli.options import EvaluateOptions
from gmeta_tf.cli.runs import evaluation_batches, load_run
from gmeta_tf.distributed.collectives import barrier, start
from gmeta_tf.evaluation.baseline import baseline_auc
from gmeta_tf.saving.writing import write_whole

__all__ = ["describe_evaluation", "evaluate"]


def evaluate(options: EvaluateOptions) -> None:
    """`gmeta-tf evaluate`; the same under `horovodrun`.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: no such split, or no such field for the baseline.
    """
    world = gm.World.detect()
    start(world)
    trained, records, model = load_run(
        options.run, world, checkpoint=options.checkpoint, fall_back=options.fall_back
    )
    support = trained.support if options.support is None else options.support
    batches = evaluation_batches(records, options.split, support, options.seed, world)
    item = _baseline_item(options, records)
    results = model.evaluate(batches, return_dict=True, verbose=0)
    if world.is_chief:
        results["auc_baseline"] = _baseline(options, records, support, item)
        report = {
            **results,
            "split": options.split,
            "support": support,
            "auc": "pooled over the query rows",
            "positive_from": records.schema.positive_from,
        }
        report |= {name: int(results[name]) for name in ("tasks", "samples")}
        path = pathlib.Path(options.run) / f"evaluation-{options.split}.json"
        write_whole(path, json.dumps(report, indent=2))
        print(json.dumps(report) if options.json else describe_evaluation(report))
    barrier(world, name="evaluated")


def describe_evaluation(report: dict[str, Any]) -> str:
    """A small table of an evaluation."""
    lines = [f"{'':14}{'adapted':>10}{'unadapted':>11}{'baseline':>10}"]
    for adapted in [name for name in report if name.endswith("_adapted")]:
        name = adapted.removesuffix("_adapted")
        baseline = report["auc_baseline"] if name == "auc" else None
        last = "" if baseline is None else f"{baseline:10.4f}"
        lines.append(f"{name:14}{report[adapted]:10.4f}{report[f'{name}_unadapted']:11.4f}{last}")
    lines.append(
        f"{report['tasks']:,} tasks of the split {report['split']!r}, {report['samples']:,} query "
        f"rows, {report['support']} support rows each"
    )
    return "\n".join(lines)


def _baseline_item(options: EvaluateOptions, records: gm.Records) -> str | None:
    """The field whose keys the baseline counts; None where no field's keys can be counted.

    Raises:
        ValueError: no such field, or no split to count on.
    """
    schema = records.schema
    # A table that grows has no number of keys to count into.
    items = [
        field.name
        for field in schema.fields
        if field.kind == "categorical" and not schema.table(field.table_name).is_dynamic
    ]
    if options.train_split not in records.splits:
        raise ValueError(
            f"expected --train-split to be one of {', '.join(records.splits)}, "
            f"got {options.train_split!r}."
        )
    if options.item is not None and options.item not in items:
        raise ValueError(
            "expected --item to be a categorical field whose table has a known size "
            f"({', '.join(items) or 'there is none'}), got {options.item!r}."
        )
    return options.item or next(iter(items), None)


def _baseline(
    options: EvaluateOptions, records: gm.Records, support: int, item: str | None
) -> float | None:
    """The baseline's AUC on the same rows; None without an item, or where labels are not clicks."""
    if item is None:
        return None
    if records.schema.positive_from is None and not _is_click(records, options.split):
        return None
    batches = evaluation_batches(records, options.split, support, options.seed, gm.World())
    return baseline_auc(batches, options.train_split, item)


def _is_click(records: gm.Records, split: str) -> bool:
    labels = (words[0].view(np.float32) for _, words in records.read(split))
    return all(np.isin(label, (0.0, 1.0)).all() for label in labels)
