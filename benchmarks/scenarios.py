"""MeLU's four scenarios: existing and new users, existing and new items, by ratings.

A seeded fifth of the users is new; items released after a year are new. In each of the four
partitions a user with 13 to 100 ratings has 10 random ones held out, and the rest is what is known
of the user. Models are trained on the known ratings of existing users of existing items, exported,
and adapt to the known ratings of each scenario: so of existing users and items the ratings adapted
to were trained on, and those predicted were not. The paper (Lee et al., KDD 2019, section 4) leaves
the latter open.

Figures are means over users, as in the paper: the mean absolute error in ratings, and nDCG@1 and
nDCG@3 with the gain 2^rating - 1, exact for ties. Beside the models: the item's mean rating + the
user's offset, and ALS with the user folded in. The last line is the result as JSON.

    python -m benchmarks.scenarios                   # MovieLens-100k, seed 0 to 2: a few minutes
    python -m benchmarks.scenarios --data ml-1m      # a folder of MovieLens-1M, beside the paper's

The paper's features of an item (director, actors, rate) are not in MovieLens; ours are the item
itself, its genres and its year.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import statistics
import tempfile
from typing import Any

import duckdb
import numpy as np
import yaml

from benchmarks.commands import core_seconds
from benchmarks.yardsticks import EvaluatedTask, Ratings, folded_in_als, mean_and_offset
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta_io.sources.movielens import (
    movielens_100k,
    movielens_schema,
    movielens_source,
)
from gmeta_tf.meta_io.sql import sql_text

__all__ = ["main"]

_METRICS = {"task_mae": "mae", "ndcg@1": "ndcg1", "ndcg@3": "ndcg3"}
_SCENARIOS = {
    "existing users, existing items": (False, False),
    "new users, existing items": (True, False),
    "existing users, new items": (False, True),
    "new users, new items": (True, True),
}
# MeLU-5 on MovieLens-1M, Table 3 of the paper: mean absolute error, nDCG@1, nDCG@3.
_PUBLISHED = {
    "existing users, existing items": (0.7567, 0.8870, 0.8919),
    "new users, existing items": (0.7854, 0.8803, 0.8812),
    "existing users, new items": (0.9275, 0.7697, 0.8005),
    "new users, new items": (0.9235, 0.7752, 0.8008),
}
_FEWEST, _MOST, _HELD_OUT = 13, 100, 10
_YEARS = {"u.data": 1996, "ml-100k.inter": 1996, "ratings.dat": 1997}
# A model's name -> the flags of `gmeta-tf train`. Both learn from ratings, and predict them.
_MODELS = {
    "factors": ["--model", "factors", "--loss", "mse"],
    "melu": ["--config", "launch/melu.yaml"],
}
_SUPPORT = 20

Values = dict[str, float]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    data = str(movielens_100k()) if options.data == "download" else options.data
    year = options.year or _year_of(data)
    found: dict[str, dict[str, list[Values]]] = {name: {} for name in _SCENARIOS}
    tasks: dict[str, list[int]] = {name: [] for name in _SCENARIOS}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows = _Rows(pathlib.Path(folder), data, year, seed)
            _one_draw(rows, options, found, tasks)
    means = {
        scenario: {name: _means(values) for name, values in of_names.items()}
        for scenario, of_names in found.items()
    }
    is_ml_1m = (pathlib.Path(data) / "ratings.dat").is_file()
    if is_ml_1m:
        for scenario, values in _PUBLISHED.items():
            means[scenario]["MeLU-5, as published"] = dict(zip(_METRICS.values(), values))
    print("\n".join(_table(means)))
    result = {
        "benchmark": "scenarios",
        "scenarios": means,
        "users": tasks,
        "items_up_to": year,
        "seeds": options.seeds,
        "data": options.data,
    }
    print(json.dumps(result))
    return result


class _Rows:
    """The ratings of one draw, each in its scenario.

    Attributes:
        folder: for files of this draw.
        seed: of it.
    """

    def __init__(self, folder: pathlib.Path, data: str, year: int, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._tables = duckdb.connect()
        self._tables.execute(
            f"""
            CREATE TABLE ratings AS WITH known AS (
                SELECT *, coalesce(TRY_CAST(year AS INTEGER) > {year}, false) AS new_item
                FROM ({movielens_source(data).query})
            ), users AS (
                SELECT user_id, ntile(5) OVER (ORDER BY md5(concat(user_id, ' ', {seed}))) = 1
                    AS new_user FROM known GROUP BY user_id
            ), counted AS (
                SELECT *, count(*) OVER own AS num, row_number() OVER drawn AS number
                FROM known JOIN users USING (user_id)
                WINDOW own AS (PARTITION BY user_id, new_item),
                    drawn AS (own ORDER BY md5(concat(row, ' ', {seed})))
            )
            SELECT * EXCLUDE (num, number), number <= {_HELD_OUT} AS held_out
            FROM counted WHERE num BETWEEN {_FEWEST} AND {_MOST} ORDER BY row
            """
        )

    def file(self, scenario: str, *, held_out: bool) -> str:
        """A Parquet file of the known or of the held-out ratings of a scenario."""
        place = list(_SCENARIOS).index(scenario)
        path = str(self.folder / f"{place}-{'held-out' if held_out else 'known'}.parquet")
        if not pathlib.Path(path).exists():
            self._tables.execute(
                f"COPY (SELECT * EXCLUDE (row, new_user, new_item, held_out) "
                f"FROM ({self._query(scenario, held_out)})) TO {sql_text(path)} (FORMAT parquet)"
            )
        return path

    def ratings(self, scenario: str, *, held_out: bool) -> list[Ratings]:
        """The ratings of each user, by ascending number, in the order of `file`."""
        columns = self._columns(scenario, held_out)
        starts = np.flatnonzero(np.diff(columns["user"], prepend=-1))
        items = np.split(columns["item"], starts[1:])
        labels = np.split(columns["rating"], starts[1:])
        return [Ratings(one, label) for one, label in zip(items, labels, strict=True)]

    def users_and_labels(self, scenario: str) -> tuple[np.ndarray, np.ndarray]:
        """The user and the rating of each held-out row, in the order of `file`."""
        columns = self._columns(scenario, True)
        return columns["user"], columns["rating"]

    def _query(self, scenario: str, held_out: bool) -> str:
        new_user, new_item = _SCENARIOS[scenario]
        return (
            f"SELECT * FROM ratings WHERE new_user = {new_user} AND new_item = {new_item} "
            f"AND held_out = {held_out} ORDER BY TRY_CAST(user_id AS BIGINT), row"
        )

    def _columns(self, scenario: str, held_out: bool) -> dict[str, np.ndarray]:
        return self._tables.execute(
            "SELECT user_id::BIGINT AS user, item_id::BIGINT AS item, rating::DOUBLE AS rating "
            f"FROM ({self._query(scenario, held_out)})"
        ).fetchnumpy()


def _one_draw(
    rows: _Rows,
    options: argparse.Namespace,
    found: dict[str, dict[str, list[Values]]],
    tasks: dict[str, list[int]],
) -> None:
    """Adds each contestant's figures on one draw."""
    for scenario, of_names in _yardsticks(rows).items():
        for name, values in of_names.items():
            found[scenario].setdefault(name, []).append(values)
    for scenario in _SCENARIOS:
        tasks[scenario].append(len(np.unique(rows.users_and_labels(scenario)[0])))
    for model in options.models:
        saved_model = _exported(rows, model)
        for scenario in _SCENARIOS:
            for side in ("", ", unadapted"):
                support = [] if side else ["--support", rows.file(scenario, held_out=False)]
                values = _figures(rows, scenario, _predicted(rows, saved_model, scenario, support))
                found[scenario].setdefault(f"{model}{side}", []).append(values)
                shown = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
                print(f"seed {rows.seed}  {scenario:31} {model + side:18} {shown}", flush=True)


def _prepared(rows: _Rows, model: str) -> pathlib.Path:
    """Records of what is known of existing users and items."""
    schema = movielens_schema().to_json()
    # Factors predicts ratings where labels are ratings, `--loss ratings` where they are clicks.
    if model == "factors":
        schema["positive_from"] = None
    described = rows.folder / "schema.yaml"
    described.write_text(yaml.safe_dump(schema))
    records = rows.folder / f"records-{model}"
    known = rows.file("existing users, existing items", held_out=False)
    core_seconds(
        *("prepare", "--input", known, "--schema", described, "--output", records),
        *("--test-fraction", 0, "--seed", rows.seed),
    )
    return records


def _exported(rows: _Rows, model: str) -> pathlib.Path:
    records, run = _prepared(rows, model), rows.folder / model
    core_seconds(
        *("train", *_MODELS[model], "--records", records, "--run", run, "--seed", rows.seed),
        *("--support", _SUPPORT, "--query", _MOST - _SUPPORT),
    )
    core_seconds("export", "--run", run)
    return run / "saved_model"


def _predicted(
    rows: _Rows, saved_model: pathlib.Path, scenario: str, support: list[str]
) -> np.ndarray:
    output = rows.folder / "predictions.csv"
    query = rows.file(scenario, held_out=True)
    core_seconds(
        *("predict", "--saved-model", saved_model, "--query", query, "--output", output, *support)
    )
    with output.open(newline="") as lines:
        return np.array([float(row["prediction"]) for row in csv.DictReader(lines)])


def _yardsticks(rows: _Rows) -> dict[str, dict[str, Values]]:
    """Item mean + offset and ALS, of the ratings that models are trained on."""
    training = rows.ratings("existing users, existing items", held_out=False)
    found = {}
    for scenario in _SCENARIOS:
        known = rows.ratings(scenario, held_out=False)
        held_out = rows.ratings(scenario, held_out=True)
        tasks = [
            EvaluatedTask(number, *both)
            for number, both in enumerate(zip(known, held_out, strict=True))
        ]
        scores = {
            "item mean + offset": mean_and_offset(training, tasks),
            "ALS, folded in": folded_in_als(training, tasks, seed=rows.seed),
        }
        found[scenario] = {
            name: _figures(rows, scenario, np.concatenate(of_user))
            for name, of_user in scores.items()
        }
    return found


def _figures(rows: _Rows, scenario: str, predictions: np.ndarray) -> Values:
    users, labels = rows.users_and_labels(scenario)
    return {key: metric(name).value(users, labels, predictions) for name, key in _METRICS.items()}


def _means(values: list[Values]) -> Values:
    return {name: round(statistics.mean(one[name] for one in values), 4) for name in values[0]}


def _table(means: dict[str, dict[str, Values]]) -> list[str]:
    lines = [f"{'mean over seeds':56}" + "".join(f"{name:>9}" for name in _METRICS.values())]
    for scenario, of_names in means.items():
        for name, values in sorted(of_names.items(), key=lambda pair: pair[1]["mae"]):
            cells = "".join(f"{values[key]:>9.4f}" for key in _METRICS.values())
            lines.append(f"{scenario:32}{name:24}{cells}")
    return lines


def _year_of(data: str) -> int:
    """The release year of the newest existing items: 1997 as in the paper, and 1996 of the
    100k data, whose ratings end in April 1998."""
    for name, year in _YEARS.items():
        if (pathlib.Path(data) / name).is_file():
            return year
    raise ValueError(f"scenarios: expected a folder of MovieLens with {', '.join(_YEARS)}: {data}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="download", help="a folder with ml-100k or ml-1m")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many draws (3)")
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), default=list(_MODELS))
    parser.add_argument("--year", type=int, help="of the newest existing items (1996; ml-1m: 1997)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
