"""The layer that makes a learner's output, of any Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.meta.layer_calls import overridden_calls, own_call

__all__ = ["last_layer", "last_layers"]


def last_layer(learner: keras.Model, example: Any) -> keras.layers.Layer:
    """The one layer with weights whose output reaches the learner's through no other's weights.

    It is found in the traced graph of a call, from the output backwards, and so for functional,
    Sequential and subclassed models alike; layers without weights (a Reshape, an activation) may
    stand behind it.

    Args:
        learner: built.
        example: its inputs for some rows.

    Raises:
        ValueError: there is none, or several: a wide and a deep part that are added up, or weights
            that the learner reads outside its layers.

    Example:
        >>> learner = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1, name="score")])
        >>> output = learner(tf.zeros([2, 3]))
        >>> last_layer(learner, tf.zeros([2, 3])).name
        'score'
    """
    (layer,) = last_layers(learner, example, 1)
    return layer


def last_layers(learner: keras.Model, example: Any, heads: int) -> list[keras.layers.Layer]:
    """As `last_layer`, of a learner of several heads: one of each.

    Args:
        learner: built.
        example: its inputs for some rows.
        heads: how many.

    Raises:
        ValueError: there are more or fewer.
    """
    found = {id(owner): owner for owner in _last_owners(learner, example)}
    if len(found) == heads and id(learner) not in found:
        return list(found.values())
    names = [
        "weights of the learner's own" if one is learner else one.name for one in found.values()
    ]
    raise ValueError(
        f"adapt_dense='last_layer': expected the output of the learner {learner.name!r} to come "
        f"out of {'one layer' if heads == 1 else f'{heads} layers'} with weights, got "
        f"{' and '.join(sorted(names)) or 'none'}. Name the "
        "layers that adapt: adapt_dense=[learner.get_layer(...), ...], or a predicate of a "
        "variable."
    )


def _owners(learner: keras.Model) -> dict[int, Any]:
    """The id of each trainable variable -> the layer that has it, or the learner itself.

    As units adapt (`units_of`): layers that hold others and weights of their own, and those that
    Keras brings, are one.
    """
    owners: dict[int, Any] = {}

    def visit(layer: keras.layers.Layer) -> None:
        inner = layer._flatten_layers(include_self=False, recursive=False)
        inner = [one for one in inner if one.trainable_variables]
        held = {id(variable) for one in inner for variable in one.trainable_variables}
        own = [v for v in layer.trainable_variables if id(v) not in held]
        is_kerass = type(layer).__module__.startswith("keras.")
        is_one = bool(own) or (is_kerass and not isinstance(layer, keras.Model))
        if layer is not learner and is_one:
            own = layer.trainable_variables
        else:
            for one in inner:
                visit(one)
        for variable in own:
            owners.setdefault(id(variable), layer)

    visit(learner)
    return owners


def _last_owners(learner: keras.Model, example: Any) -> list[Any]:
    """The layers with weights whose outputs, or weights read elsewhere, the walk comes to first."""
    owners = _owners(learner)
    made_by: dict[str, Any] = {}

    def recording(layer: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with own_call(layer):
                outputs = layer.call(*arguments, **options)
            for one in tf.nest.flatten(outputs):
                # Those of a loop's body are in a graph of its own.
                if tf.is_tensor(one) and one.graph is tf.compat.v1.get_default_graph():
                    made_by[one.name] = layer
            return outputs

        return call

    within = {id(one): one for one in owners.values() if one is not learner}

    def run(rows: Any) -> Any:
        with overridden_calls({layer: recording(layer) for layer in within.values()}):
            return learner(rows, training=False)

    # AutoGraph would convert the learner's own code, which Keras has converted where it is wanted.
    graph = tf.function(run, autograph=False).get_concrete_function(example).graph
    owner_of = {id(v.value.handle): owners[id(v)] for v in learner.trainable_variables}
    made_by |= {
        inside.name: owner_of[id(outside)]
        for outside, inside in graph.captures
        if id(outside) in owner_of
    }
    return _first_met(graph.outputs, made_by)


def _first_met(outputs: list[tf.Tensor], made_by: Mapping[str, Any]) -> list[Any]:
    """What made the tensors that a walk from the outputs backwards comes to first.

    Args:
        outputs: where to begin.
        made_by: a tensor's name -> what made it; the walk ends there.
    """
    found, seen, waiting = [], set(), list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.name in made_by:
            found.append(made_by[tensor.name])
        else:
            # Shapes, indices and masks carry no gradient; variables and a loop's lists do.
            waiting += [
                one
                for one in tensor.op.inputs
                if one.dtype.is_floating or one.dtype in (tf.variant, tf.resource)
            ]
    return found
