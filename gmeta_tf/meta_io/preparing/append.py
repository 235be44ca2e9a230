"""Appending to a records folder: what it has, whether a log fits it, and the new files' way in."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.job import Previous, TimeCuts
from gmeta_tf.meta_io.preparing.split import Split
from gmeta_tf.meta_io.records.file_names import is_own_file
from gmeta_tf.meta_io.records.index_checks import index_chunks
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.schema import Schema

__all__ = ["append_of", "check_layout", "check_no_history", "check_same", "first_parts", "move_in"]


def check_layout(old: Records) -> None:
    """Checks that nothing that appending reads, moves or removes lies outside of the folder.

    Raises:
        ValueError: the folder of the vocabularies is a link to somewhere else.
    """
    if not files.is_remote(old.path):
        check_inside(old.path, "vocabulary/any")


def check_same(
    old: Records,
    schema: Schema,
    split: Split | None,
    episode_rows: int | None,
    compression: str | None,
) -> None:
    """Checks that what is asked for is what the folder has; None asks for nothing.

    Raises:
        ValueError: something differs.
    """
    if not {"split", "time"} <= set(old.details):
        raise ValueError(
            f"{old.path} cannot be appended to: expected records that prepare made, got details "
            f"of {', '.join(old.details) or 'nothing'}. Prepare everything anew."
        )
    asked: dict[str, tuple[Any, Any]] = {
        "the schema": (_comparable(schema), _comparable(old.schema)),
        "the split": (split, Split(**old.details["split"])),
        "episode_rows": (episode_rows, old.episode_rows),
        "the compression": (compression, old.compression),
    }
    for what, (got, expected) in asked.items():
        if got is not None and got != expected:
            raise ValueError(
                f"{old.path} cannot be appended to: expected {what} to be {expected}, got {got}. "
                "Leave it as it was, or prepare everything anew."
            )


def check_no_history(old: Records) -> None:
    """Checks that no field is made of the rows before.

    Raises:
        ValueError: one is. Records do not have the times of rows, so that nobody knows which rows
            of the folder are before an appended one.
    """
    histories = [field.name for field in old.schema.fields if field.last is not None]
    if histories:
        raise ValueError(
            f"{old.path} cannot be appended to: its field {histories[0]!r} is made of the rows "
            "before each row, and records do not keep the times that tell which these are. Prepare "
            "all logs anew, together."
        )


def _comparable(schema: Schema) -> dict[str, Any]:
    """What must not change: how rows are read, and what prepare does not fill in."""
    values = schema.to_json()
    values.pop("positive_from")
    for field in values["fields"]:
        field.pop("fitted", None)
    for side_table in values.get("tables_to_join", {}).values():
        side_table.pop("path")
        side_table.pop("read", None)
    for table in values["tables"]:
        table.pop("width")
        if table["keys"] == "vocabulary":
            table.pop("num_rows")
    return values


def append_of(old: Records, work: pathlib.Path) -> Previous:
    """What an engine needs of the folder; remote files are copied to the work folder."""
    local = work / "previous-tables"
    local.mkdir()
    return Previous(
        old.generation + 1,
        files.local_copy(files.join(old.path, old.tasks), local),
        {
            table: files.local_copy(files.join(old.path, name), local)
            for table, name in old.vocabularies.items()
        },
        TimeCuts(**old.details["time"]),
    )


def first_parts(old: Records | None, split: str, built: pathlib.Path) -> dict[str, Any]:
    """What a writer needs to go on after a folder's episodes; its index is put beside it."""
    if old is None:
        return {}
    contents = old.contents[split]
    index = old.index(split)
    np.save(built / contents.index, index, allow_pickle=False)
    num_tasks = 1 + max((int(part["task"].max()) for part in index_chunks(index)), default=-1)
    parts = np.zeros(num_tasks, np.int32)
    for chunk in index_chunks(index):
        parts += np.bincount(chunk["task"], minlength=num_tasks).astype(np.int32)
    return {"old": contents, "first_part": parts}


def move_in(built: pathlib.Path, old: Records) -> None:
    """Moves new files to a local folder; replacing `schema.json` makes them count, at once.

    What an appending that was killed left is removed before, and what no longer counts after.
    """
    output = pathlib.Path(old.path)
    text = (built / "schema.json").read_text(encoding="utf-8")
    counted, kept = _names_of(Records.from_json(old.path, text)), _names_of(old)
    _remove_uncounted(output, kept)
    for name in sorted(counted - kept):
        to_disk(built / name)
        (built / name).rename(output / name)
    new = output / "schema.json.new"
    (built / "schema.json").rename(new)
    to_disk(new, output / "vocabulary", output)
    new.replace(output / "schema.json")
    to_disk(output)
    _remove_uncounted(output, counted)


def _names_of(records: Records) -> set[str]:
    names = {records.tasks, *records.vocabularies.values()}
    for contents in records.contents.values():
        names |= {contents.index, *contents.files}
    return names


def _remove_uncounted(folder: pathlib.Path, counted: set[str]) -> None:
    for path in (*folder.iterdir(), *(folder / "vocabulary").iterdir()):
        name = path.relative_to(folder).as_posix()
        if name not in counted and is_own_file(name) and path.is_file():
            path.unlink()
