"""Remote files by TensorFlow's file systems: tensorflow-io's, and gs://, which TensorFlow brings.

TensorFlow's ops open such paths themselves. What tensorflow-io 0.37 does on `s3://`, and what
follows from it:

- The SDK takes up a broken download at the wrong place: after a dropped connection a read has the
  right length and wrong bytes. TFRecord files have checksums and fail; nothing else would. So a
  file on s3:// is read twice, in pieces that begin at different places, until both agree.
- `exists` and `stat` call a store that cannot be reached "not found". So NotFoundError is
  reported as missing *or* unreachable, once the retries are over.
- `rename` moves every object whose name begins so, and stops at empty ones. So there is none here:
  an object appears whole or not at all; write the one that tells that a folder is whole last.
- A process that has used `s3://` aborts at its end ("pure virtual method called", tensorflow-io's
  issue 2039): a destructor logs to a log that is gone. Making a store ends the process before it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Iterable
from typing import Any

from gmeta_tf.meta_io.stores.store import PIECE_BYTES, Fault, ShortError

__all__ = ["TensorFlowStore"]

_TRANSIENT = ("Unavailable", "Aborted", "DeadlineExceeded", "Unknown", "Internal", "DataLoss")
# A download of more is split into parts, and those the SDK does take up where it should.
_PART_BYTES = 1 << 20


class TensorFlowStore:
    """`Store` by `tf.io.gfile`.

    Args:
        scheme: of `files.SCHEMES`.

    Raises:
        ImportError: tensorflow-io is missing or does not fit TensorFlow.
        ValueError: a setting with which tensorflow-io crashes.
    """

    is_opened_by_tensorflow = True

    def __init__(self, scheme: str) -> None:
        self._tf = importlib.import_module("tensorflow")
        if scheme != "gs":
            _load(scheme)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder. A store out of reach may look empty."""
        return self._tf.io.gfile.exists(path)

    def size(self, path: str) -> int:
        """The bytes of a file."""
        return self._tf.io.gfile.stat(path).length

    def find(self, pattern: str) -> list[str]:
        """The files that a path with `*` and `?` matches."""
        return self._tf.io.gfile.glob(pattern)

    def read(self, path: str, first: int, last: int, length: int) -> bytes:
        """Bytes `first` to `last` of a file, which on s3:// two readings agree on.

        Where a broken download was taken up wrongly, all that follows is displaced. The second
        reading is of two halves, so that a line that always breaks after the same number of bytes
        displaces other bytes in it.
        """
        content = self._read_once(path, first, last, length)
        if path.startswith("s3://") and last - first > 1:
            middle = (first + last) // 2
            halves = ((first, middle), (middle, last))
            if content != b"".join(self._read_once(path, *half, length) for half in halves):
                raise ShortError("two readings of it differ: a connection broke in between")
        return content

    def _read_once(self, path: str, first: int, last: int, length: int) -> bytes:
        # One record of a data set: GFile would read 512 KiB a request, at a twentieth of the speed.
        records = self._tf.data.FixedLengthRecordDataset(
            path, last - first, first, length - last, buffer_size=last - first
        )
        content = next((record.numpy() for record in records), b"")
        if len(content) != last - first:
            raise ShortError(f"expected {last - first} bytes from byte {first}, got {len(content)}")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Writes a whole file."""
        self._write(path, [content])

    def copy_in(self, local: str, path: str) -> None:
        """Copies a local file, a piece at a time."""
        with open(local, "rb") as file:
            self._write(path, iter(lambda: file.read(PIECE_BYTES), b""))

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        length = 0
        with self._tf.io.gfile.GFile(path, "wb") as file:
            file.write(b"")  # without a write no object is made
            for piece in pieces:
                file.write(piece)
                length += len(piece)
        if (found := self.size(path)) != length:
            raise ShortError(f"expected {length} bytes after writing, found {found}")

    def remove(self, path: str) -> None:
        """Removes a file."""
        self._tf.io.gfile.remove(path)

    def fault(self, error: Exception) -> Fault | None:
        """What an error says of the store; None if it is not the store's."""
        errors: Any = self._tf.errors
        if isinstance(error, errors.NotFoundError):
            return Fault.MISSING
        transient = tuple(getattr(errors, f"{name}Error") for name in _TRANSIENT)
        if isinstance(error, (ShortError, *transient)):
            return Fault.TRANSIENT
        return Fault.REFUSED if isinstance(error, errors.OpError) else None


def _load(scheme: str) -> None:
    try:
        importlib.import_module("tensorflow_io")
    except NotImplementedError as error:
        raise ImportError(f"it does not fit TensorFlow: {error}") from error
    if scheme == "s3":
        if os.environ.get("S3_DISABLE_MULTI_PART_DOWNLOAD") == "1":
            raise ValueError(
                "expected S3_DISABLE_MULTI_PART_DOWNLOAD not to be set, it is 1: tensorflow-io "
                "then crashes at the end of a file. Unset it."
            )
        os.environ.setdefault("S3_MULTI_PART_DOWNLOAD_CHUNK_SIZE", str(_PART_BYTES))
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
