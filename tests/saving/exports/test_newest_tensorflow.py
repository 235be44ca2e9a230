"""An export loads and predicts in the newest TensorFlow, where there is nothing of ours."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("tags", "multi", max_values=2), gm.Field("price", "dense")),
    "liked",
    "user",
    tables=(gm.Table("item", 4), gm.Table("tags", 50, keys="hash")),
)
VOCABULARIES = {"item": np.array(["a", "b", "7"], object)}
REQUEST = {
    "support_item": [["a", "7"], ["b", ""]],
    "support_tags": [["x|y", ""], ["y", "z"]],
    "support_price": [[0.5, 1.0], [2.0, -1.0]],
    "support_liked": [[1.0, 0.0], [0.0, 1.0]],
    "support_count": [2, 1],
    "query_item": [["b", "?"], ["a", "7"]],
    "query_tags": [["x", "y"], ["", "z|x"]],
    "query_price": [[0.5, 1.0], [0.0, 3.0]],
}
SCRIPT = """
import importlib.util, json, sys
import tensorflow as tf
model, request = sys.argv[1], json.loads(sys.argv[2])
there = [name for name in ("horovod", "gmeta_tf", "duckdb") if importlib.util.find_spec(name)]
loaded = tf.saved_model.load(model)
predict = loaded.signatures["predict"]
inputs = {name: tf.constant(value) for name, value in request.items()}
values = predict(**inputs)["prediction"].numpy().tolist()
print(json.dumps({"version": tf.__version__, "there": there, "values": values}))
"""


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    """A folder with the newest TensorFlow of the registry and what it needs."""
    folder = tmp_path_factory.mktemp("newest") / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(folder), "tensorflow-cpu"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    out_of_reach = ("No matching distribution found for tensorflow-cpu", "connection", "timed out")
    if done.returncode and any(words in done.stderr for words in out_of_reach):
        pytest.skip(f"the registry is out of reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def test_an_export_predicts_the_same_there(newest, tmp_path):
    embedding = gm.ShardedEmbedding(SCHEMA, 4, scale=0.5, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(2, 0.4))
    model.compile("adam", "adagrad")
    gm.export_saved_model(model, tmp_path / "model", VOCABULARIES)
    predict = tf.saved_model.load(str(tmp_path / "model")).signatures["predict"]
    inputs = {name: tf.constant(value) for name, value in REQUEST.items()}
    expected = predict(**inputs)["prediction"].numpy()
    # The interpreter that the environment was made of: it has no packages of ours.
    own = pathlib.Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    done = subprocess.run(
        [str(own), "-c", SCRIPT, str(tmp_path / "model"), json.dumps(REQUEST)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(newest), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["there"] == []
    here, there = (tuple(map(int, one.split(".")[:2])) for one in (tf.__version__, told["version"]))
    assert there >= here
    np.testing.assert_allclose(told["values"], expected, rtol=1e-5)
    assert np.ptp(expected) > 0
