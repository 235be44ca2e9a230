"""A disk that is full from some write on, for every command that writes.

The command ends with one line that says so, earlier results are as they were, and with room again
the same command succeeds.
"""

from __future__ import annotations

import functools
import random

from tests.faults import children
from tests.faults.file_operations import Watch
from tests.faults.kills import SUBJECTS, Subject
from tests.faults.outcome import Case, Group, expect
from tests.faults.place import Place

__all__ = ["groups"]

_QUICK = {"prepare": 2, "append": 1, "predict": 1}


def groups(place: Place) -> dict[str, Group]:
    """A group for each command."""
    return {
        subject.command: Group(
            functools.partial(_cases, place, subject), _QUICK.get(subject.command, 0)
        )
        for subject in SUBJECTS
    }


def _cases(place: Place, subject: Subject, draw: random.Random) -> list[Case]:
    watch = Watch(place.folder)
    folder = place.fresh()
    children.run(place.commands[subject.command], folder, watch=watch).expect_success()
    return [
        Case(
            f"{operation.name} {operation.path.removeprefix(str(folder) + '/')}",
            functools.partial(_full_from, place, subject, number),
        )
        for number, operation in enumerate(watch.operations, start=1)
        if operation.takes_room
    ]


def _full_from(place: Place, subject: Subject, number: int) -> None:
    arguments = place.commands[subject.command]
    new = place.undisturbed(subject.command, subject.result)
    folder = place.fresh()
    earlier, others = subject.result(folder), subject.others(folder)
    watch = Watch(folder, at=number, full_disk=True)
    ended = children.run(arguments, folder, watch=watch)
    is_new = subject.expect_whole(folder, earlier, new)
    if ended.status == 0:
        expect(is_new, "success is told, and the result is not there")
    else:
        ended.expect_one_line(naming="disk is full")
    expect(subject.others(folder) == others, "files beside the output have changed")
    if not (is_new and subject.command in ("prepare", "append")):
        children.run([*arguments, *subject.resumes], folder).expect_success()
        expect(subject.result(folder) == new, "the next run's result is another one")
        subject.expect_nothing_left(folder)
