"""By host, on two hosts of two ranks each."""

import os
import pathlib
import subprocess
import sys

import pytest

HOROVODRUN = pathlib.Path(sys.executable).with_name("horovodrun")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not HOROVODRUN.exists(), reason="needs Horovod: bash launch/setup.sh")
def test_four_ranks_on_two_hosts(tmp_path):
    script = ROOT / "tests/helpers/four_ranks.py"
    done = subprocess.run(
        [HOROVODRUN, "-np", "4", sys.executable, script, tmp_path],
        env=os.environ
        | {
            "GMETA_RANKS_PER_HOST": "2",
            "HOROVOD_CYCLE_TIME": "2",
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == list("0123"), done.stderr[-3000:]
