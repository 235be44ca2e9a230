"""Two hosts of two ranks: by host, training is that of the flat exchange, and that of one process.

    GMETA_RANKS_PER_HOST=2 horovodrun -np 4 python tests/helpers/four_ranks.py FOLDER

Each rank leaves a file in FOLDER when all is well, and the first another one. Horovod's process
sets need four ranks, and the gate has at most three.
"""

from __future__ import annotations

import itertools
import pathlib
import sys

import keras
import made_batches
import numpy as np

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HOROVOD_CYCLE_TIME": "2",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
STEPS = [made_batches.made_tasks(seed) for seed in range(1, 6)]
SIZES = {1: [[7]], 2: [[1, 6], [7, 0]], 3: [[4, 0, 3], [0, 2, 5]], 4: [[2, 0, 4, 1], [1, 3, 0, 3]]}


def made_model(world, exchange, *, wire="float32", look_ahead=True):
    """A model that trains and is not trained yet."""
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(
        made_batches.TWO_WIDTHS,
        3,
        scale=0.8,
        wire=wire,
        replicate=False,
        world=world,
        exchange=exchange,
    )
    model = gm.MetaModel(gm.models.MeLU((5,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile(keras.optimizers.Adam(0.03), "adagrad", look_ahead=look_ahead)
    return model


def trained(model, world):
    """This rank's dense weights, rows and slots after the five steps."""
    steps = []
    for tasks, sizes in zip(STEPS, itertools.cycle(SIZES[world.size])):
        end = sum(sizes[: world.rank + 1])
        steps.append(tasks[end - sizes[world.rank] : end])
    data = made_batches.dataset(steps, 7, schema=made_batches.TWO_WIDTHS)
    model.fit(data, epochs=1, verbose=0)
    found = [variable.numpy() for variable in model.trainable_variables]
    for shard in model.embedding.shards.values():
        found += [shard.rows.numpy(), *(slot.numpy() for slot in shard.slots.values())]
    return found


def assert_near(found, expected, tolerance=1e-5):
    """Equal but for the order in which a sum's terms were added up."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def ended_well(folder):
    """Whether all four ranks found what they should."""
    return sorted(path.name for path in folder.iterdir()) == [*"0123", "as alone"]


def main(folder):
    world = gm.World.detect()
    by_host = made_model(world, "auto")  # the first: Horovod starts with its process sets
    assert by_host.embedding.exchange == "by-host"
    assert by_host.look_ahead is not None
    before = [variable.numpy() for variable in by_host.trainable_variables]
    found = trained(by_host, world)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(found, before))
    expected = trained(made_model(world, "flat"), world)
    assert_near(found, expected)
    pathlib.Path(folder, str(world.rank)).write_text("equal", encoding="utf-8")
    if world.is_chief:
        alone = trained(made_model(gm.World(), "flat"), gm.World())
        dense = len(by_host.trainable_variables)
        assert_near(found[:dense], alone[:dense])
        pathlib.Path(folder, "as alone").write_text("equal", encoding="utf-8")
    barrier(world, name="end")


if __name__ == "__main__":
    main(sys.argv[1])
