"""What tests of the SOK back-end on one rank and on several share: keys, schema, twins."""

from __future__ import annotations

import dataclasses

import made_batches
import numpy as np
import tensorflow as tf

import gmeta_tf as gm

WIDTH = 4  # SOK copies four floats at a time

# Item's rows and genre's are of two widths, so that two look-ups stand in one step.
TWO_WIDTHS = dataclasses.replace(
    made_batches.SCHEMA, tables=(gm.Table("item", 13), gm.Table("genre", 7, width=8))
)

# The same with keys that nobody lists, and what their groups are called then.
DYNAMIC = dataclasses.replace(
    TWO_WIDTHS, tables=(gm.Table("item", keys="raw"), gm.Table("genre", keys="raw", width=8))
)
DYNAMIC_GROUPS = {"embedded": "embedded:item", "embedded_8": "embedded_8:genre"}
RULES = gm.DynamicTable(capacity=99)
FAR = 2**55

# Adam divides by the root of the squares: a large epsilon keeps the rounding of a gradient near 0
# from being made a step of full size.
ROW_OPTIMIZERS = {
    "sgd": gm.SGD(0.3),
    "adagrad": gm.Adagrad(0.3),
    "lazy_adam": gm.LazyAdam(0.05, epsilon=1e-2),
}
ALL_ROW_OPTIMIZERS = {
    **ROW_OPTIMIZERS,
    "momentum": gm.SGD(0.2, momentum=0.9),
    "row_wise_adagrad": gm.RowWiseAdagrad(0.3),
    "ftrl": gm.Ftrl(0.3),
}

# Both back-ends add a row's gradients up in the order of the ranks; only the last bit is left open.
FLOAT32 = {"rtol": 1e-6, "atol": 1e-7}


def embedding(backend, world, schema=TWO_WIDTHS, **options):
    return gm.ShardedEmbedding(
        schema,
        WIDTH,
        seed=3,
        scale=0.8,
        world=world,
        backend=backend,
        **{"replicate": False, **options},
    )


def dynamic_embedding(backend, world, **options):
    return embedding(backend, world, DYNAMIC, **{"dynamic": RULES, **options})


def keys_of(rank, step):
    """A step's distinct keys of a rank, of both groups. Ranks overlap, and one has none.

    Key 0 of the items is everyone's, so that its gradients come from every rank.
    """
    rng = np.random.default_rng([rank, step])
    if rank == 1 and step == 2:
        return {"embedded": np.zeros([0], np.int64), "embedded_8": np.zeros([0], np.int64)}
    items = np.concatenate([[0], 1 + rng.permutation(11)[: rng.integers(2, 8)]])
    genres = rng.permutation(6)[: rng.integers(0, 5)]
    return {"embedded": items.astype(np.int64), "embedded_8": genres.astype(np.int64)}


def gradients_of(rank, step, keys):
    """Gradients of a step's rows, all different."""
    rng = np.random.default_rng([rank, step, 7])
    widths = {"embedded": WIDTH, "embedded_8": 8}
    return {
        group: rng.normal(size=[len(keys[group]), width]).astype(np.float32)
        for group, width in widths.items()
    }


def step_of(tables, optimizer):
    """One step as a function of keys, gradients and its number: fetched rows, and owners' sums.

    Sums come with the places of static tables, and with the keys of dynamic ones.
    """

    def step(keys, gradients, number):
        routes = tables.routes(keys)
        located = tables.locate(routes, number, training=True)
        rows = tables.fetch(routes, located)
        sums = tables.return_gradients(gradients, routes, located).updates
        # Scaled by the caller, once: here by a number that could be that of the tasks.
        means = {group: (owned, summed / 7.0) for group, (owned, summed) in sums.items()}
        tables.apply_gradients(means, optimizer, number)
        if tables.dynamic and tables.backend == "horovod":
            sums = {group: (routes[group].owned, summed) for group, (_, summed) in sums.items()}
        return rows, sums

    # To trace dynamic tables over Horovod takes seconds; those of a model are traced in its tests.
    return step if tables.dynamic else tf.function(step, reduce_retracing=True)


def run_steps(tables, optimizer, world, num_steps=5):
    """What each step gave, as NumPy arrays."""
    step = step_of(tables, optimizer)
    outcomes = []
    for number in range(num_steps):
        keys = keys_of(world.rank, number)
        gradients = gradients_of(world.rank, number, keys)
        if tables.dynamic:
            keys = {DYNAMIC_GROUPS[group]: far for group, far in far_keys(keys).items()}
            gradients = {DYNAMIC_GROUPS[group]: value for group, value in gradients.items()}
        outcomes.append(
            step(
                tf.nest.map_structure(tf.constant, keys),
                tf.nest.map_structure(tf.constant, gradients),
                tf.constant(number, tf.int64),
            )
        )
    return tf.nest.map_structure(np.asarray, outcomes)


def far_keys(keys):
    """As many keys that no table could list."""
    return {group: some + FAR for group, some in keys.items()}


def slow_run(initial, optimizer, size, num_steps=5):
    """All rows after the same steps: a loop over ranks and keys, on whole tables."""
    rows = {group: value.copy() for group, value in initial.items()}
    slots = {
        group: {
            name: np.full([len(v), slot.width], slot.start, np.float32)
            for name, slot in optimizer.slots(v.shape[1]).items()
        }
        for group, v in rows.items()
    }
    for number in range(num_steps):
        for group, table in rows.items():
            sums = {}
            for rank in range(size):
                keys = keys_of(rank, number)
                for key, gradient in zip(
                    keys[group], gradients_of(rank, number, keys)[group], strict=True
                ):
                    sums[key] = sums.get(key, 0) + gradient
            for key, gradient in sums.items():
                old = {name: slot[[key]] for name, slot in slots[group].items()}
                new, new_slots = optimizer.update(
                    table[[key]], gradient[np.newaxis] / 7, old, tf.constant(number, tf.int64)
                )
                table[key] = new[0]
                for name, slot in slots[group].items():
                    slot[key] = new_slots[name][0]
    return rows


def all_rows(tables):
    return {group: tables.all_rows(group).numpy() for group in tables.shards}


def held_by_key(tables):
    """What this rank holds of each dynamic table, in the order of the keys: they, rows, slots."""
    held = {}
    for group, shard in tables.shards.items():
        if group in tables.keyed:
            (state,) = shard.export_state(0)
            order = np.argsort(state.keys)
            arrays = {"keys": state.keys, "rows": state.rows, **state.slots}
            held[group] = {name: array[order] for name, array in arrays.items()}
    return held


def assert_same(found, expected, **tolerance):
    """Two nests of arrays are equal but for the last bits."""
    tf.nest.assert_same_structure(found, expected)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, **{**FLOAT32, **tolerance})


def by_key(keys, values):
    """The values in the order of their keys."""
    return np.asarray(values)[np.argsort(keys)]
