"""The SavedModel predicts what the model does, from raw values, with stock TensorFlow alone."""

import csv
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_log import SCHEMA, write_log

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.serving.predictor import Predictor


def read_columns(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after a few steps, its records, the raw columns and the SavedModel."""
    folder = tmp_path_factory.mktemp("export")
    write_log(folder / "log.csv")
    records = prepare(
        files_source(folder / "log.csv"), SCHEMA, folder / "records", split=Split(0.3), num_files=3
    )
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(records.schema, 4, scale=0.5)
    learner = gm.models.MamlDLRM(bottom=(6,), top=(8,))
    model = gm.MetaModel(learner, embedding, gm.InnerLoop(2, 0.4, learn_rates=True))
    model.compile(keras.optimizers.Adam(0.05), gm.Adagrad(0.3))
    batches = gm.TaskBatches(records, "train", tasks=4, support=3, query=5)
    model.fit(batches, epochs=2, verbose=0)
    vocabularies = {t.name: read_vocabulary(records.path, t.name) for t in records.schema.tables}
    gm.export_saved_model(model, folder / "saved", records)
    return model, records, read_columns(folder / "log.csv"), folder / "saved", vocabularies


def drawn_rows(model, records, columns):
    """The model's predictions of the test split, and the raw support and query rows behind them."""
    batches = gm.TaskBatches(
        records, "test", tasks=2, support=3, query=20, every_query=True, shuffle=False
    )
    predicted = model.predict(batches, verbose=0)
    # No two rows have one price, so that a record's row tells which raw row it was.
    raw_row = {np.float32(price): row for row, price in enumerate(columns["price"])}
    assert len(raw_row) == len(columns["price"])
    support, query = [], []
    for step in batches.picked(0).take(batches.steps_per_epoch).as_numpy_iterator():
        prices = np.ascontiguousarray(step["words"][:, :, -1]).view(np.float32)
        for price, num_support, num_query in zip(prices, step["num_support"], step["num_query"]):
            support.extend(raw_row[one] for one in price[:num_support])
            query.extend(raw_row[one] for one in price[3 : 3 + num_query])
    held_out = set(columns["user"][query])
    assert len(held_out) == records.contents["test"].tasks
    assert sorted(support + query) == [
        row for row, user in enumerate(columns["user"]) if user in held_out
    ]
    return predicted, np.array(support), np.array(query)


@pytest.fixture(scope="module")
def drawn(trained):
    model, records, columns, *_ = trained
    return drawn_rows(model, records, columns)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.load(trained[3])


@pytest.mark.slow
def test_serving_equals_the_model_on_raw_rows(trained, drawn, predictor):
    columns, (predicted, support, query) = trained[2], drawn
    assert len(query) > 20
    assert np.ptp(predicted["adapted"]) > 0.01
    served = predictor(
        {name: values[query] for name, values in columns.items()},
        {name: values[support] for name, values in columns.items()},
        tasks=3,
    )
    np.testing.assert_allclose(served, predicted["adapted"], atol=2e-6)


def closed_form():
    learner = gm.models.Factors(heads=2)
    return learner, learner.inner_loop(centre=3.0, scale=1.4), None


def cbml():
    learner = gm.models.CBML((6,))
    return learner, learner.inner_loop(1, 0.4), learner.task_encoder(width=4)


def mmaml():
    learner = gm.models.MMAML((6,))
    return learner, learner.inner_loop(1, 0.4), learner.task_encoder(width=4)


def melu():
    learner = gm.models.MeLU((6,))
    return learner, learner.inner_loop(2, 0.4), None


def heads():
    learner = gm.models.Heads([gm.models.MeLU((6,)) for _ in range(2)])
    return learner, learner.inner_loop(2, 0.4), None


@pytest.mark.slow
@pytest.mark.parametrize("make", [closed_form, cbml, mmaml, melu, heads])
def test_serving_adapts_as_the_model_does(trained, tmp_path, make):
    """The ratings that requests have are ratings there too, and not clicks."""
    _, records, columns, *_ = trained
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(records.schema, 8, scale=0.5)
    learner, inner, encoder = make()
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder)
    model.compile(keras.optimizers.Adam(0.05), gm.ShrunkRows(optimizer=gm.SGD(0.01), strength=0.1))
    batches = gm.TaskBatches(records, "train", tasks=4, support=3, query=5)
    model.fit(batches, epochs=1, verbose=0)
    gm.export_saved_model(model, tmp_path / "saved", records)
    predicted, support, query = drawn_rows(model, records, columns)
    assert np.abs(predicted["adapted"] - predicted["unadapted"]).max() > 0.01
    predictor = Predictor.load(tmp_path / "saved")
    rows = {name: values[query] for name, values in columns.items()}
    known = {name: values[support] for name, values in columns.items()}
    served = predictor(rows, known, tasks=3)
    np.testing.assert_allclose(served, predicted["adapted"], atol=2e-6)
    if make is closed_form:
        again, deviation = predictor.with_deviation(rows, known, tasks=3)
        np.testing.assert_array_equal(again, served)
        np.testing.assert_allclose(deviation, predicted["deviation"], atol=2e-6)
        assert np.ptp(deviation) > 0.01
    else:
        with pytest.raises(ValueError, match=r"with_deviation: expected .* in closed form"):
            predictor.with_deviation(rows, known)
    alone = predictor(rows, {name: values[:0] for name, values in columns.items()})
    np.testing.assert_allclose(alone, predicted["unadapted"], atol=2e-6)


OPTIONS = {
    "ANIL, ratings inside": (
        {"adapt_dense": "last_layer", "adapt_embeddings": False},
        gm.rating_loss(3.5, 1.2),
    ),
    "Meta-SGD of a field, clipped, annealed": (
        {
            "learn_rates": "parameters",
            "adapt_embeddings": ["item", "genre"],
            "clip_gradients": 0.05,
            "multi_step_loss": 4,
            "second_order_after": 2,
        },
        None,
    ),
    "Reptile": ({"outer_gradient": "reptile", "order": 1}, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPTIONS))
def test_serving_adapts_as_the_options_of_the_inner_loop_say(trained, tmp_path, name):
    _, records, columns, *_ = trained
    options, inner_loss = OPTIONS[name]
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(records.schema, 4, scale=0.5)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(2, 0.4, **options))
    model.compile(keras.optimizers.Adam(0.05), gm.Adagrad(0.3), inner_loss=inner_loss)
    model.fit(gm.TaskBatches(records, "train", tasks=4, support=3, query=5), epochs=1, verbose=0)
    gm.export_saved_model(model, tmp_path / "saved", records)
    predicted, support, query = drawn_rows(model, records, columns)
    assert np.abs(predicted["adapted"] - predicted["unadapted"]).max() > 1e-3
    served = Predictor.load(tmp_path / "saved")(
        {name: values[query] for name, values in columns.items()},
        {name: values[support] for name, values in columns.items()},
        tasks=3,
    )
    np.testing.assert_allclose(served, predicted["adapted"], atol=2e-6)


def test_a_task_never_seen_is_predicted_unadapted(trained, drawn, predictor):
    columns, (predicted, _, query) = trained[2], drawn
    rows = {name: values[query] for name, values in columns.items()}
    served = predictor(rows, {name: values[:0] for name, values in rows.items()})
    np.testing.assert_allclose(served, predicted["unadapted"], atol=2e-6)
    assert np.abs(predicted["adapted"] - predicted["unadapted"]).max() > 1e-3


PLAIN = """
import sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
print("loaded", file=sys.stderr)
query = {
    "query_item": tf.constant([["i1", "never seen"]]),
    "query_genre": tf.constant([["Drama|Drama", ""]]),
    "query_liked": tf.constant([["i2", "i2"]]),
    "query_price": tf.constant([[0.5, -1.0]]),
}
support = {
    "support_item": tf.constant([["i3"]]),
    "support_genre": tf.constant([["Drama"]]),
    "support_liked": tf.constant([["i1"]]),
    "support_price": tf.constant([[0.0]]),
    "support_stars": tf.constant([[5.0]]),
    "support_count": tf.constant([1]),
}
adapted = loaded.signatures["serving_default"](**query, **support)["prediction"]
unadapted = loaded.signatures["predict_unadapted"](**query)["prediction"]
assert "gmeta_tf" not in sys.modules and "horovod" not in sys.modules
print(adapted.numpy().tolist(), unadapted.numpy().tolist(), sep="|")
"""


@pytest.fixture(scope="module")
def plain(trained):
    """A process that has loaded the SavedModel and served one batch."""
    words = [sys.executable, "-c", PLAIN, str(trained[3])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_loading_warns_of_nothing(plain):
    """As TensorFlow does of custom gradients whose functions were not saved."""
    loading, loaded, _ = plain.stderr.partition("loaded\n")
    assert loaded
    assert "WARNING" not in loading


def test_a_plain_tensorflow_process_serves_it(plain):
    adapted, unadapted = (json.loads(part) for part in plain.stdout.split("|"))
    assert np.shape(adapted) == np.shape(unadapted) == (1, 2)
    assert all(0 < value < 1 for value in adapted[0])
    assert adapted != unadapted


OPS = """
import sys
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

(graph,) = saved_model_pb2.SavedModel.FromString(open(sys.argv[1], "rb").read()).meta_graphs
nodes = [graph.graph_def.node, *(f.node_def for f in graph.graph_def.library.function)]
functions = {f.signature.name for f in graph.graph_def.library.function}
ops = {node.op for part in nodes for node in part} - functions
assert "gmeta_tf" not in sys.modules and "horovod" not in sys.modules
print(*sorted(ops))
print(*sorted(op for op in ops if op_def_registry.get(op) is None))
"""
# What calls Python or a library that a server does not have.
FOREIGN = ("Horovod", "PyFunc", "Sok", "MapDefun", "XlaCallModule")


def test_the_graph_holds_stock_ops_only(trained):
    """Of the whole file, and not of one signature; TensorFlow alone tells which ops there are."""
    words = [sys.executable, "-c", OPS, str(trained[3] / "saved_model.pb")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ops, unknown = done.stdout.split("\n")[:2]
    assert unknown == ""
    assert {"ResourceGather", "InitializeTableV2", "LookupTableFindV2"} <= set(ops.split())
    assert not [op for op in ops.split() if op.startswith(FOREIGN) or "PyFunc" in op]


def test_a_missing_or_foreign_vocabulary_is_refused(trained, tmp_path):
    model, vocabularies = trained[0], trained[4]
    with pytest.raises(ValueError, match="'genre' has no vocabulary"):
        gm.export_saved_model(model, tmp_path / "x", {"item": vocabularies["item"]})
    with pytest.raises(ValueError, match="has 1 values, its"):
        gm.export_saved_model(model, tmp_path / "x", {**vocabularies, "genre": np.array(["a"])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", ["file", "folder", "half"])
def test_what_is_not_an_export_is_left_alone(trained, tmp_path, kept):
    path = tmp_path / "mine"
    if kept == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / ("saved_model.pb" if kept == "half" else "notes.txt")).write_text("mine")
    before = {found: found.is_dir() or found.read_text() for found in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match="mine exists and is not an exported model"):
        gm.export_saved_model(trained[0], path, trained[1])
    assert {found: found.is_dir() or found.read_text() for found in tmp_path.rglob("*")} == before


def test_an_earlier_export_stays_until_the_new_one_is_complete(trained, tmp_path, monkeypatch):
    path = tmp_path / "saved"
    path.mkdir()  # an empty folder is nobody's work
    gm.export_saved_model(trained[0], path, trained[1])
    graph = (path / "saved_model.pb").read_bytes()
    (path / "of the earlier one").touch()

    def full(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(tf.saved_model, "save", full)
        with pytest.raises(OSError, match="no space left"):
            gm.export_saved_model(trained[0], path, trained[1])
    assert (path / "saved_model.pb").read_bytes() == graph
    gm.export_saved_model(trained[0], path, trained[1])
    assert not (path / "of the earlier one").exists()
    assert [found.name for found in tmp_path.iterdir()] == ["saved"]


def test_a_full_disk_is_one_line(trained, tmp_path, monkeypatch):
    path = tmp_path / "saved"
    gm.export_saved_model(trained[0], path, trained[1])
    before = {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device\nat y")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(OSError, match=r"disk is full: x; No space left on device\. Make") as told:
        gm.export_saved_model(trained[0], path, trained[1])
    assert str(told.value).endswith(f"'{path}'")
    assert "\n" not in str(told.value)
    assert {found: found.read_bytes() for found in before} == before
    assert [found.name for found in tmp_path.iterdir()] == ["saved"]


def test_what_others_call_partial_and_a_killed_export(trained, tmp_path):
    """A folder is ours by what is recorded in it, and not by its name."""
    (tmp_path / "saved.partial").mkdir()
    (tmp_path / "saved.partial" / "thesis.tex").write_text("mine")
    work = tmp_path / ".saved-abcd1234"
    shutil.copytree(trained[3], work / "previous")
    (work / "lock").write_text("saved")
    gm.export_saved_model(trained[0], tmp_path / "saved", trained[1])
    (tmp_path / "link").symlink_to("saved")
    gm.export_saved_model(trained[0], tmp_path / "link", trained[1])
    assert (tmp_path / "link").is_symlink()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["link", "saved", "saved.partial"]
    assert (tmp_path / "saved.partial" / "thesis.tex").read_text() == "mine"
    Predictor.load(tmp_path / "link")


@pytest.mark.parametrize("name", ["assets.extra/schema.json", "saved_model.pb"])
def test_a_file_that_lies_elsewhere_is_not_read(trained, tmp_path, name):
    path = shutil.copytree(trained[3], tmp_path / "saved")
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link that leaves its folder"):
        Predictor.load(path)
    with pytest.raises(ValueError, match="is a link that leaves its folder"):
        gm.export_saved_model(trained[0], path, trained[1])
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(ValueError, match=r"not a file but a pipe"):
        Predictor.load(path)


FILES = [
    *("assets.extra/schema.json", "assets.extra/digests.json", "saved_model.pb", "fingerprint.pb"),
    "assets.extra/version.json",
    *("variables/variables.data-00000-of-00001", "variables/variables.index"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_before_tensorflow_reads_it(trained, tmp_path, monkeypatch, name):
    path = shutil.copytree(trained[3], tmp_path / "saved")
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("it was loaded"))
    whole = (path / name).read_bytes()
    for position in {*range(0, len(whole), -(-len(whole) // 20)), len(whole) - 1}:
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        (path / name).write_bytes(changed)
        with pytest.raises(ValueError, match=f"damaged or incomplete: .*{name}.*Export it again"):
            Predictor.load(path)
    (path / name).unlink()
    if name not in ("assets.extra/schema.json", "assets.extra/digests.json"):
        with pytest.raises(ValueError, match=f"{name} is missing|{name}: expected .* bytes"):
            Predictor.load(path)


def test_an_export_of_an_earlier_version_is_served(trained, tmp_path, caplog):
    path = shutil.copytree(trained[3], tmp_path / "saved")
    (path / "assets.extra" / "digests.json").unlink()
    with pytest.raises(ValueError, match=r"digests\.json is missing. Export it again"):
        Predictor.load(path)
    (path / "assets.extra" / "version.json").unlink()
    assert Predictor.load(path).schema == Predictor.load(trained[3]).schema
    assert "was exported by an earlier version, without digests" in caplog.text


def test_predictor_errors(trained, predictor, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an exported model"):
        Predictor.load(tmp_path)
    rows = {name: values[:2] for name, values in trained[2].items()}
    with pytest.raises(ValueError, match="the query rows: no column 'genre'"):
        predictor({n: v for n, v in rows.items() if n != "genre"}, rows)
    with pytest.raises(ValueError, match="the support rows: no column 'stars'"):
        predictor(rows, {n: v for n, v in rows.items() if n != "stars"})
