"""Each of Keras' callbacks, over sharded, replicated and dynamic tables: right, or refused."""

import dataclasses
import inspect
import warnings

import keras
import numpy as np
import pytest
from made_data import SCHEMA, make_records

import gmeta_tf as gm
from gmeta_tf.meta.callback_checks import checked_callbacks

ONE = gm.World()

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
# It sends to a server; it is handled as CSVLogger is. Orbax is not installed.
NOT_TRIED = {"Callback", "CallbackList", "RemoteMonitor", "OrbaxCheckpoint"}


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
        state += [value for _, value in sorted(shard.export_state().items())]
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
