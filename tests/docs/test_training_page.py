"""The Python of docs/training.md runs as it stands there."""

import pathlib
import re
import subprocess
import sys

import gmeta_tf as gm

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_from_a_log_to_predictions(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0].startswith("(8, 6) [")
    assert "'rmse_adapted'" in shown[1]
    assert shown[2:] == ["(8, 6)", "(2,)"]


def test_every_name_is_there():
    named = set(re.findall(r"`gm\.(\w+)", PAGE))
    assert {"RowLoss", "Predictor", "load_run", "TaskBatches", "ReaderOptions"} <= named
    assert named <= set(gm.__all__)
