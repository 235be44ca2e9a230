"""`models.Heads`: learners side by side train as each would alone, and are averaged."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_batches import SCHEMA, batch, made_tasks

import gmeta_tf as gm

WIDTH = 4
FLOAT32 = {"rtol": 1e-4, "atol": 2e-6}


def made(learner, width, rate=0.1, **inner):
    embedding = gm.ShardedEmbedding(SCHEMA, width, scale=0.8, world=gm.World())
    encoder = learner.task_encoder(width=4) if hasattr(learner, "task_encoder") else None
    settings = {"num_steps": 2, "learning_rate": 0.2} | inner
    loop = learner.inner_loop(**settings)
    model = gm.MetaModel(learner, embedding, loop, task_encoder=encoder)
    model.compile(keras.optimizers.SGD(rate), gm.SGD(rate))
    return model


class AsItIs(gm.models.MeLU):
    """MeLU that adapts its rows too: heads must not move one another's."""

    @staticmethod
    def inner_loop(**options):
        return gm.InnerLoop(**options)


def test_each_head_trains_as_it_would_alone():
    keras.utils.set_random_seed(1)
    # The outer loss is the mean over the two.
    together = made(gm.models.Heads([AsItIs((6,)) for _ in range(2)]), 2 * WIDTH, rate=0.2)
    alone = [made(AsItIs((6,)), WIDTH) for _ in range(2)]
    of_both = {group: together.embedding.all_rows(group) for group in together.embedding.groups}
    for head, model in enumerate(alone):
        for own, shared in zip(model.learner.variables, together.learner.learners[head].variables):
            own.assign(shared.value)
        for group, shard in model.embedding.indexed.items():
            part = tf.split(of_both[group], 2, axis=1)[head]
            shard.write_state("rows", np.arange(len(part)), part.numpy())
    tasks = batch(made_tasks(3), 8)
    before = [model.test_step(tasks) for model in (*alone, together)]
    for _ in range(2):
        for model in (*alone, together):
            model.train_step(tasks)
    after = [model.test_step(tasks) for model in (*alone, together)]
    for first, second, both in (before, after):
        assert np.abs(first["adapted"] - second["adapted"]).max() > 1e-3
        assert float(both["loss"]) == pytest.approx(
            float(first["loss"] + second["loss"]) / 2, rel=1e-4
        )
        # Heads are averaged before the sigmoid.
        logits = [np.log(one["adapted"] / (1 - one["adapted"])) for one in (first, second)]
        expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
        np.testing.assert_allclose(both["adapted"], expected, **FLOAT32)


def test_dense_values_are_read_by_all_heads_and_the_task_embedding_is_split():
    rows = {
        "embedded": tf.reshape(tf.range(24.0), [2, 3, 4]),
        "dense": tf.ones([2, 5]),
        "task": tf.reshape(tf.range(12.0), [2, 6]),
    }
    seen = []

    class Reads(keras.Model):
        def call(self, inputs):
            seen.append(inputs)
            return keras.ops.sum(inputs["embedded"], axis=(1, 2))

    output = gm.models.Heads([Reads(), Reads()])(rows)
    last = seen[-2:]
    for name, axis in (("embedded", 2), ("task", 1)):
        np.testing.assert_array_equal(np.concatenate([one[name] for one in last], axis), rows[name])
    assert [one["dense"].shape for one in last] == [(2, 5), (2, 5)]
    np.testing.assert_array_equal(output[:, 0] + output[:, 1], np.sum(rows["embedded"], (1, 2)))


@pytest.mark.parametrize("adapt", ["last_layer", ["score"]], ids=str)
def test_a_choice_of_layers_is_that_of_each_head(adapt):
    learner = gm.models.Heads([gm.models.MeLU((6,)) for _ in range(2)])
    model = made(learner, 2 * WIDTH, adapt_dense=adapt)
    expected = [v.path for head in learner.learners for v in head.score.trainable_variables]
    assert sorted(model.adapter.adapted_paths) == sorted(expected)


def test_wrong_heads():
    one = gm.models.MeLU((6,))
    for learners in ([], [one, one]):
        with pytest.raises(ValueError, match="Heads: expected learners, each another object"):
            gm.models.Heads(learners)
    with pytest.raises(ValueError, match=r"expected 'embedded' to have 3 \(heads\) times"):
        made(gm.models.Heads([gm.models.MeLU((6,)) for _ in range(3)]), WIDTH)
    with pytest.raises(ValueError, match=r"to give 2 numbers a row, \[R, 2\], for InnerLoop"):
        made(gm.models.MeLU((6,)), WIDTH, heads=2)
    with pytest.raises(ValueError, match="expected heads to be at least 1, got 0"):
        gm.InnerLoop(heads=0)

    class Squashed(keras.Model):
        def __init__(self):
            super().__init__()
            self.score = keras.layers.Dense(1, "sigmoid")

        def call(self, inputs):
            return self.score(keras.ops.reshape(inputs["embedded"], (-1, 2 * WIDTH)))

        def inner_loop(self, **options):
            return gm.InnerLoop(**options)

    with pytest.raises(ValueError, match="ends in a sigmoid"):
        made(gm.models.Heads([Squashed(), Squashed()]), 2 * WIDTH)
