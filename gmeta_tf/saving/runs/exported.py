"""Which checkpoint of a run was exported last: deltas begin there, so that it is kept."""

from __future__ import annotations

import json
import logging
import pathlib

from gmeta_tf.saving.writing import write_whole

__all__ = ["exported_checkpoint", "note_exported"]

_NAME = "exported.json"
_LOG = logging.getLogger(__name__)


def note_exported(run: pathlib.Path, checkpoint: str) -> None:
    """Writes into a run's folder which of its checkpoints was exported."""
    try:
        write_whole(run / _NAME, json.dumps({"checkpoint": checkpoint}))
    except OSError as error:
        # The export itself is written, and may be all that is wanted of a folder to be read only.
        _LOG.warning("%s: training on may drop the exported checkpoint %s", error, checkpoint)


def exported_checkpoint(run: pathlib.Path) -> str | None:
    """The name of the checkpoint that was exported last; None where none was."""
    try:
        found = json.loads((run / _NAME).read_text(encoding="utf-8"))
        return str(found["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
