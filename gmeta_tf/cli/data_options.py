"""The options of `gmeta-tf prepare` and `inspect`: raw tables and records."""

from __future__ import annotations

import dataclasses

from gmeta_tf import allowed
from gmeta_tf.cli.option_fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_2,
    FRACTION,
    SHARE,
    Options,
    flag_of,
    number,
    word,
)

__all__ = ["CheckOptions", "InspectOptions", "PrepareOptions", "ReaderFlags", "SchemaOptions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderFlags(Options):
    """How CSV and TSV files are written, where not in the usual way.

    Attributes:
        separator: what stands between cells of CSV and TSV, such as ";" or "::"; None is a comma in
            CSV and a tab in TSV, or what all first lines have equally often.
        quoting: "minimal", where cells with separators or ends of lines are in quotes, or "none",
            where a quote is a letter like others; None is "minimal", unless a file can be read
            either way.
        columns: the names of the columns of CSV and TSV without a header.
        escape: what stands before a quote within quotes: a backslash; None is a second quote.
        null_words: cells that stand for a missing value, as empty ones do, such as NULL.
        encoding: of CSV and TSV: "utf-8", "latin-1" or "utf-16"; None is "utf-8".
        format: "csv" or "tsv", whatever the files' names end in.
    """

    separator: str | None = None
    quoting: str | None = word(None, of=allowed.QUOTINGS)
    columns: list[str] | None = None
    null_words: list[str] | None = None
    escape: str | None = None
    encoding: str | None = word(None, of=allowed.ENCODINGS)
    format: str | None = word(None, of=allowed.FILE_FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(ReaderFlags):
    """Raw tables to a folder of task records: checked, split, encoded.

    Attributes:
        output: the records folder to make, or to append to; it may be remote, such as s3://...
        input: CSV, TSV, JSON lines or Parquet files or glob patterns, for data of your own; with
            schema. They may be remote, and are copied to `spill_folder` then. With layout: the
            folder of a published data set.
        schema: a YAML or JSON file that says what a row is, and under `read` how files are written;
            see docs/architecture.md.
        movielens: a folder with MovieLens 100k or 1M as GroupLens or RecBole lay it out, or
            "download" for the 100k data. Has its own schema.
        layout: the published data set that lies in `input`; see docs/data.md. Has its own schema,
            or takes another one. One of {words}.
        task: the column that is a task, for the layouts that leave it to you: criteo (C1 to C26)
            and avazu.
        test_fraction: the share that is held out for the test, of the tasks or of the rows.
        valid_fraction: the share that is held out for validation.
        seed: of the draw of held-out tasks.
        split_by: "task" holds out whole tasks, "time" the latest rows, "both" the latest rows of
            some tasks.
        num_files: the files of each split; more than you will have ranks.
        episode_rows: the most rows of an episode; tasks with more are cut into several. None is
            1024, or with --append the folder's.
        compression: of the records, "none" or "zlib". None is "none", or with --append the
            folder's.
        engine: what does the work: "duckdb" on this machine, or "spark", Apache Spark (needs
            PySpark and Java). Both write the same records.
        on_bad_row: "error" stops at the first bad row, such as one without a task or whose label
            is not a number; "drop" leaves bad rows out and counts them.
        max_bad_share: the largest share of the rows that "drop" may leave out; with more, prepare
            stops.
        memory_limit: the memory that the engine may take, such as "4GB"; beyond it spills to disk.
            None is most of the machine's.
        spill_folder: where it spills to; None is beside the output (for copies of remote input the
            system's folder for temporary files).
        append: add a later log to an existing records folder. The folder's split stays,
            vocabularies grow, and no key changes.
        allow_same_input: take a file that the records have already, or that is given twice; its
            rows then count twice.
        overwrite: replace an existing records folder, once the new one is complete.
        progress: show the stages, on a terminal.
    """

    output: str
    input: list[str] | None = None
    schema: str | None = None
    movielens: str | None = None
    layout: str | None = word(None, of=allowed.LAYOUTS)
    task: str | None = None
    test_fraction: float = number(0.2, of=FRACTION)
    valid_fraction: float = number(0.0, of=FRACTION)
    seed: int = number(0, of=AT_LEAST_0)
    split_by: str = word("task", of=allowed.SPLITS_BY)
    num_files: int = number(16, of=AT_LEAST_1)
    episode_rows: int | None = number(None, of=AT_LEAST_2)
    compression: str | None = word(None, of=allowed.COMPRESSIONS)
    engine: str = word("duckdb", of=allowed.ENGINES)
    on_bad_row: str = word("error", of=allowed.ON_BAD_ROW)
    max_bad_share: float = number(0.1, of=SHARE)
    memory_limit: str | None = None
    spill_folder: str | None = None
    append: bool = False
    allow_same_input: bool = False
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_source("prepare", self)
        if self.append and self.overwrite:
            raise ValueError("prepare: --append and --overwrite exclude each other.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions(ReaderFlags):
    """Looks for what is likely to go wrong with data, before records are kept or a model trained.

    Attributes:
        input: CSV, TSV, JSON lines or Parquet files or glob patterns; with schema.
        schema: a YAML or JSON file that says what a row is.
        movielens: a folder with MovieLens, or "download".
        layout: the published data set that lies in `input`, as `prepare` takes it.
        task: the column that is a task, as `prepare` takes it.
        support: the support rows of a task that training will ask for.
        loss: what training will go down; says which labels it takes.
        rows: look at the first so many rows alone; None looks at all.
        memory_limit: the memory that it may take, such as "4GB"; beyond it spills to disk.
        spill_folder: where to; None is the system's folder for temporary files.
        progress: show the stages, on a terminal.
        json: print one JSON line and nothing else.
    """

    input: list[str] | None = None
    schema: str | None = None
    movielens: str | None = None
    layout: str | None = word(None, of=allowed.LAYOUTS)
    task: str | None = None
    support: int = number(10, of=AT_LEAST_1)
    loss: str = word("binary_crossentropy", of=allowed.LOSSES)
    rows: int | None = number(None, of=AT_LEAST_1)
    memory_limit: str | None = None
    spill_folder: str | None = None
    progress: bool = True
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_source("check", self)


def _check_source(command: str, source: PrepareOptions | CheckOptions) -> None:
    """Checks that what is read is said once, and completely."""
    if (source.movielens is None) == (source.input is None):
        raise ValueError(
            f"{command}: expected either --movielens or --input, got "
            f"{'neither' if source.input is None else 'both'}."
        )
    if source.layout is not None and (source.input is None or len(source.input) != 1):
        raise ValueError(
            f"{command}: --layout {source.layout} needs one --input, the folder of the data set, "
            f"got {len(source.input or [])}."
        )
    if source.layout is not None:
        try:
            allowed.check_layout_task(
                "--task", source.layout, source.task, source.schema is not None
            )
        except ValueError as error:
            raise ValueError(f"{command}: {error}") from error
    elif source.task is not None:
        raise ValueError(
            f"{command}: --task {source.task} chooses the task of a --layout, got none. Name the "
            "task in the schema."
        )
    if source.input is not None and source.schema is None and source.layout is None:
        raise ValueError(
            f"{command}: --input needs --schema, a YAML file with fields, label and task. "
            "docs/architecture.md shows one, and `gmeta-tf schema init FILE` writes one."
        )
    given = [
        flag_of(field.name)
        for field in dataclasses.fields(ReaderFlags)
        if getattr(source, field.name) is not None
    ]
    known_by = "--movielens" if source.movielens is not None else "--layout"
    if (source.movielens is not None or source.layout is not None) and given:
        raise ValueError(
            f"{command}: {', '.join(given)} says how --input is written, and {known_by} knows "
            "how its files are. Leave one of them out."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchemaOptions(Options):
    """Writes a schema to begin with, by a sample of a log and of the tables beside it.

    Attributes:
        action: "init".
        files: the log, and tables of users or items to be joined to it. At most 64 MiB of each are
            read.
        output: the YAML file to write; None prints it.
        separator: what stands between cells of CSV; None is looked for.
        encoding: of text: "utf-8", "latin-1" or "utf-16".
    """

    action: str = dataclasses.field(metadata={"positional": True, "words": ("init",)})
    files: list[str] = dataclasses.field(metadata={"positional": True})
    output: str | None = None
    separator: str | None = None
    encoding: str | None = word(None, of=allowed.ENCODINGS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """Shows what a records folder holds: schema, counts and a few decoded episodes.

    Attributes:
        path: what `gmeta-tf prepare` made.
        split: the split to show; None shows all.
        episodes: how many episodes of a split to decode.
        verify: read everything, and name each damaged record by its file and offset; the exit
            status is 1 when there is one.
        json: print one JSON line and nothing else.
    """

    path: str = dataclasses.field(metadata={"positional": True})
    split: str | None = None
    episodes: int = number(3, of=AT_LEAST_0)
    verify: bool = False
    json: bool = False
