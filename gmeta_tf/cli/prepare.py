"""`gmeta-tf prepare`: raw tables to task records."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, cast

import gmeta_tf as gm
from gmeta_tf.cli.first_checks import check_prepare, read_schema, reader_options
from gmeta_tf.cli.next_step import tell_next
from gmeta_tf.cli.options import PrepareOptions
from gmeta_tf.meta_io.files import is_remote
from gmeta_tf.meta_io.preparing.null_words import null_words
from gmeta_tf.meta_io.preparing.prepare import Split
from gmeta_tf.meta_io.preparing.prepare import prepare as prepare_records
from gmeta_tf.meta_io.preparing.summary import describe
from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.meta_io.records.findings import findings
from gmeta_tf.meta_io.sources.movielens import movielens_100k, movielens_schema, movielens_source
from gmeta_tf.meta_io.sources.published import read_layout
from gmeta_tf.meta_io.sources.sources import Source, files_source

__all__ = ["prepare", "raw_rows"]


def prepare(options: PrepareOptions) -> None:
    """`gmeta-tf prepare`; the output is checked before anything is copied or downloaded."""
    check_prepare(options)
    with raw_rows(options) as (source, schema):
        split = Split(
            options.test_fraction, options.valid_fraction, options.seed, cast(Any, options.split_by)
        )
        records = prepare_records(
            source,
            schema,
            options.output,
            engine=options.engine,
            # Flags that nobody gave ask for nothing of the folder that is appended to.
            split=None if options.append and split == Split() else split,
            num_files=options.num_files,
            episode_rows=options.episode_rows,
            compression=options.compression,
            overwrite=options.overwrite,
            append=options.append,
            memory_limit=options.memory_limit,
            spill_folder=options.spill_folder,
            on_bad_row=cast(Any, options.on_bad_row),
            max_bad_share=options.max_bad_share,
            allow_same_input=options.allow_same_input,
            progress=options.progress,
        )
    print(describe(records))
    for text in findings(records, labels=None):
        print(f"warning: {text}", file=sys.stderr)
    for what, words in null_words(records).items():
        print(
            f"warning: {', '.join(words)} among the values of {what}. If that stands for a "
            "missing value, leave the text empty and prepare anew.",
            file=sys.stderr,
        )
    tell_next("gmeta-tf", "train", "--records", options.output, "--run", "run")


@contextlib.contextmanager
def raw_rows(options: PrepareOptions) -> Iterator[tuple[Source, gm.Schema]]:
    """The rows to prepare and what they are; copies of remote files are gone at the end."""
    if options.movielens is not None:
        folder = (
            movielens_100k() if options.movielens == "download" else pathlib.Path(options.movielens)
        )
        yield movielens_source(folder), movielens_schema()
        return
    inputs = options.input or []
    if options.layout is not None:
        own = None if options.schema is None else read_schema(options.schema)
        yield read_layout(options.layout, inputs[0], task=options.task, schema=own)
        return
    reading = reader_options(options, options.schema)
    schema = read_schema(options.schema or "")  # before any copying, which may take long
    if not any(is_remote(path) for path in inputs):
        yield files_source(inputs, options=reading), schema
        return
    beside = pathlib.Path(options.spill_folder or tempfile.gettempdir()) / "gmeta-tf-copies"
    with work_folder(beside) as copies:
        yield files_source(inputs, copies=copies, options=reading), schema
