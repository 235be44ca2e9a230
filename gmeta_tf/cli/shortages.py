"""Too little memory, too many open files, a full disk: each library has its own words for them."""

from __future__ import annotations

import errno
import pathlib
import resource
from collections.abc import Iterator

__all__ = ["is_out_of_memory", "left_of_address_space", "probable_shortage", "shortage_of"]

# By name: this is asked before TensorFlow and DuckDB are imported, too.
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryException")
_DISK_TEXTS = ("No space left", "Disk quota exceeded", "File too large")
_LITTLE = 32 << 20
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
    elif _is_of_memory(error):
        what, remedy = "out of memory", "Give it more memory, or less work at once"
    else:
        return None
    return f"{what} ({first_line}). What was saved before is as it was. {remedy}, and start again."


def probable_shortage(error: Exception) -> str | None:
    """The same of an error that nobody expected, where a shortage stands behind it.

    That is one that was being handled when it was raised; or memory that had nearly reached its
    limit, since a library whose allocation fails unseen goes on with half a result: TensorFlow then
    looks for an operation of no name, and raises KeyError.
    """
    for behind in _behind(error):
        if told := shortage_of(behind):
            return told
    if not _is_at_its_limit():
        return None
    return shortage_of(MemoryError(f"probably, since {type(error).__name__}: {error}"))


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory had ended, or nearly, by the time that an error was raised.

    Example:
        >>> is_out_of_memory(MemoryError())
        True
        >>> is_out_of_memory(ValueError("expected a number"))
        False
    """
    return any(_is_of_memory(each) for each in (error, *_behind(error))) or _is_at_its_limit()


def left_of_address_space() -> int | None:
    """How many bytes its peak was below the limit of this process (ulimit -v); None without one."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    status = pathlib.Path("/proc/self/status")
    if most == resource.RLIM_INFINITY or not status.exists():
        return None
    lines = status.read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmPeak:"))
    return most - int(peak.split()[1]) * 1024


def _is_of_memory(error: Exception) -> bool:
    text = str(error)
    if any(words in text for words in ("Too many open files", *_DISK_TEXTS)):
        return False  # which TensorFlow raises as the same kind of error
    return (
        getattr(error, "errno", None) == errno.ENOMEM
        or any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__)
        or any(words in text for words in _MEMORY_TEXTS)
    )


def _behind(error: Exception) -> Iterator[Exception]:
    """The errors that were being handled when it was raised, the last one first."""
    behind = error.__cause__ or error.__context__
    while isinstance(behind, Exception):
        yield behind
        behind = behind.__cause__ or behind.__context__


def _is_at_its_limit() -> bool:
    left = left_of_address_space()
    return left is not None and left <= _LITTLE
