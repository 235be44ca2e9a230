"""Whatever form the values of a request have, the predictions are those of their texts."""

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta_io.batches.assembly import assemble_batch, assemble_keys
from gmeta_tf.saving.exports.export import serving_graph
from gmeta_tf.saving.exports.served_keys import ServedKeys, given_keys
from gmeta_tf.saving.serving.served_versions import ServedVersion

SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("code"),
        gm.Field("slot"),
        gm.Field("far"),
        gm.Field("tags", "multi", table="item", max_values=2),
        gm.Field("price", "dense"),
    ),
    label="liked",
    task="user",
    tables=(
        gm.Table("item", 5),
        gm.Table("code", 4),
        gm.Table("slot", 9, keys="raw"),
        gm.Table("far", 50, keys="hash"),
    ),
)
VOCABULARIES = {
    "item": np.array(["a", "b", "7", "x y"], object),
    "code": np.array(["-3", "0", "41"], object),
}
PADDING = ["", "", "", "", "", 0.0]
# Two tasks; the second one has a single support row.
SUPPORT = [
    [
        ["a", "41", "8", "p", "b|a", 0.5],
        ["b", "-3", "0", "", "", 1.0],
        ["?", "5", "9", "q", "7", 2],
    ],
    [["x y", "0", "3", "q", "a|b|7", -1.0], PADDING, PADDING],
]
QUERY = [
    [["a", "0", "8", "p", "7", 0.5], ["7", "41", "1", "q", "b", 1.5]],
    [["b", "-3", "12", "", "x y|a", 0.0], ["", "9", "2", "p", "?", 3.0]],
]


@pytest.fixture(scope="module")
def graph():
    embedding = gm.ShardedEmbedding(SCHEMA, 4, scale=0.5, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(2, 0.4))
    model.compile("adam", "adagrad")
    return serving_graph(model, VOCABULARIES)


@pytest.fixture(scope="module")
def signatures(graph):
    return graph.signatures()


def texts():
    columns = {"support_liked": [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], "support_count": [3, 1]}
    for part, rows in (("support", SUPPORT), ("query", QUERY)):
        for place, field in enumerate(SCHEMA.fields):
            columns[f"{part}_{field.name}"] = [[row[place] for row in task] for task in rows]
    return {name: tf.constant(values) for name, values in columns.items()}


def predicted(signature, inputs):
    return signature(**inputs)["prediction"].numpy()


def field_of(name):
    return next((f for f in SCHEMA.key_fields if f.name == name.partition("_")[2]), None)


def test_keys_predict_what_their_texts_do(graph, signatures):
    inputs, keys = texts(), {}
    for name, value in inputs.items():
        field = field_of(name)
        keys[name] = value if field is None else graph.keys(field, value)
        if field is not None and field.kind == "categorical":
            keys[name] = keys[name][:, :, 0]
    assert keys["query_code"].numpy().tolist() == [[2, 3], [1, 0]]
    expected = predicted(signatures["predict"], inputs)
    assert np.array_equal(predicted(signatures["predict_keys"], keys), expected)
    blind = predicted(signatures["predict"], inputs | {"support_count": tf.constant([0, 0])})
    assert np.abs(expected - blind).min() > 1e-4
    query = {name: value for name, value in inputs.items() if name.startswith("query")}
    np.testing.assert_allclose(blind, predicted(signatures["predict_unadapted"], query), rtol=1e-6)


def test_integers_predict_what_their_texts_do(signatures):
    inputs = texts()
    specs = signatures["predict_integers"].structured_input_signature[1]
    integers = {
        name: tf.strings.to_number(tf.where(inputs[name] == "", "-1", inputs[name]), tf.int64)
        for name, spec in specs.items()
        if spec.dtype == tf.int64
    }
    assert sorted(integers) == ["query_code", "query_slot", "support_code", "support_slot"]
    found = predicted(signatures["predict_integers"], inputs | integers)
    assert np.array_equal(found, predicted(signatures["predict"], inputs))


def example_of(task, inputs):
    """A task's own values, without those that only fill up."""
    features = {}
    for name, values in inputs.items():
        if name == "support_count":
            continue
        count = int(inputs["support_count"][task]) if name.startswith("support") else None
        own = values[task, :count].numpy().tolist()
        features[name] = (
            tf.train.Feature(bytes_list=tf.train.BytesList(value=own))
            if values.dtype == tf.string
            else tf.train.Feature(float_list=tf.train.FloatList(value=own))
        )
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_examples_predict_what_their_texts_do(signatures):
    inputs = texts()
    examples = tf.constant([example_of(task, inputs) for task in range(2)])
    found = predicted(signatures["predict_examples"], {"examples": examples})
    assert np.array_equal(found, predicted(signatures["predict"], inputs))


@pytest.mark.parametrize("name", ["predict", "predict_unadapted"])
def test_a_value_given_once_is_that_of_all_rows(signatures, name):
    specs = signatures[name].structured_input_signature[1]
    once = {"far": "q", "tags": "a|7", "price": 0.25}
    repeated = {one: value for one, value in texts().items() if one in specs}
    given = dict(repeated)
    for one, value in repeated.items():
        own = once.get(one.partition("_")[2])
        if own is not None:
            repeated[one] = tf.fill(value.shape, own)
            given[one] = repeated[one][:, :1]
    expected = predicted(signatures[name], repeated)
    assert expected.shape == (2, 2)
    assert np.array_equal(predicted(signatures[name], given), expected)
    assert not np.array_equal(predicted(signatures[name], repeated | given), [[0, 0]])


def test_lengths_that_differ_are_an_error(signatures):
    inputs = texts()
    inputs["query_item"] = tf.constant([["a", "b", "a"]] * 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Ii]ncompatible shapes"):
        signatures["predict"](**inputs)


def test_given_keys_are_those_of_the_table():
    keys = tf.constant([[[3, 12, -1], [-1, -1, -1], [9, -1, -1]]], tf.int64)
    expected = [[[3, 0, -1], [0, -1, -1], [9, -1, -1]]]
    assert given_keys(keys, 9).numpy().tolist() == expected
    assert given_keys(keys[:, :, :1], 2**63 - 1).numpy().tolist() == [[[3], [0], [9]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "-7", str(2**63 - 1)], True),
        (["1", "x"], False),
        (["01"], False),
        (["-0"], False),
        ([str(2**63)], False),
    ],
)
def test_which_vocabularies_are_of_integers(values, expected):
    schema = gm.Schema((gm.Field("n"),), "y", "u", tables=(gm.Table("n", len(values) + 1),))
    keys = ServedKeys(schema, {"n": np.array(values, object)})
    assert keys.takes_integers(schema.fields[0]) is expected


@pytest.mark.parametrize("has_weight", [False, True])
def test_a_batch_of_keys_is_that_of_records(has_weight):
    schema = gm.Schema(
        (
            gm.Field("item"),
            gm.Field("tags", "multi", max_values=2),
            gm.Field("id"),
            gm.Field("price", "dense"),
        ),
        "y",
        "u",
        tables=(gm.Table("item", 5), gm.Table("tags", 7), gm.Table("id", keys="raw")),
        positive_from=0.5,
        weight="w" if has_weight else None,
    )
    draw = np.random.default_rng(0)
    item, tags = draw.integers(0, 5, [3, 6, 1]), draw.integers(-1, 7, [3, 6, 2])
    far = draw.choice([0, 7, 2**40 + 1, 2**63 - 1], [3, 6, 1])
    label, price, weight = (draw.normal(size=[3, 6]).astype(np.float32) for _ in range(3))
    floats = [label, np.abs(weight)] if has_weight else [label]
    words = [np.stack(floats, axis=2).view(np.int32), item, tags, far & 0xFFFFFFFF, far >> 32]
    words = np.concatenate([*words, price.view(np.int32)[:, :, None]], axis=2).astype(np.int32)
    counts = np.array([4, 0, 1], np.int32)
    present = (np.arange(6) < counts[:, None]) | (np.arange(6) >= 4)
    words[~present] = -1  # as records have them; keys hold anything there
    episodes = {
        "task": tf.range(3, dtype=tf.int64),
        "words": tf.constant(words),
        "num_support": tf.constant(counts),
        "num_query": tf.fill([3], 2),
    }
    keys = {"embedded": tf.constant(np.concatenate([item, tags], 2)), "embedded:id": far}
    found = assemble_keys(
        keys, tf.constant(present), label, price[:, :, None], schema, 4, *floats[1:]
    )
    expected = assemble_batch(episodes, schema, 4)
    assert tf.nest.map_structure(lambda one: one.dtype, found) == tf.nest.map_structure(
        lambda one: one.dtype, expected
    )
    tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
    assert found["keys"]["embedded:id"].shape[0] > 2


def test_a_server_warms_up_each_signature(signatures):
    """Keys of a multi-valued field have a third axis, of a length of its own."""
    called = []

    class Noted:
        def __init__(self, name, function):
            self.structured_input_signature = function.structured_input_signature
            self._name, self._function = name, function

        def __call__(self, **inputs):
            called.append((self._name, self._function(**inputs)["prediction"].shape[0]))

    noted = {name: Noted(name, one) for name, one in signatures.items()}
    ServedVersion(1, None, noted, None, None)._warm_up()
    assert called == [(name, 1) for name in signatures]
