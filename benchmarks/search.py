"""Searches for settings on draws of cold users that no published figure is told of.

`benchmarks.quality` reports on the draws of `prepare --seed 0` to `4`. Settings are chosen here, on
those of seeds 11 to 13 (cold users of another draw of the same data). Each line of the log,
`benchmarks/search_log.jsonl`, is one setting, written out whatever the defaults are: the AUC pooled
and of a user in each draw, and both above item like-rate + user offset on the same rows.

    python -m benchmarks.search --model melu --grid '{"loss": ["ratings"], "epochs": [20, 50]}'
    python -m benchmarks.search --model dlrm --grid '{"fine_tuned": [[1, 0.1], [3, 0.1]]}'
    python -m benchmarks.search --show               # the log, the best of each model first
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import random
import statistics
import tempfile
import time
from typing import Any

from benchmarks.fine_tuning import fine_tuned
from benchmarks.ready_run import ready_run
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.model_options import names_of_model
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_batches import TRAIN_SPLIT
from gmeta_tf.evaluation.baseline import best_baseline

__all__ = ["main"]

_LOG = pathlib.Path(__file__).with_name("search_log.jsonl")
_SEEDS = (11, 12, 13)
_METRICS = ["auc", "task_auc"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the search, or shows its log."""
    options = _parse(arguments)
    if options.show:
        print("\n".join(_shown(_LOG)))
        return
    grid = json.loads(options.grid)
    settings = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    if options.sample:
        settings = random.Random(0).sample(settings, min(options.sample, len(settings)))
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings:
            line = _tried(options.model, setting, options.records or folder)
            print(json.dumps(line), flush=True)
            if options.log:
                with _LOG.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def _tried(model: str, setting: dict[str, Any], folder: str) -> dict[str, Any]:
    """The line of one setting."""
    began = time.process_time()
    found = [_of_draw(model, setting, _prepared(folder, seed), seed) for seed in _SEEDS]
    seconds = (time.process_time() - began) / len(_SEEDS)
    above = [(pooled - rate, user - rate_of_user) for pooled, user, rate, rate_of_user in found]
    return {
        "model": model,
        "setting": _written_out(model, setting),
        "auc": [round(one[0], 4) for one in found],
        "auc_task": [round(one[1], 4) for one in found],
        "auc_over_offset": round(statistics.mean(one[0] for one in above), 4),
        "auc_task_over_offset": round(statistics.mean(one[1] for one in above), 4),
        "seconds": round(seconds, 1),
    }


def _written_out(model: str, setting: dict[str, Any]) -> dict[str, Any]:
    """A setting with the values of the defaults that it leaves out, which may be others later."""
    given = {name: value for name, value in setting.items() if name != "fine_tuned"}
    options = TrainOptions(records="", run="", model=model, **given)
    names = names_of_model(model)
    if model not in ("factors", "dlrm"):
        names += ["inner_steps", "inner_learning_rate"]
    return {**{name: getattr(options, name) for name in [*names, "loss"]}, **setting}


def _of_draw(
    model: str, setting: dict[str, Any], path: str, seed: int
) -> tuple[float, float, float, float]:
    """AUC pooled and of a user, of the model and of like-rate + offset."""
    setting = dict(setting)
    fine_tuning = setting.pop("fine_tuned", None)
    options = TrainOptions(
        records=path, run="", model=model, seed=seed, metrics=_METRICS, **setting
    )
    options, trained, batches, test = ready_run(options)
    trained.fit(batches, epochs=options.epochs, verbose=0)
    if fine_tuning:
        trained = fine_tuned(trained, options, *fine_tuning)
    found = trained.evaluate(test, return_dict=True, verbose=0)
    counted = best_baseline(test, TRAIN_SPLIT, ["item"], _METRICS).values
    return (
        found["auc_adapted"],
        found["task_auc_adapted"],
        counted["auc"],
        counted["task_auc"],
    )


def _prepared(folder: str, seed: int) -> str:
    path = pathlib.Path(folder) / f"dev{seed}"
    if not path.exists():
        words = ["prepare", "--movielens", "download", "--output", str(path), "--seed", str(seed)]
        cli.main(words)
    return str(path)


def _shown(log: pathlib.Path) -> list[str]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda one: (one["model"], -one["auc_over_offset"]))
    return [
        f"{one['model']:10} {one['auc_over_offset']:+.4f} {one['auc_task_over_offset']:+.4f} "
        f"{one['seconds']:6.1f} s  {json.dumps(one['setting'])}"
        for one in lines
    ]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="melu")
    parser.add_argument("--grid", default="{}", help="JSON: an option of train -> values to try")
    parser.add_argument("--sample", type=int, metavar="N", help="try N settings drawn of the grid")
    parser.add_argument("--records", metavar="DIR", help="where dev11, dev12 and dev13 are, or go")
    parser.add_argument("--no-log", dest="log", action="store_false", help="print only")
    parser.add_argument("--show", action="store_true", help="the log, and try nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
