"""What a long run shows on a terminal: its stages, how far each is, and how long it took."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from gmeta_tf.side_threads import Work, begin

__all__ = ["Progress"]

_WIDTH = 24
_PAUSE_SECONDS = 0.25


class Progress:
    """Shows stages on a terminal; elsewhere, or when it is not asked to, nothing."""

    def __init__(self, shown: bool = False, stream: TextIO | None = None) -> None:
        """Takes the stream, which is stderr if it is None."""
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown and self._stream.isatty()

    @contextlib.contextmanager
    def stage(self, name: str, fraction: Callable[[], float] | None = None) -> Iterator[None]:
        """Shows that a stage goes on, and then the seconds that it took.

        Args:
            name: of the stage.
            fraction: how much of it is done, 0 to 1 or below 0 if that is not known; asked for
                from another thread.
        """
        if not self._shown:
            yield
            return
        begun, ended = time.monotonic(), threading.Event()

        def show() -> None:
            while not ended.wait(_PAUSE_SECONDS):
                self._line(name, begun, fraction() if fraction else -1)

        begin(showing := Work(show))
        whole = False
        try:
            yield
            whole = True
        finally:
            ended.set()
            showing.drop()
            self._line(name, begun, 1.0 if whole else -1)
            self._stream.write("\n")

    def _line(self, name: str, begun: float, fraction: float) -> None:
        filled = round(_WIDTH * min(fraction, 1.0))
        bar = "#" * filled + "." * (_WIDTH - filled) if fraction >= 0 else " " * _WIDTH
        self._stream.write(f"\r{name:<22} [{bar}] {time.monotonic() - begun:7.1f} s")
        self._stream.flush()
