"""Requests that a server answers before it serves a version: the first call of a function is slow.

TensorFlow Serving reads them from a file of the export, a TFRecord of `PredictionLog` messages:
https://www.tensorflow.org/tfx/serving/saved_model_warmup.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

__all__ = ["WARM_UP", "blank_inputs", "warm_up_request", "write_warm_up"]

WARM_UP = "assets.extra/tf_serving_warmup_requests"
# The numbers of the members in tensorflow_serving/apis: prediction_log.proto, predict.proto and
# model.proto. The package with these messages brings a TensorFlow of its own.
_PREDICT_LOG, _REQUEST = 6, 1
_MODEL_SPEC, _INPUTS = 1, 2
_SIGNATURE_NAME = 3
_KEY, _VALUE = 1, 2


def blank_inputs(signature: Any) -> dict[str, tf.Tensor]:
    """Inputs of one task and one row: empty texts and zeros.

    Args:
        signature: a concrete function, saved or loaded.
    """
    inputs = {}
    for name, spec in signature.structured_input_signature[1].items():
        shape = [size or 1 for size in spec.shape]
        inputs[name] = (
            tf.fill(shape, "") if spec.dtype == tf.string else tf.zeros(shape, spec.dtype)
        )
    return inputs


def warm_up_request(signature_name: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    """A `PredictionLog` of one request, of whatever the model is called."""
    entries = [
        _member(_KEY, name.encode())
        + _member(_VALUE, tf.make_tensor_proto(value).SerializeToString())
        for name, value in sorted(inputs.items())
    ]
    request = _member(_MODEL_SPEC, _member(_SIGNATURE_NAME, signature_name.encode()))
    request += b"".join(_member(_INPUTS, entry) for entry in entries)
    return _member(_PREDICT_LOG, _member(_REQUEST, request))


def write_warm_up(folder: pathlib.Path, signatures: Mapping[str, Any]) -> None:
    """Writes a request for each signature into a new export.

    A server does not load a model whose warm-up fails. So a signature that refuses blank rows, as
    where a table has no row for unknown keys, has none.
    """
    (folder / WARM_UP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as file:
        for name, signature in signatures.items():
            inputs = blank_inputs(signature)
            try:
                signature(**inputs)
            except tf.errors.OpError:
                continue
            file.write(warm_up_request(name, inputs))


def _member(number: int, content: bytes) -> bytes:
    """A member of a protocol buffer's message that is text, bytes or another message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
