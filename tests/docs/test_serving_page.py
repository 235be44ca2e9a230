"""The commands of docs/serving.md run as they stand there, one after the other."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import tensorflow as tf
import yaml
from made_log import SCHEMA, write_day_2, write_log

from gmeta_tf.cli import main as cli
from gmeta_tf.saving.export_version import read_version

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


@pytest.mark.slow
def test_from_day_to_day(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_log("day-1.csv")
    write_day_2("day-2.csv")
    pathlib.Path("schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_json()))
    ran = []
    for program, *words in commands():
        ran.append(words[0])
        if program == "saved_model_cli":
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
            continue
        assert program == "gmeta-tf"
        # What trains quickly; the commands are the page's.
        cli.main([*words, *(SMALL if words[0] == "train" else [])])
    assert ran == [
        *("prepare", "train", "export", "show", "run"),
        *("prepare", "train", "export", "apply-delta"),
    ]
    assert read_version(pathlib.Path("models/films/2")).checkpoint == "epoch-000003"
    assert "rows added for new values" in capsys.readouterr().out
