"""launch/try_wheel.sh: what a user installs is whole, on the stack that .venv is of."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "try_wheel.sh"


@pytest.mark.slow
@pytest.mark.skipif(
    not list(ROOT.glob(".venv/lib/python*/site-packages/gmeta_dependencies.pth")),
    reason="there is no .venv of launch/setup.sh, whose packages the wheel is installed beside",
)
def test_the_wheel_of_the_source_distribution_trains_and_serves():
    before = {path for path in ROOT.iterdir() if path.name != ".pytest_cache"}
    done = subprocess.run(
        ["bash", SCRIPT, "--no-setup"], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No broken requirements found." in done.stdout
    *_, last = done.stdout.splitlines()
    assert re.match(r"== passed: Python \S+ TensorFlow \S+ Keras \S+ NumPy \S+$", last)
    assert {path for path in ROOT.iterdir() if path.name != ".pytest_cache"} == before


def test_another_word_is_an_error():
    done = subprocess.run(["bash", SCRIPT, "--quick"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: bash launch/try_wheel.sh [--no-setup]" in done.stderr
