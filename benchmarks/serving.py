"""What adapting costs a served model beside predicting, on one core.

An exported MeLU of random weights answers requests of one task and of 64: 10 support and 50 query
rows by `predict`, and the same 60 rows by `predict_unadapted`. The two take turns, after a warm-up;
times are those of a call of the SavedModel, from texts to predictions. The last line is the result
as JSON: milliseconds (p50 and p99) and ratios.

    python -m benchmarks.serving
    python -m benchmarks.serving --quick    # whether it runs; the figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import gmeta_tf as gm

__all__ = ["main"]

_SUPPORT, _QUERY = 10, 50
_FIELDS = {"item": 50_000, "author": 10_000, "genre": 25, "age": 10, "gender": 3, "area": 3_000}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    rounds, warm_up = (20, 2) if options.quick else (options.rounds, 50)
    with tempfile.TemporaryDirectory() as folder:
        exported = pathlib.Path(folder) / "saved_model"
        _export(exported)
        size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
        signatures = tf.saved_model.load(str(exported)).signatures
        result: dict[str, Any] = {"rounds": rounds, "export_mb": size / 2**20, "ratio": {}}
        for tasks in (1, 64):
            draw = np.random.default_rng(tasks)
            calls = {
                "predict": _call(signatures["predict"], draw, tasks),
                "predict_unadapted": _call(signatures["predict_unadapted"], draw, tasks),
            }
            times = _in_turns(calls, rounds if tasks == 1 else max(10, rounds // 20), warm_up)
            for name, milliseconds in times.items():
                p50, p99 = np.percentile(milliseconds, [50, 99])
                result[f"{name}_{tasks}"] = {"p50_ms": p50, "p99_ms": p99}
                print(f"{tasks:3} task(s)  {name:18} p50 {p50:8.3f} ms   p99 {p99:8.3f} ms")
            adapted, plain = (result[f"{name}_{tasks}"] for name in calls)
            end = "" if tasks == 1 else f"_{tasks}"
            result["ratio"][f"adapt_over_predict{end}"] = adapted["p50_ms"] / plain["p50_ms"]
            result["ratio"][f"p99_over_p50{end}"] = adapted["p99_ms"] / adapted["p50_ms"]
    print(json.dumps(result))
    return result


def _export(path: pathlib.Path) -> None:
    schema = gm.Schema(
        tuple(gm.Field(name) for name in _FIELDS),
        "label",
        "user",
        tables=tuple(gm.Table(name, values + 1) for name, values in _FIELDS.items()),
    )
    embedding = gm.ShardedEmbedding(schema, 16, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((64, 64)), embedding)
    model.compile("adam", "adagrad")
    vocabularies = {
        name: np.array([f"{name} {value}" for value in range(values)], object)
        for name, values in _FIELDS.items()
    }
    gm.export_saved_model(model, path, vocabularies)


def _call(signature: Any, draw: np.random.Generator, tasks: int) -> Callable[[], Any]:
    """A call of a signature on drawn rows; an unadapted one predicts the support rows too."""
    specs = signature.structured_input_signature[1]
    adapts = "support_count" in specs
    inputs = {}
    for name in specs:
        part, _, field = name.partition("_")
        if name == "support_count":
            inputs[name] = tf.fill([tasks], _SUPPORT)
            continue
        rows = _SUPPORT if part == "support" else _QUERY + (0 if adapts else _SUPPORT)
        if name == "support_label":
            inputs[name] = tf.constant(draw.integers(0, 2, [tasks, rows]), tf.float32)
            continue
        texts = [f"{field} {value}" for value in draw.integers(0, _FIELDS[field], tasks * rows)]
        inputs[name] = tf.constant(texts, tf.string, shape=[tasks, rows])
    return lambda: signature(**inputs)["prediction"].numpy()


def _in_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, warm_up: int
) -> dict[str, list[float]]:
    """The milliseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2000, help="calls of one task")
    parser.add_argument("--quick", action="store_true", help="few calls, to see that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # One core, as far as TensorFlow goes: `taskset -c 0` does the rest.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    main()
