"""The numbers and vocabularies of an exported model: its variables' files, as arrays by name.

With TensorFlow and NumPy alone, as what applies a delta runs beside a server.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = [
    "LOOK_UPS",
    "OBJECT_GRAPH",
    "Values",
    "content_digest",
    "read_values",
    "variable_name",
    "write_values",
]

Values = dict[str, np.ndarray]

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
LOOK_UPS = "look_ups/"
_PREFIX = "variables/variables"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"


def variable_name(path: str) -> str:
    """The name in an export's files of the variable that the served object has at `path`.

    >>> variable_name("tables/0/rows")
    'tables/0/rows/.ATTRIBUTES/VARIABLE_VALUE'
    """
    return path + _ATTRIBUTE


def read_values(folder: pathlib.Path) -> Values:
    """All variables of an exported model, and the description of its objects.

    Raises:
        ValueError: its files cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(str(folder / _PREFIX))
        return {
            name: _array(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()
        }
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read: {error}. Export it again.") from error


def write_values(folder: pathlib.Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes the files that TensorFlow reads an exported model's variables from."""
    (folder / _PREFIX).parent.mkdir(parents=True, exist_ok=True)
    names = sorted(values)
    tf.raw_ops.SaveV2(
        prefix=str(folder / _PREFIX),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[_tensor(values[name]) for name in names],
    )


def content_digest(values: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all values by name: equal for two exports of the same model, whoever wrote them.

    The description of the objects is left out: TensorFlow numbers them anew. So is what is looked
    up, which is no part of the model: it may be of another day.

    >>> a = {"x": np.zeros(2, np.float32)}
    >>> content_digest(a) == content_digest({"x": np.zeros(2, np.float32)})
    True
    >>> content_digest(a) == content_digest({"x": np.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(values):
        if name == OBJECT_GRAPH or name.startswith(LOOK_UPS):
            continue
        value = np.ascontiguousarray(values[name])
        kind = "text" if value.dtype == object else value.dtype.str
        digest.update(f"{name}\0{kind}\0{value.shape}\0".encode())
        if value.dtype == object:
            for text in value.reshape(-1).tolist():
                encoded = text if isinstance(text, bytes) else text.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        else:
            digest.update(value.reshape(-1).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"


def _array(value: Any) -> np.ndarray:
    # A single text as NumPy's own kind would lose its zero bytes.
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _tensor(value: np.ndarray) -> tf.Tensor:
    if value.dtype != object:
        return tf.constant(value)
    return tf.constant(value.tolist(), tf.string, shape=value.shape)
