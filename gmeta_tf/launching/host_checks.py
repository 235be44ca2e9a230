"""Hosts before ranks are started on them: whether each answers, and is like the others."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from gmeta_tf.launching.hosts import Host, is_local
from gmeta_tf.launching.messages import ADDRESS, Control
from gmeta_tf.launching.ranks import Start
from gmeta_tf.launching.restarts import ssh_words

__all__ = ["HostReport", "Problem", "check_hosts", "problems_of"]

_LIMIT_SECONDS = 60
_GIB = 1 << 30
_LITTLE_MEMORY_A_RANK = _GIB
_LITTLE_DISK = _GIB
# Run folders are taken over from hosts that are silent for minutes.
_CLOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong, in one line with its remedy, and whether ranks would fail of it."""

    text: str
    is_error: bool = True


@dataclasses.dataclass(frozen=True)
class HostReport:
    """What a host has said of itself (`gmeta_tf.launching.probe`).

    Attributes:
        host: with its slots.
        facts: what it said; empty where it did not answer.
        failure: why it did not.
        clock_seconds: how far its clock is before this one's.
        error_seconds: how wrong that may be.
    """

    host: Host
    facts: dict[str, Any]
    failure: str = ""
    clock_seconds: float = 0.0
    error_seconds: float = 0.0

    def line(self) -> str:
        """One line, for a person."""
        if not self.facts:
            return f"{self.host.name}: no answer: {self.failure}"
        memory, disk = self.facts["memory_bytes"], self.facts["disk_bytes"]
        versions = self.facts["versions"]
        tensorflow = versions.get("tensorflow") or versions.get("tensorflow-cpu") or "none"
        return (
            f"{self.host.name}: {self.host.slots} rank(s), {self.facts['cores']} core(s), "
            f"{'unknown' if memory is None else f'{memory / _GIB:.1f} GiB'} memory and "
            f"{disk / _GIB:.1f} GiB disk free, Python {versions['Python']}, "
            f"TensorFlow {tensorflow}, Horovod {versions.get('horovod', 'none')}, gmeta_tf "
            f"{versions['gmeta_tf']}, {self.facts['name']} is {self.facts['address']}, clock "
            f"{self.clock_seconds:+.1f} s (within {self.error_seconds:.1f})"
        )


def check_hosts(hosts: Sequence[Host], start: Start, control: Control) -> list[HostReport]:
    """Asks every host at once, here or by ssh.

    Args:
        hosts: which.
        start: how ssh is called.
        control: that the hosts have to reach.
    """
    with concurrent.futures.ThreadPoolExecutor(min(32, len(hosts))) as pool:
        return list(pool.map(lambda host: _asked(host, start, control), hosts))


def problems_of(reports: Sequence[HostReport]) -> list[Problem]:
    """What would make ranks on these hosts fail, or is likely to.

    Args:
        reports: of all hosts; each is compared with what most of them have.
    """
    problems = []
    answered = [report for report in reports if report.facts]
    for report in reports:
        if not report.facts:
            problems.append(
                Problem(
                    f"{report.host.name}: expected an answer by ssh without a password, and the "
                    f"same Python at {sys.executable}, got: {report.failure}. Try `ssh "
                    f"{report.host.name} true`; --ssh-port and --ssh-identity say how."
                )
            )
    for report in answered:
        problems += _problems_of_one(report, several=len(reports) > 1)
    problems += _different_versions(answered)
    return problems


def _problems_of_one(report: HostReport, *, several: bool) -> list[Problem]:
    name, facts, problems = report.host.name, report.facts, []
    address = facts["address"]
    if several and (address is None or address.startswith("127.")):
        problems.append(
            Problem(
                f"{name}: expected its own name, {facts['name']}, to resolve to an address that "
                f"the other hosts reach, got {address or 'nothing'}. Horovod binds its connections "
                f"to it, whatever interface is named. In its /etc/hosts, write the address of its "
                f"network before {facts['name']}."
            )
        )
    if facts["launcher"] not in ("yes", "not asked"):
        problems.append(Problem(f"{name}: {facts['launcher']}"))
    if facts["versions"].get("horovod") is None:
        problems.append(
            Problem(f"{name}: expected Horovod, got none. Run `bash launch/setup.sh` there.")
        )
    memory = facts["memory_bytes"]
    if memory is not None and memory < report.host.slots * _LITTLE_MEMORY_A_RANK:
        problems.append(
            Problem(
                f"{name}: expected at least 1 GiB of free memory a rank, got "
                f"{memory / _GIB:.1f} GiB for {report.host.slots}. Give it fewer slots; `gmeta-tf "
                "plan` tells what the tables take.",
                is_error=False,
            )
        )
    if facts["disk_bytes"] < _LITTLE_DISK:
        problems.append(
            Problem(
                f"{name}: expected at least 1 GiB of free disk for checkpoints in {os.getcwd()}, "
                f"got {facts['disk_bytes'] / _GIB:.1f}. Make room there.",
                is_error=False,
            )
        )
    if abs(report.clock_seconds) > _CLOCK_SECONDS + report.error_seconds:
        problems.append(
            Problem(
                f"{name}: expected its clock within a minute of this host's, got "
                f"{report.clock_seconds:+.0f} s. Run chrony or ntpd there: a run's folder is taken "
                "over from who is silent for five minutes.",
            )
        )
    if facts["cores"] < report.host.slots:
        problems.append(
            Problem(
                f"{name}: expected a core a rank, got {facts['cores']} for {report.host.slots} "
                "ranks, which then wait for each other. Give it fewer slots.",
                is_error=False,
            )
        )
    return problems


def _different_versions(reports: Sequence[HostReport]) -> list[Problem]:
    problems = []
    for name in dict.fromkeys(name for one in reports for name in one.facts["versions"]):
        found = {one.host.name: one.facts["versions"].get(name, "none") for one in reports}
        most, _ = collections.Counter(found.values()).most_common(1)[0]
        for host, version in found.items():
            if version != most:
                problems.append(
                    Problem(
                        f"{host}: expected {name} {most}, as most hosts have, got {version}. "
                        "Install the same environment there, such as by `bash launch/setup.sh`."
                    )
                )
    return problems


def _asked(host: Host, start: Start, control: Control) -> HostReport:
    told = {ADDRESS: control.address, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    words = [sys.executable, "-m", "gmeta_tf.launching.probe"]
    environment = {**os.environ, **told}
    if is_local(host.name):
        environment.pop("SSH_CONNECTION", None)
    else:
        variables = [f"{name}={value}" for name, value in told.items()]
        remote = f"cd {shlex.quote(os.getcwd())} && {shlex.join(['env', *variables, *words])}"
        words = [*ssh_words(start), host.name, remote]
    begin = time.time()
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
        )
        end = time.time()
        facts = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return HostReport(host, {}, f"nothing within {_LIMIT_SECONDS} s")
    except (OSError, ValueError, IndexError) as error:
        said = done.stderr.strip() if isinstance(error, (ValueError, IndexError)) else str(error)
        return HostReport(host, {}, said.splitlines()[-1] if said else "no facts")
    half = (end - begin) / 2
    return HostReport(host, facts, clock_seconds=facts["clock"] - begin - half, error_seconds=half)
