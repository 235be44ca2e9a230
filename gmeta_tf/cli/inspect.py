"""`gmeta-tf inspect`: what a records folder holds, and whether it is sound."""

from __future__ import annotations

from typing import Any

from gmeta_tf.cli.options import InspectOptions
from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.meta_io.records.overview import describe, overview
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.verification import verify

__all__ = ["inspect"]


def inspect(options: InspectOptions) -> None:
    """`gmeta-tf inspect`.

    Raises:
        FileNotFoundError: no records folder.
        ValueError: it cannot be read or, with `verify`, something in it is damaged.
    """
    verified = verify(options.path) if options.verify else None
    shown: dict[str, Any] = {"path": options.path}
    lines, faults = [], []
    try:
        splits = None if options.split is None else [options.split]
        shown = overview(Records.open(options.path), splits, num_episodes=options.episodes)
        lines.append(describe(shown))
    except (ValueError, OSError) as error:
        if verified is None:
            raise
        # Each damaged record is named although the folder cannot be opened.
        faults.append(str(error))
    if verified is not None:
        shown["damages"] = [str(damage) for damage in verified.damages]
        shown |= {"records": verified.records, "damaged_records": verified.damaged_records}
        lines.append("\n".join([*shown["damages"], verified.summary]))
        if verified.damages:
            faults.insert(0, f"{options.path}: {verified.summary}. Prepare the data again.")
    print(json_report(shown, ensure_ascii=False) if options.json else "\n\n".join(lines))
    if faults:
        raise ValueError(" ".join(faults))
