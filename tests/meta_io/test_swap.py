"""Two names that change places at once."""

import ctypes
import errno
import threading

import pytest

from gmeta_tf.meta_io import swap
from gmeta_tf.meta_io.swap import swapped


def folder_with(path, text):
    path.mkdir()
    (path / "schema.json").write_text(text)
    return path


def test_folders_change_places(tmp_path):
    one, other = folder_with(tmp_path / "a", "a"), folder_with(tmp_path / "b", "b")
    assert swapped(one, other)
    assert (one / "schema.json").read_text() == "b"
    assert (other / "schema.json").read_text() == "a"


def test_a_name_that_is_not_there(tmp_path):
    one = folder_with(tmp_path / "a", "a")
    with pytest.raises(FileNotFoundError):
        swapped(one, tmp_path / "b")
    assert (one / "schema.json").read_text() == "a"


def test_who_reads_meanwhile_sees_the_one_or_the_other(tmp_path):
    output, built = folder_with(tmp_path / "out", "0"), folder_with(tmp_path / "new", "1")
    seen, ends = set(), threading.Event()

    def read():
        while not ends.is_set():
            seen.add((output / "schema.json").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(2000):
            assert swapped(built, output)
    finally:
        ends.set()
        reader.join()
    assert seen == {"0", "1"}


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_where_the_file_system_cannot(error, tmp_path, monkeypatch):
    class Library:
        @staticmethod
        def renameat2(*_):
            ctypes.set_errno(error)
            return -1

    monkeypatch.setattr(swap.ctypes, "CDLL", lambda *_, **__: Library)
    one, other = folder_with(tmp_path / "a", "a"), folder_with(tmp_path / "b", "b")
    assert not swapped(one, other)
    assert (one / "schema.json").read_text() == "a"


def test_where_there_is_no_such_call(tmp_path, monkeypatch):
    monkeypatch.setattr(swap.ctypes, "CDLL", lambda *_, **__: object())
    assert not swapped(tmp_path, tmp_path)
