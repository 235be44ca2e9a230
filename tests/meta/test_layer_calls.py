"""Calls of layers that are answered for: only these, only while it lasts."""

import keras
import numpy as np
import pytest

from gmeta_tf.meta.layer_calls import overridden_calls, own_call


def two_layers():
    keras.utils.set_random_seed(0)
    first, second = keras.layers.Dense(3), keras.layers.Dense(2)
    x = keras.Input([4])
    return keras.Model(x, second(first(x))), first, second


def test_an_answer_stands_in_for_the_call_and_no_longer():
    model, first, second = two_layers()
    x = np.ones([5, 4], np.float32)
    before = model(x).numpy()
    with overridden_calls({first: lambda inputs: keras.ops.zeros([5, 3])}):
        answered = model(x).numpy()
    np.testing.assert_array_equal(answered, np.tile(second.bias.numpy(), [5, 1]))
    assert np.abs(before - answered).max() > 0.1
    np.testing.assert_array_equal(model(x), before)
    assert "call" not in vars(first)


def test_layers_are_as_before_when_an_answer_raises():
    model, first, _ = two_layers()

    def refuse(inputs):
        raise ArithmeticError("refused")

    with pytest.raises(ArithmeticError, match="refused"), overridden_calls({first: refuse}):
        model(np.ones([5, 4], np.float32))
    assert "call" not in vars(first)


def test_an_answer_may_ask_the_layer_itself():
    model, first, _ = two_layers()
    x = np.ones([5, 4], np.float32)
    calls = []

    def counting(inputs):
        calls.append(inputs.shape)
        with own_call(first):
            return first.call(inputs)

    expected = model(x).numpy()
    with overridden_calls({first: counting}):
        np.testing.assert_array_equal(model(x), expected)
        np.testing.assert_array_equal(model(x), expected)
    assert calls == [(5, 4)] * 2
