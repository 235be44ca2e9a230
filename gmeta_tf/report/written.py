"""The page and what lies beside it → files."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from gmeta_tf.evaluation.json_report import json_report
from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.report.figures import Figure

__all__ = ["write_report"]


def write_report(
    path: pathlib.Path, page: str, results: Mapping[str, Any], figures: Mapping[str, Figure]
) -> list[pathlib.Path]:
    """Writes `report.html`, and beside it `report.json` and `report-<figure>.png`.

    The page comes last, and each file replaces an older one when it is whole.

    Args:
        path: the page's; the others have its name.
        page: its HTML.
        results: JSON values.
        figures: name -> figure.

    Returns:
        The files, the page first.

    Raises:
        OSError: one cannot be written.
    """
    contents = {
        **{path.with_name(f"{path.stem}-{name}.png"): one.png for name, one in figures.items()},
        path.with_suffix(".json"): json_report(results, indent=2).encode("utf-8"),
        path: page.encode("utf-8", errors="replace"),
    }
    for file, content in contents.items():
        _replace(file, content)
    return list(contents)[::-1]


def _replace(path: pathlib.Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        to_disk(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
