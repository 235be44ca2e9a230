"""The raw files that records were made of, so that none counts twice without a word."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import duckdb

from gmeta_tf.meta_io.digest import digest_of
from gmeta_tf.meta_io.sources.plain_files import query_of_file
from gmeta_tf.meta_io.sources.sources import Source, SourceFile
from gmeta_tf.side_threads import side_by_side

__all__ = ["check_inputs", "inputs_of", "known_inputs"]


def inputs_of(source: Source, generation: int) -> list[dict[str, Any]]:
    """What tells a source's files from others: name, size and SHA-256; each is read once.

    Args:
        source: one whose query reads no files of `Source.files` has nothing to be known by.
        generation: of the records that are made of it.

    Returns:
        JSON values, one for each file that has a byte, in the source's order.
    """
    readable = [file for file in source.files if file.size_bytes]
    digests = side_by_side(digest_of, [pathlib.Path(file.path) for file in readable])
    return [
        {"name": os.path.basename(file.path), **digest, "generation": generation}
        for file, digest in zip(readable, digests, strict=True)
    ]


def check_inputs(
    source: Source, inputs: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], output: str
) -> None:
    """Checks that no file is one that the records have, nor stands twice in the source.

    Files of the same bytes are the same; those without a row may be. A source that joins files may
    have some of them again, such as a table of users, and not all.

    Args:
        source: the raw rows.
        inputs: its files, as `inputs_of` tells them.
        before: those that the records were made of.
        output: the records folder, for messages.

    Raises:
        ValueError: a file's rows would count twice.
    """
    of_digest = {one["sha256"]: one for one in before}
    if source.format is None and not all(one["sha256"] in of_digest for one in inputs):
        return
    readable = [file for file in source.files if file.size_bytes]
    for file, own in zip(readable, inputs, strict=True):
        same = of_digest.setdefault(own["sha256"], own)
        if same is own or not _has_rows(source, file):
            continue
        where = f"{same['name']}, which was read for generation {same['generation']} of {output}"
        if same["generation"] == own["generation"]:
            where = f"{same['name']}, which is another one of these files"
        raise ValueError(
            f"{file.path}: expected a file whose rows the records have not, got the {own['bytes']} "
            f"bytes of {where}. Leave it out; or, to have its rows twice, pass "
            "allow_same_input=True (on the command line --allow-same-input)."
        )


def known_inputs(before: object) -> list[dict[str, Any]]:
    """The files that records say that they were made of; what else stands there is left out.

    Args:
        before: of the records' `details`, which are not checked when they are read.
    """
    entries = before if isinstance(before, list) else []
    names = {"name", "sha256", "generation"}
    return [one for one in entries if isinstance(one, dict) and names <= set(one)]


def _has_rows(source: Source, file: SourceFile) -> bool:
    """Whether a file has rows; logs of quiet days are headers, and all the same."""
    if source.format is None:
        return True
    if source.format in ("csv", "tsv") and not file.columns:
        return False
    query = query_of_file(
        source.format, file.path, file.columns, source.columns, source.list_columns, source.options
    )
    with contextlib.closing(duckdb.connect()) as database:
        try:
            return bool(database.execute(f"SELECT 1 FROM ({query}) LIMIT 1").fetchall())
        except duckdb.Error:
            return True  # which the reading of all rows tells
