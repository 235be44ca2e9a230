"""SIGKILL at every file operation of each command that writes.

After each kill the earlier result is there or the new one is whole, nothing else has changed, the
same command succeeds when it is run again and its result is that of a run that was not disturbed,
bit for bit; and what the killed one left is gone then.
"""

from __future__ import annotations

import functools
import pathlib

from tests.faults import children
from tests.faults.file_operations import Watch
from tests.faults.outcome import Group
from tests.faults.place import Place
from tests.faults.subjects import SUBJECTS, Subject, at_operations, disturbed

__all__ = ["groups"]


def groups(place: Place) -> dict[str, Group]:
    """A group for each command."""
    return {
        subject.command: Group(
            functools.partial(at_operations, place, subject, _killed_at), subject.quick
        )
        for subject in SUBJECTS
    }


def _killed_at(place: Place, subject: Subject, number: int) -> None:
    def run(folder: pathlib.Path) -> children.Ended:
        watch = Watch(folder, at=number)
        ended = children.run(place.commands[subject.command], folder, watch=watch)
        ended.expect_no_hang()
        return ended

    disturbed(place, subject, run)
