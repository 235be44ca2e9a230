"""`gmeta-tf plan`: what the tables take and what a step sends on so many ranks."""

from __future__ import annotations

import gmeta_tf as gm
from gmeta_tf.cli.options import PlanOptions
from gmeta_tf.cli.run_placement import run_placement
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.planner.report import placement_lines

__all__ = ["plan"]


def plan(options: PlanOptions) -> None:
    """`gmeta-tf plan`.

    Raises:
        FileNotFoundError: no records folder.
        ValueError: a setting that `gmeta-tf train` would reject too.
    """
    records = gm.Records.open(options.records)
    placement = run_placement(
        options,
        records,
        options.world_size,
        keys_from=options.keys_from,
        steps=options.steps,
    )
    if options.json:
        print(json_report({"records": records.path} | placement.to_json()))
    else:
        print("\n".join([records.path, *placement_lines(placement)]))
