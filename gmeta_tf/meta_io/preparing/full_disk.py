"""A full disk, which each library tells in its own way."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import duckdb

from gmeta_tf.meta_io.files import is_full_disk

__all__ = ["told_of_a_full_disk"]


@contextlib.contextmanager
def told_of_a_full_disk(output: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever DuckDB, Python or another library calls a full disk is an OSError with ENOSPC."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        if "No space left" not in str(error) and "max_temp_directory_size" not in str(error):
            raise ValueError(
                f"the engine ran out of memory: {str(error).splitlines()[0]} Raise memory_limit."
            ) from error
        raise _full_disk(output, error) from error
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise _full_disk(output, error) from error


def _full_disk(output: str | os.PathLike[str], error: Exception) -> OSError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return OSError(
        errno.ENOSPC,
        f"the disk is full: {first_line}. Nothing was changed; make room or pass another "
        "spill_folder, and prepare again",
        os.fspath(output),
    )
