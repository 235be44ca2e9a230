"""Two commands at the same time on one output: no mixed result, and one line for who is late."""

from __future__ import annotations

import dataclasses
import functools
import random
import time

from tests.faults import children
from tests.faults.outcome import Case, Group, expect
from tests.faults.place import Place, damaged_checkpoints
from tests.faults.subjects import SUBJECTS, Subject

__all__ = ["groups"]

_SUBJECT = {subject.command: subject for subject in SUBJECTS}
_DRAWS = 6


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two commands, the seconds within which the second one begins, and whether one may lose."""

    first: str
    second: str
    within_seconds: float
    quick: int = 0


_PAIRS = (
    _Pair("prepare", "prepare", 0.2, quick=1),
    _Pair("overwrite", "overwrite", 0.3, quick=1),
    _Pair("append", "append", 0.3),
    _Pair("train", "train", 2.0),
    _Pair("resume", "evaluate", 2.0),
    _Pair("resume", "export", 2.0),
    _Pair("overwrite", "verify", 0.3),
    _Pair("append", "verify", 0.3),
    _Pair("append", "train", 0.3),
    _Pair("export", "export", 1.0),
    _Pair("export", "predict", 2.0),
    _Pair("predict", "predict", 0.5),
)


def groups(place: Place) -> dict[str, Group]:
    """A group for each pair of commands."""
    return {
        f"{pair.first}-{pair.second}": Group(functools.partial(_cases, place, pair), pair.quick)
        for pair in _PAIRS
    }


def _cases(place: Place, pair: _Pair, draw: random.Random) -> list[Case]:
    waits = [0.0, *(draw.uniform(0, pair.within_seconds) for _ in range(_DRAWS - 1))]
    return [
        Case(
            f"{pair.second} {wait:.3f} s after {pair.first}",
            functools.partial(_together, place, pair, wait),
        )
        for wait in waits
    ]


def _together(place: Place, pair: _Pair, wait_seconds: float) -> None:
    written = {
        name: (_SUBJECT[name], place.undisturbed(name, _SUBJECT[name].result))
        for name in dict.fromkeys((pair.first, pair.second))
        if name in _SUBJECT
    }
    folder = place.fresh()
    earlier = {name: subject.result(folder) for name, (subject, _) in written.items()}
    running = []
    for name in (pair.first, pair.second):
        running.append((name, children.start(place.commands[name], folder)))
        time.sleep(wait_seconds if len(running) == 1 else 0)
    # Both are waited for before anything is raised.
    ended = [(name, child.wait(120)) for name, child in running]
    for _, one in ended:
        one.expect_no_crash()
        if one.status != 0:
            one.expect_one_line()
    for name, one in ended:
        if name in written:
            subject, new = written[name]
            _expect_result(place, subject, earlier[name], new, pair, one.status == 0)
    expect(any(one.status == 0 for _, one in ended), "neither came to an end")


def _expect_result(
    place: Place,
    subject: Subject,
    earlier: dict[str, bytes],
    new: dict[str, bytes],
    pair: _Pair,
    succeeded: bool,
) -> None:
    found = subject.result(place.folder)
    if subject.command in ("train", "resume"):
        half = damaged_checkpoints(place.folder / subject.output)
        expect(not half, f"half a checkpoint: {half}")
    if succeeded and pair.first != pair.second and subject.command != pair.first:
        return  # it read what the other one was changing: old or new, which `_results` compares
    if succeeded and subject.command != "append":
        expect(found == new, f"{subject.command}: success is told, and the result is another one")
    if pair.first == "append" and pair.second == "append":
        verified = children.run(place.commands["verify"], place.folder)
        verified.expect_success()
