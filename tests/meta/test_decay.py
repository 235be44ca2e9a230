"""A learning rate that falls."""

import keras
import numpy as np

from gmeta_tf.meta.decay import CosineDecay


def test_it_is_that_of_keras():
    own, theirs = CosineDecay(0.3, 20), keras.optimizers.schedules.CosineDecay(0.3, 20)
    for step in (0, 1, 7, 20, 25):
        np.testing.assert_allclose(own(step), theirs(step), rtol=1e-5, atol=1e-8)


def test_its_text_is_the_same_in_every_process():
    assert str(CosineDecay(0.3, 20)) == "CosineDecay(rate=0.3, steps=20)"
    optimizer = keras.optimizers.Adam(CosineDecay(0.3, 20))
    assert optimizer.get_config()["learning_rate"]["config"] == {"rate": 0.3, "steps": 20}
