"""The stages of `prepare` by DuckDB, out of core.

source -> loaded -> checked -> tasks, splits -> vocabularies -> keys of texts -> encoded and sorted
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gmeta_tf.meta_io.preparing.encode import encode_rows
from gmeta_tf.meta_io.preparing.job import Encoded, Job
from gmeta_tf.meta_io.preparing.raw_rows import load_rows
from gmeta_tf.meta_io.preparing.task_tables import make_tasks, save_tasks, side_of_row, time_cuts
from gmeta_tf.meta_io.preparing.vocabularies import KeyMaps, is_mapped
from gmeta_tf.meta_io.sources.sources import give_table
from gmeta_tf.meta_io.sql import connect, one_value

__all__ = ["encoded_by_duckdb"]


@contextlib.contextmanager
def encoded_by_duckdb(job: Job) -> Iterator[Encoded]:
    """The rows of a job, encoded and sorted; they can be read until the block ends."""
    schema = job.schema
    with contextlib.closing(connect(job.spill_folder, job.memory_limit)) as database:

        def done() -> float:
            return database.query_progress() / 100

        give_table(database, job.source)
        rows = load_rows(database, job)
        num_good = one_value(database, "SELECT count(*) FROM loaded")
        with job.progress.stage("numbering tasks", done):
            cuts = time_cuts(database, job, rows)
            make_tasks(database, job)
            side = side_of_row(job.split, cuts, rows.time)
        maps = KeyMaps(database, job, rows, side)
        sizes: dict[str, int] = {}
        cut: dict[str, int] = {}
        with job.progress.stage("counting values", done):
            maps.count_texts()
        with job.progress.stage("making vocabularies", done):
            for table in schema.tables:
                size, cut_of_table = maps.make(table)
                cut |= cut_of_table
                if table.keys == "vocabulary":
                    sizes[table.name] = size
        with job.progress.stage("encoding and sorting", done):
            encoded = encode_rows(database, job, rows, side)
        unneeded = [
            f"keys_{i}" for i, field in enumerate(schema.fields) if is_mapped(field, schema)
        ]
        for name in ("loaded", "task_of", *unneeded):
            database.execute(f"DROP TABLE {name}")
        save_tasks(database, job, encoded.rows_of_tasks)
        yield Encoded(
            encoded.read,
            sizes,
            cuts,
            {
                "dropped_rows": rows.dropped,
                "missed_rows": rows.missed,
                "left_out_rows": num_good - encoded.count(),
                "cut_values": cut,
            },
        )
