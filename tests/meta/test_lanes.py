"""A step in lanes is the step: each lane has its tasks, and the pairs that they read."""

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.adapter import Sizes
from gmeta_tf.meta.lanes import lanes_of

T = 21


def keys_read(batch, part):
    """The key of each position, -1 where there is none."""
    keys = batch["keys"]["embedded"].numpy()
    key_of = batch["pair_to_key"]["embedded"].numpy()[batch[part]["pairs"]["embedded"].numpy()]
    return np.where(key_of > 0, keys[np.maximum(key_of - 1, 0)], -1)


@pytest.mark.parametrize("slots", [T, 40], ids=["full", "with empty tasks"])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_lanes_are_the_batch_cut_between_tasks(most, slots):
    batch = made_batches.batch(made_batches.made_tasks(1, count=T), slots)
    lanes = lanes_of(batch, most)
    assert len(lanes) == min(most, slots // 8)
    sizes = [len(lane["task"]) for lane in lanes]
    assert sum(sizes) == slots
    assert max(sizes) - min(sizes) <= 1
    for part in ("support", "query"):
        joined = np.concatenate([keys_read(lane, part) for lane in lanes])
        np.testing.assert_array_equal(joined, keys_read(batch, part))
        for name in ("label", "weight", "dense"):
            joined = np.concatenate([lane[part][name] for lane in lanes])
            np.testing.assert_array_equal(joined, batch[part][name])
    np.testing.assert_array_equal(np.concatenate([lane["task"] for lane in lanes]), batch["task"])
    # No pair is in two lanes, and none is left out.
    own = [lane["pair_to_key"]["embedded"].numpy() for lane in lanes]
    assert all(pairs[0] == 0 for pairs in own)
    joined = np.concatenate([pairs[1:] for pairs in own])
    np.testing.assert_array_equal(joined, batch["pair_to_key"]["embedded"][1:])


def model_of(lanes, **inner):
    keras.utils.set_random_seed(7)
    embedding = gm.ShardedEmbedding(made_batches.SCHEMA, 3, scale=0.8, world=gm.World())
    learner = gm.models.MeLU((4,))
    model = gm.MetaModel(learner, embedding, gm.InnerLoop(2, 0.4, **inner), lanes=lanes)
    model.compile(keras.optimizers.SGD(0.3), gm.SGD(0.3))
    return model


def of_any_size(spec):
    """The first two axes, T and S or Q, are left open."""
    return tf.TensorSpec([*[None] * len(spec.shape[:2]), *spec.shape[2:]], spec.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("known_sizes", [True, False])
def test_training_in_lanes_is_training(known_sizes):
    weights, rows, losses = {}, {}, {}
    steps = [made_batches.made_tasks(seed, count=T) for seed in (1, 2)]
    data = made_batches.dataset(steps, T)
    if not known_sizes:  # as the steps of several buckets are
        signature = tf.nest.map_structure(of_any_size, data.element_spec)
        known = data
        data = tf.data.Dataset.from_generator(lambda: iter(known), output_signature=signature)
        data = data.apply(tf.data.experimental.assert_cardinality(len(steps)))
    for lanes in (1, 2):
        model = model_of(lanes)
        model.adapter.expected = Sizes(T, 4, 5)
        losses[lanes] = model.fit(data, verbose=0).history["loss"]
        weights[lanes] = [variable.numpy() for variable in model.trainable_variables]
        rows[lanes] = model.embedding.all_rows("embedded").numpy()
    # float32 sums of 21 tasks in another order.
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(losses[1], losses[2], **near)
    np.testing.assert_allclose(rows[1], rows[2], **near)
    for one, two in zip(weights[1], weights[2], strict=True):
        np.testing.assert_allclose(one, two, **near)
    assert np.abs(weights[1][0] - model_of(1).trainable_variables[0]).max() > 1e-3


def test_a_batch_of_unknown_size_is_cut_where_it_has_enough_tasks():
    batch = made_batches.batch(made_batches.made_tasks(1, count=T))
    counts = {}

    @tf.function(
        input_signature=[
            tf.nest.map_structure(lambda v: of_any_size(tf.TensorSpec.from_tensor(v)), batch)
        ]
    )
    def cut(batch):
        for fewest in (None, 8, 16, 40):
            counts[fewest] = len(lanes_of(batch, 3, fewest))
        return [lane["task"] for lane in lanes_of(batch, 3, 16)]

    np.testing.assert_array_equal(np.concatenate(cut(batch)), batch["task"])
    assert counts == {None: 1, 8: 1, 16: 2, 40: 3}


def test_lanes_below_one():
    with pytest.raises(ValueError, match="lanes of at least 1, got 0"):
        model_of(0)
