"""Texts by which other systems write a missing value, where they were taken for values."""

from __future__ import annotations

import contextlib

import duckdb

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sql import sql_parquet, sql_text

__all__ = ["null_words"]

# Hive and MySQL, SQL, pandas, R, Python.
_WORDS = ("\\N", "NULL", "null", "NaN", "nan", "NA", "N/A", "<NA>", "None")


def null_words(records: Records) -> dict[str, list[str]]:
    """Which words for a missing value are tasks, or values of a vocabulary.

    Args:
        records: local ones; of remote ones nothing is found.

    Returns:
        What has them, such as `"the tasks"` or `"the table 'item'"` -> the words, sorted.
    """
    tables = {f"the table {name!r}": file for name, file in records.vocabularies.items()}
    if records.tasks:
        tables = {"the tasks": records.tasks, **tables}
    if files.is_remote(records.path):
        return {}
    words = ", ".join(map(sql_text, _WORDS))
    found = {}
    with contextlib.closing(duckdb.connect()) as database:
        for what, file in tables.items():
            rows = database.execute(
                f"SELECT value FROM {sql_parquet(files.join(records.path, file))} "
                f"WHERE value IN ({words}) ORDER BY value"
            ).fetchall()
            found[what] = [value for (value,) in rows]
    return {what: values for what, values in found.items() if values}
