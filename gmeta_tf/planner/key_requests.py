"""How many distinct keys a step has of each table and owner: counted, or bounded by a formula."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gmeta_tf.distributed.ownership import counts_of_owners
from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.planner.table_sizes import TableSize
from gmeta_tf.planner.traffic import StepShape
from gmeta_tf.schema import Schema

__all__ = ["counted_requests", "expected_distinct", "keys_of_steps", "uniform_requests"]


def counted_requests(
    batches: TaskBatches, sizes: Sequence[TableSize], steps: int
) -> dict[str, np.ndarray]:
    """Counts the keys in the first steps of every rank, in this one process.

    Args:
        batches: of any rank of the planned world; the counted steps are those that the ranks would
            train on with the same settings and seed.
        sizes: of the tables, for the same world.
        steps: how many steps of each rank.

    Returns:
        A table's name -> float64 `[W, W]`: how many distinct keys a rank (row) wants of an owner
        (column) in a step, on average.

    Raises:
        ValueError: fewer than one step, or a table that grows.
    """
    if steps < 1:
        raise ValueError(f"counted_requests: expected steps of at least 1, got {steps}.")
    growing = [size.name for size in sizes if size.num_rows is None]
    if growing:
        raise ValueError(
            f"counted_requests: expected tables with num_rows, got {growing[0]!r} without. "
            "Bound its keys by uniform_requests (`gmeta-tf plan --keys-from uniform`)."
        )
    world_size = batches.world.size
    counts = {size.name: np.zeros([world_size, world_size], np.int64) for size in sizes}
    groups: dict[str, list[TableSize]] = {}
    for size in sizes:
        groups.setdefault(size.group, []).append(size)
    for rank, step in keys_of_steps(batches, steps):
        for group, tables in groups.items():
            for size, keys in zip(tables, _by_table(step[group], tables), strict=True):
                counts[size.name][rank] += counts_of_owners(keys, world_size)
    return {name: count / steps for name, count in counts.items()}


def keys_of_steps(batches: TaskBatches, steps: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The keys of the first steps of each rank, rank by rank and step by step.

    Yields:
        A rank, and for one of its steps group -> int64 `[U]`, counted over the group's tables.
    """
    for rank in range(batches.world.size):
        own = dataclasses.replace(batches, world=World(rank, batches.world.size))
        # Not take(steps): TensorFlow would warn of its end on each rank.
        keys = own.dataset().map(lambda batch: batch["keys"]).as_numpy_iterator()
        for _ in range(steps):
            yield rank, next(keys)


def uniform_requests(
    schema: Schema, sizes: Iterable[TableSize], shape: StepShape, world_size: int
) -> dict[str, np.ndarray]:
    """The requests of steps whose keys are drawn uniformly from each table: an upper bound.

    No distribution has more distinct keys among as many independent draws, and real ones, with a
    few hot keys, have far fewer. Every slot of every field counts as filled, and every task has
    all of its rows.

    Returns:
        As `counted_requests`.
    """
    requests = {}
    for size in sizes:
        slots = sum(f.num_slots for f in schema.key_fields if f.table_name == size.name)
        distinct = expected_distinct(shape.rows * slots, size.num_rows)
        if size.rows_of_ranks is None or size.num_rows is None:
            shares = np.full(world_size, 1 / world_size)
        else:
            shares = np.array(size.rows_of_ranks) / size.num_rows
        requests[size.name] = np.tile(distinct * shares, [world_size, 1])
    return requests


def expected_distinct(draws: int, num_keys: int | None) -> float:
    """The expected number of distinct keys among draws from N equally likely ones.

        U = N (1 - (1 - 1 / N) ** draws)

    Args:
        draws: how many.
        num_keys: N; None is unlimited, and then no key comes twice.

    Example:
        >>> expected_distinct(2, 2)
        1.5
        >>> expected_distinct(7, None)
        7.0
    """
    if num_keys is None:
        return float(draws)
    if num_keys == 1:
        return float(min(draws, 1))
    # Computed directly, 1 - 1 / N is 1 for large N.
    return -num_keys * math.expm1(draws * math.log1p(-1 / num_keys))


def _by_table(keys: np.ndarray, tables: Sequence[TableSize]) -> list[np.ndarray]:
    """A step's keys of a group, table by table."""
    ends = np.cumsum([size.num_rows or 0 for size in tables])
    ordered = np.sort(keys)
    return np.split(ordered, np.searchsorted(ordered, ends[:-1]))
