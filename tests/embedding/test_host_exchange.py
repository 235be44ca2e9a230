"""By host, on two hosts of two ranks each that are made up."""

import os
import pathlib
import subprocess
import sys

import four_ranks
import pytest

HOROVODRUN = pathlib.Path(sys.executable).with_name("horovodrun")


@pytest.mark.slow
@pytest.mark.skipif(not HOROVODRUN.exists(), reason="needs Horovod: bash launch/setup.sh")
@pytest.mark.skipif(
    os.getuid() == 0, reason="as root, tests/launch/test_simcluster.py does it on simulated hosts"
)
def test_four_ranks_on_two_hosts(tmp_path):
    done = subprocess.run(
        [HOROVODRUN, "-np", "4", sys.executable, four_ranks.__file__, tmp_path],
        env=os.environ | four_ranks.ENVIRONMENT | {"GMETA_RANKS_PER_HOST": "2"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert four_ranks.ended_well(tmp_path), done.stderr[-3000:]
