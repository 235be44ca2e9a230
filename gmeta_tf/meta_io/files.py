"""Files that may lie on a remote store, reached through tensorflow-io's file systems.

A path with a scheme (`s3://bucket/folder/file`) is remote, any other is a local path and goes
through plain Python. What tensorflow-io 0.37 does on `s3://`, and what follows from it:

- The SDK takes up a broken download at the wrong place: after a dropped connection a read has the
  right length and wrong bytes. TFRecord files have checksums and fail; nothing else would. So a
  file on s3:// is read twice, in pieces that begin at different places, until both agree.
- `exists` and `stat` call a store that cannot be reached "not found". So NotFoundError is
  reported as missing *or* unreachable, once the retries are over.
- `rename` moves every object whose name begins so, and stops at empty ones. So there is none here:
  an object appears whole or not at all; write the one that tells that a folder is whole last.
- A process that has used `s3://` aborts at its end ("pure virtual method called", tensorflow-io's
  issue 2039): a destructor logs to a log that is gone. `require` ends the process before it.
"""

from __future__ import annotations

import ctypes
import functools
import glob as local_glob
import importlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

__all__ = [
    "SCHEMES",
    "copy_in",
    "exists",
    "find",
    "is_full_disk",
    "is_remote",
    "join",
    "local_copy",
    "read_bytes",
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
_TRANSIENT = ("Unavailable", "Aborted", "DeadlineExceeded", "Unknown", "Internal", "DataLoss")
# A download of more is split into parts, and those the SDK does take up where it should.
_PART_BYTES = 1 << 20
_PIECE_BYTES = 64 << 20


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
    """Loads the file system that a path needs; a local path, or gs://, needs none. Idempotent.

    Call it before TensorFlow's own ops (`tf.data.TFRecordDataset`) are given a remote path.

    Raises:
        ImportError: tensorflow-io is missing or does not fit TensorFlow.
        ValueError: an unknown scheme, or a setting with which tensorflow-io crashes.
    """
    if is_remote(path):
        _load(os.fspath(path).partition("://")[0])


def exists(path: Path) -> bool:
    """Whether there is such a file or folder. A store that cannot be reached may look empty."""
    if not is_remote(path):
        return os.path.exists(path)
    return _retried(path, lambda gfile: gfile.exists(os.fspath(path)))


def size(path: Path) -> int:
    """The bytes of a file.

    Raises:
        FileNotFoundError: no such file, or its store cannot be reached.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    return _retried(path, lambda gfile: gfile.stat(os.fspath(path)).length)


def find(pattern: Path) -> list[str]:
    """The files that a path with `*` and `?` matches, in the order of their names."""
    if not is_remote(pattern):
        return sorted(local_glob.glob(os.fspath(pattern), recursive=True))
    return _retried(pattern, lambda gfile: sorted(gfile.glob(os.fspath(pattern))))


def read_bytes(path: Path) -> bytes:
    """All of a file. A remote one is read twice and compared; it must fit into memory.

    Raises:
        FileNotFoundError: no such file, or its store cannot be reached.
        OSError: the attempts are over and no two readings agreed, or the store refuses.
    """
    if not is_remote(path):
        return pathlib.Path(path).read_bytes()
    return b"".join(_pieces(os.fspath(path)))


def read_text(path: Path) -> str:
    """All of a UTF-8 file, as `read_bytes`."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file over what there was. A local file's folder must be there.

    Raises:
        OSError: the attempts are over, or the store refuses.
    """
    if is_remote(path):
        _retried(path, lambda gfile: _write(gfile, path, [content]))
    else:
        pathlib.Path(path).write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a whole UTF-8 file, as `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def copy_in(local: Path, path: Path) -> None:
    """Copies a local file to a path, a piece at a time; otherwise as `write_bytes`."""
    if not is_remote(path):
        shutil.copyfile(local, path)
        return

    def attempt(gfile: Any) -> None:
        with open(local, "rb") as file:
            _write(gfile, path, iter(lambda: file.read(_PIECE_BYTES), b""))

    _retried(path, attempt)


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
        _retried(path, lambda gfile: gfile.remove(os.fspath(path)))
    else:
        os.remove(path)


class _ShortError(Exception):
    """What was read or written is not what is there."""


def _write(gfile: Any, path: Path, pieces: Iterable[bytes]) -> None:
    length = 0
    with gfile.GFile(os.fspath(path), "wb") as file:
        file.write(b"")  # without a write no object is made
        for piece in pieces:
            file.write(piece)
            length += len(piece)
    if (found := gfile.stat(os.fspath(path)).length) != length:
        raise _ShortError(f"expected {length} bytes after writing, found {found}")


def _pieces(path: str) -> Iterator[bytes]:
    length = size(path)
    for first in range(0, length, _PIECE_BYTES):
        last = min(first + _PIECE_BYTES, length)
        yield _retried(path, functools.partial(_piece, path, first, last, length))


def _piece(path: str, first: int, last: int, length: int, gfile: Any) -> bytes:
    """Bytes first to last of a file, which on s3:// two readings agree on.

    Where a broken download was taken up wrongly, all that follows is displaced. The second reading
    is of two halves, so that a line that always breaks after the same number of bytes displaces
    other bytes in it.
    """
    content = _read_range(path, first, last, length)
    if path.startswith("s3://") and last - first > 1:
        middle = (first + last) // 2
        halves = ((first, middle), (middle, last))
        if content != b"".join(_read_range(path, *half, length) for half in halves):
            raise _ShortError("two readings of it differ: a connection broke in between")
    return content


def _read_range(path: str, first: int, last: int, length: int) -> bytes:
    # One record of a data set: GFile would read 512 KiB a request, at a twentieth of the speed.
    tf = importlib.import_module("tensorflow")
    records = tf.data.FixedLengthRecordDataset(
        path, last - first, first, length - last, buffer_size=last - first
    )
    content = next((record.numpy() for record in records), b"")
    if len(content) != last - first:
        raise _ShortError(f"expected {last - first} bytes from byte {first}, got {len(content)}")
    return content


def _retried(path: Path, attempt: Callable[[Any], Result]) -> Result:
    """What `attempt(tf.io.gfile)` gives; transient errors are tried again after a pause."""
    require(path)
    tf = importlib.import_module("tensorflow")
    transient = tuple(getattr(tf.errors, f"{name}Error") for name in _TRANSIENT)
    name, tries = os.fspath(path), len(RETRY_PAUSES_SECONDS) + 1
    for pause in (*RETRY_PAUSES_SECONDS, None):
        try:
            return attempt(tf.io.gfile)
        except tf.errors.NotFoundError as error:
            raise FileNotFoundError(
                f"{name} is not there, or its store cannot be reached: {error.message} "
                "Check the path, the endpoint and the credentials."
            ) from error
        except (_ShortError, *transient) as error:
            if pause is None:
                raise OSError(
                    f"{name}: expected the store to answer, got {type(error).__name__} "
                    f"{tries} times, at last: {error}. Check the network, and try again."
                ) from error
            time.sleep(pause)
        except tf.errors.OpError as error:
            raise OSError(
                f"{name}: the store refused with {type(error).__name__}: {error.message} "
                "Check the path, the endpoint and the credentials."
            ) from error
    raise AssertionError("the last attempt returns or raises")


@functools.cache
def _load(scheme: str) -> None:
    if scheme == "s3":
        if os.environ.get("S3_DISABLE_MULTI_PART_DOWNLOAD") == "1":
            raise ValueError(
                "expected S3_DISABLE_MULTI_PART_DOWNLOAD not to be set, it is 1: tensorflow-io "
                "then crashes at the end of a file. Unset it."
            )
        os.environ.setdefault("S3_MULTI_PART_DOWNLOAD_CHUNK_SIZE", str(_PART_BYTES))
    if scheme == "gs":
        return  # TensorFlow brings it
    try:
        importlib.import_module("tensorflow_io")
    except (ImportError, NotImplementedError) as error:
        raise ImportError(
            f"{scheme}:// needs tensorflow-io with file systems that fit TensorFlow, got: {error}. "
            "Its last release fits TensorFlow 2.16: `GMETA_STACK=pinned bash launch/setup.sh`, or "
            "`pip install 'gmeta_tf[remote]' 'tensorflow<2.17'`. Or copy the files to a local disk."
        ) from error
    _end_before_destructors()


@functools.cache
def _end_before_destructors() -> None:
    """Lets the process end before the destructors of tensorflow-io, which abort it.

    C's handlers run the latest first: those registered from now on, then the two here, and no
    earlier ones. The exit status is kept. Only glibc has on_exit; elsewhere nothing is done.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit") and hasattr(libc, "fcloseall"):
        libc.on_exit(libc._exit, None)
        libc.on_exit(libc.fcloseall, None)
