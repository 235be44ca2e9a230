"""Fewer support rows of a batch: nested, and the query rows stay."""

import numpy as np
import tensorflow as tf

from gmeta_tf.evaluation.support_sizes import with_support


def made():
    draw = np.random.default_rng(0)
    support = {
        "pairs": {"a": draw.integers(1, 9, (2, 4, 3)), "b": draw.integers(1, 9, (2, 4, 1))},
        "dense": draw.random((2, 4, 0), np.float32),
        "label": draw.random((2, 4), np.float32),
        "weight": np.array([[1, 1, 1, 1], [1, 0, 0, 0]], np.float32),
    }
    return tf.nest.map_structure(
        tf.constant, {"support": support, "query": {"label": draw.random((2, 5))}, "task": [3, 4]}
    )


def test_the_first_rows_stay_and_the_others_are_as_if_missing():
    batch = made()
    for size in range(6):
        found = with_support(batch, size)
        for before, after in zip(
            tf.nest.flatten(batch["support"]), tf.nest.flatten(found["support"]), strict=True
        ):
            expected = before.numpy().copy()
            expected[:, size:] = 0
            np.testing.assert_array_equal(after.numpy(), expected)
            assert after.dtype == before.dtype
        assert found["query"] is batch["query"]
        assert found["task"] is batch["task"]
