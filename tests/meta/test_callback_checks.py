"""Each of Keras' callbacks, over sharded, replicated and dynamic tables: right, or refused."""

import dataclasses
import http.server
import importlib
import inspect
import json
import threading
import types
import urllib.request
import warnings

import keras
import numpy as np
import pytest
from made_data import SCHEMA, make_records

import gmeta_tf as gm
from gmeta_tf.meta.callback_checks import checked_callbacks

ONE = gm.World()
# Keras gives no other name to the module in which it looks for `requests`.
remote_monitor = importlib.import_module("keras.src.callbacks.remote_monitor")

REFUSED = {
    "BackupAndRestore": lambda path: keras.callbacks.BackupAndRestore(path / "backup"),
    "EarlyStopping": lambda path: keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
    "ModelCheckpoint": lambda path: keras.callbacks.ModelCheckpoint(path / "m.weights.h5"),
    "SwapEMAWeights": lambda path: keras.callbacks.SwapEMAWeights(),
}
ALLOWED = {
    "CSVLogger": lambda path: keras.callbacks.CSVLogger(path / "log.csv"),
    "EarlyStopping": lambda path: keras.callbacks.EarlyStopping("loss", patience=9),
    "History": lambda path: keras.callbacks.History(),
    "LambdaCallback": lambda path: keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (path / f"epoch-{epoch}").touch()
    ),
    # These act on the rate of the dense weights; here they leave it as it is.
    "LearningRateScheduler": lambda path: keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate
    ),
    "ReduceLROnPlateau": lambda path: keras.callbacks.ReduceLROnPlateau("loss", patience=9),
    "ProgbarLogger": lambda path: keras.callbacks.ProgbarLogger(),
    "TensorBoard": lambda path: keras.callbacks.TensorBoard(path / "board", write_graph=False),
    "TerminateOnNaN": lambda path: keras.callbacks.TerminateOnNaN(),
}
# Each has a test of its own below: one sends to a server, the other is not in every Keras.
TRIED_BELOW = {"RemoteMonitor", "OrbaxCheckpoint"}
NOT_TRIED = {"Callback", "CallbackList"} | TRIED_BELOW


def test_every_callback_of_keras_is_looked_at():
    """One that a later Keras brings has to be put into a table above."""
    every = {
        name
        for name, found in vars(keras.callbacks).items()
        if inspect.isclass(found) and not name.startswith("_") and name[0].isupper()
    }
    assert every - NOT_TRIED == REFUSED.keys() | ALLOWED.keys()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("given", ["alone", "list", "CallbackList"])
def test_what_brings_back_dense_weights_alone(name, given, tmp_path):
    callback = REFUSED[name](tmp_path)
    callbacks = callback if given == "alone" else [keras.callbacks.History(), callback]
    if given == "CallbackList":
        callbacks = keras.callbacks.CallbackList(callbacks)
    with pytest.raises(ValueError, match=rf"got {name}.*(RunFolder|Leave it out)"):
        checked_callbacks(callbacks, ONE)


def test_only_rank_0_writes(tmp_path):
    given = [make(tmp_path) for make in ALLOWED.values()]
    assert checked_callbacks(given, ONE) == given
    others = checked_callbacks(given, gm.World(rank=1, size=2))
    quiet = ("CSVLogger", "ProgbarLogger", "TensorBoard")
    assert [type(one).__name__ for one in others] == [name for name in ALLOWED if name not in quiet]
    assert checked_callbacks(None, ONE) == []


def state_of(model):
    """Every number that training changes; of dynamic tables by key."""
    state = [np.asarray(v) for v in (*model.trainable_variables, *model.optimizer.variables)]
    for shard in model.embedding.indexed.values():
        names, last = sorted(shard.state_variables), shard.num_state_rows
        state += [shard.read_state(name, 0, last) for name in names]
    for shard in model.embedding.keyed.values():
        for part in shard.export_state(int(model.optimizer.iterations)):
            order = np.argsort(part.keys)
            state += [part.keys[order], part.rows[order]]
            state += [slot[order] for _, slot in sorted(part.slots.items())]
    return state


@pytest.mark.parametrize("tables", ["sharded", "replicated", "dynamic"])
def test_the_others_leave_training_as_it_is(tables, tmp_path):
    schema = SCHEMA
    if tables == "dynamic":
        grows = (gm.Table("item", keys="raw"), gm.Table("genre", 7))
        schema = dataclasses.replace(SCHEMA, tables=grows)
    own = make_records(tmp_path / "own", [7] * 10, splits=("train",), schema=schema)
    batches = gm.TaskBatches(own, "train", tasks=5, support=2, query=3, world=ONE)
    embedding = gm.ShardedEmbedding(schema, 2, replicate=tables == "replicated", world=ONE)
    model = gm.MetaModel(gm.models.MeLU((3,)), embedding, gm.InnerLoop(0), lanes=1)
    model.compile("adam", "adagrad")
    gm.save_checkpoint(model, tmp_path / "begin")
    before = state_of(model)

    def trained(callbacks):
        gm.load_checkpoint(model, tmp_path / "begin")
        with warnings.catch_warnings():
            # TensorBoard's way to trace functions is TensorFlow's older one.
            warnings.simplefilter("ignore")
            model.fit(batches, epochs=2, verbose=0, callbacks=callbacks)
        return state_of(model)

    expected = trained(None)
    assert not np.array_equal(before[0], expected[0])
    found = trained([make(tmp_path) for make in ALLOWED.values()])
    for one, other in zip(found, expected, strict=True):
        # A reloaded dynamic table has its rows in other places, and sums in another order.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)
    assert (tmp_path / "epoch-1").exists()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert any((tmp_path / "board").rglob("*"))


@pytest.fixture
def monitor():
    """A server on this machine: its address, and the reports that it was sent."""
    reports = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            reports.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", reports
    server.shutdown()
    thread.join()
    server.server_close()


def test_remote_monitor_reports_once_and_leaves_training_as_it_is(monitor, tmp_path, monkeypatch):
    # Not all that is installed with Keras is installed here, and no test may need it.
    fake = types.SimpleNamespace(
        post=_post, exceptions=types.SimpleNamespace(RequestException=OSError)
    )
    monkeypatch.setattr(remote_monitor, "requests", remote_monitor.requests or fake)
    address, reports = monitor
    records = make_records(tmp_path / "own", [7] * 10, splits=("train",))
    batches = gm.TaskBatches(records, "train", tasks=5, support=2, query=3, world=ONE)
    embedding = gm.ShardedEmbedding(SCHEMA, 2, world=ONE)
    model = gm.MetaModel(gm.models.MeLU((3,)), embedding, gm.InnerLoop(0), lanes=1)
    model.compile("adam", "adagrad")
    gm.save_checkpoint(model, tmp_path / "begin")
    model.fit(batches, epochs=2, verbose=0)
    expected = state_of(model)
    gm.load_checkpoint(model, tmp_path / "begin")
    callback = keras.callbacks.RemoteMonitor(address, send_as_json=True)
    losses = model.fit(batches, epochs=2, verbose=0, callbacks=[callback]).history["loss"]
    for one, other in zip(state_of(model), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path for path, _ in reports] == ["/publish/epoch/end/"] * 2
    assert [(sent["epoch"], sent["loss"]) for _, sent in reports] == list(enumerate(losses))
    assert checked_callbacks([callback], gm.World(rank=1, size=2)) == []


def _post(address, headers=None, **sent):
    """What of `requests` RemoteMonitor calls."""
    content = json.dumps(sent["json"]).encode()
    request = urllib.request.Request(address, content, headers or {})
    urllib.request.urlopen(request).close()


def test_orbax_checkpoints_are_refused(monkeypatch):
    if not hasattr(keras.callbacks, "OrbaxCheckpoint"):  # not every Keras has it
        monkeypatch.setattr(
            keras.callbacks, "OrbaxCheckpoint", keras.callbacks.Callback, raising=False
        )

    class Made(keras.callbacks.OrbaxCheckpoint):
        def __init__(self):
            """Not Keras', which looks for a package that is not installed here."""

    with pytest.raises(ValueError, match=r"got OrbaxCheckpoint.*gmeta_tf.RunFolder"):
        checked_callbacks([Made()], ONE)


def test_a_keras_without_orbax_checkpoints_has_none_to_refuse(monkeypatch):
    monkeypatch.delattr(keras.callbacks, "OrbaxCheckpoint", raising=False)
    other = keras.callbacks.History()
    assert checked_callbacks([other], ONE) == [other]
