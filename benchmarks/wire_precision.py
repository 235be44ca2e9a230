"""What rows and gradients of 16 bits on the wire do to the AUC of cold users.

MeLU on MovieLens-100k (launch/melu.yaml), on 2 ranks: one draw of cold users, of steps
and of weights for each seed, and a run for each type on the wire. Runs are commands of `gmeta-tf`,
so what is judged is what a user gets. The last line is the result as JSON; AUC is pooled over the
query rows of cold users, adapted on 10 ratings.

    python -m benchmarks.wire_precision --quick    # one seed, 5 epochs: less than a minute
    python -m benchmarks.wire_precision            # seeds 0 to 4, 50 epochs: about ten minutes
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

__all__ = ["main"]

_RANKS = 2
_WIRES = ("float32", "bfloat16")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    aucs: dict[str, list[float]] = {wire: [] for wire in _WIRES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            records = pathlib.Path(folder) / f"records-{seed}"
            _gmeta_tf(
                1, "prepare", "--movielens", options.data, "--output", records, "--seed", seed
            )
            for wire in _WIRES:
                run = pathlib.Path(folder) / f"run-{seed}-{wire}"
                aucs[wire].append(_auc(records, run, seed, wire, options.epochs))
                _say(f"seed {seed}, {wire}: AUC {aucs[wire][-1]:.4f}")
    changes = [half - whole for whole, half in zip(*aucs.values(), strict=True)]
    result = {
        "benchmark": "wire_precision",
        "auc": {wire: [round(auc, 5) for auc in values] for wire, values in aucs.items()},
        "mean_auc": {wire: round(statistics.mean(values), 5) for wire, values in aucs.items()},
        "change": {
            "mean": round(statistics.mean(changes), 5),
            "largest": round(max(map(abs, changes)), 5),
        },
        "ranks": _RANKS,
        "seeds": options.seeds,
        "epochs": options.epochs,
    }
    _say(f"bfloat16 moves the AUC by {result['change']} (mean, and the largest of a seed)")
    print(json.dumps(result))
    return result


def _auc(records: pathlib.Path, run: pathlib.Path, seed: int, wire: str, epochs: int) -> float:
    config = pathlib.Path(__file__).parent.parent / "launch" / "melu.yaml"
    _gmeta_tf(
        _RANKS,
        *("train", "--config", config, "--tasks", 32 // _RANKS, "--seed", seed, "--wire", wire),
        # As when its figures were taken.
        *("--loss", "bce", "--decay", "none", "--inner-learning-rate", 0.5),
        # ReplicationChoice of small tables would not travel.
        *("--epochs", epochs, "--replicate", "never", "--records", records, "--run", run),
    )
    _gmeta_tf(_RANKS, "evaluate", "--run", run, "--split", "test")
    return float(json.loads((run / "evaluation-test.json").read_text())["auc_adapted"])


def _gmeta_tf(ranks: int, *arguments: Any) -> None:
    """One command of `gmeta-tf`, under horovodrun where it is for several ranks."""
    folder = pathlib.Path(sys.executable).parent
    command = [str(folder / "gmeta-tf"), *map(str, arguments)]
    if ranks > 1:
        command = [str(folder / "horovodrun"), "-np", str(ranks), *command]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}"
        )


def _say(line: str) -> None:
    print(line, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wire_precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 5 epochs")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many (5; quick: 1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each run (50; quick: 5)")
    parser.add_argument("--data", default="download", help="the ml-100k folder; else downloaded")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.epochs = options.epochs or (5 if options.quick else 50)
    return options


if __name__ == "__main__":
    main()
