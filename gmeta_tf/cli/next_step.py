"""What to type next, told at the end of a command to whoever sits at a terminal."""

from __future__ import annotations

import shlex
import sys

__all__ = ["tell_next"]


def tell_next(*words: object) -> None:
    """Writes a command to stderr, if that is a terminal: what scripts read stays as it is.

    Args:
        words: of the command, quoted where a shell needs it.
    """
    if sys.stderr.isatty():
        print(f"next: {shlex.join(map(str, words))}", file=sys.stderr)
