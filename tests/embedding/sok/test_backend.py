"""The SOK back-end on one rank, against the Horovod back-end.

What runs is SOK's own Python layer over stubs of its kernels (`sok_stub.py`), so this holds the
adapter to SOK's contract, and says nothing of its kernels: launch/gpu_check.sh does.
"""

import re
import sys

import keras
import made_batches
import made_sok
import numpy as np
import pytest
import sok_stub
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.embedding.look_ahead import LookAhead
from gmeta_tf.embedding.sok import backend as sok_module
from gmeta_tf.embedding.sok import static as sok_static
from gmeta_tf.embedding.sok.backend import choose_backend, start_sok, sum_duplicates
from gmeta_tf.embedding.sok.static import SokStaticShard

ONE = gm.World()
WIDTHS = {"embedded": 4}


# Which back-end: no SOK needed ----------------------------------------------------------------


@pytest.fixture
def no_sok(monkeypatch):
    """A GPU, and no merlin-sok."""
    monkeypatch.setattr(sok_module, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "sparse_operation_kit", None)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend to be one of auto, horovod, sok, got 'nccl'"):
        made_sok.embedding("nccl", ONE)


def test_sok_without_a_gpu_says_so_and_where_to_go():
    with pytest.raises(
        RuntimeError,
        match=r"'sok' cannot run here. On rank 0: TensorFlow sees no GPU.*docs/gpu\.md tells how",
    ):
        made_sok.embedding("sok", ONE)


def test_sok_without_its_package_says_so(no_sok):
    with pytest.raises(
        RuntimeError, match=r"importing sparse_operation_kit \(of the package merlin-sok\) failed"
    ):
        made_sok.embedding("sok", ONE)


def test_sok_without_its_libraries_says_so(monkeypatch, tmp_path):
    """What SOK itself raises then is no ImportError."""
    (tmp_path / "sparse_operation_kit.py").write_text("raise Exception('libsok.so is not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sparse_operation_kit", raising=False)
    monkeypatch.setattr(sok_module, "has_gpu", lambda: True)
    with pytest.raises(RuntimeError, match=r"On rank 0: .* failed: libsok\.so is not found"):
        made_sok.embedding("sok", ONE)


def test_sok_without_horovod_says_so(monkeypatch):
    monkeypatch.setattr(sok_module, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(RuntimeError, match="SOK needs Horovod on one rank too"):
        made_sok.embedding("sok", ONE)


def test_auto_takes_horovod_without_a_gpu_and_says_so_once(sok_log):
    for _ in range(2):
        assert made_sok.embedding("auto", ONE).backend == "horovod"
    (line,) = [record.message for record in sok_log.records if "back-end" in record.message]
    assert line == (
        "embedding back-end: horovod (rank 0: TensorFlow sees no GPU, and SOK has kernels for "
        "GPUs only)"
    )


def test_the_chief_alone_says_which(sok_log):
    # This rank is told to be the second of two, and by choose_backend alone: no one is waited for.
    assert choose_backend("auto", {"embedded": 3}, gm.World(1, 2)) == "horovod"
    assert sok_log.records == []
    assert choose_backend("auto", {"embedded": 3}, gm.World(0, 2)) == "horovod"
    assert "got 3 (tables of 'embedded')" in sok_log.records[0].message


def test_horovod_asks_for_nothing(sok_log, monkeypatch):
    monkeypatch.setattr(sok_module, "has_gpu", lambda: pytest.fail("looked for a GPU"))
    assert made_sok.embedding("horovod", ONE).backend == "horovod"
    assert sok_log.records == []


@pytest.mark.parametrize("width", [1, 6, 10])
def test_sok_wants_widths_that_it_can_copy(width):
    with pytest.raises(
        ValueError, match=rf"divisible by 4, .* got {width} \(tables of 'embedded'\)\. Round"
    ):
        gm.ShardedEmbedding(made_batches.SCHEMA, width, world=ONE, backend="sok")


def test_sum_duplicates_as_its_docstring_says():
    values = tf.constant([[1.0, 2.0], [3.0, 5.0], [10.0, 20.0]])
    indices, sums = sum_duplicates(tf.IndexedSlices(values, tf.constant([4, 1, 4], tf.int64)))
    assert indices.numpy().tolist() == [4, 1]
    assert sums.numpy().tolist() == [[11.0, 22.0], [3.0, 5.0]]


# SOK's Python layer ---------------------------------------------------------------------------


def test_what_runs_is_soks_own_code(sok):
    assert sok.__version__ == "2.1.0"
    assert sok.all2all_dense_embedding.__module__ == "sparse_operation_kit.lookup"
    assert sok.__file__.endswith(f"{sok_stub.NAME}/sparse_operation_kit/__init__.py")


@pytest.mark.parametrize("num_splits", [1, 2, 3])
def test_the_stubs_do_what_soks_kernels_are_to_do(num_splits):
    """Indices by owner with where they stood; back to their places; and the gradient of that."""
    indices = np.random.default_rng(0).integers(0, 2**40, 17)
    selected, order, splits = sok_stub.dist_select(tf.constant(indices), num_splits)
    assert (order.dtype, splits.dtype) == (tf.int32, tf.int32)
    np.testing.assert_array_equal(indices[order.numpy()], selected)
    owners = selected.numpy() % num_splits
    assert (np.diff(owners) >= 0).all()
    assert splits.numpy().tolist() == [(owners == owner).sum() for owner in range(num_splits)]
    rows = np.random.default_rng(1).normal(size=[17, 4]).astype(np.float32)
    moved = sok_stub.reorder(tf.constant(rows), order).numpy()
    for place, row in zip(order.numpy(), rows, strict=True):
        np.testing.assert_array_equal(moved[place], row)
    np.testing.assert_array_equal(sok_stub.gather_ex(moved, order), rows)


def test_the_gradient_of_reorder_is_soks_own(sok, monkeypatch):
    called = []
    monkeypatch.setattr(
        sok_stub.KERNELS,
        "gather_ex",
        lambda grads, indices: called.append(1) or tf.gather(grads, indices),
    )
    rows, order = tf.constant([[1.0], [2.0], [3.0]]), tf.constant([2, 0, 1])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        moved = sok.raw_ops.reorder(rows, order)
    upstream = tf.constant([[10.0], [20.0], [30.0]])
    assert tape.gradient(moved, rows, upstream).numpy().tolist() == [[30.0], [10.0], [20.0]]
    assert called == [1]


def test_auto_takes_sok_where_it_can(sok, sok_log):
    tables = made_sok.embedding("auto", ONE)
    assert tables.backend == "sok"
    assert all(isinstance(shard, SokStaticShard) for shard in tables.shards.values())
    assert sok_log.records[-1].message == "embedding back-end: sok (every rank has a GPU and SOK)"


def test_sok_is_started_once_and_leaves_keras_alone(sok):
    optimizers = tf.keras.optimizers
    assert start_sok(ONE) is start_sok(ONE) is sok
    assert tf.keras.optimizers is optimizers
    with pytest.raises(RuntimeError, match="cannot be set more than once"):
        sok.init(use_legacy_optimizer=False)


def test_rows_before_training_are_those_of_horovod_bit_for_bit(sok):
    found = made_sok.all_rows(made_sok.embedding("sok", ONE))
    expected = made_sok.all_rows(made_sok.embedding("horovod", ONE))
    assert {group: rows.shape for group, rows in found.items()} == {
        "embedded": (13, 4),
        "embedded_8": (7, 8),
    }
    for group, rows in expected.items():
        np.testing.assert_array_equal(found[group], rows)


def test_sok_is_asked_for_this_ranks_rows_alone(sok, monkeypatch):
    """Of an initial value SOK would hold the whole table on every rank."""
    asked = []
    make = sok.Variable

    def variable(*arguments, initializer, **options):
        def initialize(shape, dtype):
            asked.append(tuple(shape))
            return initializer(shape, dtype)

        assert arguments == ()
        assert "initial_value" not in options
        return make(initializer=initialize, **options)

    monkeypatch.setattr(sok, "Variable", variable)
    monkeypatch.setattr(sok.distributed_variable, "num_gpus", lambda: 4)
    monkeypatch.setattr(sok.distributed_variable, "global_gpu_id", lambda: 2)
    monkeypatch.setattr(sok_static, "start_sok", lambda world: sok)
    world = gm.World(2, 4)
    shard = SokStaticShard(
        made_sok.embedding("horovod", ONE).shards["embedded"].tables,
        4,
        world,
        scale=0.8,
        name="embedded",
    )
    assert asked == [(3, 4)]
    assert shard.rows.shape == (3, 4)
    whole = made_sok.all_rows(made_sok.embedding("horovod", ONE))["embedded"]
    np.testing.assert_array_equal(shard.rows, whole[2::4])


@pytest.mark.parametrize("optimizer", list(made_sok.ROW_OPTIMIZERS))
def test_five_steps_are_those_of_horovod(sok, optimizer):
    optimizer = made_sok.ROW_OPTIMIZERS[optimizer]
    tables = {backend: made_sok.embedding(backend, ONE) for backend in ("sok", "horovod")}
    before = made_sok.all_rows(tables["sok"])
    outcomes = {}
    for backend, embedding in tables.items():
        embedding.make_slots(optimizer)
        outcomes[backend] = made_sok.run_steps(embedding, optimizer, ONE)
    made_sok.assert_same(outcomes["sok"], outcomes["horovod"])
    after = made_sok.all_rows(tables["sok"])
    made_sok.assert_same(after, made_sok.all_rows(tables["horovod"]))
    made_sok.assert_same(after, made_sok.slow_run(before, optimizer, 1), rtol=1e-5, atol=1e-6)
    assert np.abs(after["embedded"] - before["embedded"]).max(axis=1)[0] > 1e-3
    np.testing.assert_array_equal(after["embedded"][12], before["embedded"][12])  # never looked up


def meta_model(backend, **compiled):
    keras.utils.set_random_seed(7)
    model = gm.MetaModel(
        gm.models.MamlDLRM(bottom=(4,), top=(6,)),
        gm.ShardedEmbedding(made_batches.SCHEMA, 4, scale=0.8, world=ONE, backend=backend),
        gm.InnerLoop(1, 0.4),
    )
    compiled = {"row_optimizer": gm.Adagrad(0.3), **compiled}
    model.compile(keras.optimizers.Adam(0.03, epsilon=1e-2), **compiled)
    return model


def made_data():
    steps = [made_batches.made_tasks(seed, count=7) for seed in range(1, 6)]
    return made_batches.dataset(steps, 7)


def weights_of(model):
    return [v.numpy() for v in model.trainable_variables] + [
        model.embedding.all_rows(group).numpy() for group in model.embedding.shards
    ]


@pytest.mark.slow
def test_fit_evaluate_and_predict_are_those_of_horovod(sok):
    models = {backend: meta_model(backend) for backend in ("sok", "horovod")}
    before = weights_of(models["sok"])
    judged = {}
    for backend, model in models.items():
        model.fit(made_data(), verbose=0)
        judged[backend] = model.evaluate(made_data(), return_dict=True, verbose=0)
    for found, expected, start in zip(
        weights_of(models["sok"]), weights_of(models["horovod"]), before, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(found - start).max() > 1e-3
    assert judged["sok"] == pytest.approx(judged["horovod"], rel=1e-5)
    found, expected = (
        models[backend].predict_step(made_batches.batch(made_batches.made_tasks(9)))
        for backend in ("sok", "horovod")
    )
    np.testing.assert_allclose(found["adapted"], expected["adapted"], rtol=1e-5)


def test_a_step_is_traced_once(sok):
    class Counted(gm.MetaModel):
        traces = 0

        def train_step(self, batch):
            self.traces += 1
            return super().train_step(batch)

    model = Counted(
        gm.models.MamlDLRM(bottom=(4,), top=(6,)),
        gm.ShardedEmbedding(made_batches.SCHEMA, 4, world=ONE, backend="sok"),
    )
    model.compile()
    model.fit(made_data(), epochs=2, verbose=0)
    assert model.traces == 1


def test_a_negative_key_is_refused(sok):
    tables = gm.ShardedEmbedding(made_batches.SCHEMA, 4, world=ONE, backend="sok")

    def fetch(keys):
        routes = tables.routes({"embedded": keys})
        return tables.fetch(routes, tables.locate(routes))

    for function in (fetch, tf.function(fetch)):
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match="tables of embedded is negative, and SOK needs keys from 0",
        ):
            function(tf.constant([3, -1], tf.int64))


def test_gradients_before_rows(sok):
    tables = gm.ShardedEmbedding(made_batches.SCHEMA, 4, world=ONE, backend="sok")
    routes = tables.routes({"embedded": tf.constant([3], tf.int64)})
    with pytest.raises(ValueError, match="expected a route whose rows were fetched"):
        tables.return_gradients({"embedded": tf.ones([1, 4])}, routes, tables.locate(routes))


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_sixteen_bits_on_the_wire_are_refused(sok, sok_log, wire):
    expected = rf"expected wire='float32', which is what SOK's kernels move, got '{wire}'\. State"
    with pytest.raises(ValueError, match=rf"^backend='sok': {expected}"):
        made_sok.embedding("sok", ONE, wire=wire)
    assert made_sok.embedding("auto", ONE, wire=wire).backend == "horovod"
    assert re.match(rf"embedding back-end: horovod \({expected}", sok_log.records[-1].message)


def test_an_exchange_by_host_is_refused(sok):
    with pytest.raises(ValueError, match=r"^backend='sok': expected exchange='flat' or "):
        made_sok.embedding("sok", ONE, exchange="by-host")
    assert made_sok.embedding("auto", ONE, exchange="by-host").backend == "horovod"


def test_looking_ahead_is_refused(sok):
    tables = gm.ShardedEmbedding(made_batches.SCHEMA, 4, world=ONE, backend="sok")
    with pytest.raises(
        ValueError, match=r"keys travel in a message of their own, got backend='sok'"
    ):
        LookAhead(tables)


def shapes_saved(root, path):
    """The shapes of what TensorFlow's own checkpoint of an object holds."""
    return [
        shape for _, shape in tf.train.list_variables(tf.train.Checkpoint(root=root).write(path))
    ]


def test_no_tracker_sees_soks_variables(sok, tmp_path):
    table = [13 + 7, 4]
    for backend in ("sok", "horovod"):
        model = meta_model(backend)
        tables = model.embedding
        shard = tables.shards["embedded"]
        assert list(shard.rows.shape) == list(shard.slots["accumulator"].shape) == table
        seen = [*model.variables, *model.embedding.variables, *model.embedding.trainable_variables]
        found = [list(variable.shape) for variable in seen]
        for number, root in enumerate((model, tables)):
            found += shapes_saved(root, str(tmp_path / f"{backend}_{number}"))
        # The same question finds the other back-end's.
        assert (table in found) == (backend == "horovod")


@pytest.mark.slow
def test_a_checkpoint_goes_over_to_the_other_backend(sok, tmp_path):
    for first, second in (("sok", "horovod"), ("horovod", "sok")):
        saved, resumed = meta_model(first), meta_model(second)
        saved.fit(made_data(), verbose=0)
        gm.save_checkpoint(saved, tmp_path / first, epoch=1)
        assert gm.load_checkpoint(resumed, tmp_path / first) == {"epoch": 1}
        for model in (saved, resumed):
            model.fit(made_data(), verbose=0)
        for found, expected in zip(weights_of(resumed), weights_of(saved), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
