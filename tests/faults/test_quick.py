"""The quick part of the fault campaign: a few cases of each kind, all survived."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.faults.file_operations import why_unavailable
from tests.faults.outcome import KINDS

ROOT = pathlib.Path(__file__).parents[2]
CAMPAIGNS = ("kills", "flips", "mutations", "full_disk", "concurrent", "limits")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        why_unavailable() is not None, reason=f"file operations: {why_unavailable()}"
    ),
]


@pytest.fixture(scope="module")
def campaign():
    """One process for all: it forks its children, which a process that has computed must not."""
    # Threads that share this machine's cores with other tests only take turns.
    threads = {f"TF_NUM_{kind}OP_THREADS": "1" for kind in ("INTRA", "INTER")}
    return subprocess.run(
        [sys.executable, "-m", "tests.faults"],
        cwd=ROOT,
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_all_is_survived(campaign, name):
    assert campaign.stdout, campaign.stderr
    counts = json.loads(campaign.stdout.splitlines()[-1])[name]
    assert counts["tried"] > 0
    assert counts["survived"] == counts["tried"], campaign.stdout
    assert set(counts) == {"tried", "of", *KINDS}
    assert counts["of"] >= counts["tried"]


def test_its_status_says_so(campaign):
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
    total = json.loads(campaign.stdout.splitlines()[-1])["total"]
    assert total["tried"] == total["survived"] > 0
