"""The commands of docs/serving.md run as they stand there, one after the other."""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import urllib.request

import pytest
import tensorflow as tf
import yaml
from made_log import SCHEMA, write_day_2, write_log

from gmeta_tf.cli import main as cli
from gmeta_tf.saving.exports.export_version import read_version
from gmeta_tf.saving.serving.rest_server import RestServer
from gmeta_tf.saving.serving.served_versions import ServedVersions

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SMALL = ["--width", "4", "--hidden", "6", "--tasks", "4", "--support", "3", "--query", "5"]


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#")]


def predicted(item):
    signature = tf.saved_model.load("models/films/1").signatures["predict_unadapted"]
    texts = {"query_item": item, "query_liked": "i2", "query_genre": "Drama|Action"}
    inputs = {name: tf.constant([[text]]) for name, text in texts.items()}
    return float(signature(query_price=tf.constant([[0.5]]), **inputs)["prediction"][0, 0])


@pytest.fixture
def served():
    """Starts the page's server, on a port that is free."""
    started = []

    def start(folder):
        server = RestServer(ServedVersions(pathlib.Path(folder)), "films", port=0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)

    yield start, started
    started[0].stop()


def curl(words, port):
    """What `curl -s [-d @FILE] URL` prints."""
    url = words[-1].replace(":8501/", f":{port}/")
    body = pathlib.Path(words[words.index("-d") + 1][1:]).read_bytes() if "-d" in words else None
    with urllib.request.urlopen(url, body, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_from_day_to_day(tmp_path, monkeypatch, capsys, served):
    monkeypatch.chdir(tmp_path)
    write_log("day-1.csv")
    write_day_2("day-2.csv")
    pathlib.Path("schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_json()))
    (request,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    pathlib.Path("request.json").write_text(request)
    start, started = served
    ran, answers = [], []
    for program, *words in commands():
        ran.append(words[0] if program != "curl" else "curl")
        if program == "saved_model_cli":
            check_shown(program, words)
        elif program == "curl":
            answers.append(curl(words, started[0].server_port))
        elif words[0] == "serve":
            assert words[1::2] == ["--saved-model", "--port"]
            start(words[2])
        else:
            assert program == "gmeta-tf"
            # What trains quickly; the commands are the page's.
            cli.main([*words, *(SMALL if words[0] == "train" else [])])
    assert ran == [
        *("prepare", "train", "export", "show", "run"),
        *("prepare", "train", "export", "apply-delta", "serve", "curl", "curl"),
    ]
    assert read_version(pathlib.Path("models/films/2")).checkpoint == "epoch-000003"
    assert "rows added for new values" in capsys.readouterr().out
    assert answers[0]["model_spec"]["version"] == "2"
    ((one, other),) = answers[1]["predictions"]
    assert 0 < one != other < 1


def check_shown(program, words):
    """Runs TensorFlow's own command, in a process."""
    done = subprocess.run(
        [pathlib.Path(sys.executable).parent / program, *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if words[0] == "show":
        assert "inputs['support_count'] tensor_info:\n      dtype: DT_INT32" in done.stdout
        assert "Method name is: tensorflow/serving/predict" in done.stdout
    else:
        # A session, as TensorFlow Serving has, fills the vocabularies' tables too.
        shown = re.search(r"key prediction:\n\[\[(0\.\d+)", done.stdout)
        assert float(shown[1]) == pytest.approx(predicted("i1"), abs=1e-6)
        assert predicted("i1") != predicted("not there")
