"""`gmeta-tf launch` over horovodrun: one error, one end, and a killed rank that does not matter."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.restarts import killed
from gmeta_tf.cli import main as cli
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.checkpoints.manifest import read_manifest

SCRIPTS = pathlib.Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not (SCRIPTS / "horovodrun").exists(), reason="needs horovodrun: bash launch/setup.sh"
)

# Rank 1 fails, and the others as ranks do whose collective it was in.
FAILING = """
import os, sys, time
rank = int(os.environ["HOROVOD_RANK"])
print("begins", flush=True)
if rank == 1:
    raise ValueError("the price is no number")
time.sleep(0.3)
raise RuntimeError("Horovod has been shut down.")
"""
ENDLESS = """
import subprocess, sys, time
print("begins", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{word}"])
time.sleep(600)
"""


def launch(*words, **options):
    return subprocess.Popen(
        [SCRIPTS / "gmeta-tf", "launch", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_the_first_failing_rank_is_shown_whole_and_alone():
    out, said = (launch("-np", "2", "--", sys.executable, "-c", FAILING)).communicate(timeout=120)
    assert sorted(out.split("\n")) == ["", "[0] begins", "[1] begins"]
    checked, error = said.split("gmeta-tf launch: rank 1 on localhost failed with status 1:\n")
    assert error.startswith('Traceback (most recent call last):\n  File "<string>", line 6')
    assert error.endswith("ValueError: the price is no number\n")
    assert "gmeta-tf launch: localhost: 2 rank(s), " in checked
    assert said.count("Traceback") == 1
    assert "Horovod has been shut down" not in said


@pytest.mark.slow
def test_a_signal_ends_all_and_leaves_no_orphan(tmp_path):
    word = f"orphan-of-{tmp_path.name}-{os.getpid()}"
    process = launch(
        "-np", "2", "--no-check", "--", sys.executable, "-c", ENDLESS.replace("{word}", word)
    )
    assert {process.stdout.readline(), process.stdout.readline()} == {
        "[0] begins\n",
        "[1] begins\n",
    }
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert process.returncode == 130
    assert said.endswith("gmeta-tf launch: interrupted\n")
    assert "Traceback" not in said
    commands = [path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
    assert not [words for words in commands if word.encode() in words.split(b"\0")]


@pytest.mark.slow
def test_a_killed_rank_costs_steps_and_not_the_run(folder, small, tmp_path):
    run = tmp_path / "run"
    command = [str(SCRIPTS / "gmeta-tf"), "train", "--records", str(folder / "records")]
    command += ["--run", str(run), "--epochs", "20", *small, "--checkpoint-every", "6"]
    command += ["--checkpoint-every-steps", "3", "--no-validate"]
    ended = killed(command, rank=1, once_saved=True)
    assert ended["was_killed"]
    assert ended["status"] == 0, ended["said"]
    assert "was ended by SIGKILL" in ended["said"]
    assert re.search(r"lost: \d+ step\(s\) of \d+ since the start", ended["said"])
    assert "gmeta-tf launch: restart 1 of 2: 2 rank(s) on localhost:2" in ended["said"]
    assert re.search(r"resuming after epoch \d+ from", ended["said"])
    assert read_manifest(latest_checkpoint(run / "checkpoint"))["details"]["epoch"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-np", "2"], "expected what each rank runs behind --, got nothing"),
        (["-np", "2", "--min-np", "3", "--", "true"], "--min-np of at most -np 2, got 3"),
        (["-H", "a:1", "-np", "2", "--", "true"], "slots for -np 2 ranks, got 1 on a:1"),
        (["--", "true"], "expected -np, the number of ranks"),
    ],
)
def test_wrong_options(words, message, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["launch", *words])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_a_host_that_does_not_answer_is_told_before_anything_starts(capsys):
    with pytest.raises(SystemExit):
        cli.main(["launch", "-H", "no-such-host.invalid:1", "--", "true"])
    said = capsys.readouterr().err
    assert "no-such-host.invalid: expected an answer by ssh without a password" in said
    assert "hosts that would fail, as said above: expected none" in said
