"""Raw files and records on an object store: prepare, look at, read, train, and lines that break."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest
import remote_calls
from made_data import make_records
from made_log import SCHEMA, write_log
from remote_store import FSSPEC, WAYS, running_remote, why_not

import gmeta_tf as gm
from gmeta_tf.meta_io.sealed_json import fault_of_seal

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

# An epoch is some ten windows of one block of 64 kB each.
SMALL_READS = {"tasks": 4, "support": 20, "query": 40, "every_row": True, "window_rows": 2000}


@pytest.fixture(scope="module", params=WAYS)
def remote(request):
    with running_remote(request.param) as started:
        yield started


@pytest.fixture
def proxy(remote):
    """The proxy, which has noted and cuts nothing yet."""
    remote.proxy.requests.clear()
    yield remote.proxy
    remote.proxy.cut(0, 0)


def upload(remote, folder, name):
    """Stores a folder's files as objects under a name, and gives its `s3://` path."""
    for path in folder.rglob("*"):
        if path.is_file():
            remote.store.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return remote.store.url(name)


@pytest.fixture(scope="module")
def large(remote, tmp_path_factory):
    """96 tasks of 200 rows, 0.6 MB in three files: the local folder and the remote one."""
    folder = tmp_path_factory.mktemp("large") / "records"
    make_records(folder, [200] * 96, splits=("train",))
    return folder, upload(remote, folder, "large")


def assert_same_steps(found, expected):
    assert len(found) == len(expected)
    for step, twin in zip(found, expected, strict=True):
        for value, other in zip(step, twin, strict=True):
            np.testing.assert_array_equal(value, other, strict=True)


# ---- Prepare -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(remote, tmp_path_factory):
    """Three days of a log, all of one name, on the store; their local folder, and the schema."""
    folder = tmp_path_factory.mktemp("logs")
    for day in (1, 2, 3):
        (folder / f"day={day}").mkdir()
        write_log(folder / f"day={day}/log.csv", seed=day, num_tasks=20 + day)
    upload(remote, folder, "raw")
    (folder / "schema.yaml").write_text(json.dumps(SCHEMA.to_json()))
    return folder


def contents_of(remote, name):
    """The objects under a name, with their contents; `schema.json` without its sources."""
    names = [one for one in remote.store.names() if one.startswith(f"{name}/")]
    return {one.removeprefix(f"{name}/"): without_sources(remote.store.get(one)) for one in names}


def contents_in(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): without_sources(path.read_bytes()) for path in files
    }


def without_sources(content):
    if not content.startswith(b"{"):
        return content
    values = json.loads(content)
    assert values["details"].pop("sources")
    assert fault_of_seal(content) is None
    del values["digest"]  # of the sources, too
    return values


@pytest.mark.slow
def test_prepare_and_append_from_a_store_to_a_store(remote, proxy, logs, tmp_path):
    url = remote.store.url
    both = {"schema": str(logs / "schema.yaml"), "num_files": 2}
    spill = {"spill_folder": str(tmp_path / "spill"), "output": url("prepared")}
    local = {"output": str(tmp_path / "records")}

    remote.call(remote_calls.prepare, input=[url("raw/day=[12]/*.csv")], **both, **spill)
    written = [request.name for request in proxy.requests if request.method == "PUT"]
    remote_calls.prepare(input=[str(logs / "day=[12]/*.csv")], **both, **local)
    assert contents_of(remote, "prepared") == contents_in(tmp_path / "records")
    assert written[-1] == "prepared/schema.json"
    assert len(written) == len(contents_in(tmp_path / "records"))

    day = "day=3/log.csv"
    remote.call(remote_calls.prepare, input=[url(f"raw/{day}")], **both, **spill, append=True)
    remote_calls.prepare(input=[str(logs / day)], **both, **local, append=True)
    found, expected = contents_of(remote, "prepared"), contents_in(tmp_path / "records")
    # What no longer counts is removed from a local folder only.
    assert {name: found[name] for name in expected} == expected
    assert set(found) - set(expected) == {"index-train-000.npy", "index-test-000.npy"} | {
        name for name in found if name.endswith("-000.parquet")
    }
    shown = json.loads(remote.store.get("prepared/schema.json"))["details"]["sources"]
    assert shown == [f"{url('raw/day=1/log.csv')}, {url('raw/day=2/log.csv')}", url(f"raw/{day}")]
    assert not list((tmp_path / "spill").iterdir())


def test_copies_of_raw_files_stand_where_their_names_say(remote, logs, tmp_path):
    url = remote.store.url
    local = str(logs / "day=3/log.csv")
    paths = [url("raw/*/log.csv"), local]
    description, found = remote.call(remote_calls.source_files, paths, tmp_path)
    days = [f"day={day}/log.csv" for day in (1, 2, 3)]
    assert found == [*(str(tmp_path / "made/raw" / day) for day in days), local]
    for day in days:
        assert (tmp_path / "made/raw" / day).read_bytes() == (logs / day).read_bytes()
    assert description == f"{', '.join(url(f'raw/{day}') for day in days)} and 1 more"


def test_raw_files_that_can_not_be_had(remote, tmp_path):
    missing = remote.store.url("raw/day=9/log.csv")
    with pytest.raises(FileNotFoundError, match=f"no file {missing}: .* that can be reached"):
        remote.call(remote_calls.source_files, missing, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file s3://no-such-bucket/log\.csv"):
        remote.call(remote_calls.source_files, "s3://no-such-bucket/log.csv", tmp_path)
    remote.store.put("raw/one.csv", b"a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"s3://made/raw/one\.csv is remote, .* for copies"):
        remote.call(remote_calls.source_files, remote.store.url("raw/one.csv"))


def test_a_remote_folder_is_not_overwritten(remote, large, logs):
    folder, url = large
    options = {"input": [str(logs / "day=1/log.csv")], "schema": str(logs / "schema.yaml")}
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"{url} exists. A remote folder is not overwritten"):
            remote.call(remote_calls.prepare, output=url, overwrite=overwrite, **options)
    assert remote.store.get("large/schema.json") == (folder / "schema.json").read_bytes()


# ---- Folders -------------------------------------------------------------------------------------


def test_inspect_shows_what_it_shows_of_the_local_folder(remote, large):
    folder, url = large
    shown, first, verified = remote.call(remote_calls.inspected, url)
    local_shown, local_first, local_verified = remote_calls.inspected(str(folder))
    assert json.dumps(shown).replace(url, str(folder)) == json.dumps(local_shown)
    assert first == local_first
    assert verified == local_verified
    assert (verified.records, verified.damages) == (96, ())


def test_a_damaged_record_is_named(remote, tmp_path):
    records = make_records(tmp_path / "records", 9, splits=("train",))
    entry = records.index("train")[4]
    name = f"train-000-{entry['file']:05d}-of-00003.tfrecord"
    content = bytearray((tmp_path / "records" / name).read_bytes())
    content[entry["offset"] + 40] ^= 4
    (tmp_path / "records" / name).write_bytes(content)
    url = upload(remote, tmp_path / "records", "damaged")
    verified = remote.call(remote_calls.verify, url)
    place = f"{url}/{name} at offset {entry['offset']}"
    assert [str(damage).startswith(place) for damage in verified.damages] == [True]
    with pytest.raises(ValueError, match=f"{name}: the record at offset {entry['offset']} is dam"):
        remote.call(remote_calls.read_all, url)


def test_a_folder_that_is_half_uploaded_is_refused(remote, tmp_path):
    make_records(tmp_path / "records", 9, splits=("train",))
    text = (tmp_path / "records/schema.json").read_bytes()
    (tmp_path / "records/schema.json").unlink()
    url = upload(remote, tmp_path / "records", "half")
    for function in (remote_calls.opened, remote_calls.verify):
        with pytest.raises(
            FileNotFoundError, match=f"{url} is not a records folder: expected {url}/"
        ):
            remote.call(function, url)
    remote.store.put("half/schema.json", text)
    assert remote.call(remote_calls.opened, url) == json.loads(text)
    remote.store.put("half/train-000-00001-of-00003.tfrecord", b"cut")
    with pytest.raises(ValueError, match=r"00001-of-00003\.tfrecord is 3 bytes long, its index"):
        remote.call(remote_calls.opened, url)


@pytest.mark.parametrize("path", ["s3://made/none", "s3://no-such-bucket/records"])
def test_records_that_are_not_there(remote, path):
    with pytest.raises(
        FileNotFoundError, match=f"{path} is not a records folder: expected {path}/s"
    ):
        remote.call(remote_calls.opened, path)


# ---- Batches -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "size", "options"),
    [
        ("none", 1, {}),
        ("zlib", 2, {"every_row": True, "buckets": 2, "window_rows": 60}),
    ],
)
def test_batches_are_those_of_the_local_folder(remote, tmp_path, compression, size, options):
    folder = tmp_path / "records"
    make_records(folder, 20, splits=("train",), compression=compression, episode_rows=16)
    url = upload(remote, folder, f"batches-{compression}")
    options = {"tasks": 3, "support": 4, "query": 6, **options}
    for rank in range(size):
        expected = remote_calls.steps_of(str(folder), rank, size, 2, **options)
        found = remote.call(remote_calls.steps_of, url, rank, size, 2, **options)
        assert len(found) > 6
        assert_same_steps(found, expected)
    if compression == "zlib":
        assert remote.call(remote_calls.read_all, url) == remote_calls.read_all(str(folder))


def test_a_read_asks_for_its_own_bytes(remote, proxy, large):
    folder, url = large
    remote.call(remote_calls.begin, url, **SMALL_READS)
    steps, error = remote.call(remote_calls.go_on)
    assert (len(steps) > 50, error) == (True, "")
    asked = {
        request[1:]
        for request in proxy.requests
        if request.name.endswith(".tfrecord") and request.last != request.first
    }
    batches = gm.TaskBatches(gm.Records.open(folder), "train", **SMALL_READS)
    names = [f"large/{pathlib.Path(path).name}" for path in batches.records.files("train")]
    blocks = {
        (names[file], offset, offset + num_bytes - 1)
        for window in batches._plan(0).windows(0)
        for file, offset, num_bytes, _ in window.blocks.tolist()
    }
    assert len(blocks) > 9
    assert asked == blocks


@pytest.mark.slow
@pytest.mark.parametrize(("cuts", "after_bytes"), [(1, 50_000), (3, 700)])
def test_a_broken_line_gives_no_wrong_rows(remote, proxy, large, cuts, after_bytes):
    folder, url = large
    expected = [remote_calls.begin(str(folder), **SMALL_READS), *remote_calls.go_on()[0]]
    first = remote.call(remote_calls.begin, url, **SMALL_READS)
    proxy.cut(cuts, after_bytes)
    rest, error = remote.call(remote_calls.go_on)
    assert proxy.made > 0
    assert_same_steps([first, *rest], expected[: 1 + len(rest)])
    if error:
        assert remote.way != FSSPEC  # which reads again
        assert re.search(rf"{url}/train-000-\d+-of-00003\.tfrecord at offset \d+; .* broke", error)
    else:
        assert len(rest) == len(expected) - 1


# ---- Training ------------------------------------------------------------------------------------

_TRAINS = """
import sys
import keras
import gmeta_tf as gm
records = gm.Records.open(sys.argv[1])
batches = gm.TaskBatches(records, "train", tasks=4, support=3, query=5)
learner = gm.models.MamlDLRM(bottom=(4,), top=(4,))
model = gm.MetaModel(learner, gm.ShardedEmbedding(records.schema, 4), gm.InnerLoop(1, 0.1))
model.compile(keras.optimizers.SGD(0.1), gm.Adagrad(0.3))
history = model.fit(batches, epochs=2, verbose=0)
held = iter(batches.dataset(0))
next(held)
print(len(history.history["loss"]))
"""


@pytest.mark.slow
def test_a_process_that_trains_ends_well(remote, tmp_path):
    make_records(tmp_path / "records", 12)
    url = upload(remote, tmp_path / "records", "trained")
    process = subprocess.run(
        [*remote.script(_TRAINS), url],
        env=remote.store.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "2\n", "")
