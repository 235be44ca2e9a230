"""An export and a delta give the later model's export; anything else is refused."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from made_exports import GENRES, make_model, rows_of, train

import gmeta_tf as gm
from gmeta_tf.saving.deltas.apply_delta import apply_delta, main
from gmeta_tf.saving.deltas.export_delta import export_delta, served_state
from gmeta_tf.saving.exports.export_version import read_version
from gmeta_tf.saving.exports.served_values import OBJECT_GRAPH, read_values
from gmeta_tf.saving.serving.predictor import Predictor

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """The exports of two days, and the delta between them, with grown tables and evicted keys."""
    folder = tmp_path_factory.mktemp("days")
    model, vocabularies = make_model(5, 3)
    train(model, [1, 2, 3, 1], [7, 10**17, 9, 7])
    gm.save_checkpoint(model, folder / "c")
    gm.export_saved_model(model, folder / "day-1", vocabularies, checkpoint="c")
    before = served_state(model, vocabularies, checkpoint="c")
    model, vocabularies = make_model(8, 4)
    gm.load_checkpoint(model, folder / "c", grow=True)
    train(model, [2, 8, 7, 2], [11, 12, 10**17, 11])
    export_delta(model, folder / "delta", vocabularies, before=before, checkpoint="d")
    gm.export_saved_model(model, folder / "day-2", vocabularies, checkpoint="d")
    return folder


def numbers_of(delta):
    return tf.train.load_checkpoint(str(delta / "variables" / "variables"))


def test_it_holds_what_changed(days):
    delta = numbers_of(days / "delta")
    # Of the items 2, 7 and 8 were read, 6 is new; of the genres 1 and 2 are behind nine items.
    assert delta.get_tensor("0/indices").tolist() == [2, 6, 7, 8, 10, 11, 13]
    assert delta.get_tensor("1/keys").tolist() == [11, 12, 10**17]
    assert len(delta.get_tensor("1/evicted")) == 1
    assert [text.decode() for text in delta.get_tensor("2/values")] == ["i5", "i6", "i7"]
    assert [text.decode() for text in delta.get_tensor("3/values")] == ["Sci Fi"]


def test_export_and_delta_are_the_later_export(days, tmp_path):
    version = apply_delta(days / "day-1", days / "delta", tmp_path / "out")
    assert version == read_version(days / "day-2") == read_version(tmp_path / "out")
    assert version.checkpoint == "d"
    found, expected = read_values(tmp_path / "out"), read_values(days / "day-2")
    assert set(found) == set(expected)
    for name in set(expected) - {OBJECT_GRAPH}:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
    query = rows_of(["i1", "i7", "none"], ["a\nb", "Sci Fi", "Drama"], ["11", "7", str(10**17)])
    support = rows_of(["i2", "i6"], ["Drama", "Drama"], ["12", "9"]) | {"liked": np.array([1, 0])}
    one, other = (Predictor.load(path) for path in (tmp_path / "out", days / "day-2"))
    np.testing.assert_array_equal(one(query, support), other(query, support))
    earlier = Predictor.load(days / "day-1")(query, support)
    assert (np.abs(earlier - one(query, support)) > 1e-4).all()


def test_an_export_may_be_replaced_by_its_successor(days, tmp_path):
    path = shutil.copytree(days / "day-1", tmp_path / "served")
    main(["--saved-model", str(path), "--delta", str(days / "delta"), "--output", str(path)])
    assert read_version(path) == read_version(days / "day-2")
    assert [found.name for found in tmp_path.iterdir()] == ["served"]
    with pytest.raises(SystemExit, match="is already what the delta makes"):
        main(["--saved-model", str(path), "--delta", str(days / "delta"), "--output", str(path)])


def test_the_wrong_base_is_refused(days, tmp_path):
    model, vocabularies = make_model(5, 3)
    gm.export_saved_model(model, tmp_path / "other", vocabularies)
    match = r"delta leads from 1 steps \(c\), sha256:.* to 2 steps \(d\), .*; .*other is 0 steps"
    with pytest.raises(ValueError, match=match):
        apply_delta(tmp_path / "other", days / "delta", tmp_path / "out")
    (tmp_path / "other" / "assets.extra" / "version.json").unlink()
    with pytest.raises(ValueError, match=r"does not say which version it is.*export in full"):
        apply_delta(tmp_path / "other", days / "delta", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"is not a delta: expected .*delta\.json"):
        apply_delta(days / "day-1", days / "day-1", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="mine exists and is not an exported model"):
        apply_delta(days / "day-1", days / "delta", tmp_path / "mine")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_of_the_delta_or_the_base_is_found(days, tmp_path):
    for what in ("delta", "day-1"):
        copy = shutil.copytree(days / what, tmp_path / what)
        paths = {"day-1": days / "day-1", "delta": days / "delta", what: copy}
        files = [path for path in copy.rglob("*") if path.is_file()]
        assert len(files) > 4
        for file in files:
            whole = file.read_bytes()
            for position in (0, len(whole) // 2, len(whole) - 1):
                changed = bytearray(whole)
                changed[position] ^= 1 << position % 8
                file.write_bytes(changed)
                with pytest.raises(ValueError, match=file.name):
                    apply_delta(paths["day-1"], paths["delta"], tmp_path / "out")
            file.unlink()
            with pytest.raises((ValueError, FileNotFoundError), match=file.name):
                apply_delta(paths["day-1"], paths["delta"], tmp_path / "out")
            file.write_bytes(whole)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["day-1", "delta"]


def test_a_hostile_delta_names_no_file_outside(days, tmp_path):
    from gmeta_tf.meta_io.sealed_json import sealed

    copy = shutil.copytree(days / "delta", tmp_path / "delta")
    description = json.loads((copy / "delta.json").read_text())
    description.pop("digest")
    for name in ("../x", "/etc/passwd", "saved_model/../../x"):
        files = {**description["files"], name: {"bytes": 0, "sha256": ""}}
        (copy / "delta.json").write_text(sealed({**description, "files": files}))
        with pytest.raises(ValueError, match="expected a name inside the folder"):
            apply_delta(days / "day-1", copy, tmp_path / "out")
    (copy / "delta.json").write_text(sealed({**description, "format_version": 2}))
    with pytest.raises(ValueError, match="has format_version 2, this version of gmeta_tf reads 1"):
        apply_delta(days / "day-1", copy, tmp_path / "out")


def test_a_delta_of_other_tables_is_refused(days, tmp_path):
    large, of_large = make_model(8, 4)
    small, of_small = make_model(5, 3)
    before = served_state(large, of_large)
    with pytest.raises(
        ValueError, match=r"models of the same tables.*smaller ones. Export in full"
    ):
        export_delta(small, tmp_path / "delta", of_small, before=before)
    renamed = of_large | {"genre": np.array(["x", *GENRES[1:4]], object)}
    with pytest.raises(ValueError, match="to begin with the values that it had"):
        export_delta(large, tmp_path / "delta", renamed, before=before)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="mine exists and is not a delta"):
        export_delta(large, tmp_path / "mine", of_large, before=before)
    assert [found.name for found in tmp_path.iterdir()] == ["mine"]


ALONE = """
import importlib.abc, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"horovod", "safetensors", "duckdb", "jsonargparse", "yaml"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refused())
from gmeta_tf.saving.deltas.apply_delta import main
main(sys.argv[1:])
"""


def test_tensorflow_and_numpy_are_enough(days, tmp_path):
    words = ["--saved-model", days / "day-1", "--delta", days / "delta", "--output", tmp_path / "o"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps (d)" in done.stdout
    assert read_version(tmp_path / "o") == read_version(days / "day-2")


KILLED = """
import os, signal, sys
from gmeta_tf.saving.deltas.apply_delta import apply_delta

base, delta, output = sys.argv[1:]
EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "os.scandir")

def killed_at(number):
    counted = 0
    def hook(event, arguments):
        nonlocal counted
        if event in EVENTS and os.path.dirname(output) in str(arguments[0]):
            counted += 1
            if counted == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    apply_delta(base, delta, output)
    os._exit(0)

number = 0
while True:
    number += 1
    child = os.fork()
    if child == 0:
        killed_at(number)
    _, status = os.waitpid(child, 0)
    print(number, os.WTERMSIG(status), os.path.isdir(output), flush=True)
    if os.path.isdir(output):
        os.rename(output, f"{output}-{number}")
    if status == 0:
        break
"""


@pytest.mark.slow
def test_killed_at_any_moment_nothing_half_is_there(days, tmp_path):
    here = tmp_path / "models"
    words = [days / "day-1", days / "delta", here / "2"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) > 20
    assert {line[1] for line in lines[:-1]} == {"9"}
    whole = [path for path in here.iterdir() if not path.name.startswith(".")]
    assert whole
    for path in whole:
        assert read_version(path) == read_version(days / "day-2")
        Predictor.load(path)
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []
