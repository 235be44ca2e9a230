"""One start of all ranks, from `horovodrun` to the end of the last, and why it ended."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from gmeta_tf.distributed.lost_ranks import is_of_lost_rank
from gmeta_tf.launching.hosts import Host, hosts_text
from gmeta_tf.launching.messages import ADDRESS, Control

__all__ = ["PREEMPTED", "Asked", "Outcome", "Start", "run_ranks"]

# EX_TEMPFAIL of sysexits.h: what was begun is to be started again later.
PREEMPTED = 75
_INTERRUPTED = 130
_POLL_SECONDS = 0.1
# How long the other ranks may take to say what they met, when one has failed.
_SETTLE_SECONDS = 3.0
# The guards need up to 3 s to kill a rank; then horovodrun has what is left of the 10 s.
_END_SECONDS = 7.0
_PREFIX = re.compile(r"\[(\d+)\]<(stdout|stderr)>:(.*)", re.DOTALL)


class Asked:
    """What signals ask of a launcher while this is entered: to end now, or to let ranks checkpoint.

    Attributes:
        interrupted: Ctrl-C.
        preempt_by: SIGTERM or SIGUSR1: when the ranks have to be gone, on the clock of
            `time.monotonic()`; infinite where they may take as long as it takes.
    """

    def __init__(self, grace_seconds: float) -> None:
        """Args: grace_seconds: from SIGTERM to the end of ranks that are still there."""
        self._grace_seconds = grace_seconds
        self.interrupted = False
        self.preempt_by: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Asked:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            self.interrupted = True
            return
        grace = self._grace_seconds if number == signal.SIGTERM else float("inf")
        self.preempt_by = min(self.preempt_by or float("inf"), time.monotonic() + grace)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """How ranks are started.

    Attributes:
        command: what each runs.
        hosts: with the slots that are used: W in all.
        environment: of every rank.
        ssh_port, ssh_identity: for ssh to the hosts.
        interface: the network interface of the ranks; None has horovodrun find one.
        mpi: by MPI in place of Gloo.
        step_timeout: seconds without a step after which the ranks hang; None is without limit.
        start_timeout: the same until the first step.
    """

    command: Sequence[str]
    hosts: Sequence[Host]
    environment: Mapping[str, str]
    ssh_port: int | None = None
    ssh_identity: str | None = None
    interface: str | None = None
    mpi: bool = False
    step_timeout: float | None = None
    start_timeout: float = 1800.0

    @property
    def num_ranks(self) -> int:
        """W."""
        return sum(host.slots for host in self.hosts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Why a start ended.

    Attributes:
        status: what the launcher's exit status is, if it is not tried again.
        why: one line; "" where all ranks succeeded.
        text: what the rank that failed first printed last to stderr.
        may_succeed_again: it was lost, killed or hung, and did not fail by itself.
        host: of that rank, if it is known.
        has_begun: a run folder was taken, so that it holds no older run.
        steps: how many steps had been made.
        lost_steps: those after the last checkpoint.
        lost_seconds: from that checkpoint to the last step.
    """

    status: int
    why: str = ""
    text: str = ""
    may_succeed_again: bool = False
    host: str | None = None
    has_begun: bool = False
    steps: int = 0
    lost_steps: int = 0
    lost_seconds: float = 0.0


def run_ranks(start: Start, control: Control, asked: Asked) -> Outcome:
    """Starts the ranks, prints what they print, and waits for the end of all of them.

    Where one fails the others are ended, and none of their errors is printed: it is in the outcome.

    Args:
        start: what to start.
        control: to which the ranks' guards connect.
        asked: what signals ask; the caller is within it.

    Raises:
        FileNotFoundError: no horovodrun.
    """
    return _Run(start, control, asked).outcome()


@dataclasses.dataclass
class _Rank:
    """What is known of a rank."""

    host: str
    status: int | None = None
    text: str = ""
    recent: str = ""
    is_lost: bool = False
    beat: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed_at: float = float("inf")
    was_ended: bool = False

    @property
    def has_failed(self) -> bool:
        return self.is_lost or bool(self.status)


class _Run:
    def __init__(self, start: Start, control: Control, asked: Asked) -> None:
        self._start, self._control, self._asked = start, control, asked
        self._ranks: dict[int, _Rank] = {}
        self._own_lines: collections.deque[str] = collections.deque(maxlen=200)
        self._last_step = time.monotonic()
        self._hung: str | None = None
        self._first_failure: float | None = None
        self._ended_at: float | None = None
        self._told_preempt = False

    def outcome(self) -> Outcome:
        launcher = self._launcher()
        outputs = [
            threading.Thread(target=self._print, args=(stream,), daemon=True)
            for stream in (launcher.stdout, launcher.stderr)
        ]
        for thread in outputs:
            thread.start()
        try:
            while launcher.poll() is None:
                self._take_events(_POLL_SECONDS)
                self._look()
                if self._ended_at is not None and time.monotonic() > self._ended_at + _END_SECONDS:
                    break
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
        for thread in outputs:
            thread.join(timeout=2)
        # What the guards sent last may still be on its way.
        end = time.monotonic() + 2
        while time.monotonic() < end and not all(
            rank.status is not None or rank.is_lost for rank in self._ranks.values()
        ):
            self._take_events(_POLL_SECONDS)
        return self._judged(launcher.returncode)

    def _launcher(self) -> subprocess.Popen[str]:
        start = self._start
        words = [_horovodrun(), "-np", str(start.num_ranks), "-H", hosts_text(start.hosts)]
        words += ["--mpi" if start.mpi else "--gloo"]
        if start.ssh_port is not None:
            words += ["--ssh-port", str(start.ssh_port)]
        if start.ssh_identity is not None:
            words += ["--ssh-identity-file", start.ssh_identity]
        if start.interface is not None:
            words += ["--network-interfaces", start.interface]
        words += [sys.executable, "-m", "gmeta_tf.launching.rank_guard", *start.command]
        environment = {**start.environment, ADDRESS: self._control.address}
        # On other hosts it tells where the launcher is; here it would tell where its user is.
        environment.pop("SSH_CONNECTION", None)
        libc = ctypes.CDLL(None)
        return subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # it ends with the launcher
        )

    def _print(self, stream: IO[str]) -> None:
        for line in stream:
            of_rank = _PREFIX.fullmatch(line)
            if of_rank is None:
                self._own_lines.append(line)
                continue
            output = sys.stdout if of_rank[2] == "stdout" else sys.stderr
            output.write(f"[{of_rank[1]}] {of_rank[3]}")
            output.flush()

    def _take_events(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._take(*self._control.events.get(timeout=seconds))
            while True:
                self._take(*self._control.events.get_nowait())

    def _take(self, number: int, message: dict[str, Any] | None) -> None:
        if message is not None and "word" in message:
            self._ranks[number] = _Rank(str(message.get("host", "")))
            self._last_step = time.monotonic()
            return
        rank = self._ranks.get(number)
        if rank is None:
            return
        if message is None:
            rank.is_lost = rank.status is None
        elif "beat" in message:
            rank.beat = message["beat"]
            self._last_step = time.monotonic()
        elif "exit" in message:
            rank.status, rank.text = message["exit"], message["stderr"]
            rank.recent = message.get("recent", rank.text)
        if rank.has_failed and rank.failed_at == float("inf"):
            rank.failed_at = time.monotonic()
            rank.was_ended = self._ended_at is not None
            self._first_failure = self._first_failure or rank.failed_at

    def _look(self) -> None:
        now = time.monotonic()
        if self._ended_at is not None:
            return
        if self._asked.interrupted:
            self._end("interrupt")
        elif self._asked.preempt_by is not None and now > self._asked.preempt_by:
            self._end("end")
        elif self._asked.preempt_by is not None and not self._told_preempt:
            self._told_preempt = True
            self._control.tell(do="preempt")
            if not self._ranks:  # none has come so far as to be asked
                self._end("end")
        elif self._first_failure is not None:
            open_ranks = [rank for rank in self._ranks.values() if rank.status is None]
            settled = not any(not rank.is_lost for rank in open_ranks)
            if settled or now > self._first_failure + _SETTLE_SECONDS:
                self._end("end")
        elif not any(rank.status is not None for rank in self._ranks.values()):
            self._look_for_hang(now)

    def _look_for_hang(self, now: float) -> None:
        if self._start.step_timeout is None:
            return
        stepping = any(rank.beat.get("steps") for rank in self._ranks.values())
        limit = self._start.step_timeout if stepping else self._start.start_timeout
        if now > self._last_step + limit:
            kind = "step" if stepping else "first step"
            self._hung = f"no {kind} for {limit:g} s"
            self._end("end")

    def _end(self, how: str) -> None:
        self._ended_at = time.monotonic()
        self._control.tell(do=how)

    def _judged(self, status: int) -> Outcome:
        beats = [rank.beat for rank in self._ranks.values() if rank.beat]
        told: dict[str, Any] = {}
        if beats:
            last = max(beats, key=lambda beat: beat["steps"])
            saved = last["saved_steps"]
            told = {
                "has_begun": True,
                "steps": last["steps"],
                "lost_steps": last["steps"] - saved,
                "lost_seconds": max(0.0, last["at"] - last["saved_at"]),
            }
        if self._asked.interrupted:
            return Outcome(status=_INTERRUPTED, why="interrupted", **told)
        if self._asked.preempt_by is not None:
            ended = self._ranks and all(rank.status == 0 for rank in self._ranks.values())
            if ended:
                return Outcome(status=0, **told)
            return Outcome(status=PREEMPTED, why="preempted", **told)
        if self._hung is not None:
            return Outcome(status=1, why=self._hung, may_succeed_again=True, **told)
        failed = {number: rank for number, rank in self._ranks.items() if rank.has_failed}
        if not failed:
            return self._without_ranks(status, told)
        if all(rank.status == PREEMPTED for rank in failed.values()):
            return Outcome(status=PREEMPTED, why="preempted", **told)
        number, rank = min(failed.items(), key=lambda item: _innocence(item[1]))
        where = f"rank {number} on {rank.host}"
        if rank.is_lost:
            why = f"{where} was lost: its guard or its host is gone"
        elif rank.status and rank.status > 128:
            why = f"{where} was ended by {_signal_name(rank.status - 128)}"
        else:
            why = f"{where} failed with status {rank.status}"
        return Outcome(
            status=rank.status or 1,
            why=why,
            text=rank.text,
            may_succeed_again=_innocence(rank)[0] > 0 or (rank.status or 0) > 128,
            host=rank.host,
            **told,
        )

    def _without_ranks(self, status: int, told: dict[str, Any]) -> Outcome:
        """No rank has failed: all succeeded, or horovodrun did not come as far as starting them."""
        ended = [rank for rank in self._ranks.values() if rank.status == 0]
        if len(ended) == self._start.num_ranks:
            return Outcome(status=0, **told)
        return Outcome(
            status=status if status > 0 else 1,
            why=f"horovodrun ended with status {status}",
            text="".join(self._own_lines),
            may_succeed_again=True,
            **told,
        )


def _innocence(rank: _Rank) -> tuple[int, float]:
    """Orders ranks that failed, the one first that the others failed because of."""
    if rank.was_ended:  # by the launcher
        return 3, rank.failed_at
    if rank.is_lost:
        return 1, rank.failed_at
    # What it said may have been printed before it ended.
    said = rank.recent
    of_others = "because another rank did" in said or is_of_lost_rank(RuntimeError(said))
    if of_others or rank.status == 128 + signal.SIGTERM:
        return 2, rank.failed_at
    return 0, rank.failed_at


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
        return f"{name} (often too little memory)" if name == "SIGKILL" else name
    return f"signal {number}"


def _horovodrun() -> str:
    beside = pathlib.Path(sys.executable).with_name("horovodrun")
    found = str(beside) if beside.exists() else shutil.which("horovodrun")
    if found is None:
        raise FileNotFoundError(
            f"launch: no horovodrun beside {sys.executable} or on PATH: expected Horovod, which "
            "starts the ranks. Run `bash launch/setup.sh`."
        )
    return found
