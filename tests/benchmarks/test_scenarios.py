"""MeLU's four scenarios are cut as the paper says, and all contestants get the same rows."""

import csv
import itertools

import duckdb
import numpy as np
import pytest
from made_movielens import write_files

from benchmarks import scenarios
from benchmarks.scenarios import _SCENARIOS, _Rows, _yardsticks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 users; items 1 to 130 are of 1990 to 1999, one is of no year."""
    draw = np.random.default_rng(0)
    years = {item: 1990 + item % 10 for item in range(1, 131)} | {7: ""}
    rated = {user: draw.permutation(130)[: draw.integers(12, 131)] + 1 for user in range(1, 61)}
    ratings = [
        f"{user}\t{item}\t{draw.integers(1, 6)}\t{881 + item}"
        for user, items in rated.items()
        for item in items
    ]
    draw.shuffle(ratings)
    files = {
        "ml-100k.inter": ["user_id\titem_id\trating\ttimestamp", *ratings],
        "ml-100k.user": ["user_id\tage\tgender\toccupation\tzip"]
        + [f"{user}\t{20 + user % 9}\tF\tother\t85711" for user in rated],
        "ml-100k.item": ["item_id\ttitle\tyear\tclass"]
        + [f"{item}\tTitle\t{year}\tComedy" for item, year in years.items()],
    }
    folder = tmp_path_factory.mktemp("scenarios") / "data"
    texts = {name: "\n".join(lines) + "\n" for name, lines in files.items()}
    return write_files(folder, texts, "utf-8"), rated, years


def rows_of(path):
    with duckdb.connect() as database:
        found = database.execute(f"SELECT user_id, item_id, rating FROM '{path}'").fetchall()
    return [(int(user), int(item), float(rating)) for user, item, rating in found]


def test_each_user_of_13_to_100_ratings_has_10_held_out(data, tmp_path):
    folder, rated, years = data
    rows = _Rows(tmp_path, str(folder), 1995, seed=0)
    new_users = set()
    for scenario, (new_user, new_item) in _SCENARIOS.items():
        known, held_out = (rows_of(rows.file(scenario, held_out=side)) for side in (False, True))
        assert not {row[:2] for row in known} & {row[:2] for row in held_out}
        users = {user for user, _, _ in held_out}
        new_users |= users if new_user else set()
        for user, items in rated.items():
            of_kind = {
                i for i in items.tolist() if (years[i] != "" and years[i] > 1995) == new_item
            }
            found = [row for row in known + held_out if row[0] == user]
            if user not in users:
                assert not found
                continue
            assert 13 <= len(of_kind) <= 100
            assert {item for _, item, _ in found} == of_kind
            assert sum(row[0] == user for row in held_out) == 10
        # The files' order is that of the columns.
        user, rating = rows.users_and_labels(scenario)
        assert [(u, r) for u, _, r in held_out] == list(zip(user.tolist(), rating.tolist()))
        both = rows.ratings(scenario, held_out=True)
        expected = [
            [i for _, i, _ in own] for _, own in itertools.groupby(held_out, lambda r: r[0])
        ]
        assert [one.items.tolist() for one in both] == expected
    assert len(new_users) == 12
    for scenario, (new_user, _) in _SCENARIOS.items():
        users = set(rows.users_and_labels(scenario)[0].tolist())
        assert users <= new_users if new_user else not users & new_users


def test_other_seeds_have_other_new_users(data, tmp_path):
    def new_users(seed):
        rows = _Rows(tmp_path, str(data[0]), 1995, seed)
        return set(rows.users_and_labels("new users, existing items")[0].tolist())

    assert new_users(0) == new_users(0) != new_users(1)


def test_a_prediction_meets_its_rating(data, tmp_path, monkeypatch):
    """`predict` keeps the order of the query file: perfect predictions have no error."""
    rows = _Rows(tmp_path, str(data[0]), 1995, seed=0)
    scenario = "existing users, new items"

    def predict(*words):
        given = dict(zip(words[1::2], words[2::2]))
        assert given["--query"] == rows.file(scenario, held_out=True)
        with open(given["--output"], "w", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(["user_id", "prediction"])
            writer.writerows((user, rating) for user, _, rating in rows_of(given["--query"]))

    monkeypatch.setattr(scenarios, "core_seconds", predict)
    predictions = scenarios._predicted(rows, tmp_path / "model", scenario, [])
    found = scenarios._figures(rows, scenario, predictions)
    assert found == {"mae": 0.0, "ndcg1": 1.0, "ndcg3": 1.0}


def test_the_yardsticks_have_figures_in_each_scenario(data, tmp_path):
    found = _yardsticks(_Rows(tmp_path, str(data[0]), 1995, seed=0))
    assert set(found) == set(_SCENARIOS)
    for of_names in found.values():
        assert set(of_names) == {"item mean + offset", "ALS, folded in"}
        for values in of_names.values():
            assert 0.5 < values["mae"] < 2
            assert 0 < values["ndcg1"] < 1


def test_the_year_of_an_unknown_folder_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder of MovieLens with u\.data, ml-100k"):
        scenarios._year_of(str(tmp_path))
