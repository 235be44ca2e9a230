"""The files for SLURM, Kubernetes and Docker, as far as they can be run without any of them."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest
import yaml

from gmeta_tf.cli import main as cli

ROOT = pathlib.Path(__file__).parents[2]
CLUSTER = ROOT / "launch" / "cluster"

# Writes its words, and ends with 75 at SIGUSR1, as a launcher whose ranks have saved.
LAUNCHER = """#!/usr/bin/env bash
echo "$@" > words
trap 'exit 75' USR1
touch ready
while true; do sleep 0.05; done
"""


def test_a_slurm_job_passes_the_signal_on_and_is_queued_again(tmp_path):
    (tmp_path / "venv/bin").mkdir(parents=True)
    for path, text in (
        ("venv/bin/gmeta-tf", LAUNCHER),
        ("scontrol", '#!/usr/bin/env bash\necho "$@" > queued\n'),
    ):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    job = subprocess.Popen(
        ["bash", CLUSTER / "slurm.sbatch", "records", "run", "--epochs", "3"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GMETA_VENV": "venv",
            "SLURM_JOB_ID": "17",
        },
    )
    end = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert (tmp_path / "queued").read_text() == "requeue 17\n"
    words = (tmp_path / "words").read_text().split()
    assert words[-7:] == ["--records", "records", "--run", "run", "--resume", "--epochs", "3"]
    check_launch_words(words)


def test_the_mpijob_gives_launch_flags_that_there_are():
    job = yaml.safe_load((CLUSTER / "mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    (container,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    assert container["command"] == ["gmeta-tf"]
    check_launch_words(container["args"])
    for replica in job["spec"]["mpiReplicaSpecs"].values():
        pod = replica["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounts <= volumes


def check_launch_words(words):
    """The command line is one that both parsers take."""
    rest, command = cli._without_command(words)
    parsed = cli._parser().parse_args(rest)
    assert parsed["launch"].max_restarts == 3
    assert command[:2] == ["gmeta-tf", "train"]
    assert cli._parser().parse_args(command[1:])["train"].resume is True


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


def test_the_dockerfile_copies_what_there_is():
    text = (CLUSTER / "Dockerfile").read_text()
    assert "RUN bash launch/setup.sh" in text
    for name in re.findall(r"(?:bash|-f) (launch/\S+)", text):
        assert (ROOT / name).exists(), name
