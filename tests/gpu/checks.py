"""What only a machine with GPUs can tell of the SOK back-end; launch/gpu_check.sh runs each item.

    python tests/gpu/checks.py ITEM                      # one rank
    horovodrun -np 2 python tests/gpu/checks.py ITEM     # several

An item compares, raises AssertionError where it finds a difference, and returns what it compared.
Every rank runs it; each prints a line.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import alltoall, barrier, start
from gmeta_tf.distributed.gpus import physical_gpus, pin_gpu
from gmeta_tf.embedding.sok.backend import SokRoute, start_sok
from gmeta_tf.embedding.sok.dynamic import SokDynamicShard
from gmeta_tf.embedding.static_shard import initial_rows

LEFT_OVER = 12345.0

# The tests' made keys and slow twins serve here too.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "helpers"))
made_sok: Any = importlib.import_module("made_sok")


def same(found: Any, expected: Any, what: str, *, exactly: bool = False) -> None:
    """Raises with `what` where two arrays differ by more than float32's last bits."""
    rtol, atol = (0.0, 0.0) if exactly else (1e-5, 1e-6)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


def devices(world: gm.World) -> str:
    """The rank's GPU is its own, and its memory is taken as needed."""
    own = pin_gpu(world)
    gpus = physical_gpus()
    assert tf.config.get_visible_devices("GPU") == [own], "another GPU is visible"
    assert len(gpus) == 1 or own == gpus[world.local_rank], "the GPU is another rank's"
    assert tf.config.experimental.get_memory_growth(own), "the memory does not grow"
    on = (tf.ones([8, 8], tf.float32) @ tf.ones([8, 8])).device
    assert "GPU:0" in on, f"a product was computed on {on}"
    return f"visible devices with the GPU of local rank {world.local_rank}: {own.name}"


def nccl(world: gm.World) -> str:
    """AlltoAll of GPU tensors, against what each rank must get."""
    import horovod.tensorflow as hvd

    assert hvd.nccl_built(), "Horovod was built without NCCL (HOROVOD_GPU_OPERATIONS=NCCL)"
    rows = tf.reshape(
        tf.range(world.size * 3, dtype=tf.float32) + 100.0 * world.rank, [world.size * 3, 1]
    )
    splits = tf.fill([world.size], 3)
    received, _ = alltoall(tf.repeat(rows, 32, axis=1), splits, world, name="check_rows")
    expected = np.concatenate(
        [100.0 * source + 3 * world.rank + np.arange(3) for source in range(world.size)]
    )
    same(received.numpy()[:, 0], expected, "rows by AlltoAll")
    assert "GPU" in received.device, f"the rows came to {received.device}"
    return f"rows that {world.size} ranks sent each other with their numbers"


def kernels(world: gm.World) -> str:
    """SOK's three kernels of a look-up against NumPy; the tests' stubs are held to the same."""
    raw = start_sok(world).raw_ops
    for size in (0, 1, 33, 100_000):
        for num_splits in (1, 2, 3, 8):
            indices = np.random.default_rng([size, num_splits]).integers(0, 2**62, size)
            selected, order, splits = raw.dist_select(
                tf.constant(indices, tf.int64, [size]), num_splits=num_splits
            )
            case = f"{size} keys to {num_splits} ranks"
            same(indices[order.numpy()], selected.numpy(), f"dist_select: {case}", exactly=True)
            owners = selected.numpy() % num_splits
            assert (np.diff(owners) >= 0).all(), f"dist_select: not by owner, {case}"
            counts = np.bincount(owners, minlength=num_splits)
            same(splits.numpy(), counts, f"dist_select: splits, {case}", exactly=True)
            rows = np.random.default_rng(size).normal(size=[size, 32]).astype(np.float32)
            moved = raw.reorder(tf.constant(rows), order).numpy()
            same(moved[order.numpy()], rows, f"reorder: {case}", exactly=True)
            back = raw.gather_ex(tf.constant(moved), order).numpy()
            same(back, rows, f"gather_ex: {case}", exactly=True)
    return "dist_select, reorder, gather_ex with NumPy for 0 to 100,000 keys to 1 to 8 ranks"


def static(world: gm.World) -> str:
    """Static tables over SOK against those over Horovod, and a loop over keys."""
    for name, optimizer in made_sok.ROW_OPTIMIZERS.items():
        outcomes, after = {}, {}
        before: dict[str, np.ndarray] = {}
        for backend in ("sok", "horovod"):
            tables = made_sok.embedding(backend, world)
            before = made_sok.all_rows(tables)
            tables.make_slots(optimizer)
            outcomes[backend] = made_sok.run_steps(tables, optimizer, world)
            after[backend] = made_sok.all_rows(tables)
        twin = made_sok.slow_run(before, optimizer, world.size)
        for group, rows in after["horovod"].items():
            same(after["sok"][group], rows, f"{name}: tables of {group} after 5 steps")
            same(after["sok"][group], twin[group], f"{name}: {group} and a loop over keys")
        for (found, _), (expected, _) in zip(outcomes["sok"], outcomes["horovod"], strict=True):
            for group, rows in expected.items():
                same(found[group], rows, f"{name}: fetched rows of {group}")
    return "rows and tables of 5 steps by SGD, Adagrad, LazyAdam with Horovod's and a loop's"


def dynamic(world: gm.World) -> str:
    """Dynamic tables over SOK against those over Horovod, and what one loads of the other."""
    for name, optimizer in made_sok.ALL_ROW_OPTIMIZERS.items():
        tables, outcomes = {}, {}
        for backend in ("sok", "horovod"):
            tables[backend] = made_sok.dynamic_embedding(backend, world)
            tables[backend].make_slots(optimizer)
            outcomes[backend] = made_sok.run_steps(tables[backend], optimizer, world)
        for (found, _), (expected, _) in zip(outcomes["sok"], outcomes["horovod"], strict=True):
            for group, rows in expected.items():
                same(found[group], rows, f"{name}: fetched rows of {group}")
        held = {backend: made_sok.held_by_key(each) for backend, each in tables.items()}
        for group, arrays in held["horovod"].items():
            assert len(arrays["keys"]) > 0, "no key was trained"
            for what, values in arrays.items():
                same(held["sok"][group][what], values, f"{name}: {what} of {group} after 5 steps")
            shard = tables["sok"].shards[group]
            keys = tf.constant(arrays["keys"])
            same(shard.gather(keys).numpy(), held["sok"][group]["rows"], f"{name}: rows read")
            unknown = SokRoute(tf.constant([made_sok.FAR + 5000 + world.rank], tf.int64))
            same(shard.fetch(unknown).numpy(), np.zeros([1, shard.width]), f"{name}: unknown keys")
            shard.load_state(tables["horovod"].shards[group].export_state(0))
        loaded = made_sok.held_by_key(tables["sok"])
        for group, arrays in held["horovod"].items():
            for what, values in arrays.items():
                same(
                    loaded[group][what], values, f"{name}: {what} of {group}, loaded", exactly=True
                )
    return "rows, slots and tables of 5 steps by each row optimizer with Horovod's, and loaded"


def small_reads(world: gm.World) -> str:
    """Rows that HierarchicalKV makes at a read of less than 1024 numbers, against left-overs.

    Its source starts `n * D / 1024` blocks to fill them, which of less than 1024 numbers are none.
    """
    sok = start_sok(world)
    keys = tf.range(8, dtype=tf.int64) * world.size + world.rank
    for initializer in ("random", "uniform", "0.25"):
        variable = sok.DynamicVariable(
            dimension=4,
            initializer=initializer,
            var_type="hybrid",
            name=f"small_{initializer.replace('.', '_')}",
            init_capacity=1024,
            max_capacity=1024,
        )
        _leave_over([8, 4])
        rows = variable.sparse_read(keys).numpy()
        assert np.isfinite(rows).all(), f"{initializer}: {rows}"
        assert not (rows == LEFT_OVER).any(), f"{initializer}: rows hold what was there before"
        if initializer == "0.25":
            same(rows, np.full([8, 4], 0.25), "a constant initializer", exactly=True)
        else:
            assert len(np.unique(rows)) > 16, f"{initializer}: rows are not random: {rows}"
    return "rows made by reads of 8 keys x 4 with the initializer, and with left-over memory"


def _leave_over(shape: list[int]) -> None:
    """Fills memory of that shape, for TensorFlow to hand out again."""
    for _ in range(64):
        tf.fill(shape, LEFT_OVER).numpy()


def empty_reads(world: gm.World) -> str:
    """A rank without keys: CUDA refuses kernels of no blocks, which is what SOK starts then."""
    shard = _shard(world, "empty", scale=0.5)
    some = tf.range(3, dtype=tf.int64) * world.size + world.rank
    for keys in (some[:0], some, some[:0]):
        rows = shard.fetch(SokRoute(keys, trains=True))
        same(rows.numpy(), initial_rows(keys, 4, 1, 0.5).numpy(), f"rows of {len(keys)} keys")
    same(shard.gather(some).numpy(), initial_rows(some, 4, 1, 0.5).numpy(), "rows after that")
    return "rows of 0 keys, of 3, and of 0 again with the initial rows"


def _shard(world: gm.World, name: str, *, scale: float) -> SokDynamicShard:
    """1024 rows of width 4 on each rank, whose initial rows are of seed 1."""
    rules = gm.DynamicTable(capacity=1024 * world.size)
    return SokDynamicShard(rules, table=name, width=4, seed=1, world=world, scale=scale, name=name)


def eviction(world: gm.World) -> str:
    """A table of 1024 rows that is shown 8192 keys: its size, and the rows it still has."""
    shard = _shard(world, "evict", scale=0.0)
    for first in range(0, 8192, 256):
        keys = (first + tf.range(256, dtype=tf.int64)) * world.size + world.rank
        shard.gather(keys)
        values = tf.cast(tf.repeat(keys[:, tf.newaxis], 4, axis=1), tf.float32)
        shard.update(keys, -values, gm.SGD(1.0), tf.constant(0, tf.int64))
    found, exported = shard.export_shard()
    assert 0 < len(found) <= 1024, f"{len(found)} rows in a table of at most 1024"
    same(exported["rows"][:, 0], found.astype(np.float32), "rows that are left")
    late = np.mean(found // world.size >= 8192 - 1024)
    return f"{len(found)} rows left of 8192 keys with their values; {late:.0%} of the last 1024"


def memory(world: gm.World) -> str:
    """The peak of GPU memory while a table is built and updated, against its rows and slots."""
    num_rows, width = 10_000_000 // world.size * world.size, 16
    schema = gm.Schema((gm.Field("item"),), "label", "user").with_num_rows({"item": num_rows})
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    optimizer = gm.Adagrad(0.1)
    tables = gm.ShardedEmbedding(schema, width, world=world, backend="sok")
    tables.make_slots(optimizer)
    keys = {"embedded": tf.range(100_000, dtype=tf.int64) * 7}
    routes = tables.routes(keys)
    located = tables.locate(routes)
    returned = tables.return_gradients(tables.fetch(routes, located), routes, located)
    tables.apply_gradients(returned.updates, optimizer, tf.constant(0, tf.int64))
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    raw = 2 * num_rows // world.size * width * 4
    assert peak <= 1.3 * raw, f"peak {peak:,} bytes for {raw:,} of rows and slots"
    return f"the peak of memory, {peak / raw:.2f} of rows and slots ({raw:,} bytes), with 1.3"


def speed(world: gm.World) -> str:
    """Look-up and update of 100,000 keys of width 32; a figure, which nothing is asked of."""
    schema = gm.Schema((gm.Field("item"),), "label", "user").with_num_rows({"item": 1_000_000})
    drawn = np.random.default_rng(world.rank).permutation(1_000_000)[:100_000]
    keys = {"embedded": tf.constant(drawn, tf.int64)}
    figures = []
    for backend in ("sok", "horovod"):
        tables = gm.ShardedEmbedding(schema, 32, world=world, backend=backend)
        optimizer = gm.Adagrad(0.1)
        tables.make_slots(optimizer)
        step = made_sok.step_of(tables, optimizer)
        gradients = {"embedded": tf.ones([100_000, 32])}
        seconds = []
        for number in range(25):
            barrier(world, name=f"speed_{backend}")
            begin = time.perf_counter()
            rows, _ = step(keys, gradients, tf.constant(number, tf.int64))
            rows["embedded"][:1].numpy()
            seconds.append(time.perf_counter() - begin)
        figures.append(f"{backend} {1e3 * np.median(seconds[5:]):.2f} ms")
    return f"(a figure) a step of 100,000 keys x 32: {', '.join(figures)}, the median of 20"


ITEMS: dict[str, Callable[[gm.World], str]] = {
    item.__name__: item
    for item in (
        devices,
        nccl,
        kernels,
        static,
        dynamic,
        small_reads,
        empty_reads,
        eviction,
        memory,
        speed,
    )
}


def main() -> int:
    """Runs the item that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in ITEMS:
        print(f"usage: python tests/gpu/checks.py {' | '.join(ITEMS)}", file=sys.stderr)
        return 2
    world = gm.World.detect()
    start(world, alone_too=True)
    try:
        compared = ITEMS[sys.argv[1]](world)
    except AssertionError as error:
        print(f"rank {world.rank}: differs: {error}", flush=True)
        return 1
    print(f"rank {world.rank}: compared {compared}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
