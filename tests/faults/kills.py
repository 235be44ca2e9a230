"""SIGKILL at every file operation of each command that writes.

After each kill the earlier result is there or the new one is whole, nothing else has changed, the
same command succeeds when it is run again and its result is that of a run that was not disturbed,
bit for bit; and what the killed one left is gone then.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import random
from collections.abc import Callable

from tests.faults import children
from tests.faults.file_operations import Watch
from tests.faults.outcome import Case, Group, expect
from tests.faults.place import Place, checkpoints_of, damaged_checkpoints, files_of

__all__ = ["SUBJECTS", "Subject", "groups"]

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
        may_be_aside: the earlier result may stand in a hidden folder that the next run puts back.
    """

    command: str
    output: str
    result: Callable[[pathlib.Path], Files]
    quick: int = 0
    resumes: tuple[str, ...] = ()
    may_be_aside: bool = False

    def others(self, folder: pathlib.Path) -> Files:
        """What the command has to leave alone."""
        return _not_read(folder, self.output)

    def expect_whole(self, folder: pathlib.Path, earlier: Files, new: Files) -> bool:
        """Raises a `Fault` unless the earlier result or the new one is there: whether it is new."""
        found = self.result(folder)
        if found == new:
            return True
        aside = self.may_be_aside and not (folder / self.output).exists()
        if aside and earlier:
            hidden = [
                path
                for path in (folder / self.output).parent.glob(
                    f".{pathlib.Path(self.output).name}-*"
                )
                if files_of(path / "previous") and (path / "lock").is_file()
            ]
            expect(len(hidden) == 1, f"the earlier {self.output} is gone")
            return False
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
    Subject("prepare", "new", lambda folder: files_of(folder / "new"), quick=2),
    Subject(
        "overwrite", "records", lambda folder: files_of(folder / "records"), 1, may_be_aside=True
    ),
    Subject("append", "records", lambda folder: _counted(folder / "records"), quick=3),
    Subject("train", "run-2", lambda folder: checkpoints_of(folder / "run-2"), 0, ("--resume",)),
    Subject("resume", "run", lambda folder: checkpoints_of(folder / "run"), quick=1),
    Subject("evaluate", "run", lambda folder: _one(folder / "run" / "evaluation-test.json")),
    Subject("export", "run", lambda folder: _exported(folder), may_be_aside=True),
    Subject("predict", "predictions.csv", lambda folder: _one(folder / "predictions.csv"), 1),
)


def groups(place: Place) -> dict[str, Group]:
    """A group for each command."""
    return {
        subject.command: Group(functools.partial(_cases, place, subject), subject.quick)
        for subject in SUBJECTS
    }


def _cases(place: Place, subject: Subject, draw: random.Random) -> list[Case]:
    watch = Watch(place.folder)
    folder = place.fresh()
    children.run(place.commands[subject.command], folder, watch=watch).expect_success()
    return [
        Case(
            f"{operation.name} {operation.path.removeprefix(str(folder) + '/')}",
            functools.partial(_killed_at, place, subject, number),
        )
        for number, operation in enumerate(watch.operations, start=1)
    ]


def _killed_at(place: Place, subject: Subject, number: int) -> None:
    arguments = place.commands[subject.command]
    new = place.undisturbed(subject.command, subject.result)
    folder = place.fresh()
    earlier, others = subject.result(folder), subject.others(folder)
    children.run(arguments, folder, watch=Watch(folder, at=number)).expect_no_hang()
    is_new = subject.expect_whole(folder, earlier, new)
    expect(subject.others(folder) == others, "files beside the output have changed")
    if not (is_new and subject.command in ("prepare", "append")):
        again = [*arguments, *subject.resumes]
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
