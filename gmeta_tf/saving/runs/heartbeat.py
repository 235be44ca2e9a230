"""How far a rank is, for who watches it: a small file, where a launcher has asked for one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from gmeta_tf.launching.messages import BEAT_FILE

__all__ = ["Heartbeat"]

_EVERY_SECONDS = 0.2


class Heartbeat:
    """Writes the steps of this training so far, those at its last checkpoint, and when that was.

    A no-op where the variable `GMETA_HEARTBEAT` does not name a file.

    Example:
        >>> Heartbeat({}).step(3)
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Args: environment: as `gmeta-tf launch` sets it."""
        self._path = environment.get(BEAT_FILE)
        self._steps, self._saved, self._saved_at, self._written = 0, 0, time.time(), 0.0

    def begin(self) -> None:
        """Training begins, or goes on with the epochs after the rest of a stopped one."""
        if not self._steps:
            self._saved_at = time.time()
        self._write()

    def step(self, count: int = 1) -> None:
        """So many steps more were made."""
        self._steps += count
        if time.monotonic() > self._written + _EVERY_SECONDS:
            self._write()

    def alive(self) -> None:
        """Something else was done, such as a step of the validation."""
        self.step(0)

    def saved(self) -> None:
        """All steps so far are in a checkpoint."""
        self._saved, self._saved_at = self._steps, time.time()
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._path is None:
            return
        values = {
            "steps": self._steps,
            "saved_steps": self._saved,
            "saved_at": self._saved_at,
            "at": time.time(),
        }
        half = f"{self._path}.half"
        with open(half, "w", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        os.replace(half, self._path)
