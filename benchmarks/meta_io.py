"""Samples a second of the input pipeline, against two conventional ones and a plain read.

A made log goes through `prepare`, and its records through `TaskBatches`. Every loader runs in a
process of its own; they take turns, round by round, so that what else the machine does hits all
of them. A sample is one real support or query row (weight 1) of a batch whose distinct keys are
there. The last line is the result as JSON.

    python -m benchmarks.meta_io --quick      # a minute: 1 million rows
    python -m benchmarks.meta_io              # 20 million rows, about 2 GB in the cache
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.made_log import KEY_COLUMNS, MadeLog
from benchmarks.memory import resident_bytes
from benchmarks.processes import Process

__all__ = ["Sizes", "main", "records_of", "serve_dataset", "serve_prepare"]

# TensorFlow and gmeta_tf are imported in the processes that are measured, not in this one.

_PARTS = ("support", "query")
PEERS = ("csv_group_by_window", "example_per_sample")
TRAINED = ("quick_start", "dlrm_t128")
_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Sizes:
    """T, S and Q of every loader."""

    tasks: int
    support: int
    query: int


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.rows, options.peer_rows = min(options.rows, 1_000_000), 200_000
        options.rounds, options.seconds, options.warm_up = 3, 1.0, 2.0
        options.steps = 20
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)  # the processes that follow inherit it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    log = MadeLog.cached(options.rows, options.cache)
    small_log = MadeLog.cached(options.rows // 4, options.cache)
    peer_log = MadeLog.cached(min(options.peer_rows, options.rows), options.cache)
    sizes = Sizes(options.tasks, options.support, options.query)
    _say(f"{len(cores)} core(s); log of {log.rows:,} rows and {log.tasks:,} tasks in {log.folder}")
    prepared = {}
    for made in (small_log, log):
        prepared[made.rows] = _prepare(made, options)
        _say(f"prepare of {made.rows:,} rows: {_shown(prepared[made.rows])}")

    with Process(_serve_making_of, peer_log) as process:
        process.ask("make")

    with contextlib.ExitStack() as stack:
        peers = [(name, Process(_serve_peer, name, peer_log, sizes)) for name in PEERS]
        loaders = {"ours": Process(_serve_ours, records_of(log), sizes), **dict(peers)}
        for loader in loaders.values():
            stack.enter_context(loader)
        epoch = loaders["ours"].ask("epoch")
        for loader in loaders.values():
            loader.ask("run", 0.0, options.warm_up)
        rounds = []
        for _ in range(options.rounds):
            rates = {name: each.ask("run", 0.5, options.seconds) for name, each in loaders.items()}
            rates["read"] = _sequential_read(epoch["files"], options.seconds / 4)
            rounds.append(rates)
        memory = {name: loader.ask("memory") for name, loader in loaders.items()}
    with Process(_serve_ours, records_of(small_log), sizes) as loader:
        loader.ask("run", 0.0, options.warm_up + options.rounds * options.seconds)
        small_memory = loader.ask("memory")

    with Process(_serve_training, records_of(log)) as process:
        training = {name: process.ask("run", name, options.steps) for name in TRAINED}

    result = _result(rounds, epoch)
    result |= {
        "input_wait_fraction": {
            name: figures["input_wait_fraction"] for name, figures in training.items()
        },
        "training": training,
        "memory_bytes": {str(small_log.rows): small_memory, str(log.rows): memory["ours"]},
        "peer_memory_bytes": {name: memory[name] for name in PEERS},
        "prepare": prepared[log.rows],
        "rows": log.rows,
        "tasks": log.tasks,
        "peer_rows": peer_log.rows,
        "samples_per_epoch": epoch["samples"],
        "batch": dataclasses.asdict(sizes),
        "cores": len(cores),
        "ranks": 1,
        "page_cache": "warm",
    }
    _report(result)
    print(json.dumps({"benchmark": "meta_io", **result}))
    return result


def _serve_ours(records: pathlib.Path, sizes: Sizes) -> dict[str, Callable[..., Any]]:
    import gmeta_tf as gm

    batches = gm.TaskBatches(
        gm.Records.open(records), "train", every_row=True, **dataclasses.asdict(sizes)
    )
    files = sorted(str(file) for file in records.glob("train-*.tfrecord"))
    epoch = {
        "samples": batches.samples_per_epoch,
        "files": files,
        "bytes": sum(os.path.getsize(file) for file in files),
    }
    return serve_dataset(batches.dataset()) | {"epoch": lambda: epoch}


def _serve_making_of(log: MadeLog) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import example_per_sample

    def make() -> None:
        log.csv_files()
        example_per_sample.write_examples(log)

    return {"make": make}


def _serve_peer(name: str, log: MadeLog, sizes: Sizes) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import csv_group_by_window, example_per_sample

    sized = dataclasses.asdict(sizes)
    if name == "csv_group_by_window":
        return serve_dataset(csv_group_by_window.dataset(log.csv_files(), **sized))
    return serve_dataset(
        example_per_sample.dataset(example_per_sample.write_examples(log), **sized)
    )


def serve_dataset(dataset: Any) -> dict[str, Callable[..., Any]]:
    """The answers of a process that holds a dataset without end."""
    batches = iter(dataset)

    def run(skipped_seconds: float, seconds: float) -> float:
        """Samples a second; what was ready before the turn is read first and not counted."""
        skip_until = time.perf_counter() + skipped_seconds
        while time.perf_counter() < skip_until:
            next(batches)
        samples, start = 0.0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            batch = next(batches)
            samples += sum(float(batch[part]["weight"].numpy().sum()) for part in _PARTS)
        return samples / elapsed

    return {"run": run, "memory": lambda: resident_bytes("VmHWM")}


def _serve_training(records: pathlib.Path) -> dict[str, Callable[..., Any]]:
    import keras

    import gmeta_tf as gm

    opened = gm.Records.open(records)
    learners: dict[str, tuple[Any, Sizes]] = {
        "quick_start": (gm.models.MeLU((64, 64)), Sizes(32, 10, 40)),
        "dlrm_t128": (gm.models.MamlDLRM(top=(64, 64)), Sizes(128, 10, 20)),
    }

    def run(name: str, steps: int) -> dict[str, float]:
        """The share of the steps' time that they wait for input; the first steps only trace."""
        keras.utils.set_random_seed(0)
        learner, sizes = learners[name]
        batches = gm.TaskBatches(opened, "train", every_row=True, **dataclasses.asdict(sizes))
        embedding = gm.ShardedEmbedding(opened.schema, 16, world=batches.world)
        model = gm.MetaModel(learner, embedding, learner.inner_loop())
        model.compile()
        clock = Clock(model)
        model.fit(batches, epochs=2, steps_per_epoch=steps, verbose=0, callbacks=[clock])
        return {
            "input_wait_fraction": round(clock.waited / clock.seconds, 4),
            "step_seconds": round(clock.seconds / steps, 4),
        }

    class Clock(keras.callbacks.Callback):
        def __init__(self, timed: gm.MetaModel) -> None:
            super().__init__()
            self.timed = timed

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start, self.waited_before = time.perf_counter(), float(self.timed.input_seconds)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds = time.perf_counter() - self.start
            self.waited = float(self.timed.input_seconds) - self.waited_before

    return {"run": run}


def serve_prepare(log: MadeLog, memory_limit: str) -> dict[str, Callable[..., Any]]:
    import gmeta_tf as gm
    from gmeta_tf.meta_io.preparing.prepare import Split, prepare
    from gmeta_tf.meta_io.sources.sources import files_source

    fields = tuple(gm.Field(name) for name in KEY_COLUMNS)
    schema = gm.Schema(fields, label="label", task="user", time="time")

    def run() -> dict[str, float]:
        before, start = resident_bytes("VmHWM"), time.perf_counter()
        prepare(
            files_source(log.parquet_files()),
            schema,
            records_of(log),
            split=Split(test_fraction=0.05),
            overwrite=True,
            memory_limit=memory_limit,
        )
        seconds = time.perf_counter() - start
        return {
            "rows_per_second": round(log.rows / seconds),
            "seconds": round(seconds, 2),
            "memory_bytes": resident_bytes("VmHWM"),
            "memory_before_bytes": before,
        }

    return {"run": run}


def _prepare(log: MadeLog, options: argparse.Namespace) -> dict[str, Any]:
    if options.keep_records and (records_of(log) / "schema.json").is_file():
        return {}
    log.parquet_files()
    with Process(serve_prepare, log, options.memory_limit) as process:
        return process.ask("run") | {"memory_limit": options.memory_limit}


def records_of(log: MadeLog) -> pathlib.Path:
    return log.folder / "records"


def _sequential_read(files: list[str], seconds: float) -> float:
    """Bytes a second of reading the files from end to end, over and over."""

    def pieces() -> Iterator[int]:
        buffer = bytearray(_READ_BYTES)
        while True:
            for name in files:
                with open(name, "rb", buffering=0) as file:
                    while count := file.readinto(buffer):
                        yield count

    read, start = 0, time.perf_counter()
    for count in pieces():
        read += count
        if (elapsed := time.perf_counter() - start) >= seconds:
            break
    return read / elapsed


def _result(rounds: list[dict[str, float]], epoch: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round."""
    bytes_a_sample = epoch["bytes"] / epoch["samples"]
    rates = {name: [each[name] for each in rounds] for name in ("ours", *PEERS)}
    return {
        "samples_per_second": round(statistics.median(rates["ours"])),
        "ratio": {name: _median_ratio(rates["ours"], rates[name]) for name in PEERS},
        "fraction_of_sequential_read": _median_ratio(
            [rate * bytes_a_sample for rate in rates["ours"]], [each["read"] for each in rounds]
        ),
        "bytes_per_sample": round(bytes_a_sample, 1),
        "sequential_read_bytes_per_second": round(
            statistics.median(each["read"] for each in rounds)
        ),
        "samples_per_second_of_rounds": {
            name: [round(rate) for rate in values] for name, values in rates.items()
        },
    }


def _median_ratio(values: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, others, strict=True)), 4)


def _report(result: dict[str, Any]) -> None:
    for name, values in result["samples_per_second_of_rounds"].items():
        _say(
            f"{name:20s} {statistics.median(values):>12,.0f} samples/s "
            f"({min(values):,.0f} to {max(values):,.0f})"
        )
    for name, ratio in result["ratio"].items():
        _say(f"ours / {name:20s} {ratio:.2f}")
    _say(
        f"ours / sequential read      {result['fraction_of_sequential_read']:.4f} of "
        f"{result['sequential_read_bytes_per_second']:,} bytes/s, page cache warm"
    )
    for name, share in result["input_wait_fraction"].items():
        _say(f"{name:20s} waits for input {share:.1%} of a step")
    for rows, memory in result["memory_bytes"].items():
        _say(f"ours, {int(rows):>12,} rows: peak memory {memory / 2**20:,.0f} MiB")


def _shown(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items()) or "kept"


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.meta_io",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def whole(name: str, default: int, text: str) -> None:
        parser.add_argument(
            name, type=int, metavar="N", default=default, help=f"{text} ({default:_})"
        )

    def number(name: str, default: float, text: str) -> None:
        parser.add_argument(
            name, type=float, metavar="X", default=default, help=f"{text} ({default})"
        )

    parser.add_argument("--quick", action="store_true", help="1 million rows and short rounds")
    whole("--rows", 20_000_000, "rows of the log")
    whole("--peer-rows", 2_000_000, "rows of the peers' log; a smaller one is to their favour")
    whole("--tasks", 128, "T, tasks a batch")
    whole("--support", 10, "S, support rows of a task")
    whole("--query", 20, "Q, query rows of a task")
    whole("--rounds", 7, "turns of each loader")
    number("--seconds", 5.0, "seconds of a turn; half a second before it is not counted")
    number(
        "--warm-up",
        20.0,
        "seconds of each loader before the first round, in which "
        "the windows of group_by_window fill",
    )
    whole("--steps", 100, "training steps in which the wait for input is measured")
    whole("--cores", 2, "cores to run on")
    parser.add_argument("--memory-limit", default="2GB", help="of prepare (%(default)s)")
    parser.add_argument("--keep-records", action="store_true", help="do not prepare them again")
    parser.add_argument("--cache", help="where logs are kept; else $GMETA_DATA, ~/.cache/gmeta_tf")
    return parser


if __name__ == "__main__":
    main()
