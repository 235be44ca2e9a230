"""What counts as hung: a command that neither ends nor computes."""

import subprocess
import sys

SCRIPT = """
import pathlib, sys, time
from tests.faults.children import run

def waits():
    time.sleep(600)

def computes():
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        pass

for before, limit in ((waits, 0.5), (computes, 1.0)):
    ended = run(["--help"], pathlib.Path.cwd(), limit_seconds=limit, before=before)
    print(before.__name__, ended.status)
"""


def test_a_command_that_still_computes_is_given_more_time():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["waits", "None", "computes", "0"]
