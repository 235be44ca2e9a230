"""The README's quick start runs as it stands there: alone, and on two ranks."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.sources.movielens import movielens_100k, movielens_schema, movielens_source

README = pathlib.Path(__file__).parents[2] / "README.md"


def quick_start():
    """The README's Python block."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "train.py").write_text(quick_start())
    try:
        data = movielens_100k()
    except ConnectionError as error:
        pytest.skip(f"MovieLens-100k can not be downloaded here: {error}")
    prepare(movielens_source(data), movielens_schema(), folder / "records", split=Split(0.2))
    return folder


def run(folder, launcher, saved_model):
    words = [*launcher, sys.executable, "train.py", "records", saved_model]
    environment = os.environ | {"HOROVOD_CYCLE_TIME": "0.1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def auc_of(shown):
    (found,) = re.findall(r"AUC adapted ([\d.]+), unadapted ([\d.]+)", shown)
    return [float(value) for value in found]


def test_it_is_thirty_lines():
    assert len(quick_start().strip().splitlines()) <= 30


@pytest.mark.slow
def test_alone(folder):
    done = run(folder, [], "alone")
    assert done.returncode == 0, done.stdout + done.stderr
    adapted, unadapted = auc_of(done.stdout)
    assert adapted > unadapted > 0.5
    assert "predict" in tf.saved_model.load(str(folder / "alone")).signatures
    assert re.search(r"table +rows +width.*\n +item ", done.stdout)


@pytest.mark.slow
def test_on_two_ranks(folder):
    horovodrun = shutil.which("horovodrun", path=str(pathlib.Path(sys.executable).parent))
    if horovodrun is None:
        pytest.skip("there is no horovodrun: Horovod was left out of this environment")
    done = run(folder, [horovodrun, "-np", "2"], "two")
    assert done.returncode == 0, done.stdout + done.stderr
    of_rank = [
        "\n".join(line for line in done.stdout.splitlines() if line.startswith(f"[{rank}]"))
        for rank in range(2)
    ]
    assert auc_of(of_rank[0]) == auc_of(of_rank[1])
    # Only rank 0 shows Keras' progress.
    assert "Epoch 1/3" in of_rank[0]
    assert "Epoch" not in of_rank[1]
    assert "predict" in tf.saved_model.load(str(folder / "two")).signatures
