"""`gmeta-tf check`: what is likely to go wrong with data, before anything is kept or trained."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any, cast

from gmeta_tf.allowed import LOSSES
from gmeta_tf.cli.next_step import tell_next
from gmeta_tf.cli.options import CheckOptions, PrepareOptions
from gmeta_tf.cli.prepare import raw_rows
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.meta_io.preparing.prepare import Split
from gmeta_tf.meta_io.preparing.prepare import prepare as prepare_records
from gmeta_tf.meta_io.preparing.summary import describe
from gmeta_tf.meta_io.records.findings import findings
from gmeta_tf.meta_io.sources.sources import first_rows

__all__ = ["check"]

# What the loss of `gmeta-tf train` takes, see `RowLoss.labels`.
_LABELS = {"binary_crossentropy": (0.0, 1.0), "mean_squared_error": None, "ratings": None}


def check(options: CheckOptions) -> None:
    """`gmeta-tf check`: prepares to a folder of its own, which is gone at the end, and looks at it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the rows cannot be read, or lack a column.
    """
    # DuckDB's own folder for what does not fit into memory goes the same way.
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-check-", dir=options.spill_folder) as folder:
        records_path = str(pathlib.Path(folder) / "records")
        given = PrepareOptions(
            output=records_path,
            **{
                name: getattr(options, name)
                for name in ("input", "schema", "movielens", "layout", "task", *_READER_FLAGS)
            },
            spill_folder=folder,
        )
        with raw_rows(given) as (source, schema):
            if options.rows is not None:
                source = first_rows(source, options.rows)
            records = prepare_records(
                source,
                schema,
                records_path,
                split=Split(0.0, 0.0),
                num_files=1,
                memory_limit=options.memory_limit,
                spill_folder=folder,
                on_bad_row="drop",
                max_bad_share=1.0,
                allow_same_input=True,
                progress=options.progress and not options.json,
            )
        found = findings(
            records, support=options.support, labels=cast(Any, _LABELS[LOSSES[options.loss]])
        )
        details = records.details
        if options.json:
            print(json_report({"findings": found, "details": details}, ensure_ascii=False))
            return
        print(f"{source.description}: {details['rows']:,} rows of {details['tasks']:,} tasks")
        print("\n".join(describe(records).splitlines()[1:]))
        for number, text in enumerate(found, 1):
            print(f"{number}. {text}")
        if not found:
            print("Nothing was found that is likely to go wrong.")
            if options.schema is not None and options.input:
                files = ("--schema", options.schema, "--input", *options.input)
                tell_next("gmeta-tf", "prepare", *files, "--output", "records")


_READER_FLAGS = ("separator", "quoting", "columns", "null_words", "escape", "encoding", "format")
