"""Reports as JSON, which has no word for NaN and infinities."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["json_report", "without_nan"]


def without_nan(value: Any) -> Any:
    """The value with None in the place of every number that is not finite, at any depth.

    >>> without_nan({"auc": float("nan"), "counts": [1, float("inf")]})
    {'auc': None, 'counts': [1, None]}
    """
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_report(values: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON that any reader takes: Python alone would write NaN as it is."""
    return json.dumps(
        without_nan(values), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False
    )
