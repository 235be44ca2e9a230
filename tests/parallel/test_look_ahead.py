"""With the next step's keys exchanged ahead, training is the same to the last bit."""

import collections
import functools
import itertools
import pathlib
import tempfile

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from made_data import SharedBatches, make_records

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json, start
from gmeta_tf.meta_io.batches.dataset_ops import with_next_keys

WORLD = gm.World.detect()

SLOTS = 7
STEPS = [made_batches.made_tasks(seed, count=SLOTS) for seed in range(1, 6)]

# How many of the 7 tasks of a step each rank gets, in turn.
SPLITS = {
    "uneven": {2: [[1, 6]], 3: [[1, 5, 1]]},
    "an empty rank": {2: [[7, 0], [0, 7]], 3: [[4, 0, 3], [0, 2, 5]]},
}


class Counted(gm.MetaModel):
    """Counts how often its step is traced, and how often of it with the next step's keys."""

    traces = traces_with_next = 0

    def train_step(self, batch):
        self.traces += 1
        self.traces_with_next += "next" in batch
        return super().train_step(batch)


def meta_model(look_ahead, schema=made_batches.SCHEMA, *, order=2, **compiled):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(schema, 3, scale=0.8, replicate=False, world=WORLD)
    if schema.tables == made_batches.SCHEMA.tables:
        learner = gm.models.MamlDLRM(bottom=(4,), top=(6,))
    else:
        learner = gm.models.MeLU((5,))
    model = Counted(learner, embedding, gm.InnerLoop(1, 0.4, order=order))
    compiled = {"optimizer": keras.optimizers.Adam(0.03), "row_optimizer": "adagrad", **compiled}
    model.compile(look_ahead=look_ahead, **compiled)
    return model


def own_tasks(split):
    """This rank's tasks of each step, in the split's sizes."""
    steps = []
    for tasks, sizes in zip(STEPS, itertools.cycle(SPLITS[split][WORLD.size])):
        end = sum(sizes[: WORLD.rank + 1])
        steps.append(tasks[end - sizes[WORLD.rank] : end])
    return steps


def steps_of(split, schema=made_batches.SCHEMA):
    """A finite dataset of one's own."""
    return made_batches.dataset(own_tasks(split), SLOTS, schema=schema)


def changing(model):
    """What training changes on this rank: weights, rows, and what both rules keep."""
    named = [(v.name, v) for v in (*model.variables, *model.optimizer.variables)]
    for group, shard in model.embedding.shards.items():
        named += [(f"{group} rows", shard.rows), *shard.slots.items()]
    return {f"{index} {name}": variable for index, (name, variable) in enumerate(named)}


def numbers(model):
    return {name: variable.numpy() for name, variable in changing(model).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


class Exchanges:
    """Counts how often steps exchange their own keys and the next step's, whenever they run."""

    def __init__(self, model):
        self._made = {name: tf.Variable(0, trainable=False) for name in ("keys", "next_keys")}
        embedding, ahead = model.embedding, model.look_ahead
        arrivals, following = embedding.arrivals, ahead.following if ahead else None

        def counted_arrivals(departures):
            # Behind the keys: a step that finds the data ended makes none.
            with tf.control_dependencies([one.keys for one in departures.values()]):
                self._made["keys"].assign_add(1)
            return arrivals(departures)

        def counted_following(batch):
            with tf.control_dependencies(list(batch["keys"].values())):
                self._made["next_keys"].assign_add(1)
            return following(batch)

        embedding.arrivals = counted_arrivals
        if ahead:
            ahead.following = counted_following

    def restart(self):
        for count in self._made.values():
            count.assign(0)

    def counts(self):
        return {name: int(count) for name, count in self._made.items()}


class Trained:
    """A model that each test finds untrained. Its step is traced once for each kind of batch."""

    def __init__(self, look_ahead, *arguments, **options):
        self.model = meta_model(look_ahead, *arguments, **options)
        self.exchanges = Exchanges(self.model)
        self.untrained = numbers(self.model)

    def restart(self):
        for name, variable in changing(self.model).items():
            variable.assign(self.untrained[name])
        if self.model.look_ahead:
            self.model.look_ahead.forget()
        self.exchanges.restart()
        return self

    def steps(self, data):
        """What `fit` calls for each step of the data; `fit` also leaves the world at an error."""
        self.model.make_train_function()
        batches = iter(data)
        return lambda: self.model.train_function(batches)

    def step_through(self, data, num_steps):
        step = self.steps(data)
        for _ in range(num_steps):
            step()


@functools.cache
def shared(look_ahead):
    """The model with or without, of one width, that tests share."""
    return Trained(look_ahead)


@pytest.fixture
def ahead():
    return shared(True).restart()


@pytest.fixture
def plain():
    return shared(False).restart()


@pytest.mark.parametrize(
    ("split", "options"),
    [
        ("uneven", {}),
        (
            "an empty rank",
            {
                "schema": made_batches.TWO_WIDTHS,
                "row_optimizer": "lazy_adam",
                "order": 1,
                "steps_per_execution": 2,
            },
        ),
    ],
    ids=["one width", "two widths, lazy_adam, steps_per_execution"],
)
def test_two_fits_are_those_without(split, options):
    """Of a finite dataset, judged after each of its epochs; the two fits have one trace."""
    data = steps_of(split, options.get("schema", made_batches.SCHEMA))
    plain, ahead = (
        Trained(look_ahead, **options) if options else shared(look_ahead).restart()
        for look_ahead in (False, True)
    )
    assert plain.model.look_ahead is None
    histories = {trained: [] for trained in (plain, ahead)}
    traces_before = ahead.model.traces
    for trained, losses in histories.items():
        for epochs in (2, 1):
            history = trained.model.fit(data, validation_data=data, epochs=epochs, verbose=0)
            losses.append(history.history)
    # Each of three epochs begins the data anew; `evaluate` exchanges its keys in each.
    judged = 3 * len(STEPS)
    assert ahead.exchanges.counts() == {"keys": 3 + judged, "next_keys": 3 * len(STEPS)}
    assert ahead.model.traces_with_next == 1
    assert ahead.model.traces - traces_before <= 1
    assert histories[ahead] == histories[plain]
    after = numbers(plain.model)
    assert any((after[name] != value).any() for name, value in plain.untrained.items())
    assert_equal(numbers(ahead.model), after)


@pytest.fixture(scope="module")
def records():
    start(WORLD)
    made = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = pathlib.Path(broadcast_json(made, WORLD, name="folder_look_ahead"))
    if WORLD.is_chief:
        make_records(folder, 14, splits=("train", "valid"))
    barrier(WORLD, name="look_ahead_records_made")
    return gm.Records.open(folder)


def test_task_batches_go_on_over_epochs(records):
    """The last step of an epoch announces the first of the next; a new `fit` begins anew."""

    def batches(split="train", **more):
        return SharedBatches(records, split, tasks=2, support=3, query=4, world=WORLD, **more)

    options = {"buckets": 2, "every_row": True}
    train, valid = batches(**options), batches("valid", every_query=True)
    rest = batches(**options, begin=train.progress(2, 1))
    plain, ahead = (Trained(look_ahead, records.schema) for look_ahead in (False, True))
    for trained in (plain, ahead):
        # Judging moves no weight: `plain` is spared it.
        judged = {"validation_data": valid} if trained is ahead else {}
        trained.model.fit(train, **judged, epochs=2, verbose=0)
        # One epoch from its second step on, and then a whole one: two fits of Keras.
        trained.model.fit(rest, epochs=4, verbose=0)
    steps = 4 * train.steps_per_epoch - 1
    keys = 3 + 2 * valid.steps_per_epoch
    assert ahead.exchanges.counts() == {"keys": keys, "next_keys": steps}
    assert float(ahead.model.input_seconds) > 0
    assert_equal(numbers(ahead.model), numbers(plain.model))


def test_a_step_makes_two_collectives(ahead):
    """Rows; gradients, the next keys and the dense sums. The first step's branch has its keys'."""
    spec = with_next_keys(steps_of("uneven")).element_spec
    step = tf.function(ahead.model.train_step, autograph=False)
    graph = step.get_concrete_function(spec).graph.as_graph_def()
    branches = [node for function in graph.library.function for node in function.node_def]
    counts = [
        collections.Counter(node.op for node in nodes if node.op.startswith("Horovod"))
        for nodes in (graph.node, branches)
    ]
    assert counts == [{"HorovodAlltoall": 2}, {"HorovodAlltoall": 1}]


def test_a_key_out_of_range_on_one_rank_stops_every_rank(ahead, plain):
    """Every rank has sent the same keys ahead by then, and can go on with the step that follows."""
    tasks = own_tasks("uneven")
    broken = tasks[1][0]
    keys = broken.keys.copy()
    keys[0, 0] = 13 if WORLD.rank == 1 else 0
    refused = made_batches.Task(0, broken.num_support, keys, broken.dense, broken.label)
    data = made_batches.dataset([tasks[0], [refused], tasks[2]], SLOTS)
    step = ahead.steps(with_next_keys(data))
    step()
    before = numbers(ahead.model)
    with pytest.raises(tf.errors.InvalidArgumentError, match="item: expected keys from 0 to 12"):
        step()
    assert_equal(numbers(ahead.model), before)
    step()

    plain.step_through(made_batches.dataset([tasks[0], tasks[2]], SLOTS), 2)
    assert_equal(numbers(ahead.model), numbers(plain.model))


def test_a_step_of_other_keys_than_announced_is_refused(ahead):
    data = with_next_keys(steps_of("uneven"))
    first, second = data.take(1), data.skip(1).take(1)
    step = ahead.steps(first.repeat(3).concatenate(second))
    step()
    before = numbers(ahead.model)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not those that the step before"):
        step()
    assert_equal(numbers(ahead.model), before)
    ahead.model.look_ahead.forget()
    step()
    step()


def test_a_batch_without_next_exchanges_its_own_keys_and_so_does_the_one_behind_it(ahead, plain):
    data = steps_of("uneven")
    ahead.step_through(data, 1)
    ahead.step_through(with_next_keys(data.skip(1)), 1)
    plain.step_through(data, 2)
    assert_equal(numbers(ahead.model), numbers(plain.model))


def test_data_that_can_not_be_looked_into_is_trained_on_all_the_same(ahead, plain):
    """By what `fit` calls: a list of batches stays as it is, and each step sends its own keys."""
    data = steps_of("uneven")
    batches = list(data)
    assert ahead.model._looking_ahead(batches) is batches
    for one in (ahead, plain):
        one.step_through(data, 3)
    assert_equal(numbers(ahead.model), numbers(plain.model))
    assert any((numbers(ahead.model)[name] != v).any() for name, v in ahead.untrained.items())


def test_ranks_that_look_ahead_and_others_are_refused_on_every_rank():
    with pytest.raises(ValueError, match="look_ahead is True on rank 0 and False on rank 1"):
        meta_model(WORLD.rank == 0)
