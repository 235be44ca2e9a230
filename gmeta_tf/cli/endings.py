"""How a command ends that is interrupted, or whose output nobody reads to its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

__all__ = ["leave_at_once", "quiet_endings"]

# What a shell reports of a process that the signal ended.
_INTERRUPTED = 128 + signal.SIGINT
_UNREAD = 128 + signal.SIGPIPE


@contextlib.contextmanager
def quiet_endings() -> Iterator[None]:
    """Ends in a line and status 130 at Ctrl-C, and in silence where stdout's reader has left.

    Raises:
        SystemExit: 130 or 141.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader():
            raise
        raise SystemExit(_UNREAD) from None
    except (KeyboardInterrupt, RuntimeError) as error:
        # DuckDB turns Ctrl-C within a query into a RuntimeError.
        if not isinstance(error, KeyboardInterrupt) and str(error) != "Query interrupted":
            raise
        print("gmeta-tf: interrupted", file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None


def leave_at_once(status: int) -> NoReturn:
    """Ends the process without its destructors and exit handlers, after what it has printed.

    Where memory has ended they cannot be relied on: TensorFlow keeps a graph's lock where it runs
    out of memory as it adds an operation, and whoever frees that graph afterwards, if only with
    the traceback that led there, waits for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _has_no_reader() -> bool:
    """Whether it is stdout that is broken; Python then has nothing more to write there."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:
        return False  # no file of the system's
    poll = select.poll()
    poll.register(stdout, 0)
    broken = any(events & select.POLLERR for _, events in poll.poll(0))
    if broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout)
        os.close(nowhere)
    return broken
