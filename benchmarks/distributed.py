"""Samples a second of training on 2 ranks, against 1 rank and against a parameter server.

One job (benchmarks/training_job.py) goes from records to updated weights: input pipeline,
exchange, both loops, optimizers. Ours runs under horovodrun with one core a rank. The parameter
server and its two workers (benchmarks/peers/parameter_server.py) share the same two cores. The runs
take turns, round by round, and ratios are taken within a round. A sample is one support or query
row that is there. The last line is the result as JSON.

    python -m benchmarks.distributed --quick
    python -m benchmarks.distributed

It needs the two cores for itself: a step takes as long as the slower rank's, so what disturbs one
core is waited for by both.

`efficiency` is the rate of 2 ranks over twice that of 1, at the same T a rank. 1 rank exchanges
nothing. `efficiency.2_apart` is that of two runs of 1 rank at the same time, which know nothing of
one another: what the cores' shared cache and memory leave of a core, and so the most that 2 ranks
can reach. `core_microseconds_per_sample` is what both take of the cores' time, all threads
together: a busy machine disturbs it less, and what it grows by is what the exchange costs.

`bytes_over_bound` is what the ranks sent over what they had to send. Sent, of a rank and a step:
the bytes that its AlltoAlls carry to *other* ranks (keys, rows, gradients, dense sums that ride
along), and for each number of an AllReduce `2 (W - 1) / W` times its 4 bytes, which is what a ring
sends. Least, with int64 keys (those that fit in 32 bits travel so, and send less): 8 bytes for each
distinct key of the step that another rank owns, 4 D for that key's row on its way here and 4 D for
its gradient on its way back, and `2 (W - 1) / W` times 4 bytes for each dense weight. Neither
counts what Horovod's negotiation sends. Both are summed over ranks and steps.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.made_log import MadeLog
from benchmarks.processes import Process
from benchmarks.ranks import cores_of_ranks, run_on_ranks

__all__ = ["count_traffic", "main"]

# TensorFlow and gmeta_tf are imported in the processes that are measured, not in this one.

_PER_TASK = (1, 1)  # tasks a step, steps a call
_TUNED = ((128, 2), (128, 4), (256, 1), (256, 2), (512, 1), (512, 2))
_TUNED_QUICK = ((512, 1),)  # our T: nothing is tuned
_SAVED_STEPS = {1: 400, 128: 30, 256: 15, 512: 8}
_INNER_OPTIONS: dict[str, Any] = {}  # of gm.InnerLoop, for ours and the parameter server's alike


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.as_rank:
        return _run_rank(options)
    cores = cores_of_ranks(2)
    os.sched_setaffinity(0, cores)  # the processes that follow inherit it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    tuned = _TUNED_QUICK if options.quick else _TUNED
    log = MadeLog.cached(options.rows, options.cache)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with Process(_serve_saving, log, folder) as process:
            saved = {
                tasks: process.ask("save", tasks) for tasks in sorted({1, *(t for t, _ in tuned)})
            }
        _say(f"log of {log.rows:,} rows prepared in {log.folder}; cores {cores}")
        server = _start_cluster(stack, log)
        for tasks, steps in (_PER_TASK, *tuned):
            server.ask("prepare", (tasks, steps), saved[tasks])
        rounds, traffic = [], None
        for index in range(options.rounds):
            figures: dict[Any, float] = {}
            for ranks in (1, 2):
                ran = _horovodrun(ranks, cores, options, count=ranks == 2 and index == 0)
                figures[f"ranks_{ranks}"] = ran["samples"] / ran["seconds"]
                figures[f"core_{ranks}"] = ran["core_seconds"] / ran["samples"] * 1e6
                traffic = ran.get("traffic", traffic)
            figures["apart"] = _apart(cores, options)
            for variant in (_PER_TASK, *tuned):
                figures[variant] = server.ask("run", variant, options.seconds)
            rounds.append(figures)
            rates = {_name(name): each for name, each in figures.items() if _is_rate(name)}
            shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
            _say(f"round {index + 1}: samples/s: {shown}")
    result = _result(rounds, tuned, traffic)
    result |= {
        "ranks": 2,
        "tasks": options.tasks,
        "rows": log.rows,
        "cores": 2,
        "rounds": options.rounds,
        "inner_options": _INNER_OPTIONS,
    }
    _report(result)
    print(json.dumps({"benchmark": "distributed", **result}))
    return result


def _result(
    rounds: list[dict[Any, float]], tuned: tuple[tuple[int, int], ...], traffic: Any
) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round."""

    def median(name: Any) -> float:
        return statistics.median(each[name] for each in rounds)

    def ratio(name: Any, other: Any, factor: float = 1.0) -> float:
        return round(statistics.median(each[name] / (factor * each[other]) for each in rounds), 4)

    best = max(tuned, key=median)
    return {
        "efficiency": {
            "2": ratio("ranks_2", "ranks_1", 2.0),
            "2_apart": ratio("apart", "ranks_1", 2.0),
        },
        "ratio": {
            "parameter_server_per_task": ratio("ranks_2", _PER_TASK),
            "parameter_server_tuned": ratio("ranks_2", best),
        },
        "bytes_over_bound": round(traffic["sent"] / traffic["least"], 4),
        "traffic": traffic,
        "samples_per_second": {
            "ranks_1": round(median("ranks_1")),
            "ranks_2": round(median("ranks_2")),
            "apart": round(median("apart")),
            "parameter_server_per_task": round(median(_PER_TASK)),
            "parameter_server_tuned": round(median(best)),
        },
        "core_microseconds_per_sample": {
            ranks: round(median(f"core_{ranks}"), 2) for ranks in ("1", "2")
        },
        "parameter_server_tuned": {"tasks_a_step": best[0], "steps_a_call": best[1]},
        "samples_per_second_of_rounds": [
            {_name(name): round(rate) for name, rate in each.items() if _is_rate(name)}
            for each in rounds
        ],
    }


def _is_rate(name: Any) -> bool:
    return not str(name).startswith("core_")


def _name(variant: Any) -> str:
    if isinstance(variant, str):
        return variant
    return f"server_{variant[0]}_tasks_{variant[1]}_steps_a_call"


def _report(result: dict[str, Any]) -> None:
    for name, rate in result["samples_per_second"].items():
        _say(f"{name:26s} {rate:>10,} samples/s")
    _say(f"core time a sample, in us, of 1 and 2 ranks: {result['core_microseconds_per_sample']}")
    efficiency = result["efficiency"]
    _say(f"2 ranks do {efficiency['2']:.3f} of twice what 1 does")
    _say(f"two runs of 1 rank, side by side, do {efficiency['2_apart']:.3f} of it")
    for name, ratio in result["ratio"].items():
        _say(f"2 ranks / {name:26s} {ratio:.2f}")
    _say(f"sent {result['bytes_over_bound']:.4f} of the least that must be sent")


# Ours.


def _horovodrun(
    ranks: int, cores: list[int], options: argparse.Namespace, *, count: bool
) -> dict[str, Any]:
    """One run of so many ranks, each on a core of its own."""
    arguments = [
        *("--rows", str(options.rows), "--tasks", str(options.tasks)),
        *("--seconds", str(options.seconds)),
        *(["--cache", options.cache] if options.cache else []),
        *(["--count-bytes"] if count else []),
    ]
    return run_on_ranks("benchmarks.distributed", ranks, cores, arguments)


def _apart(cores: list[int], options: argparse.Namespace) -> float:
    """Samples a second of two runs of 1 rank together, at the same time, each on its core."""
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        runs = list(pool.map(lambda core: _horovodrun(1, [core], options, count=False), cores))
    return sum(run["samples"] / run["seconds"] for run in runs)


def _run_rank(options: argparse.Namespace) -> dict[str, Any]:
    """What one rank does; rank 0 writes the answer to a file."""
    from gmeta_tf.distributed.world import World

    world = World.detect()
    cores = [int(core) for core in options.on_cores.split(",")]
    os.sched_setaffinity(0, {cores[world.local_rank]})  # before TensorFlow makes its threads

    import tensorflow as tf

    from benchmarks.training_job import Job
    from gmeta_tf.distributed.collectives import allreduce_sum, barrier, broadcast_json
    from gmeta_tf.meta_io.batches.dataset_ops import with_next_keys

    job = Job.prepared(MadeLog.cached(options.rows, options.cache))
    model = job.model(world, **_INNER_OPTIONS)
    data = job.batches(options.tasks, world).dataset()
    batches = iter(with_next_keys(data) if model.look_ahead else data)
    samples = tf.Variable(0.0, dtype=tf.float64)

    @tf.function(autograph=False)
    def step(batches: Any) -> None:
        batch = next(batches)
        for part in ("support", "query"):
            samples.assign_add(tf.cast(tf.reduce_sum(batch[part]["weight"]), tf.float64))
        model.train_step(batch)

    def timed(steps: int) -> float:
        barrier(world, name="start")
        start = time.perf_counter()
        for _ in range(steps):
            step(batches)
        barrier(world, name="end")
        return time.perf_counter() - start

    timed(10)
    steps = max(10, round(options.seconds / (timed(20) / 20)))
    steps = broadcast_json(steps, world, name="steps")
    samples.assign(0.0)
    worked = time.process_time()
    answer: dict[str, Any] = {"seconds": timed(steps), "steps": steps}
    worked = time.process_time() - worked
    values = [samples.read_value(), tf.constant(worked, tf.float64)]
    for name, total in zip(
        ("samples", "core_seconds"), allreduce_sum(values, world, name="totals"), strict=True
    ):
        answer[name] = float(total)
    if options.count_bytes:
        answer["traffic"] = count_traffic(model, batches, steps=20)
    if world.is_chief:
        pathlib.Path(options.as_rank).write_text(json.dumps(answer), encoding="utf-8")
    return answer


def count_traffic(model: Any, batches: Any, steps: int) -> dict[str, float]:
    """The bytes that all ranks send in some steps, and the least that they must; see the top.

    The collectives are wrapped where the library calls them, in a trace of its own, so that the
    steps that are timed count nothing.
    """
    import tensorflow as tf

    from gmeta_tf.distributed import collectives, packed_alltoall
    from gmeta_tf.distributed.ownership import owner_of

    world = model.world
    sent = {name: tf.Variable(0.0, dtype=tf.float64) for name in ("alltoall", "allreduce")}
    least = tf.Variable(0.0, dtype=tf.float64)
    ring = 2 * (world.size - 1) / world.size

    def add(total: Any, value: Any) -> None:
        total.assign_add(tf.cast(value, tf.float64))

    def alltoall(tensor: Any, splits: Any, world: Any, *, name: str) -> Any:
        to_others = tf.reduce_sum(splits) - splits[world.rank]
        row_bytes = tensor.dtype.size * (tensor.shape[1:].num_elements() or 1)
        add(sent["alltoall"], to_others * row_bytes)
        return collectives.alltoall(tensor, splits, world, name=f"counted_{name}")

    def allreduce_sum(tensors: Any, world: Any, *, name: str) -> Any:
        for tensor in tensors:
            add(sent["allreduce"], ring * tensor.dtype.size * tensor.shape.num_elements())
        return collectives.allreduce_sum(tensors, world, name=f"counted_{name}")

    dense = sum(variable.value.shape.num_elements() for variable in model.trainable_variables)

    @tf.function(autograph=False)
    def step(batches: Any) -> None:
        batch = next(batches)
        add(least, ring * 4 * dense)
        for group, keys in batch["keys"].items():
            remote = tf.math.count_nonzero(owner_of(keys, world.size) != world.rank)
            add(least, remote * (8 + 2 * 4 * model.embedding.shards[group].width))
        model.train_step(batch)

    originals = packed_alltoall.alltoall, packed_alltoall.allreduce_sum
    packed_alltoall.alltoall, packed_alltoall.allreduce_sum = alltoall, allreduce_sum
    try:
        for _ in range(steps):
            step(batches)
    finally:
        packed_alltoall.alltoall, packed_alltoall.allreduce_sum = originals
    values = [sent["alltoall"].read_value(), sent["allreduce"].read_value(), least.read_value()]
    sums = [float(value) for value in collectives.allreduce_sum(values, world, name="traffic")]
    a_rank_step = steps * world.size
    return {
        "sent": sums[0] + sums[1],
        "least": sums[2],
        "alltoall_bytes_a_rank_step": round(sums[0] / a_rank_step),
        "allreduce_bytes_a_rank_step": round(sums[1] / a_rank_step),
    }


# The parameter server.


def _serve_saving(log: MadeLog, folder: pathlib.Path) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server
    from benchmarks.training_job import Job
    from gmeta_tf.distributed.world import World

    job = Job.prepared(log)

    def save(tasks: int) -> list[str]:
        folders = []
        for worker in range(2):
            folders.append(str(folder / f"{tasks}-{worker}"))
            batches = job.batches(tasks, World(worker, 2))
            parameter_server.save_steps(batches, pathlib.Path(folders[-1]), _SAVED_STEPS[tasks])
        return folders

    return {"save": save}


def _start_cluster(stack: contextlib.ExitStack, log: MadeLog) -> Process:
    """The servers, and the process that coordinates them."""
    with Process(_serve_addresses) as process:
        cluster = process.ask("cluster")
    for job, index in (("ps", 0), ("worker", 0), ("worker", 1)):
        stack.enter_context(Process(_serve_server, cluster, job, index)).ask("start")
    return stack.enter_context(Process(_serve_coordinator, cluster, log))


def _serve_addresses() -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server

    return {"cluster": lambda: parameter_server.free_cluster(workers=2)}


def _serve_server(cluster: Any, job: str, index: int) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server

    held = []

    def start() -> None:
        held.append(parameter_server.start_server(cluster, job, index, threads=1))

    return {"start": start}


def _serve_coordinator(cluster: Any, log: MadeLog) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server
    from benchmarks.training_job import Job
    from gmeta_tf.distributed.world import World

    job = Job.prepared(log)
    coordinator = parameter_server.Coordinator(
        cluster,
        lambda: job.model(World(), **_INNER_OPTIONS),
        learning_rate=job.learning_rate,
        row_learning_rate=job.row_learning_rate,
    )
    calls: dict[tuple[int, int], Callable[[], Any]] = {}

    def prepare(variant: tuple[int, int], folders: list[str]) -> None:
        calls[variant] = coordinator.prepare(folders, job.support, steps_a_call=variant[1])
        coordinator.rate(calls[variant], 0.1)

    def run(variant: tuple[int, int], seconds: float) -> float:
        return coordinator.rate(calls[variant], seconds)

    return {"prepare": prepare, "run": run}


def _say(line: str) -> None:
    print(line, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="1 million rows, one short round")
    parser.add_argument("--rows", type=int, metavar="N", help="of the log (4 million; quick: 1)")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each (7; quick: 1)")
    parser.add_argument("--seconds", type=float, metavar="X", help="of a turn (5; quick: 0.5)")
    parser.add_argument("--tasks", type=int, metavar="N", default=512, help="T of a rank (512)")
    parser.add_argument("--cache", help="where logs are kept; else $GMETA_DATA, ~/.cache/gmeta_tf")
    for name in ("--as-rank", "--on-cores"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--count-bytes", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.rows = options.rows or (1_000_000 if options.quick else 4_000_000)
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.seconds = options.seconds or (0.5 if options.quick else 5.0)
    return options


if __name__ == "__main__":
    main()
