"""Ctrl-C and a cut output end a command in a line, or in none."""

import os
import subprocess
import sys

import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.endings import quiet_endings


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Query interrupted")])
def test_an_interrupt_ends_in_a_line_and_status_130(error, monkeypatch, capsys, tmp_path):
    def interrupted(options):
        raise error

    monkeypatch.setitem(cli._FIRST_CHECKS, "prepare", interrupted)
    words = ["--movielens", "download", "--output", str(tmp_path / "records")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", *words])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "gmeta-tf: interrupted\n"


def test_other_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="a bug"), quiet_endings():
        raise RuntimeError("a bug")
    with pytest.raises(BrokenPipeError), quiet_endings():
        raise BrokenPipeError  # of a socket: stdout has its reader


def test_an_output_that_nobody_reads_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    text = "from gmeta_tf.cli.endings import quiet_endings as q\nwith q(): print('a' * 100_000)"
    done = subprocess.run(
        [sys.executable, "-c", text], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
