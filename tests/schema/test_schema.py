"""Schema: its errors, its derived names, and its way through JSON."""

import copy
import datetime
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.schema import Field, Fitted, Schema, SideTable, Table

JOINED = {"fields": [{"name": "item"}], "label": "y", "task": "u"}

quick = settings(deadline=None, max_examples=80, derandomize=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table(""), r"Table: expected name to be a text, got an empty text"),
        (lambda: Table("t", num_rows=0), r"Table 't': expected num_rows .* at least 1, got 0"),
        (lambda: Table("t", 2**63), r"Table 't': expected num_rows to be at most 2\*\*63 - 1, got"),
        (lambda: Table("t", width=-2), r"Table 't': expected width .* at least 1, got -2"),
        (lambda: Table("a/b"), r"the table 'a/b' names a file .* expected a name without slashes"),
        (lambda: Table("a\\b"), r"the table 'a\\\\b' names a file .* a name without slashes"),
        (lambda: Table("."), r"the table '.' names a file of the records folder"),
        (lambda: Table(".."), r"the table '..' names a file of the records folder"),
        (
            lambda: Schema((Field("a/b"),), "label", "user"),
            r"the table 'a/b' names a file of the records folder",
        ),
        (
            lambda: Table("t", keys="hashed"),
            r"Table 't': expected keys to be one of vocabulary, hash, raw, got 'hashed'",
        ),
        (
            lambda: Table("t", 1, keys="hash"),
            r"Table 't': hashed keys need at least 2 rows .*, got 1",
        ),
        (lambda: Table("t", 0, keys="raw"), r"Table 't': expected num_rows .* at least 1, got 0"),
        (
            lambda: Field("f", "text"),
            r"Field 'f': expected kind to be one of categorical, multi, dense, got 'text'",
        ),
        (
            lambda: Field("f", "dense", table="t"),
            r"Field 'f': a dense field reads no table, got table='t'",
        ),
        (
            lambda: Field("f", "multi", max_values=0),
            r"Field 'f': expected max_values .* at least 1, got 0",
        ),
        (lambda: Field("f", min_count=0), r"Field 'f': expected min_count .* at least 1, got 0"),
        (
            lambda: Field("f", "multi", separator=""),
            r"Field 'f': expected separator to be a text, got an empty text",
        ),
        (
            lambda: Field("f", transform="log1p"),
            r"Field 'f': transform is of dense fields, got transform='log1p' of a categorical one",
        ),
        (
            lambda: Field("f", "multi", missing=0.0),
            r"Field 'f': missing is of dense fields, got missing=0.0 of a multi one",
        ),
        (
            lambda: Field("f", "dense", transform="scale"),
            r"Field 'f': expected transform to be one of none, standardize, log1p, minmax, buck",
        ),
        (
            lambda: Field("f", "dense", missing="median"),
            r"expected missing to be one of error, mean, indicator, got 'median'. Or give a number",
        ),
        (
            lambda: Field("f", "dense", missing=True),
            r"Field 'f': expected missing to be a text or a finite number, got True",
        ),
        (
            lambda: Field("f", "dense", edges=(1.0, 2.0)),
            r"Field 'f': buckets and edges are of the transform bucketize, got 'none'",
        ),
        (
            lambda: Field("f", "dense", transform="bucketize", edges=(1.0, 1.0)),
            r"Field 'f': expected edges to ascend, got \[1.0, 1.0\]",
        ),
        (
            lambda: Field("f", "dense", transform="bucketize", edges=("1",)),
            r"Field 'f': expected edges to be a list of finite numbers",
        ),
        (
            lambda: Field("f", "dense", transform="bucketize", buckets=1),
            r"Field 'f': expected buckets to be at least 2, got 1",
        ),
        (
            lambda: Field("f", "dense", missing="mean", fitted={"center": 1}),
            r"Field 'f': fitted: there is no 'center' in it; .* Did you mean 'centre'",
        ),
        (lambda: Fitted(scale=0.0), r"Fitted: expected scale above 0, got 0.0"),
        (
            lambda: SideTable("t", "t.csv", "item", many="genre", columns=("genre", "year")),
            r"SideTable 't': with many='genre' it gives that column alone, got columns genre, year",
        ),
        (
            lambda: SideTable("t", "t.csv", "item", columns=("year", "year")),
            r"the column that 't' gives, 'year' stands twice",
        ),
        (
            lambda: SideTable("t", "t.csv", "item", columns=7),
            r"SideTable 't': expected columns to be a list of names, or a mapping .* got 7",
        ),
        (
            lambda: SideTable("t", "t.csv", "item", read=";"),
            r"SideTable 't': expected read to be options, each with its value, got ';'",
        ),
        (
            lambda: Schema.from_json(JOINED | {"tables_to_join": [{"path": "t.csv"}]}),
            r"tables_to_join: expected a name for each table, such as \{films: ",
        ),
        (
            lambda: Schema.from_json(JOINED | {"tables_to_join": {"t": {"path": "t.csv"}}}),
            r"tables_to_join, t: on is missing; required are path, on",
        ),
        (
            lambda: Schema.from_json(
                JOINED | {"tables_to_join": {"t": {"path": "a", "on": "b", "coloms": []}}}
            ),
            r"tables_to_join, t: there is no 'coloms' in it; .* Did you mean 'columns'",
        ),
        (lambda: Schema((), "label", "user"), r"expected at least one field, got none"),
        (
            lambda: Schema((Field("b"), Field("a"), Field("b")), "label", "user"),
            r"the field 'b' stands twice",
        ),
        (
            lambda: Schema((Field("a"),), "label", "user", tables=(Table("a"), Table("a", 3))),
            r"the table 'a' stands twice",
        ),
        (
            lambda: Schema((Field("a"), Field("b")), "label", "user", tables=(Table("c"),)),
            r"no field reads the table 'c'; fields read a, b",
        ),
        (
            lambda: Schema((Field("a", "dense"),), "label", "user", tables=(Table("a"),)),
            r"no field reads the table 'a'",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"lable": "x"},
            r"the schema: there is no 'lable' in it; known are .*Did you mean 'label'",
        ),
        ({"fields": [{"name": "a", "knd": "multi"}]}, r"fields\[0\]: there is no 'knd' in it"),
        ({"tables": [{"name": "a", "rows": 3}]}, r"tables\[0\]: there is no 'rows' in it"),
        ({"fields": [{"kind": "multi"}]}, r"fields\[0\]: name is missing; required are name"),
        ({"tables": [{"width": 3}]}, r"tables\[0\]: name is missing"),
        ({"fields": [{"name": "a", "kind": "text"}]}, r"Field 'a': expected kind"),
    ],
)
def test_what_from_json_refuses(values, message):
    whole = {"fields": [{"name": "a"}], "label": "rating", "task": "user"}
    with pytest.raises(ValueError, match=message):
        Schema.from_json({**whole, **values})


@pytest.mark.parametrize("missing", ["fields", "label", "task"])
def test_from_json_names_what_is_missing(missing):
    values = {"fields": [{"name": "a"}], "label": "rating", "task": "user"}
    del values[missing]
    with pytest.raises(ValueError, match=f"the schema: {missing} is missing; required are"):
        Schema.from_json(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": 101}, r"Schema: expected task to be a text, got 101 .*in quotes: '101'"),
        ({"label": True}, r"expected label to be a text, got True \(of type bool\).*in quotes"),
        ({"time": datetime.date(2024, 1, 2)}, r"expected time to be a text, .*'2024-01-02'"),
        ({"positive_from": "4"}, r"positive_from to be a finite number, got '4'.*without quotes"),
        ({"positive_from": float("nan")}, r"positive_from to be a finite number, got nan"),
        ({"fields": "item"}, r"fields: expected a list, such as .*, got 'item'"),
        ({"fields": {"name": "item"}}, r"fields: expected a list"),
        ({"fields": ["item"]}, r"fields\[0\]: expected name and what else it has, .* got 'item'"),
        ({"fields": [{"name": 205}]}, r"fields\[0\]: Field: expected name to be a text, got 205"),
        (
            {"fields": [{"name": "a"}, {"name": "b", "max_values": 2.5}]},
            r"fields\[1\]: Field 'b': expected max_values to be an integer, got 2.5",
        ),
        ({"fields": [{"name": "a", "kind": ["multi"]}]}, r"expected kind to be a text, got \["),
        (
            {"tables": [{"name": "a", "num_rows": "9"}]},
            r"tables\[0\]: Table 'a': expected num",
        ),
        ({"tables": [{"name": "a", "keys": None}]}, r"expected keys to be a text, got None"),
    ],
)
def test_values_of_another_type(values, message):
    whole = {"fields": [{"name": "a"}], "label": "rating", "task": "user"}
    with pytest.raises(ValueError, match=message):
        Schema.from_json({**whole, **values})


def test_a_schema_is_not_a_mapping():
    with pytest.raises(ValueError, match="the schema: expected fields, label, task and what else"):
        Schema.from_json(["fields"])


def test_python_callers_are_told_too():
    with pytest.raises(ValueError, match="expected fields of Field objects, got 'item'"):
        Schema(("item",), "label", "user")
    with pytest.raises(ValueError, match="Field: expected name to be a text, got 5"):
        Field(5)


WHOLE = {
    "fields": [
        {"name": "item", "min_count": 2},
        {"name": "tags", "kind": "multi", "table": "tag", "separator": ",", "max_values": 3},
        {"name": "price", "kind": "dense", "column": "cost"},
    ],
    "label": "rating",
    "task": "user",
    "time": "at",
    "positive_from": 4,
    "tables": [{"name": "item", "num_rows": 9, "keys": "raw"}, {"name": "tag", "width": 8}],
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**70),
    st.floats(),
    st.text(max_size=3),
    st.dates(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.one_of(st.text(max_size=2), st.integers(), st.none()), st.text(max_size=2)),
    st.sampled_from(["item", "multi", "dense", "raw", "hash", "..", "a/b"]),
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_schema_with_odd_values_is_read_or_told_in_a_line(data):
    values = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 2))):
        place = values
        while True:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            name = data.draw(st.sampled_from(names))
            if not (
                isinstance(place[name], dict | list) and place[name] and data.draw(st.booleans())
            ):
                break
            place = place[name]
        if isinstance(place, dict) and data.draw(st.booleans()):
            place[data.draw(st.one_of(st.text(max_size=4), st.integers(), st.none()))] = place.pop(
                name
            )
        else:
            place[name] = data.draw(ODD)
    problem = ""
    try:
        schema = Schema.from_json(values)
        assert Schema.from_json(schema.to_json()) == schema
    except ValueError as error:
        problem = str(error)
    assert "\n" not in problem


def test_tables_are_those_that_fields_read_in_their_order():
    fields = (Field("b"), Field("price", "dense"), Field("a"), Field("c", table="b"))
    schema = Schema(fields, "label", "user", tables=(Table("a", 5, 16),))
    assert schema.tables == (Table("b"), Table("a", 5, 16))
    assert [field.name for field in schema.key_fields] == ["b", "a", "c"]
    assert [field.name for field in schema.dense_fields] == ["price"]
    assert schema.table("a").width == 16
    with pytest.raises(KeyError, match="price"):
        schema.table("price")


def test_defaults_of_a_field_follow_its_name_and_kind():
    plain, multi = Field("genre"), Field("genre", "multi", table="t", column="c", max_values=5)
    assert (plain.table_name, plain.column_name, plain.num_slots) == ("genre", "genre", 1)
    assert (multi.table_name, multi.column_name, multi.num_slots) == ("t", "c", 5)
    # Only a multi-valued field has more than one slot, whatever max_values says.
    assert Field("price", "dense", max_values=5).num_slots == 1


@pytest.mark.parametrize(
    ("keys", "num_rows", "words"),
    [
        ("vocabulary", None, 1),
        ("vocabulary", 2**31 + 1, 1),
        ("hash", 2, 1),
        ("hash", 2**31, 1),
        ("hash", 2**31 + 1, 2),
        ("hash", None, 2),
        ("raw", 1, 1),
        ("raw", 2**31, 1),
        ("raw", 2**31 + 1, 2),
        ("raw", None, 2),
    ],
)
def test_words_per_key(keys, num_rows, words):
    assert Table("t", num_rows, keys=keys).words_per_key == words


def test_only_names_of_tables_must_be_without_slashes():
    field = Field("a/b", table="ab")
    assert Schema((field, Field("c/d", "dense")), "label", "user").tables == (Table("ab"),)


def test_with_num_rows_keeps_the_rest():
    schema = Schema((Field("a"), Field("b")), "label", "user", tables=(Table("b", width=4),))
    sized = schema.with_num_rows({"a": 3, "b": 9})
    assert sized.tables == (Table("a", 3), Table("b", 9, 4))
    assert (sized.fields, sized.label, sized.task) == (schema.fields, "label", "user")
    assert schema.table("a").num_rows is None


names = st.text(min_size=1, max_size=6)
# A field may have the name of its table, which names a file.
file_names = names.filter(lambda name: not {"/", "\\"} & set(name) and name not in (".", ".."))
counts = st.integers(1, 9)


@st.composite
def tables_named(draw, name):
    """A table of that name with any other member that it may have."""
    keys = draw(st.sampled_from(["vocabulary", "hash", "raw"]))
    num_rows = draw(st.none() | st.integers(2 if keys == "hash" else 1, 2**63 - 1))
    return Table(name, num_rows, draw(st.none() | counts), keys)


@st.composite
def schemas(draw):
    """A schema with any member that it may have."""
    field_names = draw(st.lists(file_names, min_size=1, max_size=4, unique=True))
    fields = []
    for name in field_names:
        kind = draw(st.sampled_from(["categorical", "multi", "dense"]))
        table = None if kind == "dense" else draw(st.none() | st.sampled_from(field_names))
        fields.append(
            Field(
                name,
                kind,
                table,
                column=draw(st.none() | names),
                separator=draw(names),
                max_values=draw(counts),
                min_count=draw(counts),
            )
        )
    read = sorted({field.table_name for field in fields if field.kind != "dense"})
    listed = draw(st.lists(st.sampled_from(read), unique=True)) if read else []
    tables = [draw(tables_named(name)) for name in listed]
    return Schema(
        tuple(fields),
        draw(names),
        draw(names),
        time=draw(st.none() | names),
        positive_from=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        tables=tuple(tables),
    )


@quick
@given(schemas())
def test_json_round_trip(schema):
    values = json.loads(json.dumps(schema.to_json()))
    assert values == schema.to_json()
    assert Schema.from_json(values) == schema


def test_from_json_takes_what_a_person_writes():
    values = {
        "fields": [{"name": "item"}, {"name": "genre", "kind": "multi", "max_values": 3}],
        "label": "rating",
        "task": "user",
    }
    expected = Schema((Field("item"), Field("genre", "multi", max_values=3)), "rating", "user")
    assert Schema.from_json(values) == expected
    # An entry that is left empty in YAML.
    assert Schema.from_json({**values, "tables": None}) == expected


def test_tables_to_join_stay_the_same_through_json():
    tables = {
        "films": {"path": "films.csv", "on": "film", "columns": ["year"], "key": "id"},
        "genres": {"path": "g.csv", "on": "film", "many": "genre", "read": {"separator": ";"}},
        "brands": {"path": "b.csv", "on": "brand", "columns": {"country": "land"}},
    }
    schema = Schema.from_json(JOINED | {"tables_to_join": tables})
    assert [table.columns for table in schema.tables_to_join] == [
        (("year", "year"),),
        (("genre", "genre"),),
        (("country", "land"),),
    ]
    written = schema.to_json()["tables_to_join"]
    assert written["films"] == tables["films"] | {"columns": {"year": "year"}}
    assert written["genres"] == tables["genres"]
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert "tables_to_join" not in Schema.from_json(JOINED).to_json()


def test_a_weight_is_stated_only_where_there_is_one():
    plain = Schema((Field("item"),), "stars", "user", time="when")
    assert "weight" not in plain.to_json()
    weighted = Schema.from_json(plain.to_json() | {"weight": "importance"})
    assert weighted.columns == ("user", "stars", "when", "importance", "item")
    assert Schema.from_json(weighted.to_json()) == weighted
    assert Schema.from_json(weighted.to_json() | {"weight": None}) == plain
    with pytest.raises(ValueError, match=r"expected weight to be a text, got 2\.0"):
        Schema((Field("item"),), "stars", "user", weight=2.0)
