"""Digests of whole files, and of large ones part by part."""

import hashlib

import pytest

from gmeta_tf.meta_io import digest
from gmeta_tf.meta_io.digest import digest_of, digest_of_parts, fault_of

CONTENT = b"".join(i.to_bytes(2, "big") for i in range(1250))


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "PART_BYTES", 1000)
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def test_a_large_file_is_hashed_part_by_part(path):
    parts = (CONTENT[:1000], CONTENT[1000:2000], CONTENT[2000:])
    joined = b"".join(hashlib.sha256(part).digest() for part in parts)
    expected = f"parts of 64 MiB: {hashlib.sha256(joined).hexdigest()}"
    assert digest_of_parts(path) == {"bytes": 2500, "sha256": expected}


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_a_small_file_is_hashed_as_a_whole(path, size):
    path.write_bytes(CONTENT[:size])
    expected = {"bytes": size, "sha256": hashlib.sha256(CONTENT[:size]).hexdigest()}
    assert digest_of_parts(path) == digest_of(path) == expected


@pytest.mark.parametrize("of", [digest_of, digest_of_parts])
def test_a_byte_of_any_part_is_missed(path, of):
    expected = of(path)
    assert fault_of(path, expected) is None
    for place in (0, 999, 1000, 1999, 2000, 2499):
        changed = bytearray(CONTENT)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert fault_of(path, expected).startswith(
            f"{path}: expected the SHA-256 {expected['sha256']}"
        )
    path.write_bytes(CONTENT[1000:2000] + CONTENT[:1000] + CONTENT[2000:])
    assert "expected the SHA-256" in fault_of(path, expected)
    path.write_bytes(CONTENT[:-1])
    assert fault_of(path, expected) == f"{path}: expected 2500 bytes, found 2499"
