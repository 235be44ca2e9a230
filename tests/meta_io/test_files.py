"""Local and remote files: what they do alike, lines that break, and the end of the process."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
import types

import pytest
import tensorflow as tf
from remote_store import FSSPEC, TENSORFLOW_IO, WAYS, read_records, running_remote, why_not

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.stores.fsspec_store import FsspecStore
from gmeta_tf.meta_io.stores.tensorflow_store import TensorFlowStore

needs_s3fs = pytest.mark.skipif(FSSPEC not in WAYS, reason="no s3fs: pip install 'gmeta_tf[s3]'")
needs_store = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module", params=WAYS)
def remote(request):
    with running_remote(request.param) as started:
        yield started


def made_bytes(length):
    return random.Random(length).randbytes(length)


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(files, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture
def no_stores():
    """No store is open before or after."""
    files._store.cache_clear()
    yield
    files._store.cache_clear()


# ---- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a.csv", "/a/b.csv", "/a://b", "C:/x", ""])
def test_local_paths(path):
    assert not files.is_remote(path)


@pytest.mark.parametrize("scheme", ["s3", "hdfs", "viewfs", "oss", "az", "gs"])
def test_remote_paths(scheme):
    assert files.is_remote(f"{scheme}://a/b")
    assert files.join(f"{scheme}://a/b/", "c") == f"{scheme}://a/b/c"
    assert files.join(f"{scheme}://a/b", "c") == f"{scheme}://a/b/c"


def test_an_unknown_scheme_is_named():
    with pytest.raises(ValueError, match=r"ftp://a/b: expected .*s3://, hdfs://.*, got ftp://"):
        files.read_bytes("ftp://a/b")


def test_local_files(tmp_path):
    path = files.join(tmp_path, "a.txt")
    files.write_text(path, "é")
    files.copy_in(path, tmp_path / "b.txt")
    assert files.read_bytes(tmp_path / "b.txt") == "é".encode()
    assert files.read_text(path) == "é"
    assert files.size(path) == 2
    assert files.find(tmp_path / "*.txt") == [path, str(tmp_path / "b.txt")]
    assert files.local_copy(path, tmp_path / "unused") == path
    files.remove(path)
    assert not files.exists(path)
    assert files.exists(tmp_path / "b.txt")


# ---- What is said when it can not go on ----------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("hdfs", r"hdfs:// .*tensorflow_io.*pyarrow.*pip install 'gmeta_tf\[hdfs\]'.*=pinned bash"),
        ("oss", r"oss:// .*tensorflow_io.*fsspec has no .*oss://.*Install one: TensorFlow 2\.16"),
    ],
)
def test_no_file_system_is_installed(monkeypatch, no_stores, scheme, message):
    for module in ("tensorflow_io", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        files.require(f"{scheme}://a/b")


@needs_s3fs
def test_records_on_fsspec_need_their_checksums(monkeypatch, no_stores):
    for module in ("tensorflow_io", "google_crc32c"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"fsspec, got: .*google_crc32c.*'gmeta_tf\[s3\]'"):
        files.require("s3://a/b")


def test_the_setting_that_crashes_is_refused(monkeypatch, no_stores):
    monkeypatch.setitem(sys.modules, "tensorflow_io", types.ModuleType("tensorflow_io"))
    monkeypatch.setenv("S3_DISABLE_MULTI_PART_DOWNLOAD", "1")
    with pytest.raises(ValueError, match="S3_DISABLE_MULTI_PART_DOWNLOAD not to be set, it is 1"):
        files.require("s3://a/b")


@pytest.mark.parametrize("name", ["Unavailable", "Aborted", "DeadlineExceeded", "Unknown"])
def test_transient_errors_are_tried_again(no_pauses, name):
    attempts = []

    def attempt(store):
        attempts.append(store)
        if len(attempts) < 3:
            raise getattr(tf.errors, f"{name}Error")(None, None, "made")
        return "done"

    assert files._retried("gs://a/b", attempt) == "done"
    assert len(attempts) == 3


@pytest.mark.parametrize(
    ("error", "expected", "message", "tries"),
    [
        (tf.errors.UnavailableError, OSError, "gs://a/b: .* UnavailableError 3 times.*made", 3),
        (tf.errors.PermissionDeniedError, OSError, "gs://a/b: the store refused .*made", 1),
        (tf.errors.NotFoundError, FileNotFoundError, "gs://a/b is not there, or .*made", 1),
    ],
)
def test_other_errors_name_the_file(no_pauses, error, expected, message, tries):
    attempts = []

    def attempt(store):
        attempts.append(store)
        raise error(None, None, "made")

    with pytest.raises(expected, match=message):
        files._retried("gs://a/b", attempt)
    assert len(attempts) == tries


@needs_s3fs
@pytest.mark.parametrize(
    ("error", "expected", "message", "tries"),
    [
        ("aiohttp.ClientPayloadError", OSError, "s3://a/b: .* ClientPayloadError 3 times.*made", 3),
        ("builtins.TimeoutError", OSError, "s3://a/b: .* TimeoutError 3 times.*made", 3),
        (
            "builtins.PermissionError",
            OSError,
            "s3://a/b: .* refused with Permission.*made",
            1,
        ),
        ("builtins.FileNotFoundError", FileNotFoundError, "s3://a/b is not there, or .*made", 1),
        ("builtins.ZeroDivisionError", ZeroDivisionError, "^made$", 1),
    ],
)
def test_errors_of_fsspec(no_pauses, monkeypatch, error, expected, message, tries):
    module, _, name = error.rpartition(".")
    attempts, store = [], FsspecStore("s3")
    monkeypatch.setattr(files, "_store", lambda scheme: store)

    def attempt(given):
        attempts.append(given)
        raise getattr(importlib.import_module(module), name)("made")

    with pytest.raises(expected, match=message):
        files._retried("s3://a/b", attempt)
    assert attempts == [store] * tries


def test_readings_that_never_agree(no_pauses, monkeypatch):
    # The line always breaks after 10 bytes, and the SDK goes on from the beginning of the request.
    content, store = made_bytes(100), TensorFlowStore("gs")

    def displaced(path, first, last, length):
        return (content[first : first + 10] + content[first:last])[: last - first]

    monkeypatch.setattr(files, "size", lambda path: 100)
    monkeypatch.setattr(files, "_store", lambda scheme: store)
    monkeypatch.setattr(store, "_read_once", displaced)
    with pytest.raises(OSError, match=r"s3://a/b: .* 3 times, at last: two readings .* differ"):
        files.read_bytes("s3://a/b")


def test_a_long_file_comes_piece_by_piece(monkeypatch):
    content = made_bytes(100)
    monkeypatch.setattr(files, "size", lambda path: 100)
    monkeypatch.setattr(files, "PIECE_BYTES", 30)
    monkeypatch.setattr(files, "_read_range", lambda path, first, last, length: content[first:last])
    assert files.read_bytes("s3://a/b") == content
    assert [len(piece) for piece in files._pieces("s3://a/b")] == [30, 30, 30, 10]


# ---- A store -------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_store
@pytest.mark.parametrize("length", [0, 1, 11, 3_000_001])
def test_remote_files(remote, length, tmp_path):
    content = made_bytes(length)
    path = remote.store.url(f"whole/{length}.bin")
    (tmp_path / "local").write_bytes(content)
    remote.call(files.copy_in, tmp_path / "local", path)
    assert remote.store.get(f"whole/{length}.bin") == content
    assert remote.call(files.read_bytes, path) == content
    assert remote.call(files.size, path) == length
    assert remote.call(files.exists, path)
    copy = remote.call(files.local_copy, path, tmp_path)
    assert copy == str(tmp_path / f"{length}.bin")
    assert (tmp_path / f"{length}.bin").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


@needs_store
def test_pieces_of_a_remote_file(remote):
    content = made_bytes(1000)
    remote.store.put("pieces.bin", content)
    path = remote.store.url("pieces.bin")
    assert remote.call(files._read_range, path, 0, 300, 1000) == content[:300]
    assert remote.call(files._read_range, path, 300, 700, 1000) == content[300:700]
    assert remote.call(files._read_range, path, 700, 1000, 1000) == content[700:]


@needs_store
def test_find_and_remove(remote):
    for number in (1, 10, 2):
        remote.store.put(f"found/{number}.csv", b"x")
    remote.store.put("found/1.csv.gz", b"x")
    url = remote.store.url
    found = [url(f"found/{number}.csv") for number in (1, 10, 2)]
    assert remote.call(files.find, url("found/*.csv")) == found
    remote.call(files.remove, url("found/1.csv"))
    left = [name for name in remote.store.names() if name.startswith("found/")]
    assert left == ["found/1.csv.gz", "found/10.csv", "found/2.csv"]
    assert not remote.call(files.exists, url("found/1.csv"))


@needs_store
def test_a_missing_object_is_named(remote):
    with pytest.raises(FileNotFoundError, match=r"s3://made/none\.bin is not there, or its store"):
        remote.call(files.read_bytes, remote.store.url("none.bin"))


# ---- Lines that break ----------------------------------------------------------------------------


@needs_store
@pytest.mark.parametrize("length", [300_000, 5_000_000])
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_broken_line_leaves_no_wrong_bytes(remote, length, cuts):
    content = made_bytes(length)
    name = f"broken/{length}.bin"
    remote.store.put(name, content)
    remote.proxy.cut(cuts, 100_000)
    assert remote.call(files.read_bytes, remote.store.url(name)) == content
    assert remote.proxy.made == cuts


@needs_store
def test_records_over_a_broken_line(remote, tmp_path):
    records = [made_bytes(40_000 + number) for number in range(80)]
    with tf.io.TFRecordWriter(str(tmp_path / "r.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    remote.store.put("r.tfrecord", (tmp_path / "r.tfrecord").read_bytes())
    remote.proxy.cut(2, 100_000)
    assert remote.call(read_records, remote.store.url("r.tfrecord")) == records
    assert remote.proxy.made == 2


# ---- The end of the process ----------------------------------------------------------------------

_ENDS_WITH_TENSORFLOW_IO = """
import ctypes, sys
import tensorflow as tf
from gmeta_tf.meta_io import files
path = sys.argv[1]
files.require(path)
with tf.io.TFRecordWriter(path) as writer:
    for _ in range(100):
        writer.write(bytes(1000))
for _ in range(3):
    assert sum(1 for _ in tf.data.TFRecordDataset(path)) == 100
held = iter(tf.data.TFRecordDataset(path).repeat().prefetch(2))
next(held)
print("from Python")
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.fputs(b"from C", ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w")))
sys.exit(7)
"""
_ENDS_WITH_FSSPEC = """
import pathlib, sys
from gmeta_tf.meta_io import files
files.write_bytes(sys.argv[1], bytes(1000))
assert files.read_bytes(sys.argv[1]) == bytes(1000)
print("from Python")
pathlib.Path(sys.argv[2]).write_text("from C")
sys.exit(7)
"""
_ENDS = {TENSORFLOW_IO: _ENDS_WITH_TENSORFLOW_IO, FSSPEC: _ENDS_WITH_FSSPEC}


@pytest.mark.slow
@needs_store
def test_the_process_ends_with_its_own_status(remote, tmp_path):
    process = subprocess.run(
        [
            *remote.script(_ENDS[remote.way]),
            *(remote.store.url("ends.tfrecord"), str(tmp_path / "c")),
        ],
        env=remote.store.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stderr) == (7, "")
    # Neither what Python nor what C had in its buffers is lost.
    assert process.stdout == "from Python\n"
    assert (tmp_path / "c").read_text() == "from C"
