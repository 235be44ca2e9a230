"""What a row of a log costs, from the log to a batch, as logs grow."""

from __future__ import annotations

import importlib
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.made_log import MadeLog
from benchmarks.memory import resident_bytes
from benchmarks.meta_io import records_of, serve_prepare
from benchmarks.processes import Process

__all__ = ["measure_rows"]

_PARTS = ("support", "query")
_REPEATS = 3  # of what takes little time; the median counts


def measure_rows(
    logs: list[MadeLog], *, memory_limit: str, seconds: float, keep: bool
) -> dict[str, Any]:
    """Figures by number of rows, and what they grow by from the first log to the last.

    Args:
        logs: the smallest first.
        memory_limit: of `prepare`.
        seconds: of reading batches, of each log and turn.
        keep: leave the records where they are, and take those that are there.
    """
    figures = {}
    for log in logs:
        log.parquet_files()
        if not (keep and (records_of(log) / "schema.json").is_file()):
            runs = max(1, min(_REPEATS, logs[-1].rows // (3 * log.rows)))  # more of short ones
            prepared = [
                _asked(serve_prepare, log, memory_limit, question="run") for _ in range(runs)
            ]
            figures[log.rows] = {
                "prepare_seconds": statistics.median(one["seconds"] for one in prepared),
                "prepare_peak_bytes": max(one["memory_bytes"] for one in prepared),
                "prepare_imports_bytes": prepared[0]["memory_before_bytes"],
            }
        else:
            figures[log.rows] = {}
        figures[log.rows] |= _opened(records_of(log))
    for rows, rate in _rates(logs, seconds).items():
        figures[rows] |= rate
    for log in logs:
        figures[log.rows] |= _asked(_serve_verify, records_of(log), question="verify")
        if not keep:
            shutil.rmtree(records_of(log))
    first, last = (figures[log.rows] for log in (logs[0], logs[-1]))
    growth = {
        "loader_memory": last["loader_peak_bytes"] / first["loader_peak_bytes"],
        "samples_per_second": last["samples_per_second"] / first["samples_per_second"],
    }
    if "prepare_seconds" in first and "prepare_seconds" in last:
        growth["prepare"] = (last["prepare_seconds"] / logs[-1].rows) / (
            first["prepare_seconds"] / logs[0].rows
        )
    return {"rows": {str(rows): each for rows, each in figures.items()}, "growth": growth}


def _asked(serve: Callable[..., Any], *arguments: Any, question: str) -> Any:
    with Process(serve, *arguments) as process:
        return process.ask(question)


def _opened(records: pathlib.Path) -> dict[str, Any]:
    """Of several fresh processes each, the medians of what opening and resuming take."""
    found = [_asked(_serve_open, records, question="open") for _ in range(_REPEATS)]
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    size = sum(file.stat().st_size for file in records.rglob("*") if file.is_file())
    return medians | {"records_bytes": size}


def _rates(logs: list[MadeLog], seconds: float) -> dict[int, dict[str, Any]]:
    """Samples a second; the logs take turns."""
    loaders = {log.rows: Process(_serve_batches, records_of(log)) for log in logs}
    try:
        rates: dict[int, list[float]] = {rows: [] for rows in loaders}
        for turn in range(1 + _REPEATS):  # the first one traces and fills what is ready ahead
            for rows, loader in loaders.items():
                rate = loader.ask("run", seconds)
                if turn:
                    rates[rows].append(rate)
        return {
            rows: {
                "samples_per_second": statistics.median(rates[rows]),
                "loader_peak_bytes": loader.ask("memory"),
            }
            for rows, loader in loaders.items()
        }
    finally:
        for loader in loaders.values():
            loader.__exit__()


def _batches(records: pathlib.Path, begin: Any = None) -> Any:
    import gmeta_tf as gm

    begins = {} if begin is None else {"begin": begin}
    return gm.TaskBatches(
        gm.Records.open(records),
        "train",
        tasks=128,
        support=10,
        query=20,
        every_row=True,
        world=gm.World(),
        **begins,
    )


def _serve_open(records: pathlib.Path) -> dict[str, Callable[..., Any]]:
    importlib.import_module("gmeta_tf.meta_io.batches.task_batches")  # is not measured

    def first_batch_seconds(begin: Any = None) -> float:
        start = time.perf_counter()
        next(iter(_batches(records, begin).dataset()))
        return time.perf_counter() - start

    def opened() -> dict[str, float]:
        before = resident_bytes("VmRSS")
        start = time.perf_counter()
        made = _batches(records)
        steps = made.steps_per_epoch
        open_seconds = time.perf_counter() - start
        memory = resident_bytes("VmRSS") - before
        return {
            "open_seconds": open_seconds,
            "open_bytes": memory,
            "first_batch_seconds": first_batch_seconds(),
            "resume_seconds": first_batch_seconds(made.progress(0, steps // 2)),
            "steps_per_epoch": steps,
        }

    return {"open": opened}


def _serve_batches(records: pathlib.Path) -> dict[str, Callable[..., Any]]:
    steps = iter(_batches(records).dataset())

    def run(seconds: float) -> float:
        next(steps)  # what was ready before the turn
        samples, start = 0.0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            batch = next(steps)
            samples += sum(float(batch[part]["weight"].numpy().sum()) for part in _PARTS)
        return samples / elapsed

    return {"run": run, "memory": lambda: resident_bytes("VmHWM")}


def _serve_verify(records: pathlib.Path) -> dict[str, Callable[..., Any]]:
    from gmeta_tf.meta_io.records.verification import verify

    def seconds() -> dict[str, float]:
        start = time.perf_counter()
        found = verify(str(records))
        if found.damaged_records:
            raise RuntimeError(f"{records} is damaged: {found.summary}")
        return {"verify_seconds": time.perf_counter() - start}

    return {"verify": seconds}
