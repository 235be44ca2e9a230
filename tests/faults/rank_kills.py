"""SIGKILL of one rank at a random moment of `horovodrun -np W gmeta-tf train`.

All processes end within a limit, the other ranks say one line each, no half checkpoint is chosen,
and `--resume` ends as a run that was not disturbed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from benchmarks.processes import descendants
from tests.faults.outcome import Case, Fault, Group, expect
from tests.faults.place import Place, checkpoints_of, damaged_checkpoints

__all__ = ["groups"]

_KILLS = 8
_LIMIT_SECONDS = 120
_WHOLE_RUN_SECONDS = 9.0
_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1"),
    "TF_NUM_INTEROP_THREADS": "1",
    "HOROVOD_CYCLE_TIME": "2",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def groups(place: Place) -> dict[str, Group]:
    """A group for each number of ranks; the quick part starts no ranks."""
    return {f"{size}-ranks": Group(functools.partial(_cases, place, size), 0) for size in (2, 3)}


def _cases(place: Place, size: int, draw: random.Random) -> list[Case]:
    kills = [(draw.randrange(size), draw.uniform(0, _WHOLE_RUN_SECONDS)) for _ in range(_KILLS)]
    return [
        Case(
            f"rank {rank} of {size} after {seconds:.2f} s",
            functools.partial(_killed, place, size, rank, seconds),
        )
        for rank, seconds in kills
    ]


def _killed(place: Place, size: int, rank: int, seconds: float) -> None:
    name = f"train on {size}"
    if name not in _REFERENCES:
        _expect_success(*_ended(place.fresh(), size, _words(place)))
        _REFERENCES[name] = checkpoints_of(place.folder / "run-2")
    folder = place.fresh()
    status, said = _ended(folder, size, _words(place), (rank, seconds))
    expect(status is not None, f"no end within {_LIMIT_SECONDS} s:\n{said[-2000:]}", "hung")
    run = folder / "run-2"
    expect(not damaged_checkpoints(run), f"half a checkpoint: {damaged_checkpoints(run)}")
    expect(
        not any(f"[{other}]<stderr>:Traceback" in said for other in range(size)),
        said[:2000],
        "traceback",
    )
    _expect_success(*_ended(folder, size, [*_words(place), "--resume"]))
    expect(checkpoints_of(run) == _REFERENCES[name], "the resumed run's result is another one")


_REFERENCES: dict[str, dict[str, bytes]] = {}


def _words(place: Place) -> list[str]:
    # Each of three ranks has at least so many.
    return [*place.commands["train"], "--tasks", "2"]


def _expect_success(status: int | None, said: str) -> None:
    expect(status is not None, f"no end within {_LIMIT_SECONDS} s:\n{said[-2000:]}", "hung")
    expect(status == 0, f"status {status} instead of success:\n{said[-2000:]}")


def _ended(
    folder: pathlib.Path, size: int, words: list[str], kill: tuple[int, float] | None = None
) -> tuple[int | None, str]:
    """Runs a command on ranks: its status, None at the limit, and all that it printed."""
    beside = pathlib.Path(sys.executable).with_name("horovodrun")
    main = "from gmeta_tf.cli.main import main; main()"
    command = [str(beside), "-np", str(size), sys.executable, "-c", main, *words]
    with open(folder.parent / "ranks.txt", "w+", encoding="utf-8") as output:
        launcher = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if kill is not None:
                _kill_rank(launcher.pid, *kill)
            status: int | None = launcher.wait(_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            left = [*descendants(launcher.pid), launcher.pid]
            for process in left if launcher.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            launcher.wait()
        output.seek(0)
        return status, output.read()


def _kill_rank(launcher: int, rank: int, seconds: float) -> None:
    """Waits for a rank's process, and then some time; kills it, if it is still there."""
    wanted = f"HOROVOD_RANK={rank}".encode()
    end = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < end:
        for process in descendants(launcher):
            # The shells between have the same environment, and begin with another word.
            is_python = _read(process, "cmdline")[0] == sys.executable.encode()
            if is_python and wanted in _read(process, "environ"):
                time.sleep(seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.05)
    raise Fault("hung", "the ranks did not start")


def _read(process: int, name: str) -> list[bytes]:
    try:
        return pathlib.Path(f"/proc/{process}/{name}").read_bytes().split(b"\0")
    except OSError:
        return [b""]
