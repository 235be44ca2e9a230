"""Models over dynamic tables: trained, judged, saved and served as over tables of known size."""

import dataclasses

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf
from made_data import SCHEMA, make_records

import gmeta_tf as gm
from gmeta_tf.table_groups import input_groups, key_groups

ONE = gm.World()
FAR = 10**12  # keys of the genre table start here: they do not fit into 32 bits


def schema_of(*, dynamic, width=None):
    """The made schema with raw keys: the same keys, of tables with a limit or without."""
    sizes = {"item": None, "genre": None} if dynamic else {"item": 17, "genre": 7}
    tables = tuple(
        gm.Table(name, size, width if name == "genre" else None, keys="raw")
        for name, size in sizes.items()
    )
    return dataclasses.replace(SCHEMA, tables=tables)


def records_of_both_kinds(tmp_path_factory, width):
    """The same rows in records of both kinds."""
    return {
        kind: make_records(
            tmp_path_factory.mktemp(kind),
            seed=3,
            schema=schema_of(dynamic=kind == "dynamic", width=width),
        )
        for kind in ("static", "dynamic")
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return records_of_both_kinds(tmp_path_factory, None)


@pytest.fixture(scope="module")
def both_of_two_widths(tmp_path_factory):
    return records_of_both_kinds(tmp_path_factory, 2)


def make_model(records, *, seed=7, dynamic=None, rows="adagrad", **options):
    keras.utils.set_random_seed(seed)
    embedding = gm.ShardedEmbedding(
        records.schema, 4, seed=2, scale=0.8, dynamic=dynamic, world=ONE
    )
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.2))
    model.compile("adam", rows, **options)
    return model


def batches_of(records, split="train", **options):
    return gm.TaskBatches(records, split, tasks=4, support=2, query=3, seed=5, world=ONE, **options)


def weights_of(model):
    return [np.asarray(variable) for variable in model.trainable_variables]


def rows_by_key(model):
    """Table -> key -> row, of the keys that the table has."""
    rows = {}
    for group, tables in key_groups(model.embedding.schema).items():
        if tables[0] in model.embedding.dynamic:
            held = model.embedding.all_keys(group)
            rows[tables[0]] = dict(zip(held.keys.tolist(), held.rows, strict=True))
            continue
        values, first = model.embedding.all_rows(group).numpy(), 0
        for table in tables:
            size = model.embedding.schema.table(table).num_rows
            rows[table] = dict(enumerate(values[first : first + size]))
            first += size
    return rows


def test_groups_and_inputs_of_dynamic_tables():
    schema = gm.Schema(
        [gm.Field(name) for name in "abcd"],
        "label",
        "user",
        tables=(
            gm.Table("a", keys="raw"),
            gm.Table("b", 5),
            gm.Table("c", keys="hash", width=3),
            gm.Table("d", 9),
        ),
    )
    assert key_groups(schema) == {
        "embedded:a": ("a",),
        "embedded": ("b", "d"),
        "embedded_3:c": ("c",),
    }
    assert input_groups(schema) == {
        "embedded": ("embedded:a", "embedded"),
        "embedded_3": ("embedded_3:c",),
    }
    assert gm.ShardedEmbedding(schema, 4, world=ONE).table_names == ("a", "b", "d", "c")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "rows"),
    [("both", gm.RowWiseAdagrad(0.3)), ("both_of_two_widths", gm.SGD(0.2, momentum=0.9))],
)
def test_a_dynamic_table_trains_as_a_static_one(fixture, rows, request):
    both = request.getfixturevalue(fixture)
    static, dynamic = (make_model(records, rows=rows) for records in both.values())
    histories = [
        model.fit(batches_of(records), epochs=3, verbose=0).history
        for model, records in zip((static, dynamic), both.values(), strict=True)
    ]
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=1e-5)
    for found, expected in zip(weights_of(dynamic), weights_of(static), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    expected = rows_by_key(static)
    for table, found in rows_by_key(dynamic).items():
        assert found
        for key, row in found.items():
            np.testing.assert_allclose(row, expected[table][key], rtol=1e-4, atol=1e-6)
    judged = [
        model.evaluate(batches_of(records, every_query=True), return_dict=True, verbose=0)
        for model, records in zip((static, dynamic), both.values(), strict=True)
    ]
    # Every key of the training split has been seen, so none reads the default row.
    for name, value in judged[0].items():
        assert judged[1][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_evaluation_and_prediction_insert_nothing(both):
    model = make_model(both["dynamic"], dynamic=gm.DynamicTable(capacity=99))
    model.evaluate(batches_of(both["dynamic"]), verbose=0)
    model.predict(batches_of(both["dynamic"]), verbose=0)
    assert {counts["occupancy"] for counts in model.embedding.metrics().values()} == {0}
    model.fit(batches_of(both["dynamic"]), verbose=0)
    counts = model.embedding.metrics()["item"]
    assert counts["occupancy"] == counts["insertions"] > 10


@pytest.mark.slow
def test_an_unknown_key_reads_zeros_and_a_bucket_where_the_rules_say_so(both):
    outputs = {}
    for policy in ("default", "bucket"):
        rules = gm.DynamicTable(capacity=99, unknown_otherwise=policy, num_buckets=8)
        outputs[policy] = make_model(both["dynamic"], dynamic=rules).predict(
            batches_of(both["dynamic"]), verbose=0
        )["unadapted"]
    # Of an untrained model all rows are zeros, so only the price tells rows apart.
    assert not np.allclose(outputs["default"], outputs["bucket"])


@pytest.mark.slow
def test_the_policy_error_stops_a_step_before_anything_moves(both):
    records = both["dynamic"]
    rules = {"genre": gm.DynamicTable(unknown_in_training="error", unknown_otherwise="error")}
    model = make_model(records, dynamic=rules)
    before = weights_of(model)
    message = (
        r"^a step was rejected: the table genre: expected a row for every key, as its policy is "
        r"error, got \d+ unknown keys such as \d+\. .*\(DynamicTable\)\."
    )
    with pytest.raises(ValueError, match=rf"{message} Nothing was updated\.$"):
        model.fit(batches_of(records), verbose=0)
    for found, expected in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=f"{message}$"):
        model.evaluate(batches_of(records), verbose=0)
    with pytest.raises(ValueError, match=f"{message}$"):
        model.predict(batches_of(records), verbose=0)


@pytest.mark.slow
def test_a_full_table_that_says_error(both):
    rules = {"item": gm.DynamicTable(capacity=3, when_full="error")}
    model = make_model(both["dynamic"], dynamic=rules)
    message = r"the table item: .* got \d+ keys beyond the capacity of 3 such as \d+\. "
    with pytest.raises(ValueError, match=message):
        model.fit(batches_of(both["dynamic"]), verbose=0)


@pytest.mark.slow
def test_a_negative_key_is_refused():
    schema = dataclasses.replace(
        made_batches.SCHEMA, tables=(gm.Table("item", keys="raw"), gm.Table("genre", 7))
    )
    task = made_batches.made_tasks(1)[0]
    embedding = gm.ShardedEmbedding(schema, 3, dynamic=gm.DynamicTable(capacity=99), world=ONE)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.2))
    model.compile()
    for key in (-5, -(2**63)):
        keys = task.keys.copy()
        keys[0, 0] = key
        data = made_batches.dataset([[dataclasses.replace(task, keys=keys)]], 1, schema=schema)
        message = f"table item: expected keys from 0 on, got {key}. Prepare"
        with pytest.raises(ValueError, match=message):
            model.evaluate(data, verbose=0)
        with pytest.raises(ValueError, match=message):
            model.fit(data, verbose=0)


@pytest.mark.slow
def test_another_row_optimizer_takes_the_place_of_the_first(both):
    records = both["dynamic"]
    model = make_model(records, rows="ftrl", dynamic=gm.DynamicTable(capacity=99))
    model.fit(batches_of(records), verbose=0)
    model.compile("adam", gm.SGD(0.1))
    for shard in model.embedding.shards.values():
        assert shard.store.slots == {}
    model.compile("adam", gm.Adagrad(0.1))
    model.fit(batches_of(records), verbose=0)
    for shard in model.embedding.shards.values():
        assert set(shard.store.slots) == {"accumulator"}
        held = shard.store.slots["accumulator"].gather(tf.range(1, shard.index.used))
        assert held.shape[0] > 3
        assert (held.numpy() >= gm.Adagrad().initial_accumulator).all()


def test_rules_of_a_table_that_is_not_dynamic():
    with pytest.raises(ValueError, match="which are none here, got rules of 'item'"):
        gm.ShardedEmbedding(SCHEMA, 4, dynamic={"item": gm.DynamicTable()}, world=ONE)


@pytest.mark.slow
def test_resuming_equals_never_having_stopped(both, tmp_path):
    records = both["dynamic"]
    rules = gm.DynamicTable(capacity=12, admit_after=2, time_to_live=9)
    straight = make_model(records, dynamic=rules)

    def save(epoch, logs):
        if epoch == 1:
            before = weights_of(straight), rows_by_key(straight)
            gm.save_checkpoint(straight, tmp_path / "c")
            assert_same(before, (weights_of(straight), rows_by_key(straight)))

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save)
    straight.fit(batches_of(records), epochs=4, verbose=0, callbacks=[callback])
    second = make_model(records, seed=9, dynamic=rules)
    gm.load_checkpoint(second, tmp_path / "c")
    second.fit(batches_of(records), epochs=4, initial_epoch=2, verbose=0)
    assert_same(
        (weights_of(second), rows_by_key(second)), (weights_of(straight), rows_by_key(straight))
    )


def assert_same(found, expected):
    """Weights and rows by key, to the bit."""
    for value, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(value, other)
    assert found[1].keys() == expected[1].keys()
    for table, rows in found[1].items():
        assert rows.keys() == expected[1][table].keys()
        for key, row in rows.items():
            np.testing.assert_array_equal(row, expected[1][table][key])


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_or_lacks_a_part_changes_nothing(both, tmp_path):
    records = both["dynamic"]
    rules = gm.DynamicTable(capacity=99)
    other = make_model(records, dynamic=rules)
    other.fit(batches_of(records), verbose=0)
    gm.save_checkpoint(other, tmp_path / "c")
    other.fit(batches_of(records), verbose=0)  # its rows are others than those that it saved
    other.compile("adam", gm.RowWiseAdagrad())
    before = rows_by_key(other)
    with pytest.raises(ValueError, match="does not fit the model: the dynamic table 'item' has"):
        gm.load_checkpoint(other, tmp_path / "c")
    model = make_model(records, dynamic=rules)
    (tmp_path / "c" / "keys-00000-of-00001-001-0000.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged or incomplete"):
        gm.load_checkpoint(model, tmp_path / "c")
    assert model.embedding.metrics()["item"]["occupancy"] == 0
    for table, rows in rows_by_key(other).items():
        for key, row in rows.items():
            np.testing.assert_array_equal(row, before[table][key])


@pytest.mark.slow
def test_a_served_model_predicts_as_the_model_does(both, tmp_path):
    """Asked about keys of which some are unknown, to a table of each policy."""
    records = both["dynamic"]
    common = {"capacity": 99, "num_buckets": 8, "admit_after": 4}
    rules = {
        "item": gm.DynamicTable(unknown_otherwise="default", **common),
        "genre": gm.DynamicTable(unknown_otherwise="bucket", **common),
    }
    model = make_model(records, dynamic=rules)
    model.fit(batches_of(records), epochs=2, verbose=0)
    gm.export_saved_model(model, tmp_path / "m", records)
    served = tf.saved_model.load(str(tmp_path / "m")).signatures["predict_unadapted"]
    held = rows_by_key(model)
    assert 0 < len(held["item"]) < 17
    # Rows of many items and two genres, and then of one item and many genres.
    items = [*range(17), 10**15]
    genres = [*range(6), *range(50, 60), 10**15]
    assert 3 in held["item"]
    asked = {
        "item": [*items, *[3] * len(genres)],
        "genre": [*[(1, 99)] * len(items), *[(key, key) for key in genres]],
    }
    count = len(asked["item"])
    inputs = {
        "query_item": tf.constant([[str(key) for key in asked["item"]]]),
        "query_genre": tf.constant([["|".join(map(str, keys)) for keys in asked["genre"]]]),
        "query_similar": tf.constant([["3"] * count]),
        "query_price": tf.fill([1, count], 0.5),
    }
    found = served(**inputs)["prediction"].numpy()[0]
    none = [-1] * count
    words = np.array([asked["item"], *zip(*asked["genre"], strict=True), none, [3] * count, none])
    expected = unadapted(model, words)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    of_items, of_genres = expected[: len(items)], expected[len(items) :]
    default = {one for key, one in zip(items, of_items, strict=True) if key not in held["item"]}
    assert len(default) == 1
    buckets = {one for key, one in zip(genres, of_genres, strict=True) if key not in held["genre"]}
    assert len(buckets) > 1


def unadapted(model, keys):
    """The model's own predictions for rows of keys `[slots, n]`, at price 0.5."""
    embedding = model.embedding
    features, vectors = {}, {}
    for table, slots in (("item", [0]), ("genre", [1, 2, 3]), ("similar", [4, 5])):
        name = "item" if table == "similar" else table
        group = next(g for g, names in key_groups(embedding.schema).items() if name in names)
        shard = embedding.shards[group]
        values = []
        for column in keys[slots].T:
            present = tf.constant([key for key in column if key >= 0], tf.int64)
            places = shard.locate(present, tf.constant(0, tf.int64), training=False).row_indices
            values.append(tf.reduce_mean(shard.gather(places), axis=0))
        vectors[table] = tf.stack(values)
    inputs = input_groups(embedding.schema)
    for name in inputs:
        tables = ["item", "genre", "similar"]
        if len(inputs) > 1:
            tables = ["genre"] if name.endswith("_2") else ["item", "similar"]
        features[name] = tf.stack([vectors[table] for table in tables], axis=1)
    features["dense"] = tf.fill([keys.shape[1], 1], 0.5)
    return model.row_loss.predict(tf.reshape(model.learner(features), [-1])).numpy()


def test_the_summary_names_dynamic_tables(both):
    lines = []
    make_model(both["dynamic"]).summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert "item" in text
    assert "grows" in text
