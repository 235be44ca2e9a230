"""Answers to the calls of single layers of a Keras model, which itself stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

__all__ = ["overridden_calls", "own_call"]


@contextlib.contextmanager
def overridden_calls(overrides: Mapping[keras.layers.Layer, Callable[..., Any]]) -> Iterator[None]:
    """While this is open, `overrides[layer](*arguments)` stands in for `layer.call(*arguments)`.

    What Keras does around a call (casting, masks, name scopes) it still does, and every other layer
    calls itself. Only these objects are touched, in their own `__dict__`, and are as before when
    the context ends; nothing of Keras is patched. One thread at a time may run a model in it.

    Args:
        overrides: of layers, none of them twice; each takes what the layer's `call` takes.
    """
    # Not setattr: Keras would track a function that is set as a part of the layer.
    for layer, override in overrides.items():
        vars(layer)["call"] = override
    try:
        yield
    finally:
        for layer in overrides:
            vars(layer).pop("call", None)


@contextlib.contextmanager
def own_call(layer: keras.layers.Layer) -> Iterator[None]:
    """While this is open, a layer whose calls are answered calls itself again."""
    override = vars(layer).pop("call")
    try:
        yield
    finally:
        vars(layer)["call"] = override
