"""A table's vocabulary, read back from a records folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

import duckdb
import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.digest import FileDigest, fault_of
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sql import reason_of, sql_parquet

__all__ = ["read_vocabulary"]


def read_vocabulary(records: str | os.PathLike[str], table: str) -> np.ndarray:
    """The values of a table of a records folder, str `[num_rows - 1]`: entry i has key i + 1.

    Raises:
        FileNotFoundError: no such folder, or no table with a vocabulary of that name.
        ValueError: its file is missing or damaged.
    """
    folder = os.fspath(records)
    description = files.join(folder, "schema.json")
    found: dict[str, str] = {}
    digests: dict[str, FileDigest] = {}
    if files.exists(description):
        described = Records.described(folder)
        found, digests = dict(described.vocabularies), dict(described.digests)
    if table not in found:
        raise FileNotFoundError(
            f"{folder} has no vocabulary of the table {table!r}: expected it in {description}, "
            f"found {', '.join(sorted(found)) or 'none'}."
        )
    check_inside(folder, found[table])
    with tempfile.TemporaryDirectory() as local, contextlib.closing(duckdb.connect()) as database:
        path = files.local_copy(files.join(folder, found[table]), local)
        query = f"SELECT value FROM {sql_parquet(path)} ORDER BY key"
        try:
            _check_digest(path, digests.get(found[table]))
            return np.asarray(database.execute(query).fetchnumpy()["value"], object)
        except duckdb.Error as error:
            raise ValueError(
                f"{path}, the vocabulary of the table {table!r}, is missing or damaged: "
                f"{reason_of(error)}. Prepare the data again."
            ) from error


def _check_digest(path: str, saved: FileDigest | None) -> None:
    """Parquet has no checksum of its own: a changed value would be served as another."""
    fault = None if saved is None else fault_of(pathlib.Path(path), saved)
    if fault is not None:
        raise ValueError(f"{fault}: it is missing or damaged. Prepare the data again.")
