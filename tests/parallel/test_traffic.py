"""What benchmarks/distributed.py counts is what a count by hand says that the ranks send."""

import keras
import made_batches
import pytest

import gmeta_tf as gm
from benchmarks.distributed import count_traffic

WORLD = gm.World.detect()

pytestmark = pytest.mark.skipif(
    not WORLD.is_distributed, reason="needs ranks: horovodrun -np 2 pytest tests/parallel"
)

STEPS = [made_batches.made_tasks(seed, count=7) for seed in (1, 2)]
WIDTH = 3
GENRES_FROM = 13  # the keys of the second table start where the first one's end


def tasks_of(step, rank):
    """The tasks of a step are dealt to the ranks in turn."""
    return step[rank :: WORLD.size]


def remote_keys(step, rank):
    keys = set()
    for task in tasks_of(step, rank):
        keys |= {int(key) for key in task.keys[:, 0] if key >= 0}
        keys |= {GENRES_FROM + int(key) for key in task.keys[:, 1:].ravel() if key >= 0}
    return sum(key % WORLD.size != rank for key in keys)


def test_the_bytes_that_ranks_send():
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, WIDTH, world=WORLD)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("sgd", "sgd")
    own = [tasks_of(step, WORLD.rank) for step in STEPS]
    batches = iter(made_batches.dataset(own, 7))
    traffic = count_traffic(model, batches, steps=len(STEPS))

    remote = sum(remote_keys(step, rank) for step in STEPS for rank in range(WORLD.size))
    ring = 2 * (WORLD.size - 1) / WORLD.size * 4 * WORLD.size * len(STEPS)
    dense = (2 * WIDTH + 1) * 6 + 6 + 6 + 1
    assert remote > 0
    assert traffic["least"] == pytest.approx(remote * (8 + 8 * WIDTH) + ring * dense)
    # Beside the weights: the loss, the number of tasks, and whether a key of a table is refused.
    others = 2 + len(embedding.table_names)
    assert traffic["sent"] == pytest.approx(traffic["least"] + ring * others)
