"""Every changed byte of a checkpoint is found before anything is loaded, and named."""

import json
import logging
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_data import SCHEMA
from safetensors.numpy import load_file, save_file

import gmeta_tf as gm
from gmeta_tf.saving.checkpoints import checkpoint as checkpoint_module
from gmeta_tf.saving.checkpoints.checkpoint import checked_checkpoint
from gmeta_tf.saving.checkpoints.manifest import DamagedCheckpointError, read_manifest
from gmeta_tf.saving.digests import share_of

ONE = gm.World()
ROWS = "rows-00000-of-00001.safetensors"
KEYS = "keys-00000-of-00001-000-0000.safetensors"
COUNT = "keys-00000-of-00001-000.json"
FILES = ("manifest.json", "dense.safetensors", ROWS, KEYS, COUNT)


def make_model(seed=0):
    """One table of known size, and a dynamic one that has met three keys."""
    keras.utils.set_random_seed(seed)
    tables = (gm.Table("item", 17), gm.Table("genre", keys="hash"))
    schema = gm.Schema(SCHEMA.fields, SCHEMA.label, SCHEMA.task, tables=tables)
    model = gm.MetaModel(gm.models.MeLU((4,)), gm.ShardedEmbedding(schema, 4, seed=seed, world=ONE))
    model.compile("adam", "lazy_adam")
    (shard,) = model.embedding.keyed.values()
    shard.locate(tf.constant([5, 9, 12 + seed], tf.int64), 0, training=True)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "c"
    gm.save_checkpoint(model, path, epoch=3, logs={"loss": 0.5})
    assert sorted(found.name for found in path.iterdir()) == sorted(FILES)
    return path


@pytest.fixture
def path(saved, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(saved, tmp_path / "c")


def state_of(model):
    dense = [np.asarray(v) for v in (*model.trainable_variables, *model.optimizer.variables)]
    shards = model.embedding.indexed.values()
    return dense + [v.numpy() for s in shards for v in (s.rows, *s.slots.values())]


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << position % 8
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere(name, path):
    """About 60 places of each file: the head, tensor data and the last byte among them."""
    file = path / name
    whole = file.read_bytes()
    for position in {*range(0, len(whole), -(-len(whole) // 60)), len(whole) - 1}:
        flip(file, position)
        with pytest.raises(ValueError, match=r"the checkpoint .* (damaged|format_version)") as told:
            checked_checkpoint(path, ONE)
        assert name in str(told.value) or "format_version" in str(told.value), position
        file.write_bytes(whole)
    assert checked_checkpoint(path, ONE).details == {"epoch": 3, "logs": {"loss": 0.5}}


def test_a_flip_changes_nothing_of_the_model(path):
    model = make_model(seed=1)
    before = state_of(model)
    flip(path / ROWS, -20)
    with pytest.raises(
        DamagedCheckpointError,
        match=rf"{ROWS}: expected the SHA-256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}. Use an earlier "
        "one; for a run `--checkpoint NAME` or `--fall-back` chooses it",
    ):
        gm.load_checkpoint(model, path)
    for expected, found in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_another_save(name, path, tmp_path):
    """Of the same shapes, as that of the epoch before is."""
    gm.save_checkpoint(make_model(seed=1), tmp_path / "earlier", epoch=2)
    shutil.copy(tmp_path / "earlier" / name, path / name)
    if name == COUNT:  # which says the same
        checked_checkpoint(path, ONE)
        return
    with pytest.raises(DamagedCheckpointError, match=f"{name}: expected the SHA-256 .*, found"):
        checked_checkpoint(path, ONE)


def test_each_save_has_an_id_and_equal_models_have_equal_files(model, saved, tmp_path):
    gm.save_checkpoint(model, tmp_path / "again", epoch=3)
    ours, theirs = read_manifest(saved), read_manifest(tmp_path / "again")
    assert ours["files"] == theirs["files"]
    assert ours["save_id"] != theirs["save_id"]


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_is_cut_or_missing(name, path):
    size = (path / name).stat().st_size
    os.truncate(path / name, size - 1)
    with pytest.raises(DamagedCheckpointError, match=f"expected {size} bytes, found {size - 1}"):
        checked_checkpoint(path, ONE)
    (path / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=f"{name}.*cannot be read: .*No such file"):
        checked_checkpoint(path, ONE)


def test_a_manifest_without_its_end(path):
    """As if the digests had never been; an earlier version's has neither of them."""
    values = read_manifest(path)
    values.pop("digest")
    (path / "manifest.json").write_text(json.dumps(values, indent=2))
    with pytest.raises(DamagedCheckpointError, match="does not end in its digest"):
        checked_checkpoint(path, ONE)


def as_earlier(path):
    """What versions before the digests wrote."""
    values = read_manifest(path)
    for name in ("digest", "files", "save_id"):
        values.pop(name)
    (path / "manifest.json").write_text(json.dumps(values, indent=2))
    for file in path.glob("*.safetensors"):
        save_file(load_file(file), file)


def test_a_checkpoint_without_digests_loads_and_says_so_once(model, path, caplog):
    as_earlier(path)
    other = make_model(seed=1)
    with caplog.at_level(logging.WARNING, logger=checkpoint_module.__name__):
        assert gm.load_checkpoint(other, path)["epoch"] == 3
    (line,) = (r.message for r in caplog.records if r.name == checkpoint_module.__name__)
    assert "saved by an earlier version, without digests" in line
    for expected, found in zip(state_of(model), state_of(other), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("3", "holds int, expected an object"),
        ('{"format_version": 1, "size": 1000000000000}', "has no details"),
        ('{"format_version": 1, "size": 0, "details": {}}', "says 0 ranks"),
        ('{"format_version": 1, "size": "2", "details": {}}', "says '2' ranks"),
        ('{"format_version": 1, "size": 1000000000000, "details": {}}', "1000000000000.safete"),
    ],
)
def test_an_earlier_manifest_that_is_impossible(text, match, path):
    (path / "manifest.json").write_text(text)
    with pytest.raises(DamagedCheckpointError, match=match):
        checked_checkpoint(path, ONE)


@pytest.mark.parametrize("count", ['{"parts": 1000000000000}', '{"parts": -1}', "{}", "[", "3"])
def test_an_earlier_count_of_parts_that_is_impossible(count, path):
    as_earlier(path)
    (path / COUNT).write_text(count)
    with pytest.raises(DamagedCheckpointError, match="keys-00000-of-00001-000"):
        gm.load_checkpoint(make_model(seed=1), path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../c2/dense.safetensors", "a/../../b", "", "."])
def test_a_manifest_that_names_files_elsewhere(name, path):
    values = read_manifest(path)
    values.pop("digest")
    values["files"][name] = values["files"].pop(ROWS)
    checkpoint_module.write_manifest(path, values)
    with pytest.raises(ValueError, match="expected a name inside the folder"):
        checked_checkpoint(path, ONE)


@pytest.mark.parametrize("name", FILES)
def test_a_link_or_a_pipe_in_place_of_a_file(name, path, tmp_path):
    file = path / name
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name} is a link that leaves its folder, to"):
        checked_checkpoint(path, ONE)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=rf"{name} is not a file but a pipe"):
        checked_checkpoint(path, ONE)


def test_each_file_is_read_by_one_rank():
    files = {f"f{i}": {"bytes": i * i, "sha256": ""} for i in range(23)}
    shares = [share_of(files, gm.World(rank, 3)) for rank in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(files)
    sizes = [sum(files[name]["bytes"] for name in share) for share in shares]
    assert max(sizes) - min(sizes) < 100


@pytest.mark.parametrize("other", ["folder", "file", "link"])
def test_what_is_not_a_checkpoint_is_not_replaced(other, model, tmp_path):
    path = tmp_path / "home"
    (tmp_path / "real").mkdir()
    if other == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    elif other == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "real")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"home exists and is not a checkpoint \(it .*Choose"):
        gm.save_checkpoint(model, path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_others_call_partial_is_left_alone(model, tmp_path):
    """The name alone does not say that a folder is ours."""
    for name in ("c.partial", "c.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    for epoch in (1, 2):
        gm.save_checkpoint(model, tmp_path / "c", epoch=epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "c.old.partial", "c.partial"]
    assert (tmp_path / "c.partial" / "thesis.tex").read_text() == "mine"


def test_a_save_that_was_killed_between_its_renames(model, saved, tmp_path):
    """The older checkpoint is in the hidden folder; the next save to this path puts it back."""
    work = tmp_path / ".c-abcd1234"
    work.mkdir()
    (work / "lock").write_text("c")
    shutil.copytree(saved, work / "previous")

    class Stopped(Exception):
        pass

    def stop(*_, **__):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "write_files", stop)
        with pytest.raises(Stopped):
            gm.save_checkpoint(model, tmp_path / "c")
    assert checked_checkpoint(tmp_path / "c", ONE).details["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
