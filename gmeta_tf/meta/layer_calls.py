"""Overridden calls of single layers of a Keras model, which itself stays unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

__all__ = ["overridden_calls", "own_call"]


@contextlib.contextmanager
def overridden_calls(overrides: Mapping[keras.layers.Layer, Callable[..., Any]]) -> Iterator[None]:
    """While this is open, `overrides[layer](*arguments)` stands in for `layer.call(*arguments)`.

    Keras still does its work around a call (casting, masks, name scopes), and every other layer
    calls itself. Only the `__dict__` of these objects changes, and is restored when the context
    ends; Keras itself is not patched. One thread at a time may run a model in it.

    Args:
        overrides: layer -> what stands in for its `call`, with the same arguments.
    """
    # Not setattr: Keras would track the function as a part of the layer.
    for layer, override in overrides.items():
        vars(layer)["call"] = override
    try:
        yield
    finally:
        for layer in overrides:
            vars(layer).pop("call", None)


@contextlib.contextmanager
def own_call(layer: keras.layers.Layer) -> Iterator[None]:
    """While this is open, a layer with an overridden call calls itself again."""
    override = vars(layer).pop("call")
    try:
        yield
    finally:
        vars(layer)["call"] = override
