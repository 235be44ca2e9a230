"""Starts a benchmark's own ranks, each on a core of its own, and brings what rank 0 answers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ENVIRONMENT", "cores_of_ranks", "run_on_ranks"]

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HOROVOD_CYCLE_TIME": "0.1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_NUM_INTRAOP_THREADS": "1",
}
"""What ranks with a core each run under."""


def cores_of_ranks(ranks: int) -> list[int]:
    """A core for each rank, of those that this process may use.

    Raises:
        RuntimeError: they are fewer than the ranks.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < ranks:
        raise RuntimeError(
            f"expected {ranks} cores, one for each rank: {len(cores)} may be used here."
        )
    return cores[:ranks]


def run_on_ranks(
    module: str,
    ranks: int,
    cores: Sequence[int],
    arguments: Sequence[str],
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Any:
    """Runs `python -m module --as-rank FILE --on-cores 0,1 ...` under horovodrun.

    Args:
        module: the benchmark, whose rank 0 writes its answer to FILE as JSON.
        ranks: W.
        cores: a core for each rank, which the rank binds itself to.
        arguments: further ones.
        environment: what is set beside this process' own.

    Returns:
        The answer.

    Raises:
        RuntimeError: a rank failed, with the end of what the ranks said.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder) / "answer.json"
        command = [
            str(pathlib.Path(sys.executable).parent / "horovodrun"),
            *("-np", str(ranks), sys.executable, "-m", module),
            *("--as-rank", str(answer), "--on-cores", ",".join(map(str, cores))),
            *arguments,
        ]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if done.returncode or not answer.is_file():
            raise RuntimeError(
                f"horovodrun -np {ranks} of {module} ended with status {done.returncode}:\n"
                f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )
        return json.loads(answer.read_text(encoding="utf-8"))
