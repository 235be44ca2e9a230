"""What an engine of `prepare` is told, and what it gives back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gmeta_tf.meta_io.preparing.split import Split
from gmeta_tf.meta_io.preparing.stages import Progress
from gmeta_tf.meta_io.sources.sources import Source
from gmeta_tf.schema import Schema

__all__ = ["Encoded", "Job", "Previous", "TimeCuts"]


@dataclasses.dataclass(frozen=True)
class TimeCuts:
    """How the time column is read, and where it is cut.

    Attributes:
        kind: what the numbers are: "integer" and "number" as the column has them, "microseconds"
            or "nanoseconds" since 1970 of dates and times. Empty without a time column.
        valid: the first time of the split "valid", or None.
        test: the first time of the split "test", or None.
        unit: what the numbers count since 1970: "seconds", "milliseconds", "microseconds",
            "nanoseconds"; "none" where they tell no unit, and "dates" of dates and times. Empty
            without a time column, and of records of earlier versions.
        earliest: the smallest, or None where it is not known.
        latest: the largest, likewise.
        others: rows whose number is no likely time of that unit (1973 to 2100), by the unit that
            it looks like, or "none".
    """

    kind: str = ""
    valid: float | int | None = None
    test: float | int | None = None
    unit: str = ""
    earliest: float | int | None = None
    latest: float | int | None = None
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> float | int | None:
        """The first time that is held out."""
        return self.test if self.valid is None else self.valid


@dataclasses.dataclass(frozen=True)
class Previous:
    """What a records folder holds that a log is appended to.

    Attributes:
        generation: of what is appended, at least 1.
        tasks: the Parquet file of the tasks.
        vocabularies: the Parquet file of each table that has one.
        time: as its first log was read and cut.
    """

    generation: int
    tasks: str
    vocabularies: Mapping[str, str]
    time: TimeCuts


@dataclasses.dataclass(frozen=True)
class Job:
    """What an engine is told.

    Attributes:
        source: the raw rows.
        schema: what a row is.
        split: which rows are held out.
        max_bad_share: leave bad rows out and count them, up to this share of all rows; 0 raises at
            the first.
        tasks_file: where the tasks go, a Parquet file with the columns task (int64, from 0
            without a gap, ascending), value (text), split (text; null where none was drawn) and
            rows (int64).
        vocabulary_files: where the vocabularies go, table -> a Parquet file with the columns value
            (text) and key (int64, from 1 without a gap, ascending).
        spill_folder: an empty folder for what does not fit into memory.
        memory_limit: what the engine may take, such as "8GB"; None leaves it the choice.
        previous: what is appended to; None begins anew.
        progress: to be told of the stages.
        with_times: give the times of rows, too.
    """

    source: Source
    schema: Schema
    split: Split
    max_bad_share: float
    tasks_file: pathlib.Path
    vocabulary_files: Mapping[str, pathlib.Path]
    spill_folder: pathlib.Path
    memory_limit: str | None
    previous: Previous | None
    progress: Progress
    with_times: bool = False


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What an engine gives back; the files that the job names are written.

    Attributes:
        rows_of: split -> its rows in chunks, `(task int64 [n], words int32 [C, n])`: the planes of
            a record (see `records`), by task, time and place in the source; with times two further
            planes, the low and the high words of 64 bits that differ where times differ. Read while
            the engine is open.
        vocabulary_sizes: table -> its values, for the tables that have a vocabulary.
        time: how the time was read and cut.
        counts: `dropped_rows` by reason, `missed_rows` by the table that they found nothing in (0
            too), `left_out_rows`, and `cut_values` by field, the values
            beyond a field's `max_values`.
    """

    rows_of: Callable[[str], Iterator[tuple[np.ndarray, np.ndarray]]]
    vocabulary_sizes: Mapping[str, int]
    time: TimeCuts
    counts: Mapping[str, Any]
