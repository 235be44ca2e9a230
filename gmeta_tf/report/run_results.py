"""What a run's folder says of it, gathered into JSON values that the page is made of."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from gmeta_tf.report.evaluated_details import evaluated_details
from gmeta_tf.report.run_log import read_log

__all__ = ["run_results"]

_SUFFIXES = ("adapted", "unadapted", "baseline")


def run_results(run: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The results that a run's files hold.

    Args:
        run: the folder.
        config: the options that it was trained with.

    Returns:
        JSON values: `run`, `config`, `curves` (name -> `epochs` and `values`), `metrics` (those of
        the last epoch), `evaluations` (split -> see `_evaluation`), `ranks` and `data`, each empty
        or None where the run has not got so far.

    Raises:
        ValueError: a file that does not hold what it should.
    """
    curves = read_log(run / "log.txt")
    return {
        "run": str(run),
        "config": dict(config),
        "curves": {name: curve._asdict() for name, curve in curves.items()},
        "metrics": _json_of(run / "metrics.json") or {},
        "evaluations": {
            path.stem.removeprefix("evaluation-"): _evaluation(path)
            for path in sorted(run.glob("evaluation-*.json"))
        },
        "ranks": _ranks(run),
        "data": _data(config.get("records")),
    }


def _evaluation(path: pathlib.Path) -> dict[str, Any]:
    """`table` (metric -> adapted, unadapted, baseline), `details`, and the whole `report`."""
    report = _json_of(path) or {}
    for name in ("support", "tasks", "samples"):
        _number(path, report, name)
    names = [name.removesuffix("_adapted") for name in report if name.endswith("_adapted")]
    table = {name: {s: _number(path, report, f"{name}_{s}") for s in _SUFFIXES} for name in names}
    return {"table": table, "details": evaluated_details(path, report), "report": report}


def _number(path: pathlib.Path, report: Mapping[str, Any], name: str) -> float | None:
    value = report.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(
            f"{path}: expected {name} to be a number, got {value!r}. Run `gmeta-tf evaluate` again."
        )
    return value


def _ranks(run: pathlib.Path) -> int | None:
    """W of the newest checkpoint; None where there is none."""
    manifests = sorted((run / "checkpoint").glob("epoch-*/manifest.json"))
    for manifest in reversed(manifests):
        size = (_json_of(manifest) or {}).get("size")
        if isinstance(size, int):
            return size
    return None


def _data(records: Any) -> dict[str, Any] | None:
    """The counts of each split and the fields; None where the records are not at hand.

    Read as plain JSON: to open records checks them, which a page about a run need not wait for.
    """
    path = pathlib.Path(str(records)) / "schema.json"
    if not path.is_file():
        return None
    described = _json_of(path) or {}
    try:
        return {
            "records": str(records),
            "splits": {
                name: {count: split[count] for count in ("tasks", "episodes", "rows")}
                for name, split in described["splits"].items()
            },
            "schema": described["schema"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not describe records: {error!r}. Prepare the data again."
        ) from error


def _json_of(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Write it anew, or move it away.") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected a JSON object, got {type(values).__name__}. Write it anew, or move "
            "it away."
        )
    return values
