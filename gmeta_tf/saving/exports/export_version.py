"""Which version of a model an export is: the steps of its training, and a digest of its values."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.sealed_json import fault_of_seal, sealed
from gmeta_tf.saving.exports.served_values import Values, content_digest

__all__ = ["VERSION", "ExportVersion", "read_version", "version_of", "write_version"]

VERSION = "assets.extra/version.json"


class ExportVersion(NamedTuple):
    """A version.

    Attributes:
        steps: the outer steps that the model was trained for.
        content: see `content_digest`.
        checkpoint: the name of the checkpoint that was exported, if it was one.
    """

    steps: int
    content: str
    checkpoint: str | None = None

    def describe(self) -> str:
        """The version in a few words."""
        named = "" if self.checkpoint is None else f" ({self.checkpoint})"
        return f"{self.steps} steps{named}, {self.content[:19]}"

    @classmethod
    def from_json(cls, values: Any) -> ExportVersion:
        """The version that a file tells of.

        Raises:
            ValueError: it tells of none.
        """
        try:
            return cls(int(values["steps"]), str(values["content"]), values.get("checkpoint"))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"expected a version's steps and content, got {values!r}") from error


def version_of(values: Values, steps: int, checkpoint: str | None) -> ExportVersion:
    """The version of a model with these values."""
    return ExportVersion(steps, content_digest(values), checkpoint)


def write_version(folder: pathlib.Path, version: ExportVersion) -> None:
    """Writes the version into a new export."""
    text = sealed({"format_version": 1, **version._asdict()})
    (folder / VERSION).write_text(text, encoding="utf-8")


def read_version(folder: pathlib.Path) -> ExportVersion:
    """The version of an export.

    Raises:
        ValueError: it has none, as it was exported by an earlier version of gmeta_tf, or it was
            changed.
    """
    check_inside(folder, VERSION)
    if not (folder / VERSION).exists():
        raise ValueError(
            f"{folder} does not say which version it is: expected {folder / VERSION}. It is no "
            "export, or one of an earlier gmeta_tf: export in full."
        )
    content = (folder / VERSION).read_bytes()
    if fault := fault_of_seal(content):
        raise ValueError(f"{folder / VERSION} {fault}. Export it again.")
    return ExportVersion.from_json(json.loads(content))
