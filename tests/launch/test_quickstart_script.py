"""launch/quickstart.sh: what a user sees of a rank that fails."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Ranks that do what a user's do at a bad input, or when the system kills one of them.
TRAIN = """
import os, signal, sys, time
if os.environ.get("HOROVOD_RANK", "0") == "1":
    if "lost" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    print("gmeta-tf train: expected records, got none.", file=sys.stderr, flush=True)
    sys.exit(1)
print("training on 2 rank(s)", flush=True)
time.sleep(60)
"""


def on_ranks(tmp_path: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the script's own function `on_ranks`, with its options and nothing else of it."""
    script = (ROOT / "launch" / "quickstart.sh").read_text()
    function = re.search(r"^on_ranks\(\) \{.*?^\}$", script, re.M | re.S)
    assert function is not None
    (tmp_path / "train.py").write_text(TRAIN)
    command = f"set -euo pipefail\nranks=2\n{function[0]}\non_ranks {sys.executable} train.py $*\n"
    beside = os.path.dirname(sys.executable)
    return subprocess.run(
        ["bash", "-c", f"{command}echo not reached", "bash", *words],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{beside}:{os.environ['PATH']}",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path(sys.executable).with_name("horovodrun").exists(),
    reason="Horovod is not installed",
)
@pytest.mark.parametrize(
    ("words", "line", "code"),
    [
        ((), "[1]<stderr>:gmeta-tf train: expected records, got none.", 1),
        (("lost",), "[1]<stderr>:Killed", 137),
    ],
    ids=["bad input", "killed"],
)
def test_a_rank_that_fails_ends_the_script_without_horovodruns_traceback(
    words, line, code, tmp_path
):
    ended = on_ranks(tmp_path, *words)
    assert ended.returncode == 1
    # Without the rank before it; and the steps that would follow do not.
    assert not [one for one in ended.stdout.splitlines() if one.startswith("[")]
    assert "not reached" not in ended.stdout
    told = [one for one in ended.stderr.splitlines() if one]
    assert line in told
    assert told[-2:] == ["Process name: 1", f"Exit code: {code}"]
    assert not [one for one in told if one.startswith(("Traceback", "  "))]
