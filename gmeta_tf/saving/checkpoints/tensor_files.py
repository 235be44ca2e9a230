"""Files of safetensors, written and read some rows at a time: the same tensors, the same bytes.

    8 bytes   the length of the head
    head      JSON: name -> type, shape, first and last byte; padded with spaces to 8 bytes
    data      the tensors' bytes, the widest types first, by name within a type

The library builds a file's bytes in memory beside the tensors, and maps a file that it reads.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

from gmeta_tf.meta_io.digest import FileDigest
from gmeta_tf.saving.digested_file import Piece, write_digested

__all__ = ["LazyRows", "TensorReader", "Tensors", "save_tensors"]

# In the order of the library's files.
_TYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_PLACES = {name: place for place, name in enumerate(_TYPES)}
_ALIGNED = 8


class LazyRows(NamedTuple):
    """A float32 matrix whose rows are read when they are written.

    Attributes:
        shape: `[N, D]`.
        read: `first, last` -> float32 `[last - first, D]`; called from several threads.
    """

    shape: tuple[int, int]
    read: Callable[[int, int], np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        """Of an element."""
        return np.dtype(np.float32)


Tensors = Mapping[str, "np.ndarray | LazyRows"]


def save_tensors(tensors: Tensors, path: pathlib.Path, *, shown: pathlib.Path) -> FileDigest:
    """Writes a file, which is on the disk when this returns.

    Args:
        tensors: name -> values.
        path: the file.
        shown: the file, by the name to give it in errors.

    Returns:
        Its digest.

    Raises:
        OSError: it cannot be written; the message names `shown`.
        ValueError: a tensor of a type that has no name in such files.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _TYPES:
            raise ValueError(
                f"{shown}: expected {name} to have one of the types {', '.join(_TYPES)}, got "
                f"{tensor.dtype.name}. Cast the variable."
            )
    names = sorted(tensors, key=lambda name: (_PLACES[tensors[name].dtype.name], name))
    head, position = {}, 0
    pieces = [_piece(tensors[name]) for name in names]
    for name, piece in zip(names, pieces, strict=True):
        end = position + piece.num_bytes
        tensor = tensors[name]
        head[name] = {
            "dtype": _TYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    begin = len(text).to_bytes(8, "little") + text
    return write_digested(path, [Piece.of(begin), *pieces], shown=shown)


def _piece(tensor: np.ndarray | LazyRows) -> Piece:
    if isinstance(tensor, LazyRows):
        num_rows, width = tensor.shape
        read = tensor.read
        return Piece(num_rows, 4 * width, lambda first, last: _bytes(read(first, last)))
    content = _bytes(tensor)
    return Piece(len(content), 1, lambda first, last: content[first:last])


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class TensorReader:
    """Reads rows of a file's tensors; from several threads if wanted.

    Attributes:
        path: the file.
        shapes: name -> shape.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Opens a file and reads its head.

        Raises:
            OSError, SafetensorError: it cannot be read, or is no such file.
        """
        self.path = path
        # The library checks what the head says; it maps the file, and touches the head alone.
        with safe_open(path, framework="numpy"):
            pass
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115, closed with this object
        length = int.from_bytes(os.pread(self._file.fileno(), 8, 0), "little")
        head = json.loads(os.pread(self._file.fileno(), length, 8))
        self._data = 8 + length
        self._tensors = {name: told for name, told in head.items() if name != "__metadata__"}
        self.shapes = {name: tuple(told["shape"]) for name, told in self._tensors.items()}

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def is_float32(self, name: str) -> bool:
        """Whether a tensor is of the type that rows have."""
        return bool(self._tensors[name]["dtype"] == "F32")

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows `first <= row < last` of a float32 matrix.

        Raises:
            OSError: they cannot be read.
        """
        width = self.shapes[name][1]
        rows = np.empty([last - first, width], np.float32)
        left = _bytes(rows)
        position = self._data + self._tensors[name]["data_offsets"][0] + 4 * width * first
        while len(left):
            count = os.preadv(self._file.fileno(), [left], position)
            if not count:
                raise OSError(f"{self.path} was cut short while it was read")
            left, position = left[count:], position + count
        return rows
