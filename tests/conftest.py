"""What tests of several files ask for."""

import keras
import pytest


@pytest.fixture
def float64():
    """Keras makes and computes in float64 while the test runs."""
    for floatx in ("float64", "float32"):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        if floatx == "float64":
            yield
