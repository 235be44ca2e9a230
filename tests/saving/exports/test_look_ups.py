"""What a look-up is made of, and what it cannot be made of."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.saving.exports.export import serving_graph
from gmeta_tf.saving.exports.look_ups import LookUpTable, look_ups_of
from gmeta_tf.saving.exports.served_keys import ServedKeys

SCHEMA = gm.Schema(
    (
        gm.Field("film"),
        gm.Field("genre", "multi", max_values=3),
        gm.Field("year", "dense"),
        gm.Field("maker", column="by"),
        gm.Field("age"),
    ),
    label="liked",
    task="user",
    tables=(
        gm.Table("film", 4),
        gm.Table("genre", 4),
        gm.Table("maker", 90, keys="hash"),
        gm.Table("age", 3),
    ),
)
VOCABULARIES = {
    "film": np.array(["a", "b", "c"], object),
    "genre": np.array(["war", "fun", "art"], object),
    "age": np.array(["1", "2"], object),
}
FILMS = {
    "film": ["b", " a ", 7],
    "genre": [["fun", "art"], "war|fun", None],
    "year": [0.25, 0.5, "1.5"],
    "by": ["p", "", "q"],
}


def test_it_finds_what_a_request_would_carry():
    keys = ServedKeys(SCHEMA, VOCABULARIES)
    (look_up,) = look_ups_of(SCHEMA, {"film": FILMS})
    found = LookUpTable(look_up, keys, SCHEMA.fields)(tf.constant([["a", "7 "], ["?", "b"]]))
    fields = {field.name: field for field in SCHEMA.fields}
    genres = tf.constant([["war|fun", ""], ["", "fun|art"]])
    makers = tf.constant([["", "q"], ["", "p"]])
    assert set(found) == {"genre", "year", "maker"}
    np.testing.assert_array_equal(found["genre"], keys(fields["genre"], genres))
    np.testing.assert_array_equal(found["maker"], keys(fields["maker"], makers))
    np.testing.assert_array_equal(found["year"], np.float32([[0.5, 1.5], [np.nan, 0.25]]))


def test_a_cross_has_the_keys_of_what_is_looked_up():
    """Predictions are those of a request that carries the film's fields, crossed ones too."""
    crossed = gm.Field("age_x_genre", "multi", cross=("age", "genre"), max_values=2)
    schema = dataclasses.replace(
        SCHEMA,
        fields=(*SCHEMA.fields, crossed),
        tables=(*SCHEMA.tables, gm.Table("age_x_genre", 50, keys="hash")),
    )
    embedding = gm.ShardedEmbedding(schema, 4, scale=0.5, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(2, 0.4))
    model.compile("adam", "adagrad")
    whole = serving_graph(model, VOCABULARIES).signatures()["predict"]
    look_ups = look_ups_of(schema, {"film": FILMS})
    short = serving_graph(model, VOCABULARIES, look_ups).signatures()["predict"]
    request = {
        "support_film": [["a", "b"]],
        "support_age": [["1", "2"]],
        "support_liked": [[1.0, 0.0]],
        "support_count": [2],
        "query_film": [["b", "7", "a"]],
        "query_age": [["2", "1", "1"]],
    }
    carried = {
        "support_genre": [["war|fun", "fun|art"]],
        "support_maker": [["", "p"]],
        "support_year": [[0.5, 0.25]],
        "query_genre": [["fun|art", "", "war|fun"]],
        "query_maker": [["p", "q", ""]],
        "query_year": [[0.25, 1.5, 0.5]],
    }
    found, expected = (
        one(**{name: tf.constant(value) for name, value in inputs.items()})["prediction"].numpy()
        for one, inputs in ((short, request), (whole, request | carried))
    )
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(expected) > 0


def test_lists_of_one_length_are_lists():
    films = {"film": ["a", "b"], "genre": [["war", "fun"], ["art", "fun"]]}
    (look_up,) = look_ups_of(SCHEMA, {"film": films})
    assert look_up.values["genre"].tolist() == ["war|fun", "art|fun"]


@pytest.mark.parametrize(
    ("tables", "match"),
    [
        ({"films": FILMS}, r"look-up by 'films': expected a categorical field of the model"),
        ({"genre": FILMS}, r"expected a categorical field of the model \(film, maker, age\)"),
        ({"film": {"year": [1]}}, r"expected a column 'film' and others of the same length"),
        ({"film": FILMS | {"by": ["p"]}}, r"of the same length, got .*'by': 1"),
        ({"film": FILMS | {"film": ["a", "b", " a"]}}, r"each value once, got 'a' several times"),
        ({"film": FILMS | {"film": ["a", "b", None]}}, r"each value once, got '' in a row"),
        ({"film": {"film": ["a"], "title": ["A"]}}, r"no field reads one of its columns"),
        ({"film": FILMS | {"year": [1, 2, "x"]}}, r"column 'year', row 3 .*finite number, got 'x'"),
        (
            {"film": FILMS, "age": {"age": ["1"], "year": [3]}},
            r"the field 'year' is looked up by 'film' and by 'age'",
        ),
        (
            {"film": FILMS, "maker": {"by": ["p"], "age": ["1"]}},
            r"the field 'maker' is looked up by 'film': expected a field that requests have",
        ),
    ],
)
def test_what_no_look_up_is_made_of(tables, match):
    with pytest.raises(ValueError, match=match):
        look_ups_of(SCHEMA, tables)
