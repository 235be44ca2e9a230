"""The Parquet files of values and their numbers: vocabularies, and the tasks' file."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import duckdb

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.sql import reason_of, sql_name, sql_parquet

__all__ = ["ValueSum", "sum_of_values", "value_faults"]


class ValueSum(NamedTuple):
    """What tells one file of values from another, whatever wrote it and in which order.

    Attributes:
        values: how many there are.
        md5: the sum of the MD5 digests of `number=value` over the values its lower and
            its upper halves apart, in hexadecimal digits.
    """

    values: int
    md5: str


def sum_of_values(path: str, number: str, first: int | None = None) -> ValueSum:
    """Reads a file of values once.

    A sum asks for no order, so that nothing is sorted and every core works.

    Args:
        path: a vocabulary (`number` is "key"), or the tasks' file ("task").
        number: the column's name.
        first: leave out larger numbers.

    Raises:
        ValueError: the file is missing or damaged.
    """
    limit = "" if first is None else f"WHERE {sql_name(number)} <= {int(first)}"
    query = (
        "SELECT count(*), sum(md5_number_lower(word)), sum(md5_number_upper(word)) FROM "
        f"(SELECT concat({sql_name(number)}, '=', value) AS word FROM {{}} {limit})"
    )
    count, *sums = _row(path, query)
    return ValueSum(int(count), "-".join(f"{int(one or 0):x}" for one in sums))


def value_faults(
    path: str, number: str, *, begin: int | None, expected: int | None
) -> Iterator[str]:
    """What is wrong with a file of values: a line for each kind of fault.

    Args:
        path: a vocabulary, or the tasks' file.
        number: the column of the numbers.
        begin: the first number, after which they have no gap; None allows gaps.
        expected: how many values there are; None where that is not known.
    """
    try:
        count, distinct, low, high, values = _row(
            path,
            f"SELECT count(*), count(DISTINCT {sql_name(number)}), min({sql_name(number)}), "
            f"max({sql_name(number)}), count(DISTINCT value) FROM {{}}",
        )
    except ValueError as error:
        yield str(error)
        return
    if expected is not None and count != expected:
        yield f"it has {count} values, schema.json says {expected}"
    if distinct != count:
        yield f"{count - distinct} of its {count} values have no {number} of their own"
    elif count and begin is not None and (low, high) != (begin, begin + count - 1):
        yield (
            f"expected each {number} from {begin} to {begin + count - 1} once, found them "
            f"from {low} to {high}"
        )
    if values != count:
        yield f"{count - values} of its {count} values are missing or stand twice"


def _row(path: str, query: str) -> tuple:
    """The one row of a query; {} in it stands for the file."""
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.closing(duckdb.connect()) as database,
        ):
            local = pathlib.Path(files.local_copy(path, folder))
            (row,) = database.execute(query.format(sql_parquet(local))).fetchall()
    except (duckdb.Error, OSError) as error:
        raise ValueError(
            f"{path} is missing or damaged: {reason_of(error)}. Prepare the data again."
        ) from error
    return row
