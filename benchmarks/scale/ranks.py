"""What a sample costs as ranks are added, on one machine's cores."""

from __future__ import annotations

import os
import statistics
from typing import Any

from benchmarks.made_log import MadeLog
from benchmarks.ranks import run_on_ranks

__all__ = ["measure_ranks"]


def measure_ranks(
    log: MadeLog, sizes: list[int], *, tasks: list[int], rounds: int, seconds: float, cache: str
) -> dict[str, Any]:
    """Core microseconds a sample by T and W, and what a rank sends in a step.

    The ranks of a run share the cores evenly; beyond one a core their rate says little, and the
    cores' time a sample is what counts.

    Args:
        log: what is trained on.
        sizes: W, 1 first.
        tasks: T of a rank.
        rounds: turns of each.
        seconds: of a turn.
        cache: where the log lies.
    """
    cores = sorted(os.sched_getaffinity(0))
    figures: dict[str, Any] = {}
    exchange: dict[str, float] = {}
    for num_tasks in tasks:
        turns: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
        for turn in range(rounds):
            for size in sizes:
                arguments = [
                    *("--rows", str(log.rows), "--tasks", str(num_tasks)),
                    *("--seconds", str(seconds), "--cache", cache),
                    *(["--count-bytes"] if size > 1 and turn == 0 else []),
                ]
                on = [cores[rank % len(cores)] for rank in range(size)]
                turns[size].append(run_on_ranks("benchmarks.distributed", size, on, arguments))
        figures[str(num_tasks)] = {str(size): _of_size(turns[size]) for size in sizes}
        for size in sizes[1:]:
            more = [
                each["core_seconds"] / each["samples"] - one["core_seconds"] / one["samples"]
                for each, one in zip(turns[size], turns[sizes[0]], strict=True)
            ]
            exchange[f"{num_tasks}_tasks_{size}_ranks"] = 1e6 * statistics.median(more)
    return {"ranks": figures, "exchange_core_microseconds_per_sample": exchange}


def _of_size(turns: list[dict[str, Any]]) -> dict[str, Any]:
    def median(of: str) -> float:
        return statistics.median(each[of] / each["samples"] for each in turns)

    traffic = next((each["traffic"] for each in turns if "traffic" in each), None)
    return {
        "core_microseconds_per_sample": 1e6 * median("core_seconds"),
        "samples_per_second": 1 / median("seconds"),
        "traffic": traffic,
    }
