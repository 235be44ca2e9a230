"""Rows are shrunk as if every step had pulled at each of them."""

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.embedding.row_optimizers import SGD

STRENGTH, RATE = 0.02, 0.01


def shrunk(optimizer=None):
    return gm.ShrunkRows(optimizer=optimizer or SGD(RATE), strength=STRENGTH)


def steps_of(optimizer, every, num_steps=400):
    """A row of ones that one step of `every` sees, without a gradient of its own."""
    row = tf.ones([1, 3])
    slots = {name: slot.values(1) for name, slot in optimizer.slots(3).items()}
    for step in range(0, num_steps, every):
        # Seen at the end of its interval, as a row that has been waited for.
        now = tf.constant(step + every - 1, tf.int64)
        row, slots = optimizer.update(row, tf.zeros([1, 3]), slots, now)
    return row.numpy()


def test_a_rare_row_is_pulled_as_much_as_a_frequent_one():
    always = steps_of(shrunk(), 1)
    np.testing.assert_allclose(always, (1 - RATE * STRENGTH) ** 400, rtol=1e-5)
    np.testing.assert_allclose(steps_of(shrunk(), 10), always, rtol=1e-3)
    # Decay in touched steps alone would not.
    assert always.max() + 0.05 < (1 - RATE * STRENGTH) ** 40


@pytest.mark.parametrize("name", ["sgd", "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl"])
def test_the_gradient_is_the_loss_and_the_prior_together(name):
    from gmeta_tf.embedding.row_optimizers import row_optimizer

    plain = row_optimizer(name)
    rng = np.random.default_rng(0)
    rows, gradients = (tf.constant(rng.normal(size=[4, 3]), tf.float32) for _ in range(2))
    optimizer = shrunk(plain)
    assert set(optimizer.slots(3)) == {*plain.slots(3), "steps_seen"}
    slots = {n: slot.values(4) for n, slot in optimizer.slots(3).items()}
    slots["steps_seen"] = tf.constant([[0.0], [1.0], [4.0], [9.0]])
    found, after = optimizer.update(rows, gradients, slots, tf.constant(9, tf.int64))
    pull = STRENGTH * rows * 10 / np.array([[1], [2], [5], [10]], np.float32)
    own = {n: slot.values(4) for n, slot in plain.slots(3).items()}
    expected, of_plain = plain.update(rows, gradients + pull, own, tf.constant(9, tf.int64))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert after.keys() == slots.keys()
    for slot, value in of_plain.items():
        np.testing.assert_allclose(after[slot], value, rtol=1e-6)
    np.testing.assert_array_equal(after["steps_seen"], slots["steps_seen"] + 1)


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="expected strength of at least 0, got -1"):
        gm.ShrunkRows(optimizer=SGD(), strength=-1)
