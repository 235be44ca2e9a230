"""What ranks send: what benchmarks/distributed.py counts, and what a plan says beforehand."""

import keras
import made_batches
import made_data
import pytest

import gmeta_tf as gm
from benchmarks.distributed import count_traffic
from gmeta_tf.distributed import collectives, packed_alltoall
from gmeta_tf.planner.key_requests import counted_requests
from gmeta_tf.planner.placement import place
from gmeta_tf.planner.table_sizes import table_sizes
from gmeta_tf.planner.traffic import StepShape, Wire

WORLD = gm.World.detect()

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
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, WIDTH, replicate=False, world=WORLD)
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
    # Keys that fit in 4 bytes travel so. Beside the weights: the loss, the number of tasks, and of
    # each table whether a key is rejected and whether gradients are non-finite; and whether a
    # label is rejected. So few numbers go from each rank to every other.
    totals = (WORLD.size - 1) * 4 * (dense + 3 + 2 * len(embedding.table_names))
    rank_steps = WORLD.size * len(STEPS)
    assert traffic["sent"] == pytest.approx(remote * (4 + 8 * WIDTH) + totals * rank_steps)


NUM_STEPS = 3


class Counted:
    """Stands for `alltoall` in the exchange, and counts what this rank sends and gets of others."""

    def __init__(self):
        self.sent = self.received = 0

    def __call__(self, tensor, splits, world, **options):
        arrived, received = collectives.alltoall(tensor, splits, world, **options)
        row_bytes = tensor.dtype.size * (tensor.shape[1:].num_elements() or 1)
        self.sent += row_bytes * int(sum(splits) - splits[world.rank])
        self.received += row_bytes * int(sum(received) - received[world.rank])
        return arrived, received


def batches_in(folder, schema):
    records = made_data.make_records(folder, 40, schema=schema)
    return made_data.SharedBatches(
        records, "train", tasks=4, support=3, query=5, every_row=True, seed=3, world=WORLD
    )


def plan_of(batches, wire):
    """What a plan of the first steps says, counted in this process alone."""
    sizes = table_sizes(batches.schema, WIDTH, lambda width: {}, WORLD.size)
    requests = counted_requests(batches, sizes, NUM_STEPS)
    return place(sizes, requests, StepShape(4, 3, 5), requests_from="a test", wire=wire)


@pytest.mark.parametrize("schema", [made_data.SCHEMA, made_data.TWO_WIDTHS])
def test_a_plan_says_what_each_rank_sends_and_gets(schema, tmp_path, monkeypatch):
    counted = Counted()
    batches = batches_in(tmp_path, schema)
    embedding = gm.ShardedEmbedding(batches.schema, WIDTH, replicate=False, world=WORLD)
    monkeypatch.setattr(packed_alltoall, "alltoall", counted)
    for batch in batches.dataset().take(NUM_STEPS):
        routes = embedding.routes(batch["keys"], batch["keys_of_rank"])
        located = embedding.locate(routes)
        embedding.return_gradients(embedding.fetch(routes, located), routes, located)
    plan = plan_of(batches, Wire())
    # A message of several groups' keys says how many there are of each, to each other rank.
    groups = len(embedding.shards)
    told = 4 * groups * (WORLD.size - 1) * NUM_STEPS if groups > 1 else 0
    assert counted.sent > told
    assert counted.sent - told == pytest.approx(NUM_STEPS * plan.sent[WORLD.rank], rel=1e-12)
    received = counted.received - told
    assert received == pytest.approx(NUM_STEPS * plan.received[WORLD.rank], rel=1e-12)
    own = {group: int(shard.rows.shape[0]) for group, shard in embedding.shards.items()}
    planned = dict.fromkeys(own, 0)
    for table in plan.tables:
        planned[table.size.group] += table.size.rows_of_ranks[WORLD.rank]
    assert planned == own


def test_a_plan_says_what_the_exchanges_of_training_steps_send(tmp_path):
    keras.utils.set_random_seed(7)
    batches = batches_in(tmp_path, made_data.SCHEMA)
    embedding = gm.ShardedEmbedding(batches.schema, WIDTH, replicate=False, world=WORLD)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("sgd", "sgd")
    traffic = count_traffic(model, iter(batches.dataset()), steps=NUM_STEPS)
    plan = plan_of(batches, Wire())
    dense = (3 * WIDTH + 1) * 6 + 6 + 6 + 1
    piggybacked = (WORLD.size - 1) * 4 * (dense + 2 + 2 * len(embedding.table_names))
    assert traffic["alltoall_bytes_a_rank_step"] == round(plan.sent.mean() + piggybacked)
