"""What a training step, a checkpoint and an eviction cost as a table grows."""

from __future__ import annotations

import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.memory import forget_peak, resident_bytes
from benchmarks.processes import Process

__all__ = ["measure_tables"]

_WIDTH = 16
_KEY_SETS = 8
_PIECE_BYTES = 64 << 20


def measure_tables(
    kind: str, sizes: list[int], *, rounds: int, steps: int, folder: pathlib.Path
) -> dict[str, Any]:
    """Figures by rows of the table, and the growth from the first size to the last.

    A step is a whole training step (T = 128, S = 20, Q = 10, 8 fields of one table, Adagrad) whose
    distinct keys are drawn evenly over the table: no row is in a cache because it is popular.

    Args:
        kind: "static" or "dynamic"; a dynamic table holds as many keys as it may.
        sizes: rows of the table, ascending.
        rounds: turns of each table.
        steps: of a turn.
        folder: for checkpoints, on the disk that is asked about.
    """
    tables = {size: Process(_serve_table, kind, size) for size in sizes}
    try:
        figures = {size: table.ask("build") for size, table in tables.items()}
        turns: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(1 + rounds):  # the first one traces
            for size, table in tables.items():
                seconds = statistics.median(table.ask("steps", steps))
                if turn:
                    turns[size].append(seconds)
        for size, table in tables.items():
            figures[size]["step_seconds"] = statistics.median(turns[size])
            figures[size] |= table.ask("checkpoint", str(folder))
            if kind == "dynamic":
                figures[size] |= table.ask("evict", 4 * steps)
            table.__exit__()
    finally:
        for table in tables.values():
            table.__exit__()
    ratios = [last / first for first, last in zip(turns[sizes[0]], turns[sizes[-1]], strict=True)]
    growth = {"step": statistics.median(ratios)}
    if kind == "dynamic":
        growth["eviction"] = max(each["evict_longest_over_median"] for each in figures.values())
    return {kind: {str(size): each for size, each in figures.items()}, "growth": growth}


def _serve_table(kind: str, num_rows: int) -> dict[str, Callable[..., Any]]:
    import tensorflow as tf

    import gmeta_tf as gm
    from benchmarks.meta_problem import Shape, make_problem
    from benchmarks.our_step import batch_of

    shape = Shape(width=_WIDTH)
    problem = make_problem(shape)
    rng = np.random.default_rng(num_rows)
    without = resident_bytes("VmRSS")
    dynamic = kind == "dynamic"
    table = gm.Table("key", None if dynamic else num_rows, keys="raw")
    fields = tuple(gm.Field(f"key_{index}", table="key") for index in range(shape.fields))
    embedding = gm.ShardedEmbedding(
        gm.Schema(fields, "label", "task", tables=(table,)),
        _WIDTH,
        dynamic={"key": gm.DynamicTable(capacity=num_rows)} if dynamic else None,
        replicate=False,
        world=gm.World(),
    )
    inner = gm.InnerLoop(shape.num_steps, shape.rate, embedding_learning_rate=shape.row_rate)
    model = gm.MetaModel(gm.models.MeLU(shape.hidden), embedding, inner)
    model.compile("sgd", gm.Adagrad(0.01))
    (group,) = embedding.shards

    template = batch_of(problem)
    (name,) = template["keys"]
    num_keys = len(problem.rows)

    def batch_with(keys: np.ndarray) -> Any:
        parts = {
            part: template[part] | {"pairs": {group: template[part]["pairs"][name]}}
            for part in ("support", "query")
        }
        return (
            template
            | parts
            | {
                "keys": {group: tf.constant(keys, tf.int64)},
                "pair_to_key": {group: template["pair_to_key"][name]},
            }
        )

    @tf.function(autograph=False)
    def step(batch: Any) -> Any:
        return model.train_step(batch)

    def timed(keys: np.ndarray) -> float:
        batch = batch_with(keys)
        start = time.perf_counter()
        tf.nest.map_structure(lambda value: value.numpy(), step(batch))
        return time.perf_counter() - start

    def build() -> dict[str, Any]:
        """Gives a dynamic table all its keys."""
        for first in range(0, num_rows if dynamic else 0, num_keys):
            timed(_spread(np.arange(first, min(first + num_keys, num_rows)), num_rows, num_keys))
        timed(drawn())
        raw = 2 * 4 * _WIDTH * num_rows
        memory = resident_bytes("VmHWM") - without
        return {"memory_over_raw": memory / raw, "memory_bytes": memory}

    def drawn() -> np.ndarray:
        return rng.choice(num_rows, num_keys, replace=False, shuffle=False)

    key_sets = [drawn() for _ in range(_KEY_SETS)]

    def steps(number: int) -> list[float]:
        return [timed(key_sets[index % _KEY_SETS]) for index in range(number)]

    def evict(number: int) -> dict[str, float]:
        """Steps whose keys are all new to a table that is full."""
        seconds = [
            timed(np.arange(num_keys) + num_rows + index * num_keys) for index in range(number)
        ]
        return {
            "evict_step_seconds": statistics.median(seconds),
            "evict_longest_seconds": max(seconds),
            "evict_longest_over_median": max(seconds) / statistics.median(seconds),
        }

    def checkpoint(folder: str) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            return _checkpoint(model, pathlib.Path(own))

    return {"build": build, "steps": steps, "evict": evict, "checkpoint": checkpoint}


def _spread(numbers: np.ndarray, num_rows: int, at_least: int) -> np.ndarray:
    """Keys in no order, each number one of its own; as many as a step has."""
    prime = 7_368_787  # no number of rows is a multiple of it
    if len(numbers) < at_least:  # the last step reads the first keys again
        numbers = np.concatenate([numbers, np.arange(at_least - len(numbers))])
    return numbers * prime % num_rows


def _checkpoint(model: Any, folder: pathlib.Path) -> dict[str, float]:
    """Writes and reads a checkpoint, each beside the disk's own rate in the same folder."""
    from gmeta_tf.saving.checkpoints.checkpoint import load_checkpoint, save_checkpoint

    before = resident_bytes("VmRSS")
    forget_peak()
    start = time.perf_counter()
    save_checkpoint(model, folder / "checkpoint")
    written = time.perf_counter() - start
    write_peak = resident_bytes("VmHWM")
    num_bytes = sum(file.stat().st_size for file in (folder / "checkpoint").rglob("*"))
    disk_written = _write(folder / "plain", num_bytes)

    forget_peak()
    _leave_cache(folder)
    start = time.perf_counter()
    load_checkpoint(model, folder / "checkpoint")
    read = time.perf_counter() - start
    read_peak = resident_bytes("VmHWM")
    shutil.rmtree(folder / "checkpoint")
    disk_read = _read(folder / "plain")
    return {
        "checkpoint_bytes": num_bytes,
        "checkpoint_write_seconds": written,
        "checkpoint_write_over_disk_rate": disk_written / written,
        "checkpoint_write_peak_over_training": write_peak / before,
        "checkpoint_load_seconds": read,
        "checkpoint_load_over_disk_rate": disk_read / read,
        "checkpoint_load_peak_over_training": read_peak / before,
    }


def _write(path: pathlib.Path, num_bytes: int) -> float:
    """Seconds until so many bytes are on the disk."""
    piece = memoryview(np.random.default_rng(0).bytes(_PIECE_BYTES))
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for first in range(0, num_bytes, _PIECE_BYTES):
            file.write(piece[: num_bytes - first])
        os.fsync(file.fileno())
    return time.perf_counter() - start


def _read(path: pathlib.Path) -> float:
    """Seconds of reading a file from end to end, from the disk."""
    _leave_cache(path.parent)
    piece = bytearray(_PIECE_BYTES)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(piece):
            pass
    return time.perf_counter() - start


def _leave_cache(folder: pathlib.Path) -> None:
    """Has the system forget what it holds of the files, which are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
