"""Files of safetensors: the same tensors give the same bytes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from gmeta_tf.saving.writing import named_if_full, unwritten

__all__ = ["save_tensors"]


def save_tensors(
    tensors: Mapping[str, np.ndarray], path: pathlib.Path, *, shown: pathlib.Path
) -> None:
    """Writes a file.

    Raises:
        OSError: it cannot be written; the message names `shown`.
    """
    with named_if_full(shown):
        try:
            save_file(dict(tensors), path)
        except SafetensorError as error:
            raise unwritten(shown, error) from error
