"""Ranks, started again from the last checkpoint when one is lost."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from gmeta_tf.launching.hosts import Host, allocate, hosts_text, is_local
from gmeta_tf.launching.messages import Control
from gmeta_tf.launching.ranks import PREEMPTED, Asked, Outcome, Start, run_ranks

__all__ = ["Restarts", "answers", "resumed", "run_to_the_end", "ssh_words"]

_SSH_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Restarts:
    """When ranks are started again.

    Attributes:
        most: how often, at most.
        min_ranks: the fewest ranks to go on with.
        resume_with: what is added to the command, where training had begun.
    """

    most: int = 0
    min_ranks: int = 1
    resume_with: str = "--resume"


def run_to_the_end(
    start: Start,
    hosts: Sequence[Host],
    restarts: Restarts,
    control: Control,
    asked: Asked,
    *,
    run: Callable[[Start, Control, Asked], Outcome] = run_ranks,
    is_there: Callable[[Host, Start], bool] | None = None,
) -> int:
    """Starts the ranks, and again where that may help; says why on stderr.

    Hosts that do not answer are left out, so that W becomes smaller.

    Args:
        start: the first start.
        hosts: all that there are, with all their slots.
        restarts: when to start again.
        control: to which the ranks' guards connect.
        asked: what signals ask; the caller is within it.
        run: makes one start.
        is_there: whether a host answers; None asks by ssh.

    Returns:
        The exit status: 0, `PREEMPTED`, 130 after Ctrl-C, or that of the rank that failed first.
    """
    wanted, has_begun, began = start.num_ranks, False, time.monotonic()
    is_there = is_there or answers
    for count in range(restarts.most + 1):
        outcome = run(start, control, asked)
        has_begun = has_begun or outcome.has_begun
        if outcome.status == 0:
            if count:
                _say(
                    f"finished after {count} restart(s) and {time.monotonic() - began:.0f} s, on "
                    f"{start.num_ranks} rank(s)"
                )
            return 0
        _tell(outcome)
        if not outcome.may_succeed_again or not restarts.most:
            return outcome.status
        if count == restarts.most:
            _say(f"not started again: that was done {count} time(s), --max-restarts {count}")
            return outcome.status
        left = [host for host in hosts if is_there(host, start)]
        for host in hosts:
            if host not in left:
                _say(f"{host.name} does not answer and is left out")
        num_ranks = min(wanted, sum(host.slots for host in left))
        if num_ranks < max(1, restarts.min_ranks):
            _say(
                f"not started again: {num_ranks} rank(s) are left, expected at least --min-np "
                f"{restarts.min_ranks}. Mend the hosts, or lower --min-np; `gmeta-tf train "
                "--resume` goes on from the last checkpoint."
            )
            return outcome.status
        command = resumed(start.command, restarts.resume_with) if has_begun else start.command
        start = dataclasses.replace(start, command=command, hosts=allocate(left, num_ranks))
        _say(
            f"restart {count + 1} of {restarts.most}: {num_ranks} rank(s) on "
            f"{hosts_text(start.hosts)}, {shlex.join(start.command)}"
        )
    raise AssertionError("unreachable: the last turn returns")


def resumed(command: Sequence[str], resume_with: str) -> list[str]:
    """The command that goes on from the last checkpoint.

    Example:
        >>> resumed(["gmeta-tf", "train", "--run", "run", "--overwrite"], "--resume")
        ['gmeta-tf', 'train', '--run', 'run', '--resume']
    """
    words = [word for word in command if word != "--overwrite"]
    added = shlex.split(resume_with)
    return words if set(added) <= set(words) else [*words, *added]


def answers(host: Host, start: Start) -> bool:
    """Whether a host is this one, or answers by ssh."""
    if is_local(host.name):
        return True
    words = [*ssh_words(start), host.name, "true"]
    try:
        return (
            subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=3 * _SSH_SECONDS
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def ssh_words(start: Start) -> list[str]:
    """ssh that asks nothing, as horovodrun does."""
    words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    words += ["-o", f"ConnectTimeout={_SSH_SECONDS}"]
    if start.ssh_port is not None:
        words += ["-p", str(start.ssh_port)]
    if start.ssh_identity is not None:
        words += ["-i", str(pathlib.Path(start.ssh_identity).expanduser())]
    return words


def _tell(outcome: Outcome) -> None:
    _say(f"{outcome.why}:" if outcome.text else outcome.why)
    if outcome.text:
        sys.stderr.write(outcome.text)
    if outcome.status == PREEMPTED:
        _say(f"status {PREEMPTED}: start it again with --resume to go on")
    if outcome.steps:
        _say(
            f"lost: {outcome.lost_steps} step(s) of {outcome.steps} since the start, "
            f"{outcome.lost_seconds:.1f} s after the last checkpoint"
        )


def _say(text: str) -> None:
    print(f"gmeta-tf launch: {text}", file=sys.stderr, flush=True)
