"""Small tables replicated on every rank, against sharded ones: what a step takes, and why.

Two ranks with a core each train MeLU on MovieLens-100k (1,958 rows in all tables), with
`ShardedEmbedding(replicate=False)` and `replicate=True` in turns, round by round within one run.
`--more-rows` makes the tables of a replicated model larger by so many rows, which nobody reads: so
it shows up to what size replicas pay. `--collectives` measures single collectives instead, by the
bytes that they carry. The rule of `replicate="auto"` (gmeta_tf/embedding/replication_rule.py)
is derived from these figures. The last line is the result as JSON.

    python -m benchmarks.replicated --tasks 128                      # less than two minutes
    python -m benchmarks.replicated --tasks 32 --more-rows 10000 20000 40000
    python -m benchmarks.replicated --collectives                    # those alone
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.ranks import cores_of_ranks, run_on_ranks

__all__ = ["main"]

# TensorFlow and gmeta_tf are imported in the processes that are measured, not in this one.

_RANKS = 2
_WIDTH = 16
_SIZES = (4_000, 200_000, 1_000_000, 4_000_000)
_COLLECTIVES = ("alltoall", "allreduce")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.as_rank:
        return _run_rank(options)
    cores = cores_of_ranks(_RANKS)
    passed = ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    if options.collectives:
        figures = run_on_ranks("benchmarks.replicated", _RANKS, cores, [*passed, "--collectives"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            passed += ["--tasks", str(options.tasks), "--records", _prepared(folder, options.data)]
            passed += ["--more-rows", *map(str, options.more_rows)]
            figures = run_on_ranks("benchmarks.replicated", _RANKS, cores, passed)
    result = {"benchmark": "replicated", "ranks": _RANKS, **figures}
    _report(result)
    print(json.dumps(result))
    return result


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Medians of the rounds' milliseconds, and what each saves over the first of its round."""
    first = next(iter(rounds[0]))
    figures = {}
    for name in rounds[0]:
        saved = sorted(each[first] - each[name] for each in rounds)
        figures[name] = {
            "milliseconds": round(statistics.median(each[name] for each in rounds), 3),
            "saved": round(statistics.median(saved), 3),
            "saved_lower_quartile": round(saved[len(saved) // 4], 3),
            "saved_upper_quartile": round(saved[-1 - len(saved) // 4], 3),
        }
    return figures


def _report(result: dict[str, Any]) -> None:
    for name, figures in result.get("steps", {}).items():
        print(
            f"T = {result['tasks']}, {name:22s} {figures['milliseconds']:7.2f} ms a step, "
            f"{figures['saved']:6.2f} saved (quartiles {figures['saved_lower_quartile']:.2f} and "
            f"{figures['saved_upper_quartile']:.2f})"
        )
    for kind, by_size in result.get("collectives", {}).items():
        shown = ", ".join(f"{int(size):,} bytes {ms:.2f} ms" for size, ms in by_size.items())
        print(f"{kind:9s} {shown}")


def _prepared(folder: str, data: str) -> str:
    """MovieLens-100k as records."""
    from gmeta_tf.cli import main as cli

    records = str(pathlib.Path(folder) / "records")
    cli.main(["prepare", "--movielens", data, "--output", records])
    return records


# On each rank.


def _run_rank(options: argparse.Namespace) -> dict[str, Any]:
    """What one rank does; rank 0 writes the answer to a file."""
    from gmeta_tf.distributed.world import World

    world = World.detect()
    cores = [int(core) for core in options.on_cores.split(",")]
    os.sched_setaffinity(0, {cores[world.local_rank]})  # before TensorFlow makes its threads
    answer: dict[str, Any] = (
        {"collectives": _collectives(world, options)}
        if options.collectives
        else _steps(world, options)
    )
    if world.is_chief:
        pathlib.Path(options.as_rank).write_text(json.dumps(answer), encoding="utf-8")
    return answer


def _in_turns(
    runs: dict[str, Callable[[int], None]], world: Any, options: argparse.Namespace
) -> list[dict[str, float]]:
    """Milliseconds of each, round by round; each takes about as many seconds a turn."""
    from gmeta_tf.distributed.collectives import barrier, broadcast_json

    def timed(run: Callable[[int], None], times: int) -> float:
        barrier(world, name="start")
        begun = time.perf_counter()
        run(times)
        barrier(world, name="end")
        return (time.perf_counter() - begun) / times

    counts = {}
    for name, run in runs.items():
        timed(run, 3)
        times = max(3, round(options.seconds / timed(run, 5)))
        counts[name] = broadcast_json(times, world, name="times")
    rounds = []
    for index in range(options.rounds):
        # Every second round backwards: a turn also fills the pipeline that the one before emptied.
        names = list(runs) if index % 2 == 0 else list(reversed(runs))
        took = {name: 1e3 * timed(runs[name], counts[name]) for name in names}
        rounds.append({name: took[name] for name in runs})
    return rounds


def _steps(world: Any, options: argparse.Namespace) -> dict[str, Any]:
    import gmeta_tf as gm
    from gmeta_tf.embedding.replication_rule import choose_replicated

    records = gm.Records.open(options.records)
    batches = gm.TaskBatches(
        records, "train", tasks=options.tasks, support=10, query=10, every_row=True, world=world
    )
    runs = {"sharded": _training(batches, records.schema, replicate=False)}
    sent = {"sharded": 0}
    for more in (0, *options.more_rows):
        name = f"replicated + {more:,} rows" if more else "replicated"
        schema = _with_more_rows(records.schema, more)
        runs[name] = _training(batches, schema, replicate=True)
        sent[name] = choose_replicated(schema, _WIDTH, world.size).sent_bytes
    steps = summary(_in_turns(runs, world, options))
    return {
        "tasks": options.tasks,
        "width": _WIDTH,
        "rounds": options.rounds,
        "steps": {name: {**figures, "sent_bytes": sent[name]} for name, figures in steps.items()},
    }


def _with_more_rows(schema: Any, more: int) -> Any:
    """The last table with more rows, so that no key of the others moves."""
    *others, last = schema.tables
    longer = dataclasses.replace(last, num_rows=last.num_rows + more)
    return dataclasses.replace(schema, tables=(*others, longer))


def _training(batches: Any, schema: Any, *, replicate: bool) -> Callable[[int], None]:
    """So many steps of a model of its own."""
    import keras
    import tensorflow as tf

    import gmeta_tf as gm
    from gmeta_tf.meta_io.batches.dataset_ops import with_next_keys

    keras.utils.set_random_seed(0)
    embedding = gm.ShardedEmbedding(schema, _WIDTH, replicate=replicate, world=batches.world)
    learner = gm.models.MeLU((64, 64))
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


def _collectives(world: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Collective -> bytes that a rank sends -> milliseconds, the median of the rounds."""
    from gmeta_tf.distributed.collectives import start

    start(world)
    runs = {
        f"{kind} {size}": _repeated(kind, size // 4, world)
        for kind in _COLLECTIVES
        for size in _SIZES
    }
    medians = summary(_in_turns(runs, world, options))
    return {
        kind: {str(size): medians[f"{kind} {size}"]["milliseconds"] for size in _SIZES}
        for kind in _COLLECTIVES
    }


def _repeated(kind: str, numbers: int, world: Any) -> Callable[[int], None]:
    """One collective again and again, within one graph; two ranks send as much in either."""
    import tensorflow as tf

    from gmeta_tf.distributed.collectives import allreduce_sum, alltoall

    splits = tf.constant([0 if rank == world.rank else numbers for rank in range(_RANKS)])

    def once(values: Any) -> Any:
        name = f"{kind}_{numbers}"
        if kind == "allreduce":
            return allreduce_sum([values], world, name=name)[0]
        return tf.ensure_shape(alltoall(values, splits, world, name=name)[0], [numbers])

    @tf.function(autograph=False)
    def run(times: Any) -> Any:
        return tf.while_loop(
            lambda index, values: index < times,
            lambda index, values: (index + 1, once(values)),
            [0, tf.zeros([numbers])],
            parallel_iterations=1,
        )[1]

    return lambda times: run(tf.constant(times)).numpy()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replicated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=128, metavar="T", help="of a rank (128)")
    parser.add_argument("--more-rows", type=int, nargs="*", default=[], metavar="N")
    parser.add_argument("--collectives", action="store_true", help="no steps, collectives alone")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each (9)")
    parser.add_argument("--seconds", type=float, default=0.7, metavar="X", help="of a turn (0.7)")
    parser.add_argument("--data", default="download", help="the ml-100k folder; else downloaded")
    for name in ("--as-rank", "--on-cores", "--records"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
