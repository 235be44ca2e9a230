"""What `gmeta-tf evaluate` told beyond its table → what figures are drawn of."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["evaluated_details"]

_SIDES = ("adapted", "unadapted")


def evaluated_details(path: pathlib.Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """The curves, segments and calibration of an evaluation that was asked for them.

    Args:
        path: of the evaluation, for errors.
        report: what it holds.

    Returns:
        JSON values, each only where it is there: `support_curve` and `inner_steps_curve` (`metric`,
        `sizes`, `values`), `segments` (`field`, `metric`, `values` and of each `adapted`,
        `unadapted` and `rows`), `calibration` as `task_quality.calibration` gives it.

    Raises:
        ValueError: they are not as `evaluate` writes them.
    """
    try:
        metric = next(
            (name.removesuffix("_adapted") for name in report if name.endswith("_adapted")), None
        )
        found: dict[str, Any] = {}
        for name, key, of in (
            ("support_curve", "support_sizes", "support"),
            ("inner_steps_curve", "inner_steps_curve", "inner_steps"),
        ):
            if report.get(key) and metric:
                found[name] = _curve(report[key], metric, of)
        if report.get("segments") and metric:
            found["segments"] = _segments(report["segments"], metric, str(report.get("by")))
        if report.get("calibration"):
            found["calibration"] = {side: _bins(report["calibration"][side]) for side in _SIDES}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is not as `gmeta-tf evaluate` writes it: {error!r}. Evaluate again."
        ) from error
    return found


def _curve(points: Sequence[Mapping[str, Any]], metric: str, of: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "sizes": [int(point[of]) for point in points],
        "values": [point[f"{metric}_adapted"] for point in points],
    }


def _segments(segments: Sequence[Mapping[str, Any]], metric: str, field: str) -> dict[str, Any]:
    values = [one["value"] for one in segments]
    return {
        "field": field,
        "metric": metric,
        "values": ["all others" if value is None else str(value) for value in values],
        "rows": [one["rows"] for one in segments],
        **{side: [one[f"{metric}_{side}"] for one in segments] for side in _SIDES},
    }


def _bins(table: Mapping[str, Any]) -> dict[str, Any]:
    """The bins that have rows."""
    there = [place for place, rows in enumerate(table["rows"]) if rows]
    return {
        "predicted": [table["prediction"][place] for place in there],
        "observed": [table["label"][place] for place in there],
        "rows": [table["rows"][place] for place in there],
        "error": float(table["expected_error"]),
    }
