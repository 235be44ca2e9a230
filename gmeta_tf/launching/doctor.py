"""This machine as training would use it → findings, each with a remedy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys

from gmeta_tf.launching.containers import (
    available_memory_bytes,
    cpu_quota,
    memory_limit_bytes,
)
from gmeta_tf.launching.cores import usable_cores
from gmeta_tf.launching.devices import Machine
from gmeta_tf.launching.probe import own_address

__all__ = ["Finding", "describe_machine", "examine", "horovod_finding"]

_GIB = 1 << 30
_MIB = 1 << 20
_OPEN_FILES = 4096
_SHARED_MEMORY = _GIB
_HOROVOD_SECONDS = 180
# What is imported, as setup.py names the distributions.
_PINNED = ("keras", "numpy", "duckdb", "safetensors", "jsonargparse", "PyYAML", "tensorboard")
_OPTIONAL = ("tensorflow", "tensorflow-cpu", "horovod")
_TRIAL = """
import json, horovod.tensorflow as hvd, tensorflow as tf
print(json.dumps([tf.__version__, bool(hvd.gloo_built()), bool(hvd.mpi_built()),
                  bool(hvd.nccl_built()), len(tf.config.list_physical_devices("GPU"))]))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok"; "warning", training works but slower or not everywhere; "error", it would fail.
        what: what was looked at.
        text: what was found.
        remedy: what to do about it; "" where nothing is to be done.
    """

    level: str
    what: str
    text: str
    remedy: str = ""

    def lines(self) -> list[str]:
        """For a person.

        >>> Finding("warning", "disk", "0.5 GiB free", "make room").lines()
        ['warning  disk: 0.5 GiB free', '         -> make room']
        """
        first = f"{self.level:<7}  {self.what}: {self.text}"
        return [first, f"         -> {self.remedy}"] if self.remedy else [first]


def examine(folder: str = ".", root: str = "/") -> list[Finding]:
    """Everything but the network and Horovod.

    Args:
        folder: where a run would write.
        root: the folder that is the machine's `/`.
    """
    return [
        _versions(),
        _cores(root),
        _memory(root),
        _disk(folder),
        _shared_memory(pathlib.Path(root) / "dev/shm"),
        _open_files(),
        _own_name(own_address()),
    ]


def describe_machine(machine: Machine) -> list[str]:
    """A line for each device."""
    lines = []
    for one in (one for one in machine.interfaces if one.is_up or one.is_device):
        speed = "speed unknown" if one.megabits is None else f"{one.megabits} Mbit/s"
        state = "up" if one.is_up else "down"
        route = ", default route" if one.name == machine.default_interface else ""
        lines.append(f"interface {one.name}: {state}, {speed}{route}")
    for port in machine.ports:
        kind = "InfiniBand" if port.link_layer == "InfiniBand" else "RoCE"
        state = "active" if port.is_active else "down"
        lines.append(f"{kind} {port.name}: {state}, {port.gigabits:g} Gbit/s")
    if not machine.ports:
        lines.append("no InfiniBand or RoCE device")
    if machine.gpus is None:
        lines.append("no NVIDIA GPU")
    else:
        between = "/".join(sorted(set(machine.gpus.between_gpus))) or "alone"
        lines.append(f"{machine.gpus.num_gpus} NVIDIA GPU(s), between them {between}")
    return lines


def horovod_finding() -> Finding:
    """Whether Horovod loads, in a process of its own, and what it was built with."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HOROVOD_SECONDS,
        )
        failure = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        found = re.search(r"^\[.*\]$", done.stdout, re.MULTILINE)
    except subprocess.TimeoutExpired:
        found, failure = None, f"nothing within {_HOROVOD_SECONDS} s"
    if found is None:
        return Finding(
            "error",
            "Horovod",
            f"does not load: {failure}",
            "run `bash launch/setup.sh`, which builds it for this TensorFlow; one process alone "
            "needs none",
        )
    version, gloo, mpi, nccl, gpus = json.loads(found[0])
    built = [name for name, has in (("Gloo", gloo), ("MPI", mpi), ("NCCL", nccl)) if has]
    text = f"loads with TensorFlow {version}, built with {', '.join(built) or 'nothing'}"
    if gpus and not nccl:
        return Finding(
            "warning",
            "Horovod",
            f"{text}; TensorFlow sees {gpus} GPU(s), whose tensors then go through the host",
            "build it with NCCL: docs/gpu.md",
        )
    if not gloo and not mpi:
        return Finding("error", "Horovod", text, "run `bash launch/setup.sh`, which builds Gloo")
    return Finding("ok", "Horovod", text)


def _versions() -> Finding:
    """The installed versions against those that gmeta_tf's own metadata names."""
    what = "versions"
    installed = {name: _version(name) for name in (*_PINNED, *_OPTIONAL)}
    there = {name: version for name, version in installed.items() if version}
    text = ", ".join(f"{name} {version}" for name, version in there.items())
    text = f"Python {platform.python_version()}, {text}"
    if not there.keys() & {"tensorflow", "tensorflow-cpu"}:
        return Finding("error", what, f"{text}; no TensorFlow", "run `bash launch/setup.sh`")
    try:
        required = importlib.metadata.requires("gmeta_tf") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("warning", what, f"{text}; gmeta_tf is not installed", "pip install .")
    wrong = [told for line in required if (told := _unmet(line, there))]
    if wrong:
        return Finding(
            "error", what, f"{text}; expected {', '.join(wrong)}", "run `bash launch/setup.sh`"
        )
    return Finding("ok", what, text)


def _unmet(requirement: str, installed: dict[str, str]) -> str | None:
    """A requirement that an installed version does not meet, but for those of extras."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # of Horovod's; without it nothing can be compared
        return None
    needs = Requirement(requirement)
    if needs.marker is not None and not needs.marker.evaluate({"extra": ""}):
        return None
    version = {name.lower(): one for name, one in installed.items()}.get(needs.name.lower())
    if version is None or needs.specifier.contains(version, prereleases=True):
        return None
    return f"{needs.name}{needs.specifier}, got {version}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores(root: str) -> Finding:
    cores, quota = usable_cores(), cpu_quota(root)
    if quota is not None and quota < cores:
        return Finding(
            "warning",
            "cores",
            f"{cores} in sight, and time for {quota:.3g} of them (the container's CPU quota)",
            f"start at most {max(1, int(quota))} rank(s) here and set OMP_NUM_THREADS="
            f"{max(1, int(quota))} and TF_NUM_INTRAOP_THREADS=1, or raise the quota: threads that "
            "used up their time stand still for the rest of each 100 ms",
        )
    quota_text = "" if quota is None else f", quota {quota:.3g}"
    return Finding("ok", "cores", f"{cores}{quota_text}")


def _memory(root: str) -> Finding:
    free, limit = available_memory_bytes(root), memory_limit_bytes(root)
    if free is None:
        return Finding("warning", "memory", "unknown", "look with `free -g`")
    limited = "" if limit is None else f", the container's limit is {limit / _GIB:.1f} GiB"
    text = f"{free / _GIB:.1f} GiB free{limited}"
    if free < _GIB:
        return Finding(
            "error",
            "memory",
            f"{text}; expected at least 1 GiB for a rank",
            "end other programs or raise the limit; `gmeta-tf plan` tells what tables take",
        )
    return Finding("ok", "memory", text)


def _disk(folder: str) -> Finding:
    path = pathlib.Path(folder).absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    text = f"{free / _GIB:.1f} GiB free at {path}"
    if not os.access(path, os.W_OK):
        return Finding("error", "disk", f"{path} cannot be written", "choose another --folder")
    if free < _GIB:
        return Finding(
            "warning",
            "disk",
            f"{text}; expected at least 1 GiB for checkpoints",
            "make room; a run keeps two checkpoints, and writes the next beside them",
        )
    return Finding("ok", "disk", text)


def _shared_memory(path: pathlib.Path) -> Finding:
    what = "/dev/shm"
    if not path.is_dir():
        return Finding(
            "warning",
            what,
            "is not there",
            "mount it: NCCL and MPI exchange messages of ranks on one host there",
        )
    size = shutil.disk_usage(path).total
    text = f"{size / _GIB:.2g} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"
    if size < _SHARED_MEMORY:
        return Finding(
            "warning",
            what,
            f"{text}; NCCL and MPI need more for ranks on one host, Gloo needs none",
            "docker run --shm-size=1g, or in Kubernetes an emptyDir of medium: Memory at /dev/shm",
        )
    return Finding("ok", what, text)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES and soft != resource.RLIM_INFINITY:
        return Finding(
            "warning",
            "open files",
            f"at most {soft}; records, checkpoints and a connection to each rank need some",
            f"ulimit -n {_OPEN_FILES}"
            + ("" if hard >= _OPEN_FILES or hard == resource.RLIM_INFINITY else ", as root"),
        )
    return Finding("ok", "open files", f"at most {soft}")


def _own_name(address: str | None) -> Finding:
    name = platform.node()
    if address is None:
        return Finding(
            "error",
            "own name",
            f"{name} does not resolve, and Horovod's connections are bound to what it resolves to",
            f"add a line to /etc/hosts: 127.0.0.1 {name} for one host, the network's address for "
            "several",
        )
    if address.startswith("127."):
        return Finding(
            "warning",
            "own name",
            f"{name} is {address}: good for one host; ranks of other hosts could not reach it, "
            "since Horovod binds its connections to that address whatever interface is named",
            f"for several hosts write the network's address for {name} in /etc/hosts",
        )
    return Finding("ok", "own name", f"{name} is {address}")
