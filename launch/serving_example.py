"""Serves one new user with an exported MovieLens model: TensorFlow is all that is imported.

python launch/serving_example.py quickstart-output/run/saved_model
"""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf

# A new user of 25 has rated two films; which of three others would they like?
USER = {"age": "25", "gender": "F", "occupation": "student", "zip_area": "94"}
RATED: list[dict[str, Any]] = [
    {"item": "50", "genre": "Action|Adventure|Romance|Sci-Fi|War", "year": "1977", "rating": 5.0},
    {"item": "288", "genre": "Horror|Thriller", "year": "1996", "rating": 2.0},
]
CANDIDATES = [
    {"item": "172", "genre": "Action|Adventure|Drama|Romance|Sci-Fi|War", "year": "1980"},
    {"item": "100", "genre": "Crime|Drama|Thriller", "year": "1996"},
    {"item": "219", "genre": "Horror", "year": "1984"},
]


def columns(rows: list[dict[str, Any]], part: str) -> dict[str, tf.Tensor]:
    """One task's rows as the signature wants them: a tensor [1, R] for each field."""
    rows = [{**USER, **row} for row in rows]
    return {f"{part}_{name}": tf.constant([[row[name] for row in rows]]) for name in rows[0]}


def main(path: str) -> None:
    """Prints each candidate's chance to be liked, before and after the two ratings."""
    model = tf.saved_model.load(path)
    query, support = columns(CANDIDATES, "query"), columns(RATED, "support")
    count = tf.constant([len(RATED)])
    adapted = model.signatures["predict"](**query, **support, support_count=count)["prediction"]
    unadapted = model.signatures["predict_unadapted"](**query)["prediction"]
    if "horovod" in sys.modules or "gmeta_tf" in sys.modules:
        raise RuntimeError("expected a process without gmeta_tf and Horovod")
    for film, before, after in zip(CANDIDATES, unadapted[0], adapted[0], strict=True):
        print(f"item {film['item']:>4} ({film['year']}, {film['genre']})")
        print(f"    chance to be liked {before:.3f}, after two ratings {after:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
