"""Look-up and update of embedding rows on 2 ranks: time against the usual ways, and memory.

A step looks up the rows of each rank's keys, hands their gradients back (a hundredth of the rows
themselves, so that there is no model to pay for) and updates the rows. Each rank has a core of its
own. The contestants take turns in one start of the ranks, round by round, and ratios are taken
within a round. The last line is the result as JSON.

    python -m benchmarks.embedding --quick    # less than a minute
    python -m benchmarks.embedding

It needs the two cores for itself: a step takes as long as the slower rank's.

`ratio.dense_adam` is how many times as long as ours (lazy Adam) it takes when each rank holds the
whole table, gives each of its rows to `keras.optimizers.Adam`, as a Keras model does, and the ranks
add the gradients of the whole table up by an AllReduce, which is measured apart.
`ratio.dense_adam_unsent` leaves the AllReduce out, and so compares with ranks that come apart.

`ratio.plain_loop` is ours (SGD) over `tf.gather` and `scatter_sub` of as many rows of the rank's
share, plus the bare AlltoAlls of keys, rows and gradients, measured apart.

`ratio.step_1e7_over_1e5` is a step (Adagrad) on the larger table over the same number of keys of
the smaller.

`ratio.dynamic` is ours (lazy Adam) on a dynamic table that has all the keys, over the static one.

`memory_over_raw` is the resident memory of both ranks at its peak, above what it was when all was
imported and connected and there was no table, over the bytes of rows and slots (Adagrad): while the
tables are built and while they are trained; a dynamic table is given all its keys by steps.

A step has 100 000 keys, half of them each rank's (`--keys`). They are distinct, over the ranks too,
so that each owner has as many rows to do as keys were asked for by each rank, but for chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.memory import resident_bytes
from benchmarks.ranks import cores_of_ranks, run_on_ranks

__all__ = [
    "Sizes",
    "made_keys",
    "main",
    "make_embedding",
    "make_step",
    "measure_memory",
    "speed_result",
    "timed_rounds",
]

# TensorFlow and gmeta_tf are imported in the ranks, not in the process that starts them.

_RANKS = 2
_KEY_SETS = 4  # the steps of a turn take these in turn
_GRADIENT_SHARE = 0.01
_KINDS = ("static", "dynamic")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the tables and steps are.

    Attributes:
        num_rows: of the table that is timed against others.
        width: D of it.
        num_keys: distinct keys of a rank's step.
        small_rows: of the smaller table of `ratio.step_1e7_over_1e5`.
        large_rows: of the larger.
        few_keys: distinct keys of a rank's step on either; all ranks' keys are in the smaller.
        memory_rows: of the table whose memory is measured.
        memory_width: D of it.
    """

    num_rows: int = 1_000_000
    width: int = 32
    num_keys: int = 50_000
    small_rows: int = 100_000
    large_rows: int = 10_000_000
    few_keys: int = 20_000
    memory_rows: int = 10_000_000
    memory_width: int = 16


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.as_rank:
        return _run_rank(options)
    cores = cores_of_ranks(_RANKS)
    speed = speed_result(_start_ranks("speed", cores, options)["rounds"])
    memory: dict[str, Any] = {
        kind: _start_ranks(f"memory {kind}", cores, options) for kind in _KINDS
    }
    result = {
        "benchmark": "embedding",
        "ratio": speed["ratio"],
        "memory_over_raw": {kind: each["peak_over_raw"] for kind, each in memory.items()},
        **{name: value for name, value in speed.items() if name != "ratio"},
        "memory": memory,
        "sizes": dataclasses.asdict(Sizes(num_keys=options.keys)),
        "ranks": _RANKS,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    _report(result)
    print(json.dumps(result))
    return result


def speed_result(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the rounds of the seconds a step; ratios are taken within a round."""

    def ratio(of: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(of, rounds)), 4)

    ratios = {
        "dense_adam": ratio(
            lambda each: (each["dense_adam"] + each["allreduce"]) / each["static_adam"]
        ),
        "dense_adam_unsent": ratio(lambda each: each["dense_adam"] / each["static_adam"]),
        "plain_loop": ratio(
            lambda each: each["static_sgd"] / (each["plain_loop"] + each["exchange"])
        ),
        "step_1e7_over_1e5": ratio(lambda each: each["large_table"] / each["small_table"]),
    }
    if all("dynamic_adam" in each for each in rounds):
        ratios["dynamic"] = ratio(lambda each: each["dynamic_adam"] / each["static_adam"])
    return {
        "ratio": ratios,
        "milliseconds": {
            name: round(1e3 * statistics.median(each[name] for each in rounds), 3)
            for name in rounds[0]
        },
        "milliseconds_of_rounds": [
            {name: round(1e3 * seconds, 3) for name, seconds in each.items()} for each in rounds
        ],
    }


def _report(result: dict[str, Any]) -> None:
    for name, milliseconds in result["milliseconds"].items():
        _say(f"{name:24s} {milliseconds:>9.2f} ms a step")
    for name, ratio in result["ratio"].items():
        _say(f"{'ratio.' + name:24s} {ratio:>9.2f}")
    for kind, ratio in result["memory_over_raw"].items():
        _say(f"{'memory_over_raw.' + kind:24s} {ratio:>9.3f}")


# The ranks.


def _start_ranks(task: str, cores: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """What rank 0 answers; each rank has a core of its own."""
    arguments = [
        *("--task", task, "--keys", str(options.keys)),
        *("--rounds", str(options.rounds), "--seconds", str(options.seconds)),
    ]
    return run_on_ranks("benchmarks.embedding", _RANKS, cores, arguments)


def _run_rank(options: argparse.Namespace) -> dict[str, Any]:
    """What one rank does; rank 0 writes the answer to a file."""
    from gmeta_tf.distributed.world import World

    world = World.detect()
    cores = [int(core) for core in options.on_cores.split(",")]
    os.sched_setaffinity(0, {cores[world.local_rank]})  # before TensorFlow makes its threads

    from gmeta_tf.distributed.collectives import start

    start(world)
    sizes = Sizes(num_keys=options.keys)
    task, *kind = options.task.split()
    if task == "speed":
        answer: dict[str, Any] = {
            "rounds": timed_rounds(world, sizes, options.rounds, options.seconds)
        }
    else:
        answer = measure_memory(kind[0], world, sizes)
    if world.is_chief:
        pathlib.Path(options.as_rank).write_text(json.dumps(answer), encoding="utf-8")
    return answer


# Steps.


def make_embedding(kind: str, num_rows: int, width: int, world: Any) -> Any:
    """One table, static or dynamic, of the same keys."""
    import gmeta_tf as gm

    table = gm.Table("item", None if kind == "dynamic" else num_rows, keys="raw")
    schema = gm.Schema((gm.Field("item"),), "label", "user", tables=(table,))
    rules = gm.DynamicTable(capacity=num_rows)
    return gm.ShardedEmbedding(
        schema,
        width,
        dynamic={"item": rules} if kind == "dynamic" else None,
        replicate=False,
        world=world,
    )


def make_step(embedding: Any, optimizer: Any) -> Callable[[Any], None]:
    """One look-up and update by a `ShardedEmbedding`; every rank must call it."""
    import tensorflow as tf

    embedding.make_slots(optimizer)
    (group,) = embedding.shards

    def look_up_and_update(keys: Any) -> None:
        routes = embedding.routes({group: keys})
        step = tf.constant(0, tf.int64)
        located = embedding.locate(routes, step, training=True)
        rows = embedding.fetch(routes, located)
        gradients = {name: _GRADIENT_SHARE * value for name, value in rows.items()}
        returned = embedding.return_gradients(gradients, routes, located)
        embedding.apply_gradients(returned.updates, optimizer, step)

    return look_up_and_update


def make_dense_adam_step(rows: Any, learning_rate: float) -> tuple[Callable[[Any], None], Any]:
    """Keras' Adam on every row of a variable that starts as `rows`; returns the variable too."""
    import keras
    import tensorflow as tf

    variable = keras.Variable(rows)
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build([variable])

    def look_up_and_update(keys: Any) -> None:
        gradients = _GRADIENT_SHARE * tf.gather(variable.value, keys)
        dense = tf.math.unsorted_segment_sum(gradients, keys, variable.shape[0])
        optimizer.apply([dense], [variable])

    return look_up_and_update, variable


def make_plain_step(rows: Any, learning_rate: float) -> tuple[Callable[[Any], None], Any]:
    """`tf.gather` and `scatter_sub` on a variable that starts as `rows`; returns it too."""
    import tensorflow as tf

    variable = tf.Variable(rows)

    def look_up_and_update(row_numbers: Any) -> None:
        gradients = _GRADIENT_SHARE * tf.gather(variable, row_numbers)
        variable.scatter_sub(tf.IndexedSlices(learning_rate * gradients, row_numbers))

    return look_up_and_update, variable


def make_exchange_step(num_keys: int, width: int, world: Any) -> Callable[[Any], Any]:
    """The AlltoAlls of a step and nothing else: every rank wants as many keys of each."""
    import tensorflow as tf

    from gmeta_tf.distributed.collectives import alltoall

    to_each = num_keys // world.size
    splits = tf.fill([world.size], to_each)
    answers = tf.zeros([to_each * world.size, width])

    def exchange(keys: Any) -> Any:
        _, received = alltoall(keys[: to_each * world.size], splits, world, name="bare_keys")
        rows, _ = alltoall(answers, received, world, name="bare_rows")
        gradients, _ = alltoall(rows, splits, world, name="bare_gradients")
        return gradients[0, 0]

    return exchange


def make_allreduce_step(num_rows: int, width: int, world: Any) -> Callable[[Any], Any]:
    """The AllReduce of the gradients of a whole table and nothing else."""
    import tensorflow as tf

    from gmeta_tf.distributed.collectives import allreduce_sum

    gradients = tf.zeros([num_rows, width])

    def allreduce(keys: Any) -> Any:
        del keys
        return allreduce_sum([gradients], world, name="dense_gradients")[0][0, 0]

    return allreduce


# Time.


def timed_rounds(
    world: Any, sizes: Sizes, num_rounds: int, seconds: float
) -> list[dict[str, float]]:
    """Of each round, the seconds a step of each contestant."""
    import tensorflow as tf

    from gmeta_tf.distributed.collectives import barrier, broadcast_json

    steps = {
        name: (tf.function(step, autograph=False), [tf.constant(keys) for keys in key_sets])
        for name, (step, key_sets) in _contestants(world, sizes).items()
    }

    def turn(name: str, num_steps: int) -> float:
        step, key_sets = steps[name]
        barrier(world, name="turn")
        start = time.perf_counter()
        for index in range(num_steps):
            step(key_sets[index % len(key_sets)])
        barrier(world, name="turn")
        return (time.perf_counter() - start) / num_steps

    num_steps = {}
    for name in steps:
        turn(name, _KEY_SETS)  # traces, and gives a dynamic table all its keys
        num_steps[name] = max(2, round(seconds / turn(name, 2)))
    num_steps = broadcast_json(num_steps, world, name="num_steps")
    return [{name: turn(name, num_steps[name]) for name in steps} for _ in range(num_rounds)]


def _contestants(
    world: Any, sizes: Sizes
) -> dict[str, tuple[Callable[[Any], Any], list[np.ndarray]]]:
    """Name -> its step and the keys of several steps."""
    import tensorflow as tf

    import gmeta_tf as gm

    def embedded(kind: str, optimizer: Any, num_rows: int = sizes.num_rows) -> Any:
        return make_step(make_embedding(kind, num_rows, sizes.width, world), optimizer)

    keys = made_keys(sizes.num_rows, sizes.num_keys, world)
    share = sizes.num_rows // world.size
    row_numbers = [
        np.random.default_rng(index).choice(share, min(share, sizes.num_keys), replace=False)
        for index in range(_KEY_SETS)
    ]
    whole = tf.random.stateless_uniform([sizes.num_rows, sizes.width], [0, 1], -0.05, 0.05)
    contestants = {f"{kind}_adam": (embedded(kind, gm.LazyAdam(0.001)), keys) for kind in _KINDS}
    contestants |= {
        "dense_adam": (make_dense_adam_step(whole, 0.001)[0], keys),
        "static_sgd": (embedded("static", gm.SGD(0.1)), keys),
        "plain_loop": (make_plain_step(whole[:share], 0.1)[0], row_numbers),
        "exchange": (make_exchange_step(sizes.num_keys, sizes.width, world), keys),
        "allreduce": (make_allreduce_step(sizes.num_rows, sizes.width, world), keys),
    }
    for name, num_rows in (("small_table", sizes.small_rows), ("large_table", sizes.large_rows)):
        few = made_keys(num_rows, sizes.few_keys, world)
        contestants[name] = (embedded("static", gm.Adagrad(0.1), num_rows), few)
    return contestants


def made_keys(num_rows: int, num_keys: int, world: Any) -> list[np.ndarray]:
    """This rank's keys of several steps: `num_keys` each, distinct over all ranks."""
    sets = []
    for index in range(_KEY_SETS):
        rng = np.random.default_rng([index, num_rows])
        of_all = rng.choice(num_rows, num_keys * world.size, replace=False)
        sets.append(of_all[world.rank * num_keys : (world.rank + 1) * num_keys])
    return sets


# Memory.


def measure_memory(kind: str, world: Any, sizes: Sizes, num_steps: int = 20) -> dict[str, float]:
    """Bytes of all ranks together, and their ratios; see the top."""
    import tensorflow as tf

    import gmeta_tf as gm
    from gmeta_tf.distributed.collectives import allreduce_sum, barrier

    barrier(world, name="memory")
    without = resident_bytes("VmRSS")
    embedding = make_embedding(kind, sizes.memory_rows, sizes.memory_width, world)
    step = tf.function(make_step(embedding, gm.Adagrad(0.1)), autograph=False)
    built = resident_bytes("VmHWM")
    if kind == "dynamic":
        at_once = world.size * sizes.num_keys
        for first in range(world.rank * sizes.num_keys, sizes.memory_rows, at_once):
            numbers = np.arange(first, min(first + sizes.num_keys, sizes.memory_rows))
            # A prime, so that every key comes once, in no order; a shuffled list would be counted.
            step(tf.constant(numbers * 7_368_787 % sizes.memory_rows))
    key_sets = made_keys(sizes.memory_rows, sizes.num_keys, world)
    for index in range(num_steps):
        step(tf.constant(key_sets[index % _KEY_SETS]))
    trained = resident_bytes("VmHWM")
    bytes_of_rank = {
        "without_tables": without,
        "peak_of_building": built - without,
        "peak": trained - without,
        "resident": resident_bytes("VmRSS") - without,
    }
    values = [tf.constant(value, tf.int64) for value in bytes_of_rank.values()]
    sums = [float(value) for value in allreduce_sum(values, world, name="bytes")]
    total = dict(zip(bytes_of_rank, sums, strict=True))
    raw = 2 * 4 * sizes.memory_rows * sizes.memory_width
    return {
        "peak_of_building_over_raw": round(total["peak_of_building"] / raw, 4),
        "peak_over_raw": round(total["peak"] / raw, 4),
        "resident_over_raw": round(total["resident"] / raw, 4),
        "raw_bytes": raw,
        "without_tables_bytes": round(total["without_tables"]),
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each (9; quick: 3)")
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="of a turn, at least 2 steps (2; quick: 0.3)"
    )
    parser.add_argument(
        "--keys",
        type=int,
        default=Sizes.num_keys,
        metavar="N",
        help=f"of a rank's step ({Sizes.num_keys:,})",
    )
    for name in ("--as-rank", "--on-cores", "--task"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 9)
    options.seconds = options.seconds or (0.3 if options.quick else 2.0)
    return options


if __name__ == "__main__":
    main()
