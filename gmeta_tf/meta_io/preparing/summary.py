"""What `schema.json` tells of a preparation, and how it is shown."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np

from gmeta_tf.meta_io.digest import FileDigest, digest_of
from gmeta_tf.meta_io.preparing.job import Encoded, Job, TimeCuts
from gmeta_tf.meta_io.records.records import Records, SplitFiles
from gmeta_tf.meta_io.sql import sql_parquet
from gmeta_tf.meta_io.time_units import span_of

__all__ = ["describe", "details_of", "digests_of"]

_BAR = 30


def details_of(
    job: Job,
    encoded: Encoded,
    contents: Mapping[str, SplitFiles],
    old: Records | None,
    cut_of_derived: Mapping[str, int],
) -> dict[str, Any]:
    """The `details` of the records, as JSON values; counts go on from those of the older ones.

    sources: the descriptions of the logs, the first one first. rows, tasks: that have records.
    missed_rows: by the table that they found nothing in, where any is joined.
    rows_of_tasks: how many tasks have 1, 2 to 3, 4 to 7, ... rows. dropped_rows: by reason.
    left_out_rows: by a split by both. cut_values: by field, values beyond its max_values. split:
    how it was split. time: how the time was read and cut, and its unit and span where there is a
    time, see `TimeCuts`. `prepare` adds inputs: the files that were read, see `inputs`; and
    dense_values: what dense fields are like in the training rows of the first log, see
    `DenseFit.described`.
    """
    before: Mapping[str, Any] = {} if old is None else old.details
    of_first_log = {name: before[name] for name in ("dense_values",) if name in before}
    missed = _sum(before.get("missed_rows", {}), encoded.counts["missed_rows"])
    num_tasks, histogram = _rows_of_tasks(job)
    counts = encoded.counts
    cut_values = {**counts["cut_values"], **cut_of_derived}
    return {
        "sources": [*before.get("sources", ()), job.source.description],
        "rows": sum(split.rows for split in contents.values()),
        "tasks": num_tasks,
        "rows_of_tasks": histogram,
        "dropped_rows": _sum(before.get("dropped_rows", {}), counts["dropped_rows"]),
        "left_out_rows": before.get("left_out_rows", 0) + counts["left_out_rows"],
        "cut_values": _sum(before.get("cut_values", {}), cut_values),
        "split": dataclasses.asdict(job.split),
        "time": _time(encoded.time),
        **of_first_log,
        **({"missed_rows": missed} if missed else {}),
    }


def _time(cuts: TimeCuts) -> dict[str, Any]:
    values = dataclasses.asdict(cuts)
    return values if cuts.unit else {name: values[name] for name in ("kind", "valid", "test")}


def digests_of(job: Job, contents: Mapping[str, SplitFiles]) -> dict[str, FileDigest]:
    """The size and SHA-256 of the vocabularies, of the tasks' file and of the indexes, by name.

    Record files have checksums of their own.
    """
    built = job.tasks_file.parent
    indexes = (built / split.index for split in contents.values())
    paths = (*job.vocabulary_files.values(), job.tasks_file, *indexes)
    return {path.relative_to(built).as_posix(): digest_of(path) for path in paths}


def _rows_of_tasks(job: Job) -> tuple[int, list[int]]:
    with contextlib.closing(duckdb.connect()) as database:
        found = database.execute(
            "SELECT CAST(floor(log2(rows)) AS INTEGER) AS bucket, count(*) AS tasks "
            f"FROM {sql_parquet(job.tasks_file)} WHERE rows > 0 GROUP BY bucket"
        ).fetchall()
    histogram = np.zeros(1 + max((bucket for bucket, _ in found), default=-1), np.int64)
    for bucket, tasks in found:
        histogram[bucket] = tasks
    return int(histogram.sum()), histogram.tolist()


def _sum(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {
        name: before.get(name, 0) + more.get(name, 0) for name in dict.fromkeys((*before, *more))
    }


def describe(records: Records) -> str:
    """A short summary of a records folder."""
    details = records.details
    lines = [f"{records.path}: {details['rows']:,} rows of {details['tasks']:,} tasks"]
    lines += [
        f"  {name}: {split.tasks:,} tasks, {split.rows:,} rows, {split.episodes:,} episodes"
        for name, split in records.contents.items()
    ]
    if span := span_of(details["time"]):
        lines.append(f"  time: {span}")
    num_dropped = sum(details["dropped_rows"].values())
    if num_dropped or details["left_out_rows"]:
        num_rows = details["rows"] + details["left_out_rows"] + num_dropped
        lines.append(f"  of {num_rows:,} rows in the files {details['rows']:,} were kept")
    lines += [f"  dropped, {why}: {n:,} rows" for why, n in details["dropped_rows"].items()]
    lines += [
        f"  joined {table}: {n:,} rows found nothing in it"
        for table, n in details.get("missed_rows", {}).items()
    ]
    if details["left_out_rows"]:
        lines.append(f"  left out by the split: {details['left_out_rows']:,} rows")
    lines += [
        f"  field {name}: {n:,} values beyond its max_values cut off"
        for name, n in details["cut_values"].items()
    ]
    for table in records.schema.tables:
        size = "keys without a limit" if table.num_rows is None else f"{table.num_rows:,} rows"
        lines.append(f"  table {table.name}: {size} ({table.keys})")
    lines.append("  rows a task, and how many tasks have so many:")
    largest = max(details["rows_of_tasks"], default=0)
    for bucket, tasks in enumerate(details["rows_of_tasks"]):
        span = "1" if bucket == 0 else f"{1 << bucket:,} to {(2 << bucket) - 1:,}"
        bar = "#" * -(-_BAR * tasks // largest)
        lines.append(f"  {span:>24} {tasks:>12,} {bar}".rstrip())
    return "\n".join(lines)
