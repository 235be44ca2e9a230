"""A file that another process removed or replaced while a command read it."""

from __future__ import annotations

import re

__all__ = ["gone_file"]

_GONE = re.compile(r"([^\s;]+); No such file or directory")


def gone_file(error: Exception) -> str | None:
    """What to say of a file that TensorFlow began to read and that is gone; None otherwise.

    Example:
        >>> class NotFoundError(Exception): ...
        >>> gone_file(NotFoundError("{{node}} records/a.tfrecord; No such file or directory"))
        'records/a.tfrecord is gone: it was removed or replaced while it was read. Start again.'
    """
    found = _GONE.search(str(error))
    if found is None or type(error).__name__ != "NotFoundError":
        return None
    return f"{found[1]} is gone: it was removed or replaced while it was read. Start again."
