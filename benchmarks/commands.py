"""Commands of `gmeta-tf` as a user gives them, and what they cost."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["core_seconds", "output_of"]

_ROOT = pathlib.Path(__file__).parent.parent


def core_seconds(*words: Any, ranks: int = 1) -> float:
    """Runs `gmeta-tf` and returns its core seconds, imports and tracing included.

    Args:
        words: after `gmeta-tf`; paths in them that are not absolute begin at the repository.
        ranks: W; beyond 1 under `horovodrun`.

    Raises:
        RuntimeError: the command failed; with the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    scripts = pathlib.Path(sys.executable).parent
    command = [str(scripts / "gmeta-tf"), *map(str, words)]
    if ranks > 1:
        command = [str(scripts / "horovodrun"), "-np", str(ranks), *command]
    output_of(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def output_of(command: Sequence[str]) -> str:
    """Runs a command at the repository and returns what it wrote to stdout.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done.stdout
