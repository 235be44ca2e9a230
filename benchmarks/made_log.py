"""A made-up click log, the same for the same number of rows: CSV and Parquet files in time order.

The tasks (users) follow Zipf's law, and so do the items; each row's task is drawn on its own, so
that a task's rows lie scattered over the whole log as they do in a real one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
import tempfile

import duckdb

__all__ = ["COLUMNS", "KEY_COLUMNS", "VOCABULARIES", "MadeLog"]

VOCABULARIES = {
    "item": 1_000_000,
    "category": 1_000,
    "brand": 10_000,
    "city": 400,
    "device": 5_000,
    "hour": 24,
    "position": 50,
    "source": 100,
}
"""The key columns and how many values each has: the integers from 0."""

KEY_COLUMNS = tuple(VOCABULARIES)
COLUMNS = ("user", "time", "label", *KEY_COLUMNS)

_ROWS_PER_TASK = 200 / 3  # 300 000 tasks for 20 million rows
_TASK_EXPONENT = 0.8
_FIRST_SECOND = 1_700_000_000
_SECONDS = 30 * 24 * 3600
_PRIME = 179_424_673  # no count of tasks or items is a multiple of it


@dataclasses.dataclass(frozen=True)
class MadeLog:
    """A log of so many rows in a cache folder, made at the first use of each format.

    Columns, all integers: user, time (seconds, ascending), label (0 or 1), and `KEY_COLUMNS`. An
    item's category and brand and a user's city and device never change. The k-th largest task has a
    share of the rows proportional to `(k + 1) ** -0.8` (Zipf-Mandelbrot), with 300 000 tasks for
    20 million rows: the largest has 1.3 % of the rows, the median 22 rows. The k-th item's share
    goes with `1 / (k + 1)`. Numbers are drawn by DuckDB's `hash` of the row number, so that the
    same version of DuckDB makes the same log on any number of threads.

    Attributes:
        rows: how many.
        folder: where its files lie; made when it is not there.
        shards: the files of a format, each a stretch of time.
    """

    rows: int
    folder: pathlib.Path
    shards: int = 8

    def __post_init__(self) -> None:
        if self.rows < self.shards:
            raise ValueError(f"expected at least {self.shards} rows, got {self.rows}.")

    @classmethod
    def cached(cls, rows: int, cache: str | os.PathLike[str] | None = None) -> MadeLog:
        """The log in `benchmark-meta_io-<rows>` of the cache.

        Args:
            rows: how many.
            cache: None is `$GMETA_DATA`, else `~/.cache/gmeta_tf`.
        """
        if cache is None:
            cache = os.environ.get("GMETA_DATA") or pathlib.Path.home() / ".cache" / "gmeta_tf"
        return cls(rows, pathlib.Path(cache) / f"benchmark-meta_io-{rows}")

    @property
    def tasks(self) -> int:
        """How many tasks the rows are drawn from; a few of the rarest may have none."""
        return max(1, round(self.rows / _ROWS_PER_TASK))

    def csv_files(self) -> list[str]:
        """The log as CSV files with a header."""
        return self._files("csv", "FORMAT csv, HEADER true")

    def parquet_files(self) -> list[str]:
        """The log as Parquet files."""
        return self._files("parquet", "FORMAT parquet, COMPRESSION snappy")

    def query(self, first: int = 0, last: int | None = None) -> str:
        """The SQL that makes the rows `[first, last)`, in time order."""
        last = self.rows if last is None else last
        draw = functools.partial("hash(i * 16 + {}) / 18446744073709551616.0".format)
        task = _zipf_rank(draw(1), self.tasks, _TASK_EXPONENT)
        item = f"floor(pow({VOCABULARIES['item'] + 1}.0, {draw(2)})) - 1"
        return f"""
            WITH ranks AS (
                SELECT i, least(CAST({task} AS BIGINT), {self.tasks - 1}) AS task,
                    least(CAST({item} AS BIGINT), {VOCABULARIES["item"] - 1}) AS item,
                    CAST(floor({VOCABULARIES["position"]} * pow({draw(3)}, 2)) AS BIGINT)
                        AS position
                FROM range({first}, {last}) AS numbers(i)
            ), shuffled AS (
                SELECT i, task * {_PRIME} % {self.tasks} AS user, position,
                    item * {_PRIME} % {VOCABULARIES["item"]} AS item,
                    {_FIRST_SECOND} + i * {_SECONDS} // {self.rows} AS time
                FROM ranks
            )
            SELECT user, time,
                CAST({draw(4)} < 0.4 / (1 + position / 10) AS INTEGER) AS label,
                item,
                item % {VOCABULARIES["category"]} AS category,
                item * 31 % {VOCABULARIES["brand"]} AS brand,
                user * 17 % {VOCABULARIES["city"]} AS city,
                user * 13 % {VOCABULARIES["device"]} AS device,
                time // 3600 % {VOCABULARIES["hour"]} AS hour,
                position,
                CAST(floor({VOCABULARIES["source"]} * pow({draw(5)}, 3)) AS BIGINT) AS source
            FROM shuffled
            ORDER BY i"""

    def _files(self, ending: str, options: str) -> list[str]:
        """The files of a format, made under another name and renamed when they are whole."""
        made = self.folder / ending
        if not made.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            work = pathlib.Path(tempfile.mkdtemp(prefix=f".{ending}-", dir=self.folder))
            try:
                with duckdb.connect() as database:
                    database.execute("SET enable_progress_bar=false")
                    for shard in range(self.shards):
                        bounds = [self.rows * (shard + add) // self.shards for add in (0, 1)]
                        database.execute(
                            f"COPY ({self.query(*bounds)}) "
                            f"TO '{work / f'{shard:05d}.{ending}'}' ({options})"
                        )
                work.rename(made)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return sorted(str(file) for file in made.glob(f"*.{ending}"))


def _zipf_rank(draw: str, count: int, exponent: float) -> str:
    """SQL: a rank from 0, the rank k with a probability that goes with `(k + 1) ** -exponent`."""
    power = 1 - exponent
    most = (count + 1) ** power - 1
    return f"floor(pow(1 + {draw} * {most}, {1 / power}) - 1)"
