"""Remote files by fsspec, for a TensorFlow that tensorflow-io does not fit.

TensorFlow's ops cannot open such paths: whoever reads records fetches their bytes here and checks
them (`records/frames.py`). A download that a dropped connection cuts short is an error here, so a
file is read once. Where s3fs has tried five times, the caller tries again.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from gmeta_tf.meta_io.stores.store import Fault, ShortError

__all__ = ["PACKAGES", "FsspecStore"]

# What brings the file system of a scheme.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hdfs": "pyarrow"}

# No other attempt would help.
_REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")


class FsspecStore:
    """`Store` by fsspec.

    Args:
        scheme: of `PACKAGES`.

    Raises:
        ImportError: a package is missing, or fsspec has no such scheme.
    """

    is_opened_by_tensorflow = False

    def __init__(self, scheme: str) -> None:
        if scheme not in PACKAGES:
            raise ImportError(f"fsspec has no file system for {scheme}://")
        self._fsspec = importlib.import_module("fsspec.core")
        for package in (PACKAGES[scheme], "google_crc32c"):
            importlib.import_module(package)
        self._options = _s3_options() if scheme == "s3" else {}

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        system, name = self._opened(path)
        return system.exists(name)

    def size(self, path: str) -> int:
        """The bytes of a file."""
        system, name = self._opened(path)
        return system.info(name)["size"]

    def find(self, pattern: str) -> list[str]:
        """The files that a path with `*` and `?` matches."""
        system, name = self._opened(pattern)
        before = pattern.removesuffix(name)  # the scheme, and a host where names have none
        return [before + found for found in system.glob(name)]

    def read(self, path: str, first: int, last: int, length: int) -> bytes:
        """Bytes `first` to `last` of a file: one request."""
        system, name = self._opened(path)
        content = system.cat_file(name, start=first, end=last)
        if len(content) != last - first:
            raise ShortError(f"expected {last - first} bytes from byte {first}, got {len(content)}")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Writes a whole file."""
        system, name = self._opened(path)
        system.pipe_file(name, content)

    def copy_in(self, local: str, path: str) -> None:
        """Copies a local file, in parts if it is long."""
        system, name = self._opened(path)
        system.put_file(local, name)

    def remove(self, path: str) -> None:
        """Removes a file."""
        system, name = self._opened(path)
        system.rm_file(name)

    def fault(self, error: Exception) -> Fault | None:
        """What an error says of the store; None if it is not the store's."""
        if isinstance(error, FileNotFoundError):
            return Fault.MISSING
        if isinstance(error, PermissionError) or type(error).__name__ in _REFUSALS:
            return Fault.REFUSED
        # Each package has errors of its own; Python's are a mistake of the caller's.
        is_pythons = type(error).__module__ == "builtins" and not isinstance(error, OSError)
        return None if is_pythons else Fault.TRANSIENT

    def _opened(self, path: str) -> tuple[Any, str]:
        # Each time: fsspec keeps the file system, and makes another one in a forked process.
        return self._fsspec.url_to_fs(path, **self._options)


def _s3_options() -> dict[str, Any]:
    """What tensorflow-io reads, too, and s3fs does not: the rest are every AWS tool's."""
    settings = {"endpoint_url": "S3_ENDPOINT", "region_name": "AWS_REGION"}
    client = {name: os.environ[key] for name, key in settings.items() if os.environ.get(key)}
    # What others write meanwhile must be seen.
    return {"use_listings_cache": False, "client_kwargs": client}
