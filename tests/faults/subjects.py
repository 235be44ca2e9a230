"""The commands that are disturbed, at which of their operations, and what must be left then."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import random
import re
from collections.abc import Callable

from tests.faults import children
from tests.faults.file_operations import Operation, Watch
from tests.faults.outcome import Case, Fault, expect
from tests.faults.place import Place, checkpoints_of, damaged_checkpoints, files_of

__all__ = ["SUBJECTS", "Subject", "at_operations", "disturbed"]

Files = dict[str, bytes]


def _not_read(folder: pathlib.Path, output: str) -> Files:
    """All files of a folder but the output's and work folders'."""
    return {
        path: digest
        for path, digest in files_of(folder).items()
        if path.split("/")[0] not in (output.split("/")[0], "") and not path.startswith(".")
    }


@dataclasses.dataclass(frozen=True)
class Subject:
    """A command that is disturbed.

    Attributes:
        command: its name in `Place.commands`.
        output: what it writes, below the case's folder.
        result: the folder -> what the command is to make; empty where it is not there.
        quick: how many of its operations the quick part kills it at.
        resumes: a command that goes on where the killed one stopped, which is run in place of it.
        is_slow: it takes seconds, and does alike several times: of operations that differ by a
            number or a drawn name alone, the last one is tried and one that is drawn.
    """

    command: str
    output: str
    result: Callable[[pathlib.Path], Files]
    quick: int = 0
    resumes: tuple[str, ...] = ()
    is_slow: bool = False

    def others(self, folder: pathlib.Path) -> Files:
        """What the command has to leave alone."""
        return _not_read(folder, self.output)

    def expect_whole(self, folder: pathlib.Path, earlier: Files, new: Files) -> bool:
        """Raises a `Fault` unless the earlier result or the new one is there: whether it is new."""
        found = self.result(folder)
        if found == new:
            return True
        if self.command in ("train", "resume"):
            _expect_whole_checkpoints(folder / self.output, found, earlier, new)
            return False
        expect(found == earlier, f"{self.output} is neither the earlier one nor the new one")
        return False

    def expect_nothing_left(self, folder: pathlib.Path) -> None:
        """Raises a `Fault` where leftovers stay after the next run."""
        left = [
            path.relative_to(folder).as_posix()
            for path in folder.rglob(".*")
            if path.name != ".lock" or path.parent.name != self.output
        ]
        left += [path.name for path in folder.rglob("*.new")]
        expect(not left, f"left behind: {left}")


def _expect_whole_checkpoints(run: pathlib.Path, found: Files, earlier: Files, new: Files) -> None:
    expect(not damaged_checkpoints(run), f"half a checkpoint: {damaged_checkpoints(run)}")
    had = {name.split("/")[0] for name in earlier}
    have = {path.parent.name for path in (run / "checkpoint").glob("epoch-*/manifest.json")}
    expect(not had or bool(have), "no checkpoint is left of those that there were")
    wrong = [name for name in found if name in new and found[name] != new[name]]
    expect(not wrong, f"other values in {wrong}")


SUBJECTS = (
    Subject("prepare", "new", lambda folder: files_of(folder / "new"), quick=1),
    Subject("overwrite", "records", lambda folder: files_of(folder / "records"), quick=1),
    Subject("append", "records", lambda folder: _counted(folder / "records"), quick=2),
    Subject(
        *("train", "run-2", lambda folder: checkpoints_of(folder / "run-2"), 0, ("--resume",)),
        is_slow=True,
    ),
    Subject("resume", "run", lambda folder: checkpoints_of(folder / "run"), 1, is_slow=True),
    Subject("evaluate", "run", lambda folder: _one(folder / "run" / "evaluation-test.json")),
    Subject("export", "run", lambda folder: _exported(folder), is_slow=True),
    Subject("predict", "predictions.csv", lambda folder: _one(folder / "predictions.csv"), 1),
)


def at_operations(
    place: Place,
    subject: Subject,
    check: Callable[[Place, Subject, int], None],
    draw: random.Random,
    *,
    where: Callable[[Operation], bool] = lambda _: True,
) -> list[Case]:
    """A case for each of a command's file operations, or for some that stand for all of a kind.

    Args:
        place: where it runs.
        subject: the command.
        check: the fault; its last argument is the operation's number, from 1.
        draw: which operations stand for others.
        where: whether the fault can come at an operation.
    """
    watch = Watch(place.folder)
    folder = place.fresh()
    children.run(place.commands[subject.command], folder, watch=watch).expect_success()
    alike = collections.defaultdict(list)
    for number, operation in enumerate(watch.operations, start=1):
        if where(operation):
            name = f"{operation.name} {operation.path.removeprefix(f'{folder}/')}"
            alike[_kind_of(name) if subject.is_slow else number].append((number, name))
    cases = {}
    for found in alike.values():
        tried = {found[-1], draw.choice(found)}
        for number, name in tried:
            check_it = functools.partial(check, place, subject, number)
            cases[number] = Case(name, check_it, stands_for=len(found) / len(tried))
    return [cases[number] for number in sorted(cases)]


def _kind_of(name: str) -> str:
    """An operation's name without what is drawn or counted.

    >>> _kind_of("write run/.epoch-000001-step-000002-b1328pa4/checkpoint/.tmpnC30tA")
    'write run/.epoch-#-step-#-*/checkpoint/.tmp*'
    """
    name = re.sub(r"(\.[^/]*)-[a-z0-9_]{8}(?=/|$)", r"\1-*", name)
    name = re.sub(r"tmp[A-Za-z0-9]{6,}", "tmp*", name)
    return re.sub(r"[0-9]+", "#", name)


def disturbed(
    place: Place, subject: Subject, run: Callable[[pathlib.Path], children.Ended]
) -> None:
    """Runs a command with a fault: what must be left then is, and the next run succeeds.

    Args:
        place: where it runs.
        subject: the command.
        run: runs the command in a folder, and raises a `Fault` where it ended wrongly; a success
            without the result is one too.
    """
    new = place.undisturbed(subject.command, subject.result)
    folder = place.fresh()
    earlier, others = subject.result(folder), subject.others(folder)
    unexpected, ended = None, None
    try:
        ended = run(folder)
    except Fault as fault:
        unexpected = fault
    is_new = subject.expect_whole(folder, earlier, new)
    expect(subject.others(folder) == others, "files beside the output have changed")
    if unexpected is not None:
        raise unexpected
    if ended is not None and ended.status == 0:
        expect(is_new, "success is told, and the result is not there")
    if not (is_new and subject.command in ("prepare", "append")):
        again = [*place.commands[subject.command], *subject.resumes]
        children.run(again, folder).expect_success()
        expect(subject.result(folder) == new, "the next run's result is another one")
        subject.expect_nothing_left(folder)
    expect(subject.others(folder) == others, "files beside the output have changed")


def _one(path: pathlib.Path) -> Files:
    return {path.name: path.read_bytes()} if path.is_file() else {}


def _counted(records: pathlib.Path) -> Files:
    """The files that a records folder's `schema.json` names, and that file."""
    described = (records / "schema.json").read_text(encoding="utf-8")
    return {
        name: digest
        for name, digest in files_of(records).items()
        if name == "schema.json" or name.removeprefix("vocabulary/") in described
    }


def _exported(folder: pathlib.Path) -> Files:
    """What decides what an export predicts; a graph's protobuf is not the same in each process."""
    exported = folder / "run" / "saved_model"
    found = files_of(exported, but=["saved_model.pb", "fingerprint.pb"])
    if (exported / "saved_model.pb").is_file():
        found["saved_model.pb"] = b"there"
    return found
