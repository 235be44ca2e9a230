"""Ratings go to the model as support rows, and two lists come of what it predicts."""

import dataclasses

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.play.catalogue import Catalogue
from gmeta_tf.play.newcomer import Newcomer, person_values

SCHEMA = gm.Schema((gm.Field("item"), gm.Field("age", "dense"), gm.Field("city")), "stars", "user")
ITEMS = Catalogue(
    SCHEMA.fields[0],
    ("A", "B", "C", "D"),
    ("",) * 4,
    {"item": np.array(["a", "b", "c", "d"], object)},
)


class Model:
    """Predicts an item's rank from the end, and what it was rated more than 3."""

    schema = request_schema = SCHEMA

    def __init__(self):
        self.calls = []

    def __call__(self, query, support):
        self.calls.append((query, support))
        rated = dict(zip(support["item"], support["stars"], strict=True))
        liked = sum(rated.values()) - 3 * len(rated)
        order = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
        return np.array([order[item] * (1 - liked) for item in query["item"]], np.float32)


def test_both_lists():
    model = Model()
    newcomer = Newcomer(model, ITEMS, {"age": 30.0})
    nothing = newcomer.recommend({})
    assert nothing.adapted == nothing.unadapted
    assert [one.place for one in nothing.adapted] == [0, 1, 2, 3]
    found = newcomer.recommend({1: 5.0}, top=2)
    assert (found.num_ratings, found.seconds >= 0) == (1, True)
    # What is rated is in neither of the lists; the model turned the others about.
    assert [(one.place, one.rank, one.other_rank) for one in found.adapted] == [
        (3, 1, 3),
        (2, 2, 2),
    ]
    assert [(one.place, one.rank, one.other_rank) for one in found.unadapted] == [
        (0, 1, 3),
        (2, 2, 2),
    ]
    assert found.adapted[0].prediction == pytest.approx(-0.1)
    query, support = model.calls[-1]
    assert set(query["user"]) == set(support["user"]) == {"you"}
    assert support["item"].tolist() == ["b"]
    assert support["stars"].tolist() == [5.0]
    assert query["age"].tolist() == [30.0] * 4
    assert query["city"].tolist() == [None] * 4


@pytest.mark.parametrize(("weight", "column"), [("w", [1.0]), ("item", ["b"]), ("stars", [5.0])])
def test_ratings_weigh_1(weight, column):
    """Where nothing else is known: the weight may be the label, or what a field reads."""
    model = Model()
    model.request_schema = dataclasses.replace(SCHEMA, weight=weight)
    Newcomer(model, ITEMS, {"age": 30.0}).recommend({1: 5.0})
    support = model.calls[-1][1]
    assert support[weight].tolist() == column
    assert support["stars"].tolist() == [5.0]
    assert support["item"].tolist() == ["b"]


def test_what_is_said_of_a_person_counts():
    model = Model()
    newcomer = Newcomer(model, ITEMS, {"age": 30.0, "city": "Rome"})
    newcomer.recommend({0: 1.0}, {"age": 0.0, "city": ""})
    query, _ = model.calls[-1]
    # What was not answered stays what it was.
    assert (query["age"][0], query["city"][0]) == (0.0, "Rome")


def test_unadapted_predictions_are_made_once():
    model = Model()
    newcomer = Newcomer(model, ITEMS, {"age": 30.0})
    before = len(model.calls)
    for label in (1.0, 2.0, 3.0):
        newcomer.recommend({0: label})
    assert len(model.calls) == before + 3


def test_a_person_whom_the_model_cannot_take():
    with pytest.raises(ValueError, match=r"'age' is a number that may not be .*--person age=VALUE"):
        Newcomer(Model(), ITEMS)
    with pytest.raises(ValueError, match=r"not describe items \(age, city\), got 'item'"):
        Newcomer(Model(), ITEMS, {"item": "a"})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("age", "to be FIELD=VALUE, with a field of item, age, city, got 'age'"),
        ("ages=3", "got 'ages=3'"),
        ("age=old", "expected --person age=NUMBER, since the field is dense, got 'age=old'"),
    ],
)
def test_texts_that_say_nothing_of_a_person(text, match):
    with pytest.raises(ValueError, match=match):
        person_values(SCHEMA, [text])
    assert person_values(SCHEMA, ["age=3", "city=a=b"]) == {"age": 3.0, "city": "a=b"}


def test_what_the_model_looks_up_is_asked_of_nobody():
    model = Model()
    fields = tuple(field for field in SCHEMA.fields if field.name != "city")
    tables = tuple(table for table in SCHEMA.tables if table.name != "city")
    model.request_schema = dataclasses.replace(SCHEMA, fields=fields, tables=tables)
    newcomer = Newcomer(model, ITEMS, {"age": 30.0})
    assert [field.name for field in newcomer.person_fields] == ["age"]
    assert "city" not in model.calls[-1][0]
    with pytest.raises(ValueError, match=r"does not describe items \(age\), got 'city'"):
        Newcomer(model, ITEMS, {"age": 30.0, "city": "Rome"})
