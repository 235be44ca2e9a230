"""`gmeta-tf` commands in forked children, so that each begins with everything imported."""

from __future__ import annotations

import atexit
import dataclasses
import faulthandler
import importlib
import os
import pathlib
import re
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence

from tests.faults.file_operations import Watch
from tests.faults.outcome import expect

__all__ = ["Ended", "run", "start", "warm_up"]

_COMMANDS = ("prepare", "inspect", "plan", "train", "evaluate", "export", "predict")
_STACKS_AFTER_SECONDS = 100
_MORE_ROUNDS, _AT_WORK_SHARE = 16, 0.01
_TRACEBACK = 70  # the status of a child that has printed one
_NOISE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |WARNING: All log messages before")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status, negative for a signal; None where it was stopped at the limit.
        stdout, stderr: what it printed.
    """

    status: int | None
    stdout: str
    stderr: str

    @property
    def told(self) -> list[str]:
        """The lines of stderr, without TensorFlow's own log."""
        return [line for line in self.stderr.splitlines() if line and not _NOISE.match(line)]

    def expect_no_hang(self) -> None:
        """Raises a `Fault` where it did not end within the limit."""
        end = "\n".join(self.told[-40:])
        expect(self.status is not None, f"no end within the limit:\n{end}", "hung")

    def expect_no_crash(self) -> None:
        """Raises a `Fault` where it hung, crashed or printed a traceback."""
        self.expect_no_hang()
        end = "\n".join(self.told[-12:])
        crashed = self.status == _TRACEBACK or (self.status or 0) < 0
        expect(
            not crashed and "Traceback (most" not in self.stderr,
            f"status {self.status}:\n{end}",
            "traceback",
        )

    def expect_success(self) -> None:
        """Raises a `Fault` unless it succeeded."""
        self.expect_no_crash()
        expect(self.status == 0, f"status {self.status} instead of success: {self.told[-3:]}")

    def expect_one_line(self, *, naming: str = "") -> None:
        """Raises a `Fault` unless it ended with one line of error, which names something."""
        self.expect_no_crash()
        errors = [line for line in self.told if line.startswith("gmeta-tf")]
        expect(self.status in (1, 2) and len(errors) == 1, f"status {self.status}: {self.told}")
        expect(self.told[-1] == errors[0], f"more than a line: {self.told}", "traceback")
        expect(naming in errors[0], f"expected {naming!r} in {errors[0]!r}")


def warm_up() -> None:
    """Imports what commands import, once for all children."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in _COMMANDS:
        importlib.import_module(f"gmeta_tf.cli.{name}")


@dataclasses.dataclass(frozen=True)
class Child:
    """A command that runs."""

    pid: int
    handle: int
    files: tuple[int, int]
    watch: Watch | None

    def wait(self, limit_seconds: float) -> Ended:
        """Waits for its end, and stops it at the limit.

        On a machine with other work a command may only be slow: one that still computes gets more
        time, five times the limit at most.
        """
        round_seconds = 4 * limit_seconds / _MORE_ROUNDS
        worked, has_ended = 0.0, self._until(time.monotonic() + limit_seconds)
        for _ in range(_MORE_ROUNDS):
            before, worked = worked, self._core_seconds()
            if has_ended or worked - before < _AT_WORK_SHARE * round_seconds:
                break
            has_ended = self._until(time.monotonic() + round_seconds)
        if not has_ended:
            os.killpg(self.pid, signal.SIGKILL)
        status = self._status()
        os.close(self.handle)
        texts = []
        for descriptor in self.files:
            with open(descriptor, encoding="utf-8", errors="replace") as file:
                file.seek(0)
                texts.append(file.read())
        return Ended(status if has_ended else None, *texts)

    def kill(self) -> None:
        """SIGKILL, now."""
        os.kill(self.pid, signal.SIGKILL)

    def _until(self, end: float) -> bool:
        """Whether it ended in time; answers to its file operations meanwhile."""
        poll, listener = select.poll(), None
        poll.register(self.handle, select.POLLIN)
        if self.watch is not None:
            listener = self.watch.listener()
            poll.register(listener, select.POLLIN)
        try:
            while (left := end - time.monotonic()) > 0:
                ready = dict(poll.poll(1000 * left))
                if self.handle in ready:
                    return True
                if listener is not None and ready.get(listener, 0) & select.POLLIN:
                    assert self.watch is not None
                    self.watch.answer(listener)
                elif listener in ready:
                    poll.unregister(listener)
            return False
        finally:
            if listener is not None:
                os.close(listener)

    def _core_seconds(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(
    arguments: Sequence[str],
    folder: pathlib.Path,
    *,
    before: Callable[[], None] | None = None,
    watch: Watch | None = None,
) -> Child:
    """Begins a command.

    Args:
        arguments: those of `gmeta-tf`.
        folder: where it runs.
        before: called in the child, before the command.
        watch: what becomes of its file operations.
    """
    files = (_unnamed_file(), _unnamed_file())
    pid = os.fork()
    if pid == 0:
        _command(arguments, folder, files, before, watch)
    return Child(pid, os.pidfd_open(pid), files, watch)


def run(
    arguments: Sequence[str],
    folder: pathlib.Path,
    *,
    limit_seconds: float = 120.0,
    before: Callable[[], None] | None = None,
    watch: Watch | None = None,
) -> Ended:
    """Runs a command to its end; as `start`."""
    return start(arguments, folder, before=before, watch=watch).wait(limit_seconds)


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _command(
    arguments: Sequence[str],
    folder: pathlib.Path,
    files: tuple[int, int],
    before: Callable[[], None] | None,
    watch: Watch | None,
) -> None:
    """The child's whole life."""
    from gmeta_tf.cli import main as cli

    status = _TRACEBACK
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor, file in zip((1, 2), files, strict=True):
            os.dup2(file, descriptor)
        # A child that hangs says where, before it is stopped.
        faulthandler.dump_traceback_later(_STACKS_AFTER_SECONDS, file=2)
        if before is not None:
            before()
        if watch is not None:
            watch.enter()
        sys.argv = ["gmeta-tf", *arguments]
        cli.main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # As an interpreter ends, but for its destructors, which forked threads would wait in.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
