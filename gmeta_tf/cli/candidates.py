"""`gmeta-tf candidates`: which items to ask a new task about."""

from __future__ import annotations

from typing import Any

import gmeta_tf as gm
from gmeta_tf.cli.options import CandidatesOptions
from gmeta_tf.cli.runs import load_run
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.meta.evidence import evidence_candidates
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary

__all__ = ["candidates"]


def candidates(options: CandidatesOptions) -> None:
    """`gmeta-tf candidates`, in one process.

    Raises:
        FileNotFoundError: no run folder, checkpoint or records.
        ValueError: no such split or field, or a run whose tasks adapt in another way.
    """
    trained, records, model = load_run(
        options.run,
        gm.World(),
        records_folder=options.records,
        checkpoint=options.checkpoint,
        fall_back=options.fall_back,
    )
    if options.split not in records.splits:
        raise ValueError(
            f"expected --split to be one of {', '.join(records.splits)}, got {options.split!r}."
        )
    batches = gm.TaskBatches(
        records,
        options.split,
        tasks=min(trained.tasks, records.contents[options.split].tasks),
        support=trained.support,
        query=trained.query,
        every_row=True,
        shuffle=False,
    )
    found = evidence_candidates(model, batches, options.field, top=options.top)
    table = records.schema.table(
        next(one for one in records.schema.key_fields if one.name == options.field).table_name
    )
    values = read_vocabulary(records.path, table.name) if table.keys == "vocabulary" else None
    lines: list[dict[str, Any]] = [
        {
            "value": one.key if values is None else values[one.key - 1],
            "score": one.score,
            "norm": one.norm,
            "rows": one.num_rows,
        }
        for one in found
    ]
    if options.json:
        print(json_report({"run": options.run, "field": options.field, "candidates": lines}))
        return
    width = max([len(options.field), *(len(str(line["value"])) for line in lines)])
    print(f"{options.field:{width}}  score  gradient norm  rows")
    for line in lines:
        print(
            f"{line['value']!s:{width}}  {line['score']:5.3f}  {line['norm']:13.4f}  "
            f"{line['rows']:4}"
        )
