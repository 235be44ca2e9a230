"""How well models rank for cold users, beside what a spreadsheet and ALS reach on the same rows.

A seeded fifth of the users is cold: of each, 10 ratings drawn at random are known, and all others
are to be predicted. Models are trained and evaluated by the commands of `gmeta-tf`, as by a user;
the yardsticks of `benchmarks.yardsticks` get the very same support and query rows. The last line is
the result as JSON: for each contestant and the mean over seeds `auc_adapted` and `auc_unadapted`
(pooled over the query rows), `auc_task` (the mean of the users' own), `ndcg3`, and for models
`seconds`, the core seconds of the training command, imports and tracing included. `dlrm` is the
network of `maml_dlrm` without meta-learning, as it is and fine-tuned on each user's support.

    python -m benchmarks.quality --quick           # the best model, one seed: about a minute
    python -m benchmarks.quality                   # all models, seeds 0 to 4: about half an hour
    python -m benchmarks.quality --ranks 1 2       # each model on two ranks too, of half the tasks
    python -m benchmarks.quality --records DIR     # records of your own, as they were split

Without `--records`, MovieLens is prepared: ml-100k, or the folder that `--data` names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import statistics
import tempfile
from typing import Any

import numpy as np

import gmeta_tf as gm
from benchmarks.commands import core_seconds
from benchmarks.fine_tuning import fine_tuned
from benchmarks.yardsticks import evaluated_tasks, folded_in_als, mean_and_offset, ratings_of
from gmeta_tf.cli.run_batches import evaluation_batches
from gmeta_tf.evaluation.metrics import metric

__all__ = ["main"]

# A model's name -> the flags of `gmeta-tf train` that it is trained with.
_MODELS = {
    "factors": ["--config", "launch/quickstart.yaml"],
    "melu": ["--config", "launch/melu.yaml"],
    "mmaml": ["--config", "launch/melu.yaml", "--model", "mmaml"],
    "cbml": ["--config", "launch/melu.yaml", "--model", "cbml"],
    "maml_dlrm": ["--config", "launch/maml_dlrm.yaml"],
    "dlrm": ["--config", "launch/dlrm.yaml"],
}
_FINE_TUNED = (3, 0.01)  # steps and rate
_METRICS = {"auc": "auc", "task_auc": "auc_task", "ndcg@3": "ndcg3"}
_SUPPORT = 10
_TASKS = 32

Values = dict[str, float]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    found: dict[str, list[Values]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            records = options.records or _prepared(pathlib.Path(folder), options.data, seed)
            for name, values in _of_seed(pathlib.Path(folder), records, seed, options).items():
                found.setdefault(name, []).append(values)
                shown = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
                print(f"seed {seed}  {name:16} {shown}", flush=True)
    means = {name: _means(values) for name, values in found.items()}
    print("\n".join(_table(means)))
    result = {
        "benchmark": "quality",
        "models": {name: values for name, values in means.items() if "seconds" in values},
        "yardsticks": {name: values for name, values in means.items() if "seconds" not in values},
        "best": _best(found, means, options.models),
        "by_seed": found,
        "seeds": options.seeds,
        "data": options.records or options.data,
    }
    print(json.dumps(result))
    return result


def _of_seed(
    folder: pathlib.Path, records: str, seed: int, options: argparse.Namespace
) -> dict[str, Values]:
    """Each contestant's values on one draw."""
    found = _yardsticks(records, seed, options.item)
    for model, ranks in itertools.product(options.models, options.ranks):
        name = model if ranks == 1 else f"{model}, {ranks} ranks"
        run = folder / f"run-{seed}-{model}-{ranks}"
        seconds = core_seconds(
            *("train", *_MODELS[model], "--support", _SUPPORT, "--seed", seed),
            *("--tasks", _TASKS // ranks, "--records", records, "--run", run),
            ranks=ranks,
        )
        # The draw of support rows is that of the yardsticks.
        core_seconds("evaluate", "--run", run, "--metrics", *_METRICS, "--seed", seed)
        report = json.loads((run / "evaluation-test.json").read_text())
        found[name] = {
            "auc_adapted": report["auc_adapted"],
            "auc_unadapted": report["auc_unadapted"],
            "auc_task": report["task_auc_adapted"],
            "ndcg3": report["ndcg@3_adapted"],
            "seconds": seconds,
        }
        if model == "dlrm" and ranks == 1:
            found["dlrm, fine-tuned"] = _fine_tuned(str(run), seed)
        if not found.get("item rate + offset"):
            found["item rate + offset"] = {
                "auc_adapted": report["auc_baseline"],
                "auc_task": report["task_auc_baseline"],
                "ndcg3": report["ndcg@3_baseline"],
            }
    return found


def _fine_tuned(run: str, seed: int) -> Values:
    """A plain DLRM that takes gradient steps on each user's support rows."""
    options, records, trained = gm.load_run(run, gm.World(), metrics=list(_METRICS))
    model = fine_tuned(trained, options, *_FINE_TUNED)
    batches = evaluation_batches(records, "test", _SUPPORT, seed, gm.World())
    report = model.evaluate(batches, return_dict=True, verbose=0)
    found = {key: report[f"{name}_adapted"] for name, key in _METRICS.items()}
    return {"auc_adapted": found.pop("auc"), "auc_unadapted": report["auc_unadapted"], **found}


def _yardsticks(path: str, seed: int, item: str) -> dict[str, Values]:
    """Item mean rating + offset, and ALS."""
    records = gm.Records.open(path)
    batches = evaluation_batches(records, "test", _SUPPORT, seed, gm.World())
    training, tasks = ratings_of(records, "train", item), evaluated_tasks(batches, item)
    numbers = np.concatenate([np.full(len(one.query.items), one.task) for one in tasks])
    labels = np.concatenate([one.query.labels for one in tasks])
    if records.schema.positive_from is not None:
        labels = labels >= records.schema.positive_from
    scores = {
        "item mean + offset": mean_and_offset(training, tasks),
        "ALS, folded in": folded_in_als(training, tasks, seed=seed),
    }
    return {
        name: {
            ("auc_adapted" if key == "auc" else key): metric(one).value(
                numbers, labels.astype(np.float32), np.concatenate(of_task).astype(np.float32)
            )
            for one, key in _METRICS.items()
        }
        for name, of_task in scores.items()
    }


def _best(
    found: dict[str, list[Values]], means: dict[str, Values], models: list[str]
) -> dict[str, Any]:
    """The model of the largest pooled AUC, what it is above ALS, and by seed how surely."""
    name = max(models, key=lambda one: means[one]["auc_adapted"])
    result: dict[str, Any] = {"model": name}
    pairs = list(zip(found[name], found["ALS, folded in"], strict=True))
    for figure, of in (("auc_over_als", "auc_adapted"), ("auc_task_over_als", "auc_task")):
        above = [own[of] - als[of] for own, als in pairs]
        result[figure] = round(statistics.mean(above), 5)
        if len(above) > 1:
            # Paired: both are judged on the same rows of each draw.
            error = statistics.stdev(above) / len(above) ** 0.5
            result[f"{figure}_standard_error"] = round(error, 5)
    return result


def _means(values: list[Values]) -> Values:
    return {name: round(statistics.mean(one[name] for one in values), 5) for name in values[0]}


def _table(means: dict[str, Values]) -> list[str]:
    columns = ("auc_adapted", "auc_unadapted", "auc_task", "ndcg3", "seconds")
    lines = [f"{'mean over seeds':20}" + "".join(f"{name:>15}" for name in columns)]
    for name, values in sorted(means.items(), key=lambda pair: pair[1]["auc_adapted"]):
        cells = (f"{values[column]:.4f}" if column in values else "" for column in columns)
        lines.append(f"{name:20}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def _prepared(folder: pathlib.Path, data: str, seed: int) -> str:
    records = str(folder / f"records-{seed}")
    core_seconds("prepare", "--movielens", data, "--output", records, "--seed", seed)
    return records


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="factors alone, one seed")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many (5; quick: 1)")
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), help="all but with --quick")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], metavar="W", help="1, or 1 2")
    parser.add_argument("--data", default="download", help="a folder with ml-100k or ml-1m")
    parser.add_argument("--records", help="a records folder with splits train and test")
    parser.add_argument(
        "--item", default="item", help="the field that ALS and means take for items"
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.models = options.models or (["factors"] if options.quick else list(_MODELS))
    return options


if __name__ == "__main__":
    main()
