"""launch/simcluster.sh: hosts of network namespaces. What needs root is skipped without it."""

import os
import pathlib
import subprocess
import sys

import four_ranks
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch/simcluster.sh"
NAME = "gtest"
# What `up` says where the packages cannot be had, or the kernel has or allows no such thing.
LACKS = (
    "could not install",
    "Operation not permitted",
    "Operation not supported",
    "Unknown device type",
    "qdisc kind is unknown",
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root")


def simcluster(*words, timeout=60, **options):
    return subprocess.run(
        [SCRIPT, *words], capture_output=True, text=True, timeout=timeout, check=False, **options
    )


@pytest.fixture
def cluster():
    up = simcluster("up", "--name", NAME, "--rate", "400mbit", timeout=240)
    try:
        if up.returncode and any(lack in up.stderr for lack in LACKS):
            pytest.skip(f"no simulated hosts here: {up.stderr.strip().splitlines()[-1]}")
        assert up.returncode == 0, up.stderr
        yield
    finally:
        down = simcluster("down", "--packages", "--name", NAME, timeout=120)
    assert down.returncode == 0, down.stderr
    assert left_of_it() == []


def left_of_it():
    found = []
    for folder in ("/run/netns", "/etc/netns", "/run/gmeta-simcluster"):
        found += [str(path) for path in pathlib.Path(folder).glob(f"{NAME}*")]
    return found


def test_help():
    assert "up [--hosts N]" in simcluster("--help").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage:"),
        (["away"], "expected up, run, rate, bytes or down, got away"),
        (["up", "--hosts", "0"], "expected --hosts of 1 to 200, got '0'"),
        (["up", "--hosts", "201"], "expected --hosts of 1 to 200, got '201'"),
        (["up", "--rate", "fast"], "such as 200mbit, or none, got 'fast'"),
        (["up", "--name", "../x"], "at most 8 small letters and digits, got '../x'"),
        (["up", "--hosts"], "--hosts needs a value"),
        (["up", "--host", "2"], "unknown argument --host"),
        (["rate"], "rate: expected a rate"),
    ],
    ids=str,
)
def test_wrong_words(words, message):
    done = simcluster(*words)
    assert done.returncode == 2
    assert message in done.stderr


@needs_root
@pytest.mark.parametrize("words", [["bytes"], ["rate", "1gbit"], ["run", "-np", "2"]], ids=str)
def test_what_needs_a_cluster(words):
    done = simcluster(*words, "--name", "gnone")
    assert done.returncode == 2
    assert "gnone is not up" in done.stderr
    assert simcluster("down", "--name", "gnone").returncode == 0


@needs_root
@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path(sys.executable).with_name("horovodrun").exists(),
    reason="needs Horovod: bash launch/setup.sh",
)
def test_two_hosts_of_two_ranks_train_as_one_process(cluster, tmp_path):
    for words, message in (
        (["-np", "6", "--per-host", "2", "--", "true"], "need 3 hosts, and gtest has 2"),
        (["-np", "3", "--per-host", "2", "--", "true"], "a multiple of --per-host 2, got 3"),
        (["-np", "2", "--per-host", "1"], "expected a command after --"),
    ):
        assert message in simcluster("run", "--name", NAME, *words).stderr
    done = simcluster(
        *("run", "--name", NAME, "-np", "4", "--per-host", "2", "--"),
        *(sys.executable, four_ranks.__file__, str(tmp_path)),
        timeout=240,
        env=os.environ | four_ranks.ENVIRONMENT,
        cwd=four_ranks.ROOT,
    )
    assert four_ranks.ended_well(tmp_path), done.stderr[-3000:]
    counts = [
        list(map(int, line.split()))
        for line in simcluster("bytes", "--name", NAME).stdout.splitlines()
    ]
    assert [host for host, *_ in counts] == [1, 2]
    # What one sends is what the other receives, but for what is on its way.
    assert all(min(both) > 10_000 for _, *both in counts)
    assert counts[0][1] == pytest.approx(counts[1][2], rel=0.05)
    assert simcluster("rate", "1gbit", "--name", NAME).returncode == 0
