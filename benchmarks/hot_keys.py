"""What a copy of the hottest embedding rows on every rank would do to a step's traffic.

A copy that is to equal its owner's row in every step needs the row's gradient of all ranks in every
step. So the rows of the H hottest keys leave the exchange, and their gradients `[H, D]` go into an
AllReduce. What is counted: the distinct keys that each rank asks of each owner in the steps that it
would really have, all of them and without the H hottest. The hottest are those that the most steps
of all ranks ask for, found in the counted steps themselves; a cache that has to guess does worse.
Bytes follow from the counts: keys of 4 bytes, as those that fit in 32 bits travel, rows and
gradients of 4 D, and `2 (W - 1) / W` times 4 bytes for each number of a ring AllReduce. No rank is
started. The last line is JSON.

    python -m benchmarks.hot_keys                                  # the made log
    gmeta-tf prepare --movielens download --output ml-100k
    python -m benchmarks.hot_keys --records ml-100k --tasks 64     # 32 ranks have no 128 of it

`hot` is the share of the exchange's bytes that the H keys are, `sent x` and `busiest x` what a rank
sends, and the busiest rank moves, with the copies over without.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

__all__ = ["main", "without_hottest"]

_KEY_BYTES = 4
_WORLD_SIZES = (2, 8, 32)
_HOTTEST = (100, 1_000, 10_000)
_TRIED = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the count and returns what the last line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", help="a records folder; else the made log")
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the made log")
    parser.add_argument("--cache", help="where logs are kept; else $GMETA_DATA, ~/.cache/gmeta_tf")
    parser.add_argument("--world-sizes", type=int, nargs="+", default=list(_WORLD_SIZES))
    parser.add_argument("--hottest", type=int, nargs="+", default=list(_HOTTEST))
    parser.add_argument("--steps", type=int, default=8, help="counted on each rank")
    for name, default in (("tasks", 128), ("support", 20), ("query", 10), ("width", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    if min(options.world_sizes) < 2:
        parser.error("expected --world-sizes of at least 2: one rank exchanges nothing.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    records = options.records or _made_records(options.rows, options.cache)
    results = []
    for world_size in options.world_sizes:
        result = _result(str(records), world_size, options)
        results.append(result)
        print("\n".join([*_lines(result), ""]), flush=True)
    answer = {
        "records": options.records or f"made log of {options.rows} rows",
        "step": {name: getattr(options, name) for name in ("tasks", "support", "query", "width")},
        "steps": options.steps,
        "worlds": results,
    }
    print(json.dumps(answer))
    return answer


def without_hottest(
    requests: Iterable[tuple[int, np.ndarray]], world_size: int
) -> tuple[Callable[[int], np.ndarray], int]:
    """Counts requests, and returns what takes the hottest keys out of them.

    Args:
        requests: of each step of each rank: the rank, and its distinct keys, int64 `[U]`.
        world_size: W.

    Returns:
        A function of H: how many keys each rank (row) asks of each owner (column) when the H
        hottest are not asked for, int64 `[W, W]`. And how many keys there are.
    """
    from gmeta_tf.distributed.ownership import owner_of

    keys_of: list[list[np.ndarray]] = [[] for _ in range(world_size)]
    for rank, keys in requests:
        keys_of[rank].append(keys)
    counted = [np.unique(np.concatenate(keys), return_counts=True) for keys in keys_of]
    distinct, index = np.unique(np.concatenate([keys for keys, _ in counted]), return_inverse=True)
    popularity = np.bincount(index, weights=np.concatenate([count for _, count in counted]))
    # The place of each key among the hottest.
    place = np.argsort(np.argsort(-popularity, kind="stable"))

    def asked(hottest: int) -> np.ndarray:
        matrix = np.zeros([world_size, world_size], np.int64)
        for rank, (keys, count) in enumerate(counted):
            is_left = place[np.searchsorted(distinct, keys)] >= hottest
            owners = owner_of(keys[is_left], world_size)
            matrix[rank] = np.bincount(owners, weights=count[is_left], minlength=world_size)
        return matrix

    return asked, len(distinct)


def _result(records: str, world_size: int, options: argparse.Namespace) -> dict[str, Any]:
    import gmeta_tf as gm
    from gmeta_tf.planner.key_requests import keys_of_steps
    from gmeta_tf.planner.traffic import exchange_bytes, ring_bytes

    batches = gm.TaskBatches(
        gm.Records.open(records),
        "train",
        tasks=options.tasks,
        support=options.support,
        query=options.query,
        every_row=True,
        world=gm.World(0, world_size),
    )
    steps = ((rank, keys["embedded"]) for rank, keys in keys_of_steps(batches, options.steps))
    asked, num_keys = without_hottest(steps, world_size)

    def bytes_of(hottest: int) -> dict[str, Any]:
        hottest = min(hottest, num_keys)
        sent, received = exchange_bytes(
            asked(hottest) / options.steps, key_bytes=_KEY_BYTES, row_bytes=4 * options.width
        )
        copies = ring_bytes(hottest * options.width, world_size)
        return {
            "hottest": hottest,
            "exchange": round(float(sent.mean())),
            "allreduce": round(copies),
            "sent": round(float(sent.mean()) + copies),
            "busiest": round(float(np.maximum(sent, received).max()) + copies),
        }

    tried = [bytes_of(hottest) for hottest in (0, *_TRIED)]
    return {
        "world_size": world_size,
        "distinct_keys": round(float(asked(0).sum()) / options.steps / world_size, 1),
        "without": tried[0],
        "with": [bytes_of(hottest) for hottest in options.hottest],
        "best_sent": min(tried, key=lambda one: one["sent"]),
        "best_busiest": min(tried, key=lambda one: one["busiest"]),
    }


def _lines(result: dict[str, Any]) -> list[str]:
    from gmeta_tf.planner.report import aligned, human_bytes

    without = result["without"]

    def cells(what: str, one: dict[str, Any]) -> tuple[str, ...]:
        return (
            what,
            f"{one['hottest']:,}",
            *(human_bytes(one[name]) for name in ("exchange", "allreduce", "sent", "busiest")),
            f"{100 * (1 - one['exchange'] / without['exchange']):.1f} %",
            f"{one['sent'] / without['sent']:.3f}",
            f"{one['busiest'] / without['busiest']:.3f}",
        )

    rows = [
        ("", "H", "exchange", "AllReduce", "sent", "busiest", "hot", "sent x", "busiest x"),
        cells("no copies", without),
        *(cells("copies", one) for one in result["with"]),
        cells("least sent", result["best_sent"]),
        cells("least busiest", result["best_busiest"]),
    ]
    head = f"{result['world_size']} ranks, {result['distinct_keys']:,.0f} distinct keys a rank"
    return [head, *aligned(rows)]


def _made_records(rows: int, cache: str | None) -> Any:
    from benchmarks.made_log import MadeLog
    from benchmarks.training_job import Job

    return Job.prepared(MadeLog.cached(rows, cache)).records


if __name__ == "__main__":
    main()
