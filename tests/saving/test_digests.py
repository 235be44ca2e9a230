"""Digests of files that were just written."""

import hashlib
import os
import pathlib

from gmeta_tf.saving.digests import digests_on_disk


def test_each_file_is_read_and_gets_to_the_disk(tmp_path, monkeypatch):
    contents = {"a": b"x" * 3_000_000, "b": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    assert digests_on_disk(tmp_path, ["b", "a"]) == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    assert sorted(pathlib.Path(path).name for path in synced) == ["a", "b"]
