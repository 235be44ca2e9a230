"""The items that a person is shown: known to the model, most frequent first, with their names."""

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.play.catalogue import catalogue_of, item_field

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("genre", "multi"), gm.Field("year"), gm.Field("price", "dense")),
    "liked",
    "user",
    tables=(gm.Table("item"),),
)
VOCABULARY = ["i2", "i7", "i1"]


def column(*values):
    made = np.empty(len(values), object)
    made[:] = values
    return made


ROWS = {
    "item": column("i1", " i2", "i9", None, "i1"),
    "Title": column("One", "Two", "Nine", "None", "Again"),
    "genre": column("Drama|War", ["Comedy", "Sci Fi"], "War", "", "War"),
    "year": column("1999", None, "2000", "", ""),
    "price": column(2.5, 1.0, 0.0, 1.0, 1.0),
    "studio": column("a", "b", "c", "d", "e"),
}


def test_items_are_the_known_ones_in_the_order_of_the_vocabulary():
    found = catalogue_of(SCHEMA, SCHEMA.fields[0], ROWS, VOCABULARY)
    assert found.names == ("Two", "One")
    assert found.details == ("1 · Comedy, Sci Fi", "1999 · 2.5 · Drama, War")
    # "studio" is none of the schema's.
    assert list(found.columns) == ["item", "genre", "year", "price"]
    assert found.columns["item"].tolist() == ["i2", "i1"]
    assert found.columns["genre"][0] == ["Comedy", "Sci Fi"]
    assert (found.num_unknown, found.num_beyond) == (1, 0)  # i9; i7 has no name
    assert (len(found), found.found("ON"), found.found("two x"), found.found("")) == (
        2,
        [1],
        [],
        [0, 1],
    )


def test_without_a_vocabulary_all_items_are_there_in_the_order_of_their_lines():
    found = catalogue_of(SCHEMA, SCHEMA.fields[0], ROWS, None, most=2)
    assert (found.names, found.num_unknown, found.num_beyond) == (("One", "Two"), 0, 1)


def test_a_model_whose_items_are_names_needs_no_file():
    found = catalogue_of(SCHEMA, SCHEMA.fields[0], None, VOCABULARY)
    assert found.names == ("i2", "i7", "i1")
    assert list(found.columns) == ["item"]


def test_the_column_of_names():
    rows = {"item": ROWS["item"], "studio": ROWS["studio"]}
    by_default = catalogue_of(SCHEMA, SCHEMA.fields[0], rows, VOCABULARY)
    assert by_default.names == ("i2", "i1")
    asked = catalogue_of(SCHEMA, SCHEMA.fields[0], rows, VOCABULARY, name_column="studio")
    assert asked.names == ("b", "a")


@pytest.mark.parametrize(
    ("rows", "vocabulary", "options", "match"),
    [
        (None, None, {}, "no list of the values of 'item'.*Give --names FILE"),
        ({"id": ROWS["item"]}, VOCABULARY, {}, "no column 'item' of the items, only id. .*--key"),
        (ROWS, VOCABULARY, {"name_column": "x"}, r"--name-column to be a column .*got 'x'"),
        (ROWS, ["j1"], {}, "knows none of the 5 items .*such as 'j1', got 'i1', 'i2', 'i9'"),
        ({"item": column()}, ["j1"], {}, "knows none of the 0 items .*got no rows"),
    ],
)
def test_what_cannot_be_a_catalogue(rows, vocabulary, options, match):
    with pytest.raises(ValueError, match=match):
        catalogue_of(SCHEMA, SCHEMA.fields[0], rows, vocabulary, **options)


def test_the_field_of_the_items():
    assert item_field(SCHEMA, ROWS, "year").name == "year"
    unique = {"item": column("a", "b"), "year": column("1", "1")}
    assert item_field(SCHEMA, unique).name == "item"
    # The other tables of the schema have no vocabulary.
    assert item_field(gm.Schema((gm.Field("item"), gm.Field("n", "dense")), "l", "t"), None)


def test_the_field_that_a_table_is_joined_to_is_the_items():
    tables = {"items": {"path": "i.csv", "on": "item"}, "users": {"path": "u.csv", "on": "user"}}
    values = SCHEMA.to_json() | {"tables_to_join": tables}
    assert item_field(gm.Schema.from_json(values), None).name == "item"
    both_unique = {"item": column("a", "b"), "year": column("1", "2")}
    assert item_field(gm.Schema.from_json(values), both_unique).name == "item"
    tables["years"] = {"path": "y.csv", "on": "year"}
    with pytest.raises(ValueError, match="got item, year"):
        item_field(gm.Schema.from_json(values | {"tables_to_join": tables}), None)


@pytest.mark.parametrize(
    ("rows", "asked", "match"),
    [
        (None, "price", r"--item to be a categorical field of the model \(item, year\), got 'pri"),
        (None, None, "got item, year; categorical fields are item, year. .*--item FIELD"),
        ({"id": column("a")}, None, "got none; .*whose column the names have or --key names"),
    ],
)
def test_no_field_of_the_items(rows, asked, match):
    with pytest.raises(ValueError, match=match):
        item_field(SCHEMA, rows, asked)
