"""Files that may lie on a remote store, reached through tensorflow-io's file systems or fsspec's.

A path with a scheme (`s3://bucket/folder/file`) is remote, any other is a local path and goes
through plain Python. What is installed decides who reads a remote one: tensorflow-io where it fits
TensorFlow (2.16), else fsspec. An error that may pass is tried again, here and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import glob as local_glob
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from gmeta_tf.meta_io.stores.fsspec_store import PACKAGES, FsspecStore
from gmeta_tf.meta_io.stores.store import PIECE_BYTES, Fault, Store
from gmeta_tf.meta_io.stores.tensorflow_store import TensorFlowStore

__all__ = [
    "SCHEMES",
    "as_local",
    "copy_in",
    "exists",
    "find",
    "is_full_disk",
    "is_opened_by_tensorflow",
    "is_remote",
    "join",
    "local_copy",
    "read_bytes",
    "read_range",
    "read_text",
    "remove",
    "require",
    "size",
    "write_bytes",
    "write_text",
]

Path = str | os.PathLike[str]
Result = TypeVar("Result")

SCHEMES = ("s3", "hdfs", "viewfs", "oss", "az", "gs")

# The pauses between one attempt and the next: the one place that says how often and how long.
RETRY_PAUSES_SECONDS = (0.2, 1.0, 5.0)


def is_full_disk(error: Exception) -> bool:
    """Whether an error of Python's, DuckDB's, TensorFlow's or safetensors' is that of a full disk.

    Example:
        >>> texts = ("x: No space left on device", "Disk quota exceeded", "no such file")
        >>> [is_full_disk(OSError(text)) for text in texts]
        [True, True, False]
    """
    reasons = ("No space left", "File too large", "Disk quota exceeded")
    is_named = type(error).__name__ == "ResourceExhaustedError"
    return is_named or any(reason in str(error) for reason in reasons)


def is_remote(path: Path) -> bool:
    """Whether a path has a scheme.

    Raises:
        ValueError: a scheme that is none of `SCHEMES`.

    Example:
        >>> is_remote("s3://bucket/log.csv"), is_remote("/data/log.csv")
        (True, False)
    """
    scheme, separator, _ = os.fspath(path).partition("://")
    if not separator or "/" in scheme:
        return False
    if scheme not in SCHEMES:
        raise ValueError(
            f"{os.fspath(path)}: expected a local path or one that begins with "
            f"{', '.join(f'{known}://' for known in SCHEMES)}, got {scheme}://. "
            "Copy the file to one of these."
        )
    return True


def join(folder: Path, name: str) -> str:
    """The path of a file in a folder; one slash is between where the folder is remote.

    Example:
        >>> join("s3://bucket/records/", "schema.json")
        's3://bucket/records/schema.json'
    """
    if is_remote(folder):
        return f"{os.fspath(folder).rstrip('/')}/{name}"
    return os.path.join(folder, name)


def require(path: Path) -> None:
    """Loads the file system that a path needs; a local path needs none. Idempotent.

    Raises:
        ImportError: neither tensorflow-io nor fsspec can read it.
        ValueError: an unknown scheme, or a setting with which tensorflow-io crashes.
    """
    if is_remote(path):
        _store(_scheme(path))


def is_opened_by_tensorflow(path: Path) -> bool:
    """Whether TensorFlow's own ops (`tf.data.TFRecordDataset`) can be given a path.

    Raises:
        ImportError, ValueError: as `require`.
    """
    return not is_remote(path) or _store(_scheme(path)).is_opened_by_tensorflow


@contextlib.contextmanager
def as_local(path: Path) -> Iterator[str]:
    """A local file with a path's content: the same one, or a copy until the end."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield local_copy(path, folder)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder. A store that cannot be reached may look empty."""
    if not is_remote(path):
        return os.path.exists(path)
    return _retried(path, lambda store: store.exists(os.fspath(path)))


def size(path: Path) -> int:
    """The bytes of a file.

    Raises:
        FileNotFoundError: no such file, or its store cannot be reached.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    return _retried(path, lambda store: store.size(os.fspath(path)))


def find(pattern: Path) -> list[str]:
    """The files that a path with `*` and `?` matches, in the order of their names."""
    if not is_remote(pattern):
        return sorted(local_glob.glob(os.fspath(pattern), recursive=True))
    return _retried(pattern, lambda store: sorted(store.find(os.fspath(pattern))))


def read_bytes(path: Path) -> bytes:
    """All of a file, which must fit into memory.

    Raises:
        FileNotFoundError: no such file, or its store cannot be reached.
        OSError: the attempts are over, or the store refuses.
    """
    if not is_remote(path):
        return pathlib.Path(path).read_bytes()
    return b"".join(_pieces(os.fspath(path)))


def read_range(path: Path, first: int, last: int) -> bytes:
    """Bytes `first` to `last` (not included) of a file, or fewer where a local one ends before."""
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(first)
            return file.read(last - first)
    # What reads by TensorFlow has to know how many bytes there are.
    length = size(path) if is_opened_by_tensorflow(path) else last
    return _read_range(os.fspath(path), first, last, length)


def read_text(path: Path) -> str:
    """All of a UTF-8 file, as `read_bytes`."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file over what there was. A local file's folder must be there.

    Raises:
        OSError: the attempts are over, or the store refuses.
    """
    if is_remote(path):
        _retried(path, lambda store: store.write(os.fspath(path), content))
    else:
        pathlib.Path(path).write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a whole UTF-8 file, as `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def copy_in(local: Path, path: Path) -> None:
    """Copies a local file to a path, a piece at a time; otherwise as `write_bytes`."""
    if is_remote(path):
        _retried(path, lambda store: store.copy_in(os.fspath(local), os.fspath(path)))
    else:
        shutil.copyfile(local, path)


def local_copy(path: Path, folder: Path) -> str:
    """A local file with a path's content, for readers that need one (DuckDB, `np.memmap`).

    Args:
        path: a file; if it is local, it is what comes back, and nothing is copied.
        folder: where a remote file is copied to, under its own name; there already.
    """
    if not is_remote(path):
        return os.fspath(path)
    target = pathlib.Path(folder) / os.fspath(path).rsplit("/", 1)[1]
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        file.writelines(_pieces(os.fspath(path)))
    partial.replace(target)
    return str(target)


def remove(path: Path) -> None:
    """Removes a file. A store does not say whether there was one; a local one must be there."""
    if is_remote(path):
        _retried(path, lambda store: store.remove(os.fspath(path)))
    else:
        os.remove(path)


def _scheme(path: Path) -> str:
    return os.fspath(path).partition("://")[0]


def _pieces(path: str) -> Iterator[bytes]:
    length = size(path)
    for first in range(0, length, PIECE_BYTES):
        yield _read_range(path, first, min(first + PIECE_BYTES, length), length)


def _read_range(path: str, first: int, last: int, length: int) -> bytes:
    return _retried(path, lambda store: store.read(path, first, last, length))


def _retried(path: Path, attempt: Callable[[Store], Result]) -> Result:
    """What an attempt on the path's store gives; transient errors are tried again after a pause."""
    store = _store(_scheme(path))
    name, tries = os.fspath(path), len(RETRY_PAUSES_SECONDS) + 1
    for pause in (*RETRY_PAUSES_SECONDS, None):
        try:
            return attempt(store)
        except Exception as error:
            fault = store.fault(error)
            if fault is None:
                raise
            if fault is not Fault.TRANSIENT or pause is None:
                raise _explained(name, error, fault, tries) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _explained(name: str, error: Exception, fault: Fault, tries: int) -> OSError:
    said = getattr(error, "message", error)
    if fault is Fault.MISSING:
        return FileNotFoundError(
            f"{name} is not there, or its store cannot be reached: {said} "
            "Check the path, the endpoint and the credentials."
        )
    if fault is Fault.REFUSED:
        return OSError(
            f"{name}: the store refused with {type(error).__name__}: {said} "
            "Check the path, the endpoint and the credentials."
        )
    return OSError(
        f"{name}: expected the store to answer, got {type(error).__name__} "
        f"{tries} times, at last: {error}. Check the network, and try again."
    )


@functools.cache
def _store(scheme: str) -> Store:
    try:
        return TensorFlowStore(scheme)
    except ImportError as error:
        of_tensorflow = error
    try:
        return FsspecStore(scheme)
    except ImportError as error:
        install = f"`pip install 'gmeta_tf[{scheme}]'`, or " if scheme in PACKAGES else ""
        raise ImportError(
            f"{scheme}:// needs tensorflow-io, got: {of_tensorflow}; or fsspec, got: {error}. "
            f"Install one: {install}"
            "TensorFlow 2.16 with tensorflow-io: `GMETA_STACK=pinned bash launch/setup.sh`. "
            "Or copy the files to a local disk."
        ) from error
