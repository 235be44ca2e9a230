"""A disk that is full from some write on, for every command that writes.

The command ends with one line that says so, earlier results are as they were, and with room again
the same command succeeds.
"""

from __future__ import annotations

import functools
import operator
import pathlib

from tests.faults import children
from tests.faults.file_operations import Watch
from tests.faults.outcome import Group
from tests.faults.place import Place
from tests.faults.subjects import SUBJECTS, Subject, at_operations, disturbed

__all__ = ["groups"]

_QUICK = {"prepare": 1, "append": 1, "predict": 1}


def groups(place: Place) -> dict[str, Group]:
    """A group for each command."""
    where = operator.attrgetter("takes_room")
    return {
        subject.command: Group(
            functools.partial(at_operations, place, subject, _full_from, where=where),
            _QUICK.get(subject.command, 0),
        )
        for subject in SUBJECTS
    }


def _full_from(place: Place, subject: Subject, number: int) -> None:
    def run(folder: pathlib.Path) -> children.Ended:
        watch = Watch(folder, at=number, full_disk=True)
        ended = children.run(place.commands[subject.command], folder, watch=watch)
        if ended.status != 0:
            ended.expect_one_line(naming="disk is full")
        return ended

    disturbed(place, subject, run)
