"""The core seconds from records to a model whose AUC is within 0.002 of its own last one.

Each contestant trains in a process of its own, imports and tracing included, and is evaluated on
the test split after each epoch; the core seconds of those evaluations do not count. The schedule is
that of the contestant's whole run, so a rate that falls has not fallen to its end by then. The last
line is the result as JSON; `ratio.time_to_quality` is MeLU's seconds over those of factors.

`melu, first` is the MeLU that the quick start trained at first, before rates fell and before it
learned from ratings.

    python -m benchmarks.time_to_quality
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import keras

from benchmarks.commands import output_of
from benchmarks.ready_run import ready_run
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.yaml_file import read_yaml

__all__ = ["main"]

_ROOT = pathlib.Path(__file__).parent.parent
_WITHIN = 0.002
# Written out: the defaults of `train` are others now.
_FIRST_MELU: dict[str, Any] = {
    "model": "melu",
    "width": 16,
    "query": 40,
    "inner_steps": 1,
    "inner_learning_rate": 0.5,
    "epochs": 50,
    "learning_rate": 0.0005,
    "row_optimizer": "adagrad",
    "row_learning_rate": 0.1,
    "row_shrinkage": 0.0,
    "embedding_scale": 0.05,
    "decay": "none",
}


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.contestant is not None:
        print(json.dumps(_epochs_of(options.contestant, options.records, options.seed)))
        return None
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            records = str(pathlib.Path(folder) / f"records-{seed}")
            words = ["--output", records, "--seed", str(seed)]
            cli.main(["prepare", "--movielens", options.data, *words])
            for name in _settings():
                reached = _reached(_in_a_process(name, records, seed))
                found.setdefault(name, []).append(reached)
                print(f"seed {seed}  {name:14} {json.dumps(reached)}", flush=True)
    totals = {name: sum(one["seconds"] for one in of_seeds) for name, of_seeds in found.items()}
    result = {
        "benchmark": "time_to_quality",
        "within": _WITHIN,
        "by_seed": found,
        "ratio": {
            "time_to_quality": round(totals["melu, first"] / totals["factors"], 2),
            "time_to_quality_of_melu": round(totals["melu"] / totals["factors"], 2),
        },
    }
    print(json.dumps(result))
    return result


def _settings() -> dict[str, dict[str, Any]]:
    """A contestant -> the options of `gmeta-tf train`."""
    named = {"factors": "quickstart", "melu": "melu"}
    files = {
        name: read_yaml(_ROOT / "launch" / f"{file}.yaml", "options")
        for name, file in named.items()
    }
    return {**files, "melu, first": _FIRST_MELU}


def _epochs_of(contestant: str, path: str, seed: int) -> dict[str, list[float]]:
    """The core seconds since this process began, and the AUC, after each epoch."""
    options = TrainOptions(
        records=path, run="", seed=seed, metrics=["auc"], **_settings()[contestant]
    )
    _, model, batches, test = ready_run(options)
    seconds: list[float] = []
    aucs: list[float] = []
    evaluating = 0.0

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            nonlocal evaluating
            began = time.process_time()
            seconds.append(began - evaluating)
            aucs.append(self.model.evaluate(test, return_dict=True, verbose=0)["auc_adapted"])
            evaluating += time.process_time() - began

    model.fit(batches, epochs=options.epochs, verbose=0, callbacks=[Watch()])
    return {"seconds": seconds, "auc": aucs}


def _reached(epochs: dict[str, list[float]]) -> dict[str, float]:
    """When the AUC was first within `_WITHIN` of the last one."""
    last = epochs["auc"][-1]
    epoch = next(i for i, auc in enumerate(epochs["auc"]) if auc >= last - _WITHIN)
    return {
        "seconds": round(epochs["seconds"][epoch], 2),
        "epoch": epoch + 1,
        "auc": round(epochs["auc"][epoch], 5),
        "last_auc": round(last, 5),
        "whole_seconds": round(epochs["seconds"][-1], 2),
    }


def _in_a_process(contestant: str, records: str, seed: int) -> dict[str, list[float]]:
    words = ["--contestant", contestant, "--records", records, "--seed", str(seed)]
    command = [sys.executable, "-m", "benchmarks.time_to_quality", *words]
    found: dict[str, list[float]] = json.loads(output_of(command).splitlines()[-1])
    return found


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many")
    parser.add_argument("--data", default="download", help="a folder with ml-100k or ml-1m")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--records", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
