"""The same global batches give the same model at any number of ranks and for any split.

Every rank also trains alone, in its own process, on the whole global batch: that is what the ranks
together are compared with.
"""

import collections
import functools

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.decay import CosineDecay

WORLD = gm.World.detect()
ALONE = gm.World()

SLOTS = 7
# The weights of rows count where the schema has them. The last task's query rows weigh nothing.
STEPS = [
    made_batches.weighted(made_batches.made_tasks(seed, count=SLOTS), seed) for seed in range(1, 6)
]

# Ranks add the tasks' gradients up in another order, which changes the last bits of float32
# (6e-8 of numbers of size 1); five steps with rates below 1 let that grow some ten times.
FLOAT32 = {"rtol": 1e-4, "atol": 5e-6}

# How many of the 7 tasks of a step each rank gets.
SPLITS = {
    "even": {2: [4, 3], 3: [3, 2, 2]},
    "uneven": {2: [1, 6], 3: [1, 5, 1]},
    "empty rank": {2: [7, 0], 3: [4, 0, 3]},
    "empty chief": {2: [0, 7], 3: [0, 2, 5]},
}

# Adam divides by the root of the squares: a large epsilon keeps the rounding of a gradient near 0
# from being made a step of full size.
ROW_OPTIMIZERS = {
    "sgd": gm.SGD(0.3),
    "adagrad": gm.Adagrad(0.3),
    "lazy_adam": gm.LazyAdam(0.05, epsilon=1e-2),
    "shrunk": gm.ShrunkRows(
        optimizer=gm.LazyAdam(CosineDecay(0.05, 10), epsilon=1e-2), strength=0.05
    ),
}


def learner():
    return gm.models.MamlDLRM(bottom=(4,), top=(6,))


def melu():
    return gm.models.MeLU((5,))


def meta_model(
    world,
    inner=None,
    row_optimizer="sgd",
    schema=made_batches.SCHEMA,
    make_learner=learner,
    inner_loss=None,
    weighted_metrics=None,
):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(schema, 3, scale=0.8, replicate=False, world=world)
    made = make_learner()
    encoder = made.task_encoder(width=4) if hasattr(made, "task_encoder") else None
    model = gm.MetaModel(made, embedding, inner or gm.InnerLoop(1, 0.4), task_encoder=encoder)
    optimizer = keras.optimizers.Adam(0.03, epsilon=1e-2)
    # One rank alone is what ranks together are compared with: it need not be traced.
    model.compile(
        optimizer,
        ROW_OPTIMIZERS[row_optimizer],
        inner_loss=inner_loss,
        weighted_metrics=weighted_metrics,
        run_eagerly=not world.is_distributed,
    )
    return model


def own_tasks(split, world):
    """This rank's tasks of each step; of one rank alone, all of them."""
    if not world.is_distributed:
        return STEPS
    sizes = SPLITS[split][world.size]
    # The split turns with the steps, so that every rank is the large and the empty one in turn,
    # but for the splits that are about one rank.
    steps = []
    for index, tasks in enumerate(STEPS):
        turned = sizes if split.startswith("empty") else np.roll(sizes, index)
        ends = np.cumsum(turned)
        steps.append(tasks[ends[world.rank] - turned[world.rank] : ends[world.rank]])
    return steps


def variables_of(model):
    """Everything that training changes on this rank."""
    for shard in model.embedding.shards.values():
        yield from (shard.rows, *shard.slots.values())
    yield from (variable.value for variable in model.variables)
    yield from (variable.value for variable in model.optimizer.variables)


class Trainee:
    """A model that can be trained from its start again and again, but is traced once."""

    def __init__(self, world, schema=made_batches.SCHEMA, **options):
        self.world, self.schema = world, schema
        self.model = meta_model(world, schema=schema, **options)
        self.start = [variable.numpy() for variable in variables_of(self.model)]

    def restart(self):
        """The model, as it was made."""
        for variable, value in zip(variables_of(self.model), self.start, strict=True):
            variable.assign(value)
        return self.model

    def train(self, split):
        """Dense weights, all rows of each group and the loss after five steps."""
        self.restart()
        data = made_batches.dataset(own_tasks(split, self.world), SLOTS, schema=self.schema)
        (loss,) = self.model.fit(data, verbose=0).history["loss"]
        return {"loss": np.array(loss), **self.numbers()}

    def numbers(self):
        embedding = self.model.embedding
        return {
            **{f"weight {i}": v.numpy() for i, v in enumerate(self.model.trainable_variables)},
            **{f"rows {g}": embedding.all_rows(g).numpy() for g in embedding.shards},
        }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **FLOAT32)


def assert_moved(after, before, least=1e-3):
    """All weights and all rows that tasks read have moved: else equality would say little."""
    for name, value in before.items():
        change = np.abs(after[name] - value)
        if name.startswith("rows"):
            assert (change.max(axis=1) > 1e-4).sum() == 18  # of 12 items and 6 genres
        else:
            assert change.max() > least, name


@functools.cache
def trainee(world, order, row_optimizer):
    """The one of these options: all tests of this file share it."""
    return Trainee(world, inner=gm.InnerLoop(1, 0.4, order=order), row_optimizer=row_optimizer)


@functools.cache
def of_one_rank(order, row_optimizer):
    """The numbers of one rank alone, before and after five steps."""
    alone = trainee(ALONE, order, row_optimizer)
    return alone.numbers(), alone.train("even")


@pytest.mark.parametrize("split", list(SPLITS))
@pytest.mark.parametrize("options", [(2, "sgd"), (2, "lazy_adam"), (1, "adagrad")], ids=str)
def test_five_steps_are_those_of_one_rank(options, split):
    before, expected = of_one_rank(*options)
    assert_same(trainee(WORLD, *options).train(split), expected)
    assert_moved(expected, before)


@functools.cache
def two_widths(world):
    """A trainee of learned rates in two inner steps, and of tables of two widths."""
    return Trainee(
        world,
        schema=made_batches.TWO_WIDTHS,
        inner=gm.InnerLoop(2, 0.3, learn_rates=True),
        row_optimizer="adagrad",
        make_learner=melu,
    )


def test_learned_rates_and_two_widths_are_those_of_one_rank():
    alone, together = two_widths(ALONE), two_widths(WORLD)
    start = next(v for v in alone.model.trainable_variables if v.name == "inner_rates").numpy()
    assert_same(together.train("uneven"), alone.train("uneven"))
    rates = next(v for v in together.model.trainable_variables if v.name == "inner_rates")
    assert np.abs(rates - start).max() > 1e-3


ENCODED = {"mmaml": lambda: gm.models.MMAML((5,)), "cbml": lambda: gm.models.CBML((5,))}


@pytest.mark.parametrize("name", ENCODED)
def test_a_task_encoder_is_that_of_one_rank(name):
    alone, together = (
        Trainee(world, row_optimizer="adagrad", make_learner=ENCODED[name])
        for world in (ALONE, WORLD)
    )
    before, expected = alone.restart() and alone.numbers(), alone.train("even")
    assert_same(together.train("uneven"), expected)
    assert_moved(expected, before, least=1e-4)  # the clusters' centres have small gradients


@functools.cache
def all_options(world, name):
    """A trainee of options of the inner loop; annealed ones change after two steps and four."""
    annealed = gm.InnerLoop(
        2,
        0.3,
        learn_rates="parameters",
        clip_gradients=0.2,
        adapt_embeddings=["item"],
        multi_step_loss=4,
        second_order_after=2,
    )
    reptile = gm.InnerLoop(2, 0.3, order=1, outer_gradient="reptile")
    anil = gm.InnerLoop(2, 0.3, adapt_dense="last_layer", adapt_embeddings=False)
    return Trainee(
        world,
        inner={"annealed": annealed, "reptile": reptile, "anil": anil}[name],
        row_optimizer="adagrad",
        make_learner=melu,
        inner_loss="mse",
    )


@pytest.mark.parametrize("split", ["uneven", "empty chief"])
@pytest.mark.parametrize("name", ["annealed", "reptile", "anil"])
def test_options_of_the_inner_loop_are_those_of_one_rank(name, split):
    alone, together = all_options(ALONE, name), all_options(WORLD, name)
    before, expected = alone.restart() and alone.numbers(), alone.train("even")
    assert_same(together.train(split), expected)
    for number, value in before.items():  # some rates move by little
        assert np.abs(expected[number] - value).max() > 1e-4, number


@functools.cache
def closed_form(world):
    """A trainee that adapts in closed form, over rows that are shrunk."""
    return Trainee(
        world,
        inner=gm.ClosedForm(),
        row_optimizer="shrunk",
        make_learner=lambda: gm.models.Factors([1]),
    )


@pytest.mark.parametrize("split", ["uneven", "empty chief"])
def test_closed_form_is_that_of_one_rank(split):
    alone, together = closed_form(ALONE), closed_form(WORLD)
    before, expected = alone.restart() and alone.numbers(), alone.train("even")
    assert_same(together.train(split), expected)
    assert_moved(expected, before)


@functools.cache
def weighted(world, way):
    """A trainee on rows with weights."""
    ways = {
        "by steps": (learner, gm.InnerLoop(2, 0.3)),
        "closed form": (lambda: gm.models.Factors([1]), gm.ClosedForm()),
    }
    make_learner, inner = ways[way]
    return Trainee(
        world,
        schema=made_batches.WEIGHTED,
        inner=inner,
        row_optimizer="adagrad",
        make_learner=make_learner,
        weighted_metrics=["auc", "mae"],
    )


@pytest.mark.parametrize("split", list(SPLITS))
@pytest.mark.parametrize("way", ["by steps", "closed form"])
def test_weights_of_rows_are_those_of_one_rank(way, split):
    alone, together = weighted(ALONE, way), weighted(WORLD, way)
    before, expected = alone.restart() and alone.numbers(), alone.train("even")
    assert_same(together.train(split), expected)
    for name, value in before.items():
        assert np.abs(expected[name] - value).max() > 1e-3, name
    results = []
    for one in (alone, together):
        data = made_batches.dataset(own_tasks(split, one.world), SLOTS, schema=one.schema)
        results.append(one.model.evaluate(data, return_dict=True, verbose=0))
    assert {"weighted_auc_adapted", "weighted_mae_unadapted", "loss"} < results[0].keys()
    assert results[1] == pytest.approx(results[0], rel=2e-4)


def test_every_rank_starts_from_rank_0s_weights():
    keras.utils.set_random_seed(100 + WORLD.rank)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, replicate=False, world=WORLD)
    model = gm.MetaModel(learner(), embedding)
    keras.utils.set_random_seed(100)
    expected = learner()
    expected({"embedded": tf.zeros([1, 2, 3]), "dense": tf.zeros([1, 1])})
    for found, value in zip(model.learner.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(found, value)


# Collectives.


def count_operations(function):
    """Operation type -> how often it stands in a concrete function and the functions it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return collections.Counter(node.op for node in nodes)


def horovod_operations(method, batch):
    function = tf.function(method, autograph=False).get_concrete_function(batch)
    counts = count_operations(function)
    return {name: count for name, count in counts.items() if name.startswith("Horovod")}


def test_a_step_that_sends_its_own_keys_makes_three_alltoalls():
    """Keys there, rows back, gradients there; nothing within the inner loop of two steps."""
    model = meta_model(WORLD, gm.InnerLoop(2, 0.4))
    batch = made_batches.batch(STEPS[0])
    assert horovod_operations(model.train_step, batch) == {"HorovodAlltoall": 3}
    assert horovod_operations(model.test_step, batch) == {"HorovodAlltoall": 2}


def test_further_widths_make_no_more():
    model = two_widths(WORLD).restart()
    batch = made_batches.batch(STEPS[0], schema=made_batches.TWO_WIDTHS)
    assert horovod_operations(model.train_step, batch) == {"HorovodAlltoall": 3}


# Ranks that differ.


def test_ranks_with_different_inner_loops_are_refused_on_every_rank():
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, replicate=False, world=WORLD)
    model = gm.MetaModel(learner(), embedding, gm.InnerLoop(1, 0.1 + WORLD.rank))
    with pytest.raises(
        ValueError,
        match=r"disagree on the model: inner.learning_rate is 0\.1 on rank 0 and 1\.1 on rank 1",
    ):
        model.compile()


def test_ranks_with_different_optimizers_are_refused_on_every_rank():
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, replicate=False, world=WORLD)
    model = gm.MetaModel(learner(), embedding)
    with pytest.raises(ValueError, match=r"disagree on the model: row_optimizer is"):
        model.compile(row_optimizer=gm.SGD(0.1 + WORLD.rank))


def test_ranks_with_different_tables_are_refused_on_every_rank():
    with pytest.raises(ValueError, match=r"disagree on the embedding tables: seed is 0 on rank 0"):
        gm.ShardedEmbedding(made_batches.SCHEMA, 3, seed=WORLD.rank, replicate=False, world=WORLD)


# A key out of range on one rank, and judging.


def test_a_key_out_of_range_on_one_rank_stops_every_rank():
    """By what `fit` calls, which itself would leave the world that other tests still need."""
    model = trainee(WORLD, 2, "sgd").restart()
    task = STEPS[0][0]
    keys = task.keys.copy()
    keys[0, 0] = 13 if WORLD.rank == 1 else 0
    tasks = [made_batches.Task(0, task.num_support, keys, task.dense, task.label)]
    before = [variable.numpy() for variable in model.trainable_variables]
    rows = model.embedding.all_rows("embedded").numpy()
    data = model._looking_ahead(made_batches.dataset([tasks], SLOTS))
    step = model.make_train_function() or model.train_function
    with pytest.raises(tf.errors.InvalidArgumentError, match="item: expected keys from 0 to 12"):
        step(iter(data))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    np.testing.assert_array_equal(model.embedding.all_rows("embedded"), rows)


def test_evaluate_is_that_of_one_rank():
    alone, together = (trainee(world, 2, "sgd").restart() for world in (ALONE, WORLD))
    expected = alone.evaluate(made_batches.dataset(STEPS, SLOTS), return_dict=True, verbose=0)
    assert expected["tasks"] == SLOTS * len(STEPS)
    for split in SPLITS:
        data = made_batches.dataset(own_tasks(split, WORLD), SLOTS)
        found = together.evaluate(data, return_dict=True, verbose=0)
        assert found == pytest.approx(expected, rel=1e-5), split
