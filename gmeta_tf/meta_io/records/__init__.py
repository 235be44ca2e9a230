"""The records folder: its format, its index, and whether it is sound."""

from __future__ import annotations

import importlib
from typing import Any

from gmeta_tf import _moved


def __getattr__(name: str) -> Any:
    """What stood here when this was one module; for one release."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("gmeta_tf.meta_io.records.records")
    found = getattr(module, name)
    _moved.warn_of(f"{__name__}.{name}", f"{module.__name__}.{name}")
    return found
