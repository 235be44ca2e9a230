"""The SOK back-end on several ranks, against the Horovod back-end and against a slow twin.

As in tests/embedding/sok/: SOK's own Python layer over stubs of its kernels, here over Gloo's
AlltoAll.
"""

import collections

import keras
import made_batches
import made_sok
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.embedding.sok import backend as sok_module
from gmeta_tf.embedding.sok.backend import choose_backend
from gmeta_tf.embedding.sok.static import SokStaticShard

WORLD = gm.World.detect()
RANK, SIZE = WORLD.rank, WORLD.size
RANKS = range(SIZE)


# Which back-end -------------------------------------------------------------------------------


@pytest.fixture
def gpu_on_rank_0_alone(imported_sok, monkeypatch):
    monkeypatch.setattr(sok_module, "has_gpu", lambda: RANK == 0)


def test_sok_is_refused_on_every_rank_where_one_lacks_a_gpu(gpu_on_rank_0_alone):
    with pytest.raises(RuntimeError, match=r"cannot run here\. On rank 1: TensorFlow sees no GPU"):
        made_sok.embedding("sok", WORLD)


def test_auto_takes_horovod_on_every_rank_where_one_lacks_a_gpu(gpu_on_rank_0_alone):
    assert choose_backend("auto", {"embedded": 4}, WORLD) == "horovod"


def test_ranks_that_ask_for_different_backends_are_refused(sok):
    with pytest.raises(ValueError, match=r"backend is 'sok' on rank 0 and 'horovod' on rank 1"):
        made_sok.embedding("sok" if RANK == 0 else "horovod", WORLD)


def test_a_world_that_is_not_horovods_is_refused(sok):
    """SOK shards over all of Horovod's ranks, whichever the tables are told of."""
    expected = rf"expected Horovod to have rank 0 of 1, it has {RANK} of {SIZE}"
    with pytest.raises(RuntimeError, match=expected):
        made_sok.embedding("sok", gm.World())


# Static tables --------------------------------------------------------------------------------


def test_the_keys_of_the_ranks_are_awkward_enough():
    """Duplicates between ranks, a rank without keys, and a row that no one looks up."""
    steps = [[made_sok.keys_of(rank, step) for rank in RANKS] for step in range(5)]
    for group in ("embedded", "embedded_8"):
        counts = [collections.Counter(k for r in ranks for k in r[group]) for ranks in steps]
        assert sum(max(count.values()) > 1 for count in counts) >= 2
        assert len({k for count in counts for k in count}) > 4
    assert len(steps[2][1]["embedded"]) == len(steps[2][1]["embedded_8"]) == 0


def test_rows_before_training_are_those_of_horovod_bit_for_bit(sok):
    tables = {name: made_sok.embedding(name, WORLD) for name in ("sok", "horovod")}
    for group, shard in tables["horovod"].shards.items():
        np.testing.assert_array_equal(tables["sok"].shards[group].rows, shard.rows)
    whole = made_sok.all_rows(made_sok.embedding("horovod", gm.World()))
    for group, rows in made_sok.all_rows(tables["sok"]).items():
        np.testing.assert_array_equal(rows, whole[group])


@pytest.mark.parametrize("optimizer", list(made_sok.ROW_OPTIMIZERS))
def test_five_steps_are_those_of_horovod(sok, optimizer):
    """Rows, the owners' sums of gradients, and the tables after it all."""
    optimizer = made_sok.ROW_OPTIMIZERS[optimizer]
    tables = {name: made_sok.embedding(name, WORLD) for name in ("sok", "horovod")}
    before = made_sok.all_rows(tables["sok"])
    outcomes = {}
    for name, embedding in tables.items():
        embedding.make_slots(optimizer)
        outcomes[name] = made_sok.run_steps(embedding, optimizer, WORLD)
    for found, expected in zip(outcomes["sok"], outcomes["horovod"], strict=True):
        made_sok.assert_same(found[0], expected[0])
        for group, (row_indices, sums) in expected[1].items():
            found_indices, found_sums = found[1][group]
            assert sorted(found_indices) == sorted(row_indices)
            assert len(set(found_indices.tolist())) == len(found_indices)
            assert (found_indices < tables["sok"].shards[group].rows.shape[0]).all()
            made_sok.assert_same(
                made_sok.by_key(found_indices, found_sums), made_sok.by_key(row_indices, sums)
            )
    after = made_sok.all_rows(tables["sok"])
    made_sok.assert_same(after, made_sok.all_rows(tables["horovod"]))
    made_sok.assert_same(after, made_sok.slow_run(before, optimizer, SIZE), rtol=1e-5, atol=1e-6)
    assert np.abs(after["embedded"] - before["embedded"]).max(axis=1)[0] > 1e-3
    np.testing.assert_array_equal(after["embedded"][12], before["embedded"][12])


@pytest.mark.parametrize(
    ("replicate", "groups"),
    [({"genre"}, ("embedded_8",)), (True, ("embedded", "embedded_8"))],
    ids=["genre", "all"],
)
def test_sok_leaves_replicated_tables_alone(sok, replicate, groups):
    optimizer = made_sok.ROW_OPTIMIZERS["adagrad"]
    tables = made_sok.embedding("sok", WORLD, replicate=replicate)
    expected = made_sok.embedding("horovod", WORLD)
    assert (tables.backend, tables.replicated) == ("sok", groups)
    assert isinstance(tables.shards["embedded"], SokStaticShard) == (len(groups) == 1)
    for embedding in (tables, expected):
        embedding.make_slots(optimizer)
    found = made_sok.run_steps(tables, optimizer, WORLD)
    for (rows, _), (expected_rows, _) in zip(
        found, made_sok.run_steps(expected, optimizer, WORLD), strict=True
    ):
        made_sok.assert_same(rows, expected_rows)
    made_sok.assert_same(made_sok.all_rows(tables), made_sok.all_rows(expected))


def test_auto_replicates_nothing_where_sok_exchanges(sok):
    assert made_sok.embedding("sok", WORLD, replicate="auto").replicated == ()
    # Width 3 is none of SOK's, which replicated tables do not need.
    schema = made_batches.SCHEMA
    tables = gm.ShardedEmbedding(schema, 3, replicate=True, world=WORLD, backend="sok")
    assert tables.replicated == ("embedded",)


SLOTS = 7
STEPS = [made_batches.made_tasks(seed, count=SLOTS) for seed in range(1, 6)]
SPLITS = {
    "uneven": {2: [1, 6], 3: [1, 5, 1]},
    "empty rank": {2: [7, 0], 3: [4, 0, 3]},
    "empty chief": {2: [0, 7], 3: [0, 2, 5]},
}


def meta_model(backend):
    keras.utils.set_random_seed(7)
    model = gm.MetaModel(
        gm.models.MamlDLRM(bottom=(4,), top=(6,)),
        gm.ShardedEmbedding(
            made_batches.SCHEMA, 4, scale=0.8, replicate=False, world=WORLD, backend=backend
        ),
        gm.InnerLoop(1, 0.4),
    )
    model.compile(keras.optimizers.Adam(0.03, epsilon=1e-2), gm.Adagrad(0.3))
    return model


def own_data(split):
    sizes = SPLITS[split][SIZE]
    first = sum(sizes[:RANK])
    return made_batches.dataset([t[first : first + sizes[RANK]] for t in STEPS], SLOTS)


class Trainee:
    """A model that can be trained from its start again and again, but is traced once."""

    def __init__(self, backend):
        self.model = meta_model(backend)
        self.start = [variable.numpy() for variable in self.variables()]

    def variables(self):
        """Everything that training changes on this rank."""
        for shard in self.model.embedding.shards.values():
            yield from (shard.rows, *shard.slots.values())
        for variables in (self.model.variables, self.model.optimizer.variables):
            yield from (variable.value for variable in variables)

    def numbers(self):
        weights = {f"weight {i}": v.numpy() for i, v in enumerate(self.model.trainable_variables)}
        return {**weights, "rows": self.model.embedding.all_rows("embedded").numpy()}

    def train(self, split):
        """The numbers before and after five steps, and what `evaluate` gives then."""
        for variable, value in zip(self.variables(), self.start, strict=True):
            variable.assign(value)
        before = self.numbers()
        self.model.fit(own_data(split), verbose=0)
        judged = self.model.evaluate(own_data(split), return_dict=True, verbose=0)
        return before, self.numbers(), judged


@pytest.fixture(scope="module")
def trainees(imported_sok):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sok_module, "has_gpu", lambda: True)
        return Trainee("sok"), Trainee("horovod")


@pytest.mark.parametrize("split", list(SPLITS))
def test_fit_is_that_of_horovod(trainees, split):
    (before, found, found_judged), (_, expected, judged) = (t.train(split) for t in trainees)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(value - before[name]).max() > 1e-3, name
    assert found_judged == pytest.approx(judged, rel=1e-5)


def test_a_step_makes_three_alltoalls_and_one_allreduce(trainees):
    """As over Horovod: keys there, rows back, gradients there."""
    model = trainees[0].model
    step = tf.function(model.train_step, autograph=False)
    graph = step.get_concrete_function(made_batches.batch(STEPS[0])).graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    counts = collections.Counter(node.op for node in nodes if node.op.startswith("Horovod"))
    assert counts == {"HorovodAlltoall": 3, "HorovodGroupedAllreduce": 1}


def test_looking_ahead_is_nothing_to_sok(sok):
    model = meta_model("sok")
    model.compile(look_ahead=True)
    assert model.look_ahead is None
