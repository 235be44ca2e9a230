"""What the stages on Spark share: the job, both engines, and folders of Parquet files between."""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import duckdb

from gmeta_tf.meta_io.preparing.job import Job
from gmeta_tf.meta_io.preparing.spark_session import run_in_tasks
from gmeta_tf.meta_io.sql import sql_text

__all__ = ["SparkRun"]

_PART_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class SparkRun:
    """One job on Spark. A folder of Parquet files lies in the job's spill folder, by its name.

    Attributes:
        job: what is prepared.
        database: DuckDB in this process.
        session: of Spark.
        task_bytes: what DuckDB may take in all tasks of Spark's together.
    """

    job: Job
    database: duckdb.DuckDBPyConnection
    session: Any
    task_bytes: int

    def folder(self, name: str) -> pathlib.Path:
        """The folder of that name, there."""
        folder = self.job.spill_folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def files(self, name: str) -> list[str]:
        """The files of a folder in the order of their numbers: 00007.parquet, part-00007-..."""
        return sorted(map(str, self.folder(name).glob("*.parquet")), key=_number_of)

    def sql(self, name: str) -> str:
        """DuckDB's table of a folder, its rows in the order of the files."""
        paths = map(glob.escape, self.files(name))
        return f"read_parquet([{', '.join(map(sql_text, paths))}])"

    def view(self, name: str, types: Any, folder: str = "") -> None:
        """Makes the rows of a folder a table of Spark's SQL.

        Args:
            name: of the table.
            types: its columns and their types, as Spark writes them.
            folder: the folder's name, where that is not the table's.
        """
        # Spark takes a path for a pattern, too; there a backslash escapes.
        path = re.sub(r"([][{}*?\\])", r"\\\1", str(self.folder(folder or name)))
        rows = self.session.read.schema(types).parquet(f"file://{path}")
        rows.createOrReplaceTempView(name)

    def write(self, query: str, name: str, folder_of_each: str | None = None) -> None:
        """Writes the rows of a query to a folder, which is a table of Spark's SQL from then on.

        Args:
            query: in Spark's SQL.
            name: of the folder.
            folder_of_each: a column whose values get a folder each; there is then no table.
        """
        rows = self.session.sql(query)
        path = self.job.spill_folder / name
        rows.write.parquet(f"file://{path}", partitionBy=folder_of_each, compression="snappy")
        if folder_of_each is None:
            self.view(name, rows.schema)

    def copy(self, query: str, name: str) -> None:
        """Writes the rows of a query of DuckDB's to a folder."""
        path = self.folder(name) / "00000.parquet"
        self.database.execute(f"COPY ({query}) TO {sql_text(path)} (FORMAT parquet)")

    def choose_partitions(self, name: str) -> None:
        """Sets how many parts Spark cuts a table into, by a folder's size, unless the user did.

        Spark's own 200 is for clusters: on one machine most of the time goes into small files.
        """
        setting = "spark.sql.shuffle.partitions"
        if self.session.sparkContext.getConf().contains(setting):
            return
        size = sum(os.path.getsize(file) for file in self.files(name))
        least = 2 * self.session.sparkContext.defaultParallelism
        self.session.conf.set(setting, str(max(least, size // _PART_BYTES)))

    def drop(self, *names: str) -> None:
        """Removes folders that are not needed any more."""
        for name in names:
            shutil.rmtree(self.job.spill_folder / name)

    def in_tasks(self, commands: Sequence[Sequence[tuple[str, str]]]) -> list[list[Any]]:
        """As `run_in_tasks`."""
        return run_in_tasks(self.session, commands, self.job.spill_folder, self.task_bytes)


def _number_of(file: str) -> int:
    found = re.match(r"(?:part-)?(\d+)", pathlib.Path(file).name)
    if found is None:
        raise ValueError(f"expected a Parquet file with a number, got {file}.")
    return int(found[1])
