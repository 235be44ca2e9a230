"""Little memory and few open files: one line or success, and never half a result.

Where memory ends within TensorFlow, oneDNN, LLVM or glibc, they abort the process by themselves:
that is no traceback of ours, and counts as a kill does. What was there is there, and the next run
succeeds.
"""

from __future__ import annotations

import functools
import pathlib
import random
import resource
import signal

from tests.faults import children
from tests.faults.outcome import Case, Group
from tests.faults.place import Place
from tests.faults.subjects import SUBJECTS, Subject, disturbed

__all__ = ["groups"]

_MEBIBYTE = 1 << 20
_FILES = (8, 12, 16, 24, 32, 64)
_MORE_MEBIBYTES = (1, 4, 16, 64, 256, 1024)
# oneDNN ends in an illegal instruction where its compiler has no memory.
_ABORTED = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, 127)
_QUICK = {"prepare": 1, "predict": 1}


def groups(place: Place) -> dict[str, Group]:
    """A group for each limit and command."""
    return {
        f"{limit}-{subject.command}": Group(
            functools.partial(_cases, place, subject, limit), _QUICK.get(subject.command, 0)
        )
        for limit in ("files", "memory")
        for subject in SUBJECTS
    }


def _cases(place: Place, subject: Subject, limit: str, draw: random.Random) -> list[Case]:
    if limit == "files":
        return [
            Case(f"{n} open files", functools.partial(_limited, place, subject, "files", n))
            for n in _FILES
        ]
    return [
        Case(
            f"{more} MiB of memory more than the imports take",
            functools.partial(_limited, place, subject, "memory", more),
        )
        for more in _MORE_MEBIBYTES
    ]


def _limited(place: Place, subject: Subject, limit: str, amount: int) -> None:
    def set_limit() -> None:
        if limit == "files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (amount, amount))
            return
        has = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = has + amount * _MEBIBYTE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def run(folder: pathlib.Path) -> children.Ended:
        ended = children.run(place.commands[subject.command], folder, before=set_limit)
        if limit == "memory" and (ended.status or 0) in _ABORTED:
            ended.expect_no_hang()
        elif ended.status != 0:
            ended.expect_one_line()
        return ended

    disturbed(place, subject, run)
