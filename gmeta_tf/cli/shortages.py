"""Too little memory, too many open files, a full disk: each library has its own words for them."""

from __future__ import annotations

import errno

__all__ = ["shortage_of"]

# By name: this is asked before TensorFlow and DuckDB are imported, too.
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryException")
_DISK_TEXTS = ("No space left", "Disk quota exceeded", "File too large")
_MEMORY_TEXTS = ("can't start new thread", "Cannot allocate memory", "std::bad_alloc")


def shortage_of(error: Exception) -> str | None:
    """What a command has run out of, and what to do, in one line; None for other errors.

    Example:
        >>> shortage_of(MemoryError()).split(".")[0]
        'out of memory (MemoryError)'
        >>> shortage_of(ValueError("expected a number"))
    """
    first_line = (str(error).splitlines() or [""])[0] or type(error).__name__
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or (
        "Too many open files" in str(error)
    ):
        what, remedy = "too many open files", "Raise the limit (ulimit -n)"
    elif any(text in str(error) for text in _DISK_TEXTS):
        if "the disk is full" in str(error):  # which has been told with the file's name
            return None
        what, remedy = "the disk is full", "Make room"
    elif (
        getattr(error, "errno", None) == errno.ENOMEM
        or any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__)
        or any(text in str(error) for text in _MEMORY_TEXTS)
    ):
        what, remedy = "out of memory", "Give it more memory, or less work at once"
    else:
        return None
    return f"{what} ({first_line}). What was saved before is as it was. {remedy}, and start again."
