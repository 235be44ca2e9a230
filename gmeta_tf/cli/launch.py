"""`gmeta-tf launch`: ranks on one host or many, looked at before and watched meanwhile."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

from gmeta_tf.cli.options import LaunchOptions
from gmeta_tf.launching.environment import rank_environment
from gmeta_tf.launching.host_checks import HostReport, check_hosts, problems_of
from gmeta_tf.launching.hosts import allocate, find_hosts, hosts_text
from gmeta_tf.launching.messages import Control
from gmeta_tf.launching.ranks import Asked, Start
from gmeta_tf.launching.restarts import Restarts, run_to_the_end

__all__ = ["launch"]


def launch(options: LaunchOptions) -> None:
    """`gmeta-tf launch`.

    Raises:
        ValueError: hosts that cannot be read, that have too few slots, or of which one would fail.
        OSError: no hostfile, no horovodrun, or the port is taken.
        SystemExit: the ranks' status, where it is not 0.
    """
    hosts, where = find_hosts(
        os.environ, given=options.hosts, hostfile=options.hostfile, num_ranks=options.np
    )
    num_ranks = options.np or sum(host.slots for host in hosts)
    used = allocate(hosts, num_ranks)
    _say(f"{num_ranks} rank(s) on {hosts_text(used)}, from {where}")
    control = Control(options.port)
    start = Start(
        command=_found(options.command or []),
        hosts=used,
        environment={},
        ssh_port=options.ssh_port,
        ssh_identity=options.ssh_identity,
        mpi=options.mpi,
        step_timeout=options.step_timeout,
        start_timeout=options.start_timeout,
    )
    reports = check_hosts(hosts, start, control) if options.check or options.only_check else []
    for report in reports:
        _say(report.line())
    problems = problems_of(reports)
    for problem in problems:
        _say(problem.text)
    if any(problem.is_error for problem in problems):
        raise ValueError(
            "hosts that would fail, as said above: expected none. Mend them, or start with "
            "--no-check."
        )
    if options.only_check:
        return
    environment, lines = rank_environment(
        os.environ,
        profiled=options.network,
        num_hosts=len(used),
        local_ranks=max(host.slots for host in used),
        bind_cores=options.bind_cores,
        mpi=options.mpi,
    )
    for line in lines:
        _say(line)
    start = dataclasses.replace(
        start, environment=environment, interface=options.interface or _interface_of(reports)
    )
    with Asked(options.grace_seconds) as asked:
        status = run_to_the_end(
            start,
            hosts,
            Restarts(options.max_restarts, options.min_np, options.resume_with),
            control,
            asked,
        )
    control.close()
    if status:
        raise SystemExit(status)


def _interface_of(reports: list[HostReport]) -> str | None:
    """The interface of the default route, if there are several hosts which call it the same."""
    names = {str(report.facts.get("interface")) for report in reports}
    is_one = len(reports) > 1 and len(names) == 1
    return names.pop() if is_one and names != {"None"} else None


def _found(command: list[str]) -> list[str]:
    """The command, with `gmeta-tf` as the one beside this Python, which PATH need not have."""
    beside = pathlib.Path(sys.executable).with_name("gmeta-tf")
    if command[:1] == ["gmeta-tf"] and beside.exists():
        return [str(beside), *command[1:]]
    return command


def _say(text: str) -> None:
    print(f"gmeta-tf launch: {text}", file=sys.stderr, flush=True)
