"""Whether a compressed file is whole: DuckDB reads a cut one up to the cut, in silence."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import BinaryIO

__all__ = ["check_whole", "compression_of"]

_ENDINGS = {".gz": "gzip", ".zst": "zstd"}
_OTHERS = (".bz2", ".xz", ".zip", ".lz4", ".br", ".sz", ".snappy", ".z", ".7z")
_CHUNK_BYTES = 1 << 20


def compression_of(file: str) -> str:
    """How a file is compressed by its ending: "none", "gzip" or "zstd".

    Raises:
        ValueError: the ending of a compression that cannot be read.
    """
    ending = os.path.splitext(file)[1].lower()
    if ending in _OTHERS:
        raise ValueError(
            f"{file}: expected a file that is plain or compressed by gzip (.gz) or zstd (.zst), "
            f"got {ending}. Unpack it, or compress it again as one of those."
        )
    return _ENDINGS.get(ending, "none")


def check_whole(file: str) -> None:
    """Checks that a gzip or zstd file ends where its format says that it does.

    A gzip file is unpacked once, which checks its sum too. In a zstd file (RFC 8878) each block
    tells its size, so that its blocks are stepped over and their content is not looked at.

    Raises:
        ValueError: the file was cut off, or is not such a file.
    """
    compression = compression_of(file)
    if compression == "none" or os.path.getsize(file) == 0:
        return
    try:
        if compression == "gzip":
            with gzip.open(file) as opened:
                while opened.read(_CHUNK_BYTES):
                    pass
        else:
            with open(file, "rb") as opened_frames:
                _skip_frames(opened_frames, os.path.getsize(file))
    except EOFError as error:
        raise ValueError(
            f"{file} cannot be read: expected a whole {compression} file, but it ends too early "
            f"({os.path.getsize(file)} bytes). Copy or write it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error, _BadFrameError) as error:
        raise ValueError(
            f"{file} cannot be read: expected a {compression} file, got something else or a "
            f"damaged one ({error}). Copy or write it again, or correct its ending."
        ) from error


class _BadFrameError(Exception):
    """Bytes that are no zstd frame."""


def _skip_frames(file: BinaryIO, size: int) -> None:
    while file.tell() < size:
        magic = _number(file, 4)
        if 0x184D2A50 <= magic <= 0x184D2A5F:
            file.seek(_number(file, 4), os.SEEK_CUR)
        elif magic == 0xFD2FB528:
            _skip_frame(file)
        else:
            raise _BadFrameError(f"no frame at byte {file.tell() - 4}")
        if file.tell() > size:
            raise EOFError


def _skip_frame(file: BinaryIO) -> None:
    descriptor = _number(file, 1)
    is_single = bool(descriptor & 0x20)
    content_size_bytes = (int(is_single), 2, 4, 8)[descriptor >> 6]
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    file.seek(content_size_bytes + dictionary_bytes + (0 if is_single else 1), os.SEEK_CUR)
    is_last = False
    while not is_last:
        block = _number(file, 3)
        is_last = bool(block & 1)
        is_one_byte_repeated = (block >> 1) & 3 == 1
        file.seek(1 if is_one_byte_repeated else block >> 3, os.SEEK_CUR)
    if descriptor & 4:
        file.seek(4, os.SEEK_CUR)


def _number(file: BinaryIO, num_bytes: int) -> int:
    read = file.read(num_bytes)
    if len(read) < num_bytes:
        raise EOFError
    return int.from_bytes(read, "little")
