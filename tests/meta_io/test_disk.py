"""What is renamed is on the disk before, and its new name is after."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from gmeta_tf.meta_io.disk import to_disk, tree_to_disk
from gmeta_tf.meta_io.preparing import work_folder as work_folder_module
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.meta_io.swap import swapped
from gmeta_tf.saving.writing import write_whole


@pytest.fixture
def events(monkeypatch):
    """What is synced and renamed, in order: ("sync", path) and ("rename", from, to)."""
    events: list[tuple[str, ...]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(descriptor):
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(act):
        def rename(old, new, **options):
            act(old, new, **options)
            events.append(("rename", os.path.abspath(old), os.path.abspath(new)))

        return rename

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed(rename))
    monkeypatch.setattr(os, "replace", renamed(replace))
    return events


def assert_in_order(events, built: pathlib.Path, output: pathlib.Path, names: set[str]) -> None:
    """Each file, then its folder, then the rename, then the folder around it."""
    at = events.index(("rename", str(built), str(output)))
    before = [path for kind, path, *_ in events[:at] if kind == "sync"]
    for name in names:
        last = len(before) - 1 - before[::-1].index(str((built / name).parent))
        assert before.index(str(built / name)) < last
    assert ("sync", str(output.parent)) in events[at + 1 :]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder(is_there, events, tmp_path, monkeypatch):
    def swap(old, new):
        assert swapped(old, new)
        events.append(("rename", str(old), str(new)))
        return True

    monkeypatch.setattr(work_folder_module, "swapped", swap)
    output = tmp_path / "out"
    if is_there:
        output.mkdir()
    with work_folder(output) as work:
        built = work / "built"
        (built / "deep").mkdir(parents=True)
        for name in ("a", "deep/b"):
            (built / name).write_text("x")
        (built / "link").symlink_to("nowhere")
        replace_folder(built, output, work)
    assert_in_order(events, built, output, {"a", "deep/b"})
    deep, whole = (events.index(("sync", str(path))) for path in (built / "deep", built))
    assert deep < whole


def test_a_small_file(events, tmp_path):
    write_whole(tmp_path / "metrics.json", "{}")
    (new,) = {path for kind, path, *_ in events if kind == "sync" and path != str(tmp_path)}
    assert events == [
        ("sync", new),
        ("rename", new, str(tmp_path / "metrics.json")),
        ("sync", str(tmp_path)),
    ]


def test_a_file_that_cannot_get_there_leaves_the_output(monkeypatch, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "older").write_text("x")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with work_folder(output) as work:
        (work / "built").mkdir()
        (work / "built" / "a").write_text("x")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            replace_folder(work / "built", output, work)
    assert [path.name for path in output.iterdir()] == ["older"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_system_without_an_fsync_of_folders(monkeypatch, tmp_path):
    def invalid(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", invalid)
    to_disk(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Invalid argument"):
        tree_to_disk(tmp_path)
