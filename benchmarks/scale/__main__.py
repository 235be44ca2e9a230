"""How cost grows: a row of the log, a row of the table, a rank more.

Everything is measured in processes of its own; what is compared takes turns. The last line is the
result as JSON.

    python -m benchmarks.scale --quick          # two minutes: small logs and tables
    python -m benchmarks.scale                  # to 100 million rows: 40 GB of disk, an hour
    python -m benchmarks.scale --parts tables --table-rows 100_000 10_000_000

`growth.prepare` is prepare's time a row of the largest log over that of the smallest;
`growth.step_static` and `growth.step_dynamic` a training step's time on the largest table over that
on the smallest; `growth.eviction` the longest step of a full dynamic table that gets new keys only,
over the median of those steps.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
from typing import Any

from benchmarks.made_log import MadeLog
from benchmarks.scale.ranks import measure_ranks
from benchmarks.scale.rows import measure_rows
from benchmarks.scale.tables import measure_tables

__all__ = ["main"]

_PARTS = ("rows", "tables", "ranks")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    result: dict[str, Any] = {"benchmark": "scale", "growth": {}}
    if "rows" in options.parts:
        logs = [MadeLog.cached(rows, options.cache) for rows in sorted(options.rows)]
        found = measure_rows(
            logs, memory_limit=options.memory_limit, seconds=options.seconds, keep=options.keep
        )
        result["growth"] |= found.pop("growth")
        result |= found
        _say_each("rows of the log", found["rows"])
    if "tables" in options.parts:
        for kind in ("static", "dynamic"):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                found = measure_tables(
                    kind,
                    sorted(options.table_rows),
                    rounds=options.rounds,
                    steps=options.steps,
                    folder=pathlib.Path(folder),
                )
            growth = found.pop("growth")
            result["growth"][f"step_{kind}"] = growth["step"]
            if "eviction" in growth:
                result["growth"]["eviction"] = growth["eviction"]
            result |= found
            _say_each(f"rows of a {kind} table", found[kind])
    if "ranks" in options.parts:
        log = MadeLog.cached(min(options.rows), options.cache)
        found = measure_ranks(
            log,
            sorted(options.ranks),
            tasks=options.tasks,
            rounds=options.rounds,
            seconds=options.seconds,
            cache=str(log.folder.parent),
        )
        result |= found
        for tasks, figures in found["ranks"].items():
            _say_each(f"ranks, T = {tasks}", figures)
    result = _rounded(result)
    for name, value in result["growth"].items():
        print(f"growth.{name:24s} {value}", flush=True)
    print(json.dumps(result))
    return result


def _say_each(what: str, figures: dict[str, dict[str, Any]]) -> None:
    for size, each in figures.items():
        shown = ", ".join(f"{name} {_rounded(value)}" for name, value in each.items())
        print(f"{int(size):>13,} {what}: {shown}", flush=True)


def _rounded(value: Any) -> Any:
    """Four significant digits of each figure that is not whole."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def whole_numbers(name: str, default: str, text: str) -> None:
        parser.add_argument(name, type=int, nargs="+", metavar="N", help=f"{text} ({default})")

    parser.add_argument("--quick", action="store_true", help="small sizes and short turns")
    parser.add_argument(
        "--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure"
    )
    whole_numbers("--rows", "1, 10, 100 million", "rows of the logs")
    whole_numbers("--table-rows", "1e5, 1e6, 1e7, 5e7", "rows of the tables")
    whole_numbers("--ranks", "1 2 4 8", "W")
    whole_numbers("--tasks", "128 512", "T of a rank, for --parts ranks")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each (5; quick: 2)")
    parser.add_argument("--steps", type=int, metavar="N", help="of a table's turn (40; quick: 10)")
    parser.add_argument("--seconds", type=float, metavar="X", help="of a turn (5; quick: 0.5)")
    parser.add_argument("--memory-limit", default="1GB", help="of prepare (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the logs' records, and use them")
    parser.add_argument("--cache", help="where logs are kept; else $GMETA_DATA, ~/.cache/gmeta_tf")
    parser.add_argument("--folder", help="where checkpoints are written; else the temporary folder")
    options = parser.parse_args(arguments)
    quick = options.quick
    for name, quick_value, value in (
        ("rows", [100_000, 400_000], [1_000_000, 10_000_000, 100_000_000]),
        ("table_rows", [100_000, 1_000_000], [100_000, 1_000_000, 10_000_000, 50_000_000]),
        ("ranks", [1, 2], [1, 2, 4, 8]),
        ("tasks", [128], [128, 512]),
        ("rounds", 2, 5),
        ("steps", 10, 40),
        ("seconds", 0.5, 5.0),
    ):
        if getattr(options, name) is None:
            setattr(options, name, quick_value if quick else value)
    return options


if __name__ == "__main__":
    main()
