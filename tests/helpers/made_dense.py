"""A made log of dense values of all kinds, some of them missing, and a slow twin of their rules."""

import csv
import math

import numpy as np

import gmeta_tf as gm

SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("year", "dense", transform="standardize", missing="mean"),
        gm.Field("price", "dense", transform="log1p"),
        gm.Field("age", "dense", transform="minmax", missing=30.0),
        gm.Field("hours", "dense", transform="bucketize", buckets=4, missing="indicator"),
        gm.Field("size", "dense", transform="bucketize", edges=(-1.0, 0.5, 2.0), missing="mean"),
        gm.Field("plain", "dense", missing="indicator"),
    ),
    label="liked",
    task="user",
    time="when",
)
NAMES = tuple(field.name for field in SCHEMA.dense_fields)


def write_dense_log(path, *, tasks=30, seed=0):
    """Rows of 3 to 8 a task; a missing value is an empty cell, or white space."""
    draw = np.random.default_rng(seed)
    rows = []
    for task in range(tasks):
        for _ in range(draw.integers(3, 9)):
            values = {
                "year": draw.integers(1930, 2020),
                "price": draw.normal() * 100,
                "age": draw.integers(10, 70),
                "hours": round(draw.exponential() * 5, 2),
                "size": round(draw.normal() * 2, 1),
                "plain": round(draw.normal(), 3),
            }
            for name in NAMES:
                if name != "price" and draw.random() < 0.15:
                    values[name] = draw.choice(["", " "])
            liked = int(draw.random() < 0.5)
            key = {"user": f"u{task}", "item": f"i{draw.integers(9)}", "when": len(rows)}
            rows.append(key | values | {"liked": liked})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fitted_twin(values):
    """Of the training rows' values, NaN where missing: mean, deviation, smallest and largest."""
    there = [float(value) for value in values if not math.isnan(value)]
    mean = math.fsum(there) / len(there)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in there) / len(there))
    return mean, deviation, min(there), max(there)


def columns_twin(field, value):
    """What a learner sees of a value (None where it is missing), a list of numbers."""
    absent = value is None
    if absent:
        value = {"mean": field.fitted and field.fitted.mean, "indicator": 0.0}.get(
            field.missing, field.missing
        )
    if field.transform in ("standardize", "minmax"):
        seen = [(value - field.fitted.centre) / field.fitted.scale]
    elif field.transform == "log1p":
        seen = [math.copysign(math.log(1 + abs(value)), value)]
    elif field.transform == "bucketize":
        edges = field.bucket_edges
        bucket = sum(edge <= value for edge in edges)
        seen = [float(place == bucket) for place in range(len(edges) + 1)]
    else:
        seen = [value]
    if field.missing == "indicator":
        seen = [0.0] * len(seen) + [1.0] if absent else [*seen, 0.0]
    return seen
