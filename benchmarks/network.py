"""What crosses between hosts, and what it costs: simulated hosts with links of 200 Mbit/s.

    python -m benchmarks.network --quick     # some two minutes; to see that it works
    python -m benchmarks.network             # some six minutes

Needs root (launch/simcluster.sh). Four hosts of network namespaces share this machine's cores, so
rates are those of slow links and busy cores; ratios are taken within a round, and the last line is
the result as JSON.

*Exchange*: two hosts of two ranks train MeLU on a made-up log whose rows have an item and a history
of 20 items by Zipf's law, flat and by host, each in float32 and bfloat16, in turns. Bytes are those
that the hosts' network devices have counted, negotiation and TCP included.

*Outer rule*: four hosts of a rank each add up K dense numbers, by AllReduce, and by a centre: every
rank sends its own to rank 0, which adds them up and sends the sum to all. Bytes are those of the
busiest rank's device, sent and received.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = [
    "counted",
    "launched",
    "made_records",
    "main",
    "set_rate",
    "simulated_hosts",
    "training",
]

# TensorFlow and gmeta_tf are imported in the processes that are measured, not in this one.

ROOT = pathlib.Path(__file__).parents[1]
_SIMCLUSTER = ROOT / "launch" / "simcluster.sh"
_NAME = "gbench"
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HOROVOD_CYCLE_TIME": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": "1",
}
_ITEMS, _HISTORY, _SUPPORT, _QUERY = 5_000, 20, 5, 5
_VARIANTS = {  # by host first: Horovod starts with its process sets
    "by_host": {"exchange": "by-host", "wire": "float32"},
    "flat": {"exchange": "flat", "wire": "float32"},
    "by_host_bfloat16": {"exchange": "by-host", "wire": "bfloat16"},
    "flat_bfloat16": {"exchange": "flat", "wire": "bfloat16"},
}
_SENT = pathlib.Path("/sys/class/net/eth0/statistics/tx_bytes")
_RECEIVED = pathlib.Path("/sys/class/net/eth0/statistics/rx_bytes")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.as_rank:
        return _run_rank(options)
    passed = ["--rounds", str(options.rounds), "--steps", str(options.steps)]
    passed += ["--tasks", str(options.tasks), "--width", str(options.width)]
    passed += ["--numbers", str(options.numbers)]
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        records = made_records(folder, tasks=16 * options.tasks)
        stack.enter_context(simulated_hosts(4, options.rate))
        exchange = launched(
            "benchmarks.network", 4, 2, ["--part", "exchange", "--records", records, *passed]
        )
        outer = launched("benchmarks.network", 4, 1, ["--part", "outer", *passed])
    result = {"benchmark": "network", "rate": options.rate, **_result(exchange, outer)}
    _report(result)
    print(json.dumps(result))
    return result


def made_records(folder: pathlib.Path, *, tasks: int, rows: int = 10) -> str:
    """A records folder of made-up rows, whose items follow Zipf's law."""
    import gmeta_tf as gm
    from gmeta_tf.meta_io.preparing.prepare import Split, prepare
    from gmeta_tf.meta_io.sources.sources import files_source

    rng = np.random.default_rng(0)
    share = np.arange(1, _ITEMS + 1) ** -0.9
    items = rng.choice(_ITEMS, [tasks * rows, 1 + _HISTORY], p=share / share.sum())
    log = folder / "log.csv"
    with log.open("w", encoding="utf-8") as file:
        file.write("user,label,item,history\n")
        for index, (item, *history) in enumerate(items.tolist()):
            file.write(f"{index // rows},{item % 2},{item},{'|'.join(map(str, history))}\n")
    schema = gm.Schema(
        (
            gm.Field("item"),
            gm.Field("history", "multi", table="item", max_values=_HISTORY),
        ),
        label="label",
        task="user",
        tables=(gm.Table("item", num_rows=_ITEMS, keys="raw"),),
    )
    records = folder / "records"
    prepare(files_source([str(log)]), schema, records, split=Split(test_fraction=0.05))
    return str(records)


@contextlib.contextmanager
def simulated_hosts(hosts: int, rate: str) -> Iterator[None]:
    """That many hosts with links of the rate, taken down afterwards.

    Raises:
        RuntimeError: they could not be made; says why.
    """
    try:
        _simcluster("up", "--hosts", str(hosts), "--rate", rate)
        yield
    finally:
        _simcluster("down")


def set_rate(rate: str) -> None:
    """Sets the rate of the links that there are."""
    _simcluster("rate", rate)


def launched(module: str, ranks: int, per_host: int, arguments: list[str]) -> Any:
    """What rank 0 of `python -m module --as-rank FILE ...` on the simulated hosts answered.

    Raises:
        RuntimeError: a rank failed, with the end of what the ranks said.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder) / "answer.json"
        _simcluster(
            *("run", "-np", str(ranks), "--per-host", str(per_host)),
            ending=["--", sys.executable, "-m", module, "--as-rank", str(answer), *arguments],
        )
        return json.loads(answer.read_text(encoding="utf-8"))


def _simcluster(*words: str, ending: list[str] | None = None) -> None:
    command = [str(_SIMCLUSTER), *words, "--name", _NAME, *(ending or [])]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with status {done.returncode}:\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )


def _result(exchange: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the medians of ratios within a round."""

    def ratio(rounds: list[dict[str, Any]], upper: str, lower: str, figure: str) -> float:
        return round(
            statistics.median(one[upper][figure] / one[lower][figure] for one in rounds), 3
        )

    def medians(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        return {
            name: {
                figure: round(statistics.median(one[name][figure] for one in rounds), 5)
                for figure in rounds[0][name]
            }
            for name in rounds[0]
        }

    steps, sums = exchange["rounds"], outer["rounds"]
    rate = "samples_per_second"
    return {
        "ratio": {
            "bytes_flat_over_by_host": ratio(steps, "flat", "by_host", "bytes_across_hosts"),
            "rate_by_host_over_flat": ratio(steps, "by_host", "flat", rate),
            "rate_bfloat16_over_float32_by_host": ratio(steps, "by_host_bfloat16", "by_host", rate),
            "rate_bfloat16_over_float32_flat": ratio(steps, "flat_bfloat16", "flat", rate),
            "rate_by_host_bfloat16_over_flat": ratio(steps, "by_host_bfloat16", "flat", rate),
            "outer_bytes_centre_over_allreduce": ratio(
                sums, "centre", "allreduce", "busiest_bytes"
            ),
            "outer_time_centre_over_allreduce": ratio(sums, "centre", "allreduce", "seconds"),
        },
        "exchange": medians(steps),
        "outer_rule": medians(sums),
        "settings": exchange["settings"] | outer["settings"],
    }


def _report(result: dict[str, Any]) -> None:
    for name, figures in result["exchange"].items():
        print(
            f"{name:17s} {figures['samples_per_second']:8,.0f} samples/s, "
            f"{figures['bytes_across_hosts'] / 1e6:6.2f} MB across hosts a step"
        )
    for name, figures in result["outer_rule"].items():
        print(
            f"outer rule, {name:10s} {figures['seconds'] * 1e3:7.1f} ms, "
            f"{figures['busiest_bytes'] / 1e6:6.2f} MB at the busiest rank"
        )
    for name, value in result["ratio"].items():
        print(f"{name}: {value}")


# On each rank.


def _run_rank(options: argparse.Namespace) -> dict[str, Any]:
    """What one rank does; rank 0 writes the answer to a file."""
    from gmeta_tf.distributed.world import World

    world = World.detect()
    part = {"exchange": _exchange, "outer": _outer_rule}[options.part]
    answer = part(world, options)
    if world.is_chief:
        pathlib.Path(options.as_rank).write_text(json.dumps(answer), encoding="utf-8")
    return answer


def _exchange(world: Any, options: argparse.Namespace) -> dict[str, Any]:
    runs = {
        name: training(world, options.records, options.tasks, options.width, **variant)
        for name, variant in _VARIANTS.items()
    }
    rows = world.size * options.tasks * (_SUPPORT + _QUERY)
    rounds = []
    for run in runs.values():
        run(2)  # traces
    for index in range(options.rounds):
        # Every second round backwards, so that a drift of the machine's speed falls on both.
        names = list(runs) if index % 2 == 0 else list(reversed(runs))
        figures = {}
        for name in names:
            seconds, sent, _ = counted(world, functools.partial(runs[name], options.steps))
            figures[name] = {
                "samples_per_second": rows * options.steps / seconds,
                "bytes_across_hosts": sum(sent[:: world.local_size]) / options.steps,
            }
        rounds.append({name: figures[name] for name in runs})
    settings = {"tasks": options.tasks, "width": options.width, "steps": options.steps}
    return {"rounds": rounds, "settings": settings}


def training(
    world: Any, records_folder: str, tasks: int, width: int, **variant: Any
) -> Callable[[int], None]:
    """So many steps of a model of its own."""
    import keras
    import tensorflow as tf

    import gmeta_tf as gm
    from gmeta_tf.meta_io.batches.dataset_ops import with_next_keys

    keras.utils.set_random_seed(0)
    records = gm.Records.open(records_folder)
    batches = gm.TaskBatches(
        records, "train", tasks=tasks, support=_SUPPORT, query=_QUERY, world=world
    )
    embedding = gm.ShardedEmbedding(records.schema, width, replicate=False, world=world, **variant)
    learner = gm.models.MeLU((16,))
    model = gm.MetaModel(learner, embedding, learner.inner_loop(num_steps=1, learning_rate=0.1))
    model.compile("adam", "adagrad")
    data = batches.dataset().repeat()
    steps = iter(with_next_keys(data) if model.look_ahead else data)

    @tf.function(autograph=False)
    def step(steps: Any) -> None:
        model.train_step(next(steps))

    def run(times: int) -> None:
        for _ in range(times):
            step(steps)

    return run


def counted(world: Any, run: Callable[[], Any]) -> tuple[float, list[int], list[int]]:
    """Seconds, and the bytes that each rank's host has sent and received meanwhile."""
    from gmeta_tf.distributed.collectives import barrier, gather_json

    barrier(world, name="begin")
    before, begun = _bytes(), time.perf_counter()
    run()
    barrier(world, name="end")
    seconds, after = time.perf_counter() - begun, _bytes()
    moved = gather_json([after[0] - before[0], after[1] - before[1]], world, name="moved")
    return seconds, [sent for sent, _ in moved], [received for _, received in moved]


def _bytes() -> tuple[int, int]:
    """What this rank's host has sent and received; 0 where it is no simulated one."""
    if not _SENT.exists():
        return 0, 0
    return int(_SENT.read_text()), int(_RECEIVED.read_text())


def _outer_rule(world: Any, options: argparse.Namespace) -> dict[str, Any]:
    import tensorflow as tf

    from gmeta_tf.distributed.collectives import allreduce_sum, alltoall, start

    start(world)
    numbers = options.numbers
    own = tf.fill([numbers], float(world.rank + 1))

    def reduced() -> Any:
        return allreduce_sum([own], world, name="sum")[0]

    def by_centre() -> Any:
        to_centre = tf.constant([numbers] + [0] * (world.size - 1))
        gathered, _ = alltoall(own, to_centre, world, name="to_centre")
        summed = tf.reduce_sum(tf.reshape(gathered, [-1, numbers]), axis=0)
        share = numbers if world.is_chief else 0
        copies = tf.tile(summed, [world.size]) if world.is_chief else tf.zeros([0])
        return alltoall(copies, tf.fill([world.size], share), world, name="from_centre")[0]

    expected = world.size * (world.size + 1) / 2
    rounds = []
    for index in range(options.rounds + 1):
        figures = {}
        for name, way in {"allreduce": reduced, "centre": by_centre}.items():
            seconds, sent, received = counted(world, way)
            figures[name] = {
                "seconds": seconds,
                "busiest_bytes": max(a + b for a, b in zip(sent, received, strict=True)),
            }
            if float(way()[-1]) != expected:
                raise RuntimeError(f"{name}: expected a sum of {expected}, got {way()[-1]}.")
        if index:  # the first connects the ranks
            rounds.append(figures)
    return {"rounds": rounds, "settings": {"numbers": numbers}}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--rate", default="200mbit", help="of a host's link (200mbit)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each (7)")
    parser.add_argument("--steps", type=int, default=25, metavar="N", help="of a turn (25)")
    parser.add_argument("--tasks", type=int, default=64, metavar="T", help="of a rank (64)")
    parser.add_argument("--width", type=int, default=64, metavar="D", help="of a row (64)")
    parser.add_argument("--numbers", type=int, default=1 << 20, metavar="K", help="dense (2**20)")
    for name in ("--as-rank", "--part", "--records"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.steps = 2, 5
    return options


if __name__ == "__main__":
    main()
