"""What `gmeta-tf evaluate` tells beyond its table: draws, intervals, segments, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.options import EvaluateOptions, TrainOptions
from gmeta_tf.distributed.collectives import allgather_rows
from gmeta_tf.evaluation.bootstrap import bootstrap_intervals
from gmeta_tf.evaluation.calibration import calibration
from gmeta_tf.evaluation.catalogue import Catalogue, check_catalogue_field, rank_catalogue
from gmeta_tf.evaluation.evaluated_rows import SIDES, EvaluatedRows
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.evaluation.segments import keys_of_query_rows, segment_field, segments
from gmeta_tf.evaluation.support_sizes import with_support
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.checkpoints.checkpoint import CheckedCheckpoint, restore_checkpoint
from gmeta_tf.schema import UNKNOWN_KEY

__all__ = [
    "Draw",
    "check_details",
    "describe_details",
    "details_of",
    "evaluate_draw",
    "mean_of",
    "value_of",
    "why_no_inner_steps",
    "with_inner_steps",
]


class Draw(NamedTuple):
    """An evaluation with one draw of the support.

    Attributes:
        results: what `MetaModel.evaluate` gives.
        rows: the evaluated rows of all ranks; None where nobody asks for them.
        keys: int64 `[n, slots]`, those of the field to tell segments by; one column of 0 if none.
        curve: support size -> what `MetaModel.evaluate` gives with so many support rows.
        ranked: what `rank_catalogue` gives; empty where nobody asks for it.
    """

    results: dict[str, float]
    rows: EvaluatedRows | None
    keys: np.ndarray
    curve: dict[int, dict[str, float]]
    ranked: dict[str, float]


def check_details(
    options: EvaluateOptions, trained: TrainOptions, model: gm.MetaModel, in_time_order: bool
) -> None:
    """Raises for what does not suit the run, before anything is evaluated.

    Raises:
        ValueError: a field without values to tell rows apart by, bins of predictions that are no
            probabilities, several draws of a support that is not drawn, or numbers of inner steps
            where there are none.
    """
    if options.by is not None:
        segment_field(model.embedding.schema, options.by)
    if options.catalogue is not None:
        check_catalogue_field(model.embedding.schema, options.catalogue)
    loss = model.row_loss
    if options.calibration is not None and not loss.predicts_probabilities:
        raise ValueError(
            "evaluate: expected a loss whose predictions are probabilities with --calibration, "
            f"such as binary_crossentropy, got a run with {loss.name}. Leave it out; --metrics "
            "rmse mae are for numbers."
        )
    if options.draws > 1 and in_time_order:
        raise ValueError(
            f"evaluate: expected a support that is drawn with --draws {options.draws}, got one in "
            "time order, which is always the same. Leave --draws out, or set --in-time-order false."
        )
    if options.inner_steps_curve is not None:
        reason = why_no_inner_steps(trained)
        if reason is not None:
            raise ValueError(
                "evaluate: expected a run that adapts by gradient steps at given rates with "
                f"--inner-steps-curve, got the model {trained.model}: {reason}. Leave it out."
            )


def why_no_inner_steps(trained: TrainOptions) -> str | None:
    """Why a run cannot adapt by another number of inner steps; None where it can."""
    learned = "its rates were learned for each step" if trained.learn_rates else None
    reasons = {"factors": "factors adapts in closed form", "dlrm": "dlrm does not adapt"}
    return reasons.get(trained.model, learned)


def with_inner_steps(
    num_steps: int, trained: TrainOptions, model: gm.MetaModel, checkpoint: CheckedCheckpoint
) -> gm.MetaModel:
    """The model of a checkpoint as it adapts with another number of inner steps.

    Every rank must call it.
    """
    options = dataclasses.replace(
        trained, inner_steps=num_steps, metrics=list(model.accumulator.names)
    )
    other = build_model(options, model.embedding.schema, model.world)
    restore_checkpoint(other, checkpoint)
    return other


def evaluate_draw(
    model: gm.MetaModel,
    batches: gm.TaskBatches,
    options: EvaluateOptions,
    catalogue: Catalogue | None,
    *,
    number: int,
) -> Draw:
    """Evaluates one draw of the support. Every rank must call it.

    Args:
        model: compiled.
        batches: of this rank.
        options: of which `by`, `bootstrap` and `calibration` need the rows of all ranks.
        catalogue: the items to rank; None ranks none.
        number: which draw, from 0.
    """
    needs_rows = bool(options.by or options.bootstrap or options.calibration)
    model.accumulator.keeps_rows = needs_rows
    results = model.evaluate(batches, return_dict=True, verbose=0)
    kept = model.accumulator.kept_rows()
    model.accumulator.keeps_rows = False
    curve = _curve(model, batches, options.support_sizes or [])
    ranked = {}
    if catalogue is not None:
        metrics = (f"recall@{options.top}", f"ndcg@{options.top}", "mrr")
        ranked = rank_catalogue(model, batches, catalogue, metrics, options.negatives)
    if not needs_rows:
        return Draw(results, None, np.zeros((0, 1), np.int64), curve, ranked)
    task, columns = kept
    keys = np.zeros((len(task), 1), np.int64)
    if options.by is not None:
        keys = keys_of_query_rows(batches, options.by)
    task, columns, keys = (
        allgather_rows(tf.constant(values), model.world, name=f"rows_{name}_{number}").numpy()
        for name, values in (("task", task), ("columns", columns), ("keys", keys))
    )
    rows, order = EvaluatedRows.sorted(columns, task)
    return Draw(results, rows, keys[order], curve, ranked)


def _curve(
    model: gm.MetaModel, batches: gm.TaskBatches, sizes: Sequence[int]
) -> dict[int, dict[str, float]]:
    """The results for each support size, on the query rows that the largest one leaves."""
    if not sizes:
        return {}
    largest = dataclasses.replace(batches, support=max(1, *sizes))
    steps = largest.steps_per_epoch

    def at(size: int) -> dict[str, float]:
        # A map of tensors alone, which AutoGraph would take seconds for.
        fewer = tf.autograph.experimental.do_not_convert(lambda batch: with_support(batch, size))
        dataset = largest.dataset(0).take(steps).map(fewer)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
        found: dict[str, float] = model.evaluate(dataset, return_dict=True, verbose=0)
        return found

    return {size: at(size) for size in sizes}


def mean_of(draws: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the draws.

    >>> mean_of([{"auc": 0.5}, {"auc": 1.0}])
    {'auc': 0.75}
    """
    return {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}


def details_of(
    draws: Sequence[Draw], options: EvaluateOptions, model: gm.MetaModel, records: gm.Records
) -> dict[str, Any]:
    """What the options ask for, as JSON values but for NaN; rank 0 alone may call it."""
    metrics = [metric(name) for name in model.accumulator.names]
    found: dict[str, Any] = {}
    if options.draws > 1:
        found["draws"] = options.draws
        found["seeds"] = [options.seed + number for number in range(options.draws)]
        found["deviation_over_draws"] = {
            name: float(np.std([draw.results[name] for draw in draws], ddof=1))
            for name in draws[0].results
            if name.endswith(SIDES)
        }
    if options.support_sizes:
        found["support_sizes"] = [
            {"support": size, **mean_of([draw.curve[size] for draw in draws])}
            for size in options.support_sizes
        ]
    if options.catalogue is not None:
        found["catalogue"] = {
            "field": options.catalogue,
            "negatives": options.negatives,
            **mean_of([draw.ranked for draw in draws]),
        }
    rows = [(draw.rows, draw.keys) for draw in draws if draw.rows is not None]
    if options.bootstrap:
        found["bootstrap"] = options.bootstrap
        found["intervals"] = bootstrap_intervals(
            [own for own, _ in rows], metrics, num_samples=options.bootstrap, seed=options.seed
        )
    if options.by is not None:
        found["by"] = options.by
        found["segments"] = [
            one.to_json(value_of(one.key, options.by, records)) for one in segments(rows, metrics)
        ]
    if options.calibration:
        pooled = {
            name: np.concatenate([getattr(own, name) for own, _ in rows])
            for name in ("label", *SIDES)
        }
        found["calibration"] = {
            side: calibration(pooled["label"], pooled[side], options.calibration).to_json()
            for side in SIDES
        }
    return found


def value_of(key: int | None, name: str, records: gm.Records) -> str | None:
    """What a key stands for; None for the other values together."""
    if key is None:
        return None
    schema = records.schema
    table = schema.table(schema.fields[segment_field(schema, name)].table_name)
    if key == UNKNOWN_KEY and table.keys != "raw":
        return "missing or unknown"
    if table.keys == "vocabulary":
        return str(read_vocabulary(records.path, table.name)[key - 1])
    return str(key)


def describe_details(report: dict[str, Any]) -> list[str]:
    """The lines of a report's details, for a person."""
    lines = []
    if "draws" in report:
        lines.append(f"means of {report['draws']} draws of the support, seeds {report['seeds']}")
    if "intervals" in report:
        lines += _intervals(report)
    if "support_sizes" in report:
        lines += _curve_lines(report["support_sizes"], "support", "support rows")
    if "inner_steps_curve" in report:
        lines += _curve_lines(report["inner_steps_curve"], "inner_steps", "inner steps")
    if "catalogue" in report:
        lines += _catalogue(report["catalogue"])
    if "segments" in report:
        lines += _segments(report)
    if "calibration" in report:
        lines += _calibration(report["calibration"])
    return lines


def _intervals(report: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"95 % intervals from {report['bootstrap']:,} samples of the tasks",
        f"{'':14}{'adapted':>20}{'unadapted':>20}{'difference':>20}",
    ]
    kinds = ("adapted", "unadapted", "adapted_less_unadapted")
    intervals = report["intervals"]
    for name in [one.removesuffix(f"_{kinds[2]}") for one in intervals if one.endswith(kinds[2])]:
        shown = (
            "{:.4f} to {:.4f}".format(*intervals[f"{name}_{kind}"]).rjust(20) for kind in kinds
        )
        lines.append(f"{name:14}{''.join(shown)}")
    return lines


def _curve_lines(curve: list[dict[str, Any]], of: str, title: str) -> list[str]:
    names = [name for name in curve[0] if name.endswith("_adapted")]
    heads = "".join(f"{name.removesuffix('_adapted'):>11}" for name in names)
    lines = [
        "",
        f"{title:14}{heads}   (adapted, on {curve[0]['samples']:,.0f} query rows)",
    ]
    for one in curve:
        shown = "".join(f"{_number(one[name]):>11}" for name in names)
        lines.append(f"{one[of]:<14}{shown}")
    return lines


def _catalogue(found: dict[str, Any]) -> list[str]:
    among = "all others" if found["negatives"] is None else f"{found['negatives']} drawn ones"
    names = [name[: -len("_adapted")] for name in found if name.endswith("_adapted")]
    lines = ["", f"{found['field']:14}{'adapted':>10}{'unadapted':>11}{'popular':>10}"]
    for name in names:
        shown = zip((10, 11, 10), ("adapted", "unadapted", "baseline"), strict=True)
        cells = (_number(found[f"{name}_{side}"]).rjust(width) for width, side in shown)
        lines.append(f"{name:14}{''.join(cells)}")
    lines.append(f"{found['tasks']:,.0f} tasks with positives, ranked among {among}")
    return lines


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.4f}"


def _segments(report: dict[str, Any]) -> list[str]:
    values = [
        "all others" if one["value"] is None else one["value"][:30] for one in report["segments"]
    ]
    width = max(map(len, [*values, report["by"]])) + 2
    names = [name for name in report["segments"][0] if name.endswith("_adapted")]
    heads = [part for name in names for part in (name.removesuffix("_adapted"), "unadapted")]
    lines = ["", f"{report['by']:{width}}{'rows':>9}" + "".join(f"{one:>11}" for one in heads)]
    for value, one in zip(values, report["segments"], strict=True):
        figures = [one[figure] for name in names for figure in (name, f"{name[:-7]}unadapted")]
        shown = "".join(f"{_number(f):>11}" for f in figures)
        lines.append(f"{value:{width}}{one['rows']:>9,.0f}{shown}")
    return lines


def _calibration(found: dict[str, dict[str, Any]]) -> list[str]:
    adapted = found["adapted"]
    bins = len(adapted["rows"])
    lines = ["", f"{'prediction':>14}{'rows':>10}{'mean':>9}{'label':>9}   (adapted)"]
    for place, rows in enumerate(adapted["rows"]):
        if rows:
            lines.append(
                f"{place / bins:6.3f} to {(place + 1) / bins:5.3f}{rows:>9,}"
                f"{adapted['prediction'][place]:>9.4f}{adapted['label'][place]:>9.4f}"
            )
    for side, one in found.items():
        lines.append(
            f"{side}: expected calibration error {one['expected_error']:.4f}, mean prediction "
            f"{one['mean_prediction']:.4f}, mean label {one['mean_label']:.4f}"
        )
    return lines
