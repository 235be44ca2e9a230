"""A full disk while a run or an export writes: one line with the file's name, nothing lost."""

import errno
import resource
import signal
import types

import keras
import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing import work_folder as work_folder_module
from gmeta_tf.saving.checkpoints import checkpoint as checkpoint_module
from gmeta_tf.saving.checkpoints import model_files, tensor_files
from gmeta_tf.saving.checkpoints.checkpoint import checked_checkpoint
from gmeta_tf.saving.runs import run_lock
from gmeta_tf.saving.writing import named_if_full, write_whole

ONE = gm.World()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    records = make_records(tmp_path_factory.mktemp("records"), [7] * 4, splits=("train",))
    keras.utils.set_random_seed(0)
    model = gm.MetaModel(gm.models.MeLU((64,)), gm.ShardedEmbedding(records.schema, 3, world=ONE))
    model.compile("adam", "adagrad")
    return model


@pytest.fixture
def files_of_at_most():
    """Makes this process unable to write larger files, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def assert_one_line(raised, name):
    text = str(raised.value)
    assert raised.value.errno == errno.ENOSPC
    assert "the disk is full: " in text
    assert "Make room, and start again; what was saved before is as it was" in text
    assert text.endswith(f"{name}'")
    assert "\n" not in text


def test_of_a_checkpoint(model, tmp_path, files_of_at_most):
    gm.save_checkpoint(model, tmp_path / "c", epoch=1)
    files_of_at_most(1500)
    with pytest.raises(OSError, match="full") as raised:
        gm.save_checkpoint(model, tmp_path / "c", epoch=2)
    assert_one_line(raised, tmp_path / "c" / "dense.safetensors")
    with pytest.raises(OSError, match="full"):
        gm.save_checkpoint(model, tmp_path / "d", epoch=2)
    assert checked_checkpoint(tmp_path / "c", ONE).details == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("module", "name"), [(checkpoint_module, "write_manifest"), (model_files, "save_tensors")]
)
def test_of_its_other_files(module, name, model, tmp_path, monkeypatch):
    gm.save_checkpoint(model, tmp_path / "c", epoch=1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    with pytest.raises(OSError, match=r"the disk is full: .*Make room"):
        gm.save_checkpoint(model, tmp_path / "c", epoch=2)
    assert checked_checkpoint(tmp_path / "c", ONE).details == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("where", ["a checkpoint's folder", "the lock", "a removal"])
def test_of_what_a_run_makes_beside_its_files(where, model, tmp_path, monkeypatch):
    """Each of them was a line without the words of a full disk, or without a file."""
    batches = types.SimpleNamespace()
    folder = gm.RunFolder(tmp_path / "run", batches, keep=1)
    for name in ("epoch-000001", "epoch-000002"):
        gm.save_checkpoint(model, tmp_path / "run" / "checkpoint" / name, epoch=1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    act, named = {
        "a checkpoint's folder": (lambda: gm.save_checkpoint(model, tmp_path / "c"), "c"),
        "the lock": (folder._take, "run"),
        "a removal": (
            lambda: folder._drop_old(tmp_path / "run" / "checkpoint"),
            "run/checkpoint/epoch-000001",
        ),
    }[where]
    monkeypatch.setattr(work_folder_module.tempfile, "mkdtemp", full)
    monkeypatch.setattr(run_lock.RunLock, "take", full)
    with pytest.raises(OSError, match="full") as raised:
        act()
    assert_one_line(raised, tmp_path / named)


def test_of_a_small_file(tmp_path, files_of_at_most):
    write_whole(tmp_path / "metrics.json", "short")
    files_of_at_most(10)
    with pytest.raises(OSError, match="full") as raised:
        write_whole(tmp_path / "metrics.json", "x" * 100)
    assert_one_line(raised, tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").read_text() == "short"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), named_if_full(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied", "x")


def test_safetensors_that_cannot_be_written_are_no_traceback(tmp_path):
    target = tmp_path / "nowhere" / "x.safetensors"
    with pytest.raises(OSError, match=r"it cannot be written: .*No such file.*x\.safetensors"):
        tensor_files.save_tensors({"a": np.zeros(3)}, target, shown=target)
