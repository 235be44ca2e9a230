"""How long a day's log takes to a servable version: full retraining, or warm start and delta.

A made log of some days, whose users like items of their own kind; the last day brings new users and
new items. Both ways begin with the records of all days:

    full    train all epochs on all days, export
    delta   one more epoch of the run of the days before, `export --since`, `apply-delta`

The last line is the result as JSON: the seconds of each stage, `ratio.delta_over_full` (full over
delta), the bytes of both, and the AUC of both on the records' unseen users, of all days.

    python -m benchmarks.delivery
    python -m benchmarks.delivery --quick    # whether it runs; the figures mean nothing
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gmeta_tf.cli import main as cli

__all__ = ["main", "write_day"]

_SCHEMA = """
task: user
label: liked
fields: [{name: item}, {name: kind}, {name: age}]
"""
_KINDS = 12


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    rows, epochs = (1_000, 1) if options.quick else (options.rows, options.epochs)
    with tempfile.TemporaryDirectory() as made:
        here = pathlib.Path(made)
        (here / "schema.yaml").write_text(_SCHEMA)
        _prepare(here, write_day(here / "days.csv", rows, seed=options.seed, day=0))
        _train(here, "run", ["--epochs", str(epochs), "--seed", str(options.seed)])
        _quiet(["export", "--run", str(here / "run"), "--versions", str(here / "models")])
        more = rows // options.days
        log = write_day(here / "day.csv", more, seed=options.seed + 1, day=1)
        _prepare(here, log, "--append")
        since = f"epoch-{epochs:06d}"
        seconds = {
            "retrain": _train(here, "full", ["--epochs", str(epochs), "--seed", str(options.seed)]),
            "export": _quiet(["export", "--run", str(here / "full")]),
            "warm_start": _train(here, "run", ["--resume", "--epochs", str(epochs + 1)]),
            "delta": _quiet(["export", "--run", str(here / "run"), "--since", since]),
            "apply": _apply(here),
        }
        full = seconds["retrain"] + seconds["export"]
        delta = seconds["warm_start"] + seconds["delta"] + seconds["apply"]
        result = {
            "rows": {"days": rows, "last_day": more},
            "epochs": epochs,
            "seconds": seconds,
            "bytes": {
                "export": _size(here / "full" / "saved_model"),
                "delta": _size(here / "run" / "delta"),
            },
            "auc": {
                way: None if options.quick else _auc(here / run)
                for way, run in (("full", "full"), ("delta", "run"))
            },
            "ratio": {"delta_over_full": full / delta},
        }
    for stage, value in seconds.items():
        print(f"{stage:12} {value:8.2f} s")
    print(json.dumps(result))
    return result


def write_day(path: pathlib.Path, rows: int, *, seed: int, day: int) -> pathlib.Path:
    """A log of users with about 25 rows each; those of a later day are new, as are some items."""
    draw = np.random.default_rng(seed)
    users, items = max(rows // 25, 10), max(rows // 100, 50)
    tastes = draw.normal(size=[users, _KINDS])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "kind", "age", "liked"])
        for user in draw.integers(0, users, rows).tolist():
            # A fifth of a later day's items are new.
            is_new = day > 0 and draw.random() < 0.2
            item = int(draw.integers(items)) + (items * day if is_new else 0)
            kind = item % _KINDS
            liked = int(tastes[user, kind] + 0.5 * np.sin(item) + 0.5 * draw.normal() > 0)
            writer.writerow([f"u{day}-{user}", f"i{item}", f"k{kind}", user % 7, liked])
    return path


def _prepare(here: pathlib.Path, log: pathlib.Path, *words: str) -> None:
    files = ["--input", str(log), "--schema", str(here / "schema.yaml")]
    _quiet(["prepare", *files, "--output", str(here / "records"), *words])


def _train(here: pathlib.Path, run: str, words: Sequence[str]) -> float:
    where = ["--records", str(here / "records"), "--run", str(here / run)]
    return _quiet(["train", *where, "--model", "melu", *words])


def _apply(here: pathlib.Path) -> float:
    words = ["--saved-model", str(here / "models"), "--delta", str(here / "run" / "delta")]
    return _quiet(["apply-delta", *words])


def _auc(run: pathlib.Path) -> float:
    """Of adapted predictions of the unseen users."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        cli.main(["evaluate", "--run", str(run), "--json"])
    return float(json.loads(shown.getvalue().splitlines()[-1])["auc_adapted"])


def _quiet(words: Sequence[str]) -> float:
    """Runs a command; its seconds."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(list(words))
    return time.perf_counter() - began


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the days before the last")
    parser.add_argument("--days", type=int, default=30, help="how many days those are")
    parser.add_argument("--epochs", type=int, default=10, help="of full training")
    parser.add_argument("--seed", type=int, default=0, help="of the log and of training")
    parser.add_argument("--quick", action="store_true", help="a small log, to see that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
