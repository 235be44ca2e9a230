"""JSON in the form of TensorFlow Serving's REST API, to tensors and back.

Of a request the tensors are given for each task (`instances`, the answer is `predictions`) or for
all of them together (`inputs`, the answer is `outputs`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["DEFAULT_SIGNATURE", "RequestError", "Requested", "answer_of", "requested", "tensors_of"]

DEFAULT_SIGNATURE = "serving_default"
_LISTS = {"instances": list, "inputs": (dict, list, str, int, float)}


class RequestError(ValueError):
    """What is wrong with a request.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Requested(NamedTuple):
    """A request's body.

    Attributes:
        signature: the name of the signature to call.
        by_task: whether it gives `instances`, and else `inputs`.
        given: what it gives.
    """

    signature: str
    by_task: bool
    given: Any


def requested(body: bytes) -> Requested:
    """Reads a request's body.

    Raises:
        RequestError: it is not JSON, or not of the form.

    Example:
        >>> requested(b'{"instances": [{"query_item": ["i1"]}]}').by_task
        True
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"JSON Parse error: {error}. Send a JSON object.") from error
    if not isinstance(values, dict):
        raise RequestError(f"expected a JSON object, got {_kind(values)}.")
    signature = values.pop("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature, str):
        raise RequestError(f"expected 'signature_name' to be a text, got {_kind(signature)}.")
    if len(values) != 1 or not set(values) <= set(_LISTS):
        raise RequestError(
            "expected one of 'instances' and 'inputs', and 'signature_name' at most beside it, "
            f"got {', '.join(map(repr, values)) or 'neither'}."
        )
    ((name, given),) = values.items()
    if name == "instances" and not (isinstance(given, list) and given):
        raise RequestError(f"expected 'instances' to be a list of at least one, got {given!r:.60}.")
    return Requested(signature, name == "instances", given)


def tensors_of(request: Requested, specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """The tensors that a signature takes.

    Args:
        request: of `requested`.
        specs: the signature's inputs, by name.

    Raises:
        RequestError: an input that is missing or unknown, of another type, or whose lists are not
            all of one length.
    """
    if not request.by_task:
        given = request.given
        if not isinstance(given, dict):
            given = _only(specs, given)
        _check_names(given, specs, "'inputs'")
        return {name: _tensor(given[name], spec, name) for name, spec in specs.items()}
    instances = [one if isinstance(one, dict) else _only(specs, one) for one in request.given]
    for place, one in enumerate(instances):
        _check_names(one, specs, f"element {place} of 'instances'")
    return {
        name: _tensor([one[name] for one in instances], spec, name) for name, spec in specs.items()
    }


def answer_of(outputs: Mapping[str, np.ndarray], *, by_task: bool) -> dict[str, Any]:
    """The answer to a request, as JSON values.

    >>> answer_of({"prediction": np.zeros([1, 2])}, by_task=True)
    {'predictions': [[0.0, 0.0]]}
    >>> answer_of({"a": np.ones([1]), "b": np.zeros([1])}, by_task=True)
    {'predictions': [{'a': 1.0, 'b': 0.0}]}
    """
    lists = {name: value.tolist() for name, value in outputs.items()}
    if not by_task:
        return {"outputs": lists if len(lists) > 1 else next(iter(lists.values()))}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    rows = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in rows]}


def _only(specs: Mapping[str, tf.TensorSpec], value: Any) -> dict[str, Any]:
    """The value of a signature's only input, which need not be named."""
    if len(specs) != 1:
        raise RequestError(
            f"expected an object with {', '.join(sorted(specs))}, got {_kind(value)}."
        )
    return dict.fromkeys(specs, value)


def _check_names(given: Mapping[str, Any], specs: Mapping[str, Any], where: str) -> None:
    missing, unknown = sorted(specs.keys() - given.keys()), sorted(given.keys() - specs.keys())
    if missing or unknown:
        what = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is none of them"
        raise RequestError(f"{where}: expected the inputs {', '.join(sorted(specs))}; {what}.")


def _tensor(value: Any, spec: tf.TensorSpec, name: str) -> tf.Tensor:
    array = np.array(value, object)
    flat = array.reshape(-1).tolist()
    if array.ndim != spec.shape.rank or any(isinstance(one, list) for one in flat):
        raise RequestError(
            f"{name!r}: expected lists of one length, {spec.shape.rank} in one another (tasks "
            f"among them), got {json.dumps(value)[:60]}. Fill up short ones; 'support_count' says "
            "how many count."
        )
    made = [_element(one, spec.dtype, name) for one in flat]
    return tf.constant(made, spec.dtype, shape=array.shape)


def _element(value: Any, dtype: tf.DType, name: str) -> Any:
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and list(value) == ["b64"]:
            try:
                return base64.b64decode(value["b64"], validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise RequestError(f"{name!r}: {error}: expected base64 in 'b64'.") from error
        raise RequestError(f"{name!r}: expected texts, got {_kind(value)} {value!r:.60}.")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (dtype.is_integer and not isinstance(value, int)):
        what = "integers" if dtype.is_integer else "numbers"
        raise RequestError(f"{name!r}: expected {what}, got {_kind(value)} {value!r:.60}.")
    if dtype.is_integer and not dtype.min <= value <= dtype.max:
        raise RequestError(
            f"{name!r}: expected {dtype.name} from {dtype.min} to {dtype.max}, got {value!r:.60}."
        )
    if not dtype.is_integer and not abs(value) <= dtype.max:  # nor NaN, which JSON does not have
        raise RequestError(f"{name!r}: expected finite {dtype.name}, got {value!r:.60}.")
    return value


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)
