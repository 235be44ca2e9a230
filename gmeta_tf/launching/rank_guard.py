"""Runs beside each rank: starts its command, tells the launcher how far it is, and ends it.

python -m gmeta_tf.launching.rank_guard COMMAND...    # as `gmeta-tf launch` has horovodrun do

What a rank prints to stderr comes some seconds late, so that the last of it goes to the launcher if
the rank fails, which shows one rank's and not every rank's.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

from gmeta_tf.distributed.world import World
from gmeta_tf.launching.cores import bound_cores, usable_cores
from gmeta_tf.launching.messages import BEAT_FILE, connect, send

__all__ = ["main"]

_HELD_SECONDS = 2.0
_HELD_LAST_WORDS_SECONDS = 8.0
_KILLED_AFTER_SECONDS = 3.0
_LEFT_AFTER_SECONDS = 20.0
_POLL_SECONDS = 0.1
_RECENT_LINES = 50
# After such a line a process often takes more than the usual seconds to end.
_LAST_WORDS = ("Traceback (most recent call last)", "gmeta-tf ")
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main(command: Sequence[str]) -> int:
    """Runs a rank's command to its end.

    Returns:
        Its exit status; 128 + the signal that ended it.

    Raises:
        OSError: the launcher cannot be reached.
    """
    world = World.detect()
    host = os.environ.get("HOROVOD_HOSTNAME") or socket.gethostname()
    connection = connect(rank=world.rank, host=host)
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-rank-") as folder:
        beat = os.path.join(folder, "beat")
        environment = {**os.environ, BEAT_FILE: beat}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // world.local_size)))
        cores = bound_cores(world) if os.environ.get("GMETA_BIND_CORES") == "1" else None
        child = _start(command, environment, cores)
        if isinstance(child, str):
            send(connection, {"exit": 127, "stderr": child})
            return 127
        return _Guard(child, connection, beat).run()


def _start(
    command: Sequence[str], environment: dict[str, str], cores: set[int] | None
) -> subprocess.Popen[str] | str:
    libc = ctypes.CDLL(None)

    def in_child() -> None:
        libc.prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=in_child,
        )
    except OSError as error:
        return f"{command[0]} cannot be started on {socket.gethostname()}: {error}\n"


class _Guard:
    """One rank's process, its output and its launcher."""

    def __init__(self, child: subprocess.Popen[str], connection: socket.socket, beat: str) -> None:
        self._child, self._connection, self._beat = child, connection, beat
        self._held: collections.deque[tuple[float, str]] = collections.deque()
        self._recent: collections.deque[str] = collections.deque(maxlen=_RECENT_LINES)
        self._lock = threading.Lock()
        self._told_beat = ""
        self._kill_at: float | None = None
        self._may_leave = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._end(signal.SIGTERM))
        # A Ctrl-C at the terminal is the launcher's to pass on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: self._preempt())

    def run(self) -> int:
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        outputs = [
            threading.Thread(target=self._pass_on, args=(self._child.stdout,), daemon=True),
            threading.Thread(target=self._hold, args=(self._child.stderr,), daemon=True),
        ]
        for thread in outputs:
            thread.start()
        threading.Thread(target=self._obey, daemon=True).start()
        while self._child.poll() is None:
            self._look()
            time.sleep(_POLL_SECONDS)
        for thread in outputs:
            thread.join(timeout=2)  # a grandchild may hold the pipe
        self._end_group()
        self._tell_beat()
        status = self._child.returncode
        status = 128 - status if status < 0 else status
        if status:
            with self._lock:
                told = "".join(line for _, line in self._held)
                recent = "".join(self._recent)
            send(self._connection, {"exit": status, "stderr": told, "recent": recent})
            self._may_leave.wait(_LEFT_AFTER_SECONDS)
        else:
            self._print_held(all_of_it=True)
            send(self._connection, {"exit": 0, "stderr": ""})
        return status

    def _look(self) -> None:
        self._tell_beat()
        self._print_held()
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._end_group()

    def _tell_beat(self) -> None:
        try:
            with open(self._beat, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            return
        if text != self._told_beat and text.endswith("\n"):
            self._told_beat = text
            send(self._connection, {"beat": json.loads(text)})

    def _pass_on(self, stream: IO[str]) -> None:
        for line in stream:
            sys.stdout.write(line if line.endswith("\n") else f"{line}\n")
            sys.stdout.flush()

    def _hold(self, stream: IO[str]) -> None:
        for line in stream:
            whole = line if line.endswith("\n") else f"{line}\n"
            with self._lock:
                self._held.append((time.monotonic(), whole))
                self._recent.append(whole)

    def _print_held(self, *, all_of_it: bool = False) -> None:
        with self._lock:
            while self._held:
                came, line = self._held[0]
                is_last = line.startswith(_LAST_WORDS)
                limit = _HELD_LAST_WORDS_SECONDS if is_last else _HELD_SECONDS
                if not all_of_it and time.monotonic() - came < limit:
                    return
                sys.stderr.write(line)
                self._held.popleft()
            sys.stderr.flush()

    def _obey(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._connection.makefile("r") as lines:
            for line in lines:
                what = json.loads(line)["do"]
                if what == "preempt":
                    self._preempt()
                elif what == "interrupt":
                    self._end(signal.SIGINT)
                elif what == "end":
                    self._end(signal.SIGTERM)
                elif what == "leave":
                    self._may_leave.set()
        # The launcher is gone, or has left this rank.
        self._may_leave.set()
        self._end(signal.SIGTERM)

    def _preempt(self) -> None:
        """Asks the rank to checkpoint and leave; one that has not said how far it is would not."""
        self._signal(signal.SIGUSR1 if self._told_beat else signal.SIGTERM)

    def _end(self, first: signal.Signals) -> None:
        self._may_leave.set()
        if self._kill_at is None:
            self._kill_at = time.monotonic() + _KILLED_AFTER_SECONDS
            self._signal(first)

    def _signal(self, which: signal.Signals) -> None:
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, which)

    def _end_group(self) -> None:
        """Kills the rank and what it started, which are a session of their own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except OSError as problem:
        print(f"gmeta-tf launch: {problem}", file=sys.stderr)
        status = 1
    sys.exit(status)
