"""A folder with all that commands read and make; each case gets it anew, under the same name."""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable

import yaml

from tests.faults import children
from tests.helpers.made_log import SCHEMA, write_log

__all__ = ["Place", "checkpoints_of", "damaged_checkpoints", "files_of"]

_SMALL = [
    *("--width", "4", "--hidden", "6", "--tasks", "4", "--support", "3", "--query", "5"),
    *("--checkpoint-every-steps", "2"),
]
_INPUT = ["--input", "log.csv", "--schema", "schema.yaml"]


class Place:
    """A log and what the commands made of it: records, a run of one epoch, its export, predictions.

    Attributes:
        folder: the case's, where commands run.
        commands: name -> the words of a command that succeeds in a fresh folder.
    """

    def __init__(self, work: pathlib.Path) -> None:
        self.folder, self._base = work / "case", work / "base"
        self._references: dict[str, dict[str, bytes]] = {}
        predict = ["--saved-model", "run/saved_model", "--query", "query.csv"]
        predict += ["--support", "support.csv"]
        self.commands = {
            "prepare": ["prepare", *_INPUT, "--num-files", "2", "--output", "new"],
            "overwrite": [
                *("prepare", *_INPUT, "--num-files", "3", "--output", "records", "--overwrite")
            ],
            "append": [
                *("prepare", "--input", "later.csv", "--schema", "schema.yaml"),
                *("--output", "records", "--append"),
            ],
            "train": ["train", "--records", "records", "--run", "run-2", "--epochs", "2", *_SMALL],
            "resume": [
                *("train", "--records", "records", "--run", "run", "--epochs", "2", *_SMALL),
                "--resume",
            ],
            "evaluate": ["evaluate", "--run", "run"],
            "export": ["export", "--run", "run"],
            "predict": ["predict", *predict, "--output", "predictions.csv"],
            "verify": ["inspect", "records", "--verify"],
        }
        self._build()

    def _build(self) -> None:
        self.folder.mkdir(parents=True)
        write_log(self.folder / "log.csv", num_tasks=12)
        write_log(self.folder / "later.csv", num_tasks=15, seed=1)
        (self.folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_json()))
        with open(self.folder / "log.csv", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        for name, some in (("support.csv", rows[:6]), ("query.csv", rows[6:20])):
            with open(self.folder / name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *some])
        first = ["train", "--records", "records", "--run", "run", "--epochs", "1", *_SMALL]
        made = [
            ["prepare", *_INPUT, "--num-files", "2", "--output", "records"],
            first,
            *(self.commands[name] for name in ("evaluate", "export", "predict")),
        ]
        for arguments in made:
            ended = children.run(arguments, self.folder)
            if ended.status != 0:
                raise RuntimeError(f"{arguments[0]} fails without a fault:\n{ended.stderr}")
        shutil.copytree(self.folder / "run" / "saved_model", self.folder / "sibling")
        self.folder.rename(self._base)

    def fresh(self) -> pathlib.Path:
        """The case's folder, as it is before any fault."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._base, self.folder)
        return self.folder

    def undisturbed(
        self, name: str, result: Callable[[pathlib.Path], dict[str, bytes]]
    ) -> dict[str, bytes]:
        """What a command makes when nothing happens."""
        if name not in self._references:
            children.run(self.commands[name], self.fresh()).expect_success()
            self._references[name] = result(self.folder)
        return self._references[name]


def files_of(folder: pathlib.Path, *, but: Iterable[str] = ()) -> dict[str, bytes]:
    """Path -> the digest of each file in a folder; of none in folders or files of some names."""
    skipped = set(but)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not skipped & set(path.relative_to(folder).parts)
    }


def checkpoints_of(run: pathlib.Path) -> dict[str, bytes]:
    """Path -> digest of the values in a run's checkpoints, without what names the single save."""
    found = files_of(run / "checkpoint", but=["manifest.json"]) if run.is_dir() else {}
    return {path: digest for path, digest in found.items() if not path.startswith(".")}


def damaged_checkpoints(run: pathlib.Path) -> list[str]:
    """What a run would take for complete checkpoints and is not what its manifest says."""
    faults = []
    for manifest in (run / "checkpoint").glob("epoch-*/manifest.json"):
        for name, digest in json.loads(manifest.read_text())["files"].items():
            path = manifest.parent / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
            if found != digest["sha256"]:
                faults.append(str(path))
    return faults
