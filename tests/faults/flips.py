"""One bit flipped in each kind of file that the product reads again.

The command that reads the file, or `inspect --verify` of records, ends with one line that names
the file; or else the flip changes nothing: the command's result is equal to the last bit.
"""

from __future__ import annotations

import functools
import pathlib
import random
from collections.abc import Sequence

from tests.faults import children
from tests.faults.outcome import Case, Group, expect
from tests.faults.place import Place, checkpoints_of

__all__ = ["groups"]

_FLIPS_PER_FILE = 12


def groups(place: Place) -> dict[str, Group]:
    """A group for each kind of file."""
    folder = place.fresh()
    kinds = {
        "records": (["records/**/*"], ["verify"], ["train", "evaluate"], 2),
        "checkpoint": (["run/checkpoint/**/*"], [], ["evaluate"], 1),
        "config": (["run/config.yaml"], [], ["evaluate"], 1),
        "export": (["run/saved_model/**/*"], [], ["predict"], 1),
    }
    return {
        name: Group(functools.partial(_cases, place, _found(folder, patterns), first, then), quick)
        for name, (patterns, first, then, quick) in kinds.items()
    }


def _found(folder: pathlib.Path, patterns: Sequence[str]) -> list[str]:
    """The files of some patterns, with their sizes, as they are before any fault."""
    return sorted(
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    )


def _cases(
    place: Place,
    names: Sequence[str],
    first: Sequence[str],
    then: Sequence[str],
    draw: random.Random,
) -> list[Case]:
    folder = place.fresh()
    bits = [
        (name, draw.randrange(8 * (folder / name).stat().st_size))
        for name in names
        for _ in range(_FLIPS_PER_FILE)
        if (folder / name).stat().st_size
    ]
    return [
        Case(
            f"bit {bit % 8} of byte {bit // 8} of {name}",
            functools.partial(_flipped, place, name, bit, first, then),
        )
        for name, bit in bits
    ]


def _flipped(place: Place, name: str, bit: int, first: Sequence[str], then: Sequence[str]) -> None:
    results: dict[str, dict[str, bytes]] = {}
    path = place.fresh() / name
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    for command in (*first, *then):
        ended = children.run(place.commands[command], place.folder)
        ended.expect_no_crash()
        if ended.status != 0:
            ended.expect_one_line()
            # `inspect --verify` names each damage in a line of its report.
            told = ended.stderr + (ended.stdout if command == "verify" else "")
            expect(path.name in told, f"expected {path.name} to be named: {ended.told}")
            return
        if command in then:
            results[command] = _RESULTS[command](place.folder)
    for command, found in results.items():  # the reference runs in the case's folder
        undisturbed = place.undisturbed(command, _RESULTS[command])
        expect(found == undisturbed, f"{command}: silently another result")


def _file(path: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes()}


_RESULTS = {
    "train": lambda folder: checkpoints_of(folder / "run-2"),
    "evaluate": lambda folder: _file(folder / "run" / "evaluation-test.json"),
    "predict": lambda folder: _file(folder / "predictions.csv"),
}
