"""Appending to a records folder: against the twin, refused, killed, and on a full disk."""

from __future__ import annotations

import csv
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from prepare_twin import SCHEMA, Twin, assert_same, made_rows, task_table, tasks_of, write_rows

from gmeta_tf.meta_io.preparing import append as append_module
from gmeta_tf.meta_io.preparing import prepare as prepare_module
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.work_folder import claimed, sweep
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.records.writer import EpisodeWriter
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.sql import connect
from gmeta_tf.schema import Field, Schema, Table

SMALL = Schema((Field("item"),), "rating", "user", time="at")


def source_of(folder: pathlib.Path, name: str, rows: list[dict[str, str]]) -> Source:
    return files_source(write_rows(folder / f"{name}.csv", rows))


def small_rows(users: str, items: str, at: str = "0") -> list[dict[str, str]]:
    return [
        {"user": user, "item": item, "rating": "1", "at": at}
        for user, item in zip(users, items, strict=True)
    ]


def later_rows() -> list[dict[str, str]]:
    """Rows of some of the tasks of `made_rows` and of as many new ones, with new values."""
    rows = made_rows(140, 60, seed=8)
    for number, row in enumerate(rows):
        row["at"] = str(int(row["at"]) + 5)
        if number % 3 == 0:
            row["item"], row["city"] = f"new {number % 9}", "Turin"
    return rows


@pytest.fixture
def folder(tmp_path):
    """Records of four users, whose items are x (twice), y and z, at time 0."""
    rows = small_rows("abcd", "xxyz")
    prepare(source_of(tmp_path, "first", rows), SMALL, tmp_path / "out", split=Split(0.0))
    return tmp_path / "out"


class TestAgainstTheTwin:
    @pytest.mark.parametrize(
        "split",
        [
            Split(0.25, 0.15, seed=3),
            Split(0.2, 0.2, seed=4, by="time"),
            Split(0.4, 0.2, seed=5, by="both"),
        ],
        ids=lambda split: split.by,
    )
    @pytest.mark.parametrize("compression", ["none", "zlib"])
    def test_two_logs_more(self, split, compression, tmp_path):
        settings = {"num_files": 2, "episode_rows": 4, "compression": compression}
        logs = [made_rows(), later_rows(), made_rows(40, 5, seed=9)]
        twin = Twin(SCHEMA, split)
        for number, rows in enumerate(logs):
            source = source_of(tmp_path, str(number), rows)
            twin.add(rows)
            if number:
                records = prepare(source, SCHEMA, tmp_path / "out", append=True, num_files=3)
            else:
                records = prepare(source, SCHEMA, tmp_path / "out", split=split, **settings)
            assert_same(records, twin)
            assert records.generation == number
        assert (records.episode_rows, records.compression) == (4, compression)
        assert len(records.contents["train"].files) == 2 + 3 + 3
        assert len(records.details["sources"]) == 3

    def test_the_data_is_worth_comparing(self):
        twin = Twin(SCHEMA, Split(0.25, 0.15, seed=3)).add(made_rows())
        before = {name: set(words) for name, words in twin.words.items()}
        items, cities = (list(twin.vocabularies[name]) for name in ("item", "city"))
        twin.add(later_rows())
        for name, tasks in before.items():
            assert set(twin.words[name]) - tasks
        assert twin.vocabularies["item"][: len(items)] == items
        assert len(twin.vocabularies["item"]) > len(items)
        assert twin.vocabularies["city"] == [*cities, "Turin"]


class TestTasksAndValues:
    def test_keep_their_numbers_and_new_ones_follow(self, folder, tmp_path):
        more = source_of(tmp_path, "more", small_rows("eeeb0", "wwvzx", at="-5"))
        records = prepare(more, SMALL, folder, append=True)
        assert read_vocabulary(folder, "item").tolist() == ["x", "y", "z", "w", "v"]
        assert records.schema.table("item").num_rows == 6
        assert [value for _, value, _, _ in task_table(records)] == ["a", "b", "c", "d", "0", "e"]
        # b's older row stays first, though its time is later.
        assert tasks_of(records, "train")[1][1].tolist() == [1, 3]

    def test_min_count_judges_the_new_log_alone(self, tmp_path):
        schema = dataclasses.replace(SMALL, fields=(Field("item", min_count=2),))
        first = source_of(tmp_path, "first", small_rows("abc", "xxy"))
        prepare(first, schema, tmp_path / "out", split=Split(0.0))
        prepare(
            source_of(tmp_path, "more", small_rows("abc", "yzz")),
            schema,
            tmp_path / "out",
            append=True,
        )
        assert read_vocabulary(tmp_path / "out", "item").tolist() == ["x", "z"]

    def test_new_tasks_are_drawn_one_by_one(self):
        split = Split(0.2, 0.1, seed=2)
        drawn = split.assign_more(20_000, generation=1)
        np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.7, 0.2, 0.1], atol=0.01)
        np.testing.assert_array_equal(drawn, split.assign_more(20_000, 1))
        assert (drawn != split.assign_more(20_000, 2)).any()
        assert not Split(0.2, by="time").assign_more(9, 1).any()


class TestRefused:
    @pytest.mark.parametrize(
        ("schema", "settings", "message"),
        [
            (dataclasses.replace(SMALL, label="at"), {}, "expected the schema to be .*'rating'"),
            (
                dataclasses.replace(SMALL, tables=(Table("item", 9, keys="hash"),)),
                {},
                "expected the schema to be .*'vocabulary'",
            ),
            (SMALL, {"split": Split(0.1)}, "expected the split to be .*test_fraction=0.0"),
            (SMALL, {"episode_rows": 7}, "expected episode_rows to be 1024, got 7"),
            (SMALL, {"compression": "zlib"}, "expected the compression to be none, got zlib"),
        ],
    )
    def test_what_differs(self, schema, settings, message, folder, tmp_path):
        more = source_of(tmp_path, "more", small_rows("ab", "xy"))
        with pytest.raises(ValueError, match=message) as raised:
            prepare(more, schema, folder, append=True, **settings)
        assert "prepare everything anew" in str(raised.value)

    def test_how_a_model_reads_them_may_differ(self, folder, tmp_path):
        schema = dataclasses.replace(SMALL, positive_from=1.0, tables=(Table("item", width=4),))
        more = source_of(tmp_path, "more", small_rows("ab", "xy"))
        records = prepare(more, schema, folder, append=True, split=Split(0.0))
        assert records.schema.positive_from is None

    def test_a_time_of_another_kind(self, folder, tmp_path):
        path = tmp_path / "more.parquet"
        query = "SELECT 'a' AS user, 'x' AS item, 1 AS rating, DATE '2024-01-01' AS at"

        connect(tmp_path, None).execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        with pytest.raises(ValueError, match=r"of the kind 'integer' .*, got 'microseconds'"):
            prepare(files_source(path), SMALL, folder, append=True)
        # Texts are read as the kind that they were.
        more = source_of(tmp_path, "more", small_rows("ab", "xy", at="0.5"))
        with pytest.raises(ValueError, match=r"a time .*'0.5'"):
            prepare(more, SMALL, folder, append=True)

    def test_what_is_no_records_folder(self, tmp_path):
        more = source_of(tmp_path, "more", small_rows("ab", "xy"))
        with pytest.raises(FileNotFoundError, match="is not a records folder"):
            prepare(more, SMALL, tmp_path / "out", append=True)

    def test_records_that_prepare_did_not_make(self, folder, tmp_path):
        description = json.loads((folder / "schema.json").read_text())
        description["details"] = {"seed": 1}
        (folder / "schema.json").write_text(json.dumps(description))
        more = source_of(tmp_path, "more", small_rows("ab", "xy"))
        with pytest.raises(ValueError, match="records that prepare made, got details of seed"):
            prepare(more, SMALL, folder, append=True)

    def test_two_at_once(self, folder, tmp_path):
        more = source_of(tmp_path, "more", small_rows("ab", "xy"))
        with claimed(folder), pytest.raises(ValueError, match="the only process that appends"):
            prepare(more, SMALL, folder, append=True)
        prepare(more, SMALL, folder, append=True)


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestInterrupted:
    @pytest.mark.parametrize("step", ["to_disk", "_names_of", "_remove_uncounted"])
    def test_appending_leaves_the_folder_readable(self, step, folder, tmp_path, monkeypatch):
        before = files_of(folder)
        more = source_of(tmp_path, "more", small_rows("ef", "xw"))
        with monkeypatch.context() as patched:

            def fail(*_):
                raise KeyboardInterrupt

            patched.setattr(append_module, step, fail)
            with pytest.raises(KeyboardInterrupt):
                prepare(more, SMALL, folder, append=True)
        assert Records.open(folder).generation == 0
        assert before.items() <= files_of(folder).items()
        records = prepare(more, SMALL, folder, append=True)
        assert [value for _, value, _, _ in task_table(records)] == [*"abcdef"]

    def test_files_that_do_not_count_are_swept_and_others_are_not(self, folder, tmp_path):
        leftovers = (
            "train-001-00000-of-00099.tfrecord",
            "index-train-001.npy",
            "tasks-001.parquet",
            "vocabulary/item-001.parquet",
            "schema.json.new",
        )
        for name in (*leftovers, "notes.txt", "train.tfrecord"):
            (folder / name).write_text("x")
        more = source_of(tmp_path, "more", small_rows("ef", "xw"))
        records = prepare(more, SMALL, folder, append=True, num_files=2)
        names = set(files_of(folder))
        counted = {records.tasks, *records.vocabularies.values(), "schema.json"}
        for contents in records.contents.values():
            counted |= {contents.index, *contents.files}
        assert names == counted | {"notes.txt", "train.tfrecord"}

    def test_killed_preparing_leaves_nothing_that_looks_finished(self, tmp_path):
        source = source_of(tmp_path, "first", small_rows("abcd", "xxyz"))
        code = (
            "import sys, os, signal\n"
            "from gmeta_tf.meta_io.preparing import prepare as module\n"
            "from gmeta_tf.meta_io.sources.sources import files_source\n"
            "from gmeta_tf.schema import Field, Schema\n"
            "module.replace_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "schema = Schema((Field('item'),), 'rating', 'user', time='at')\n"
            "module.prepare(files_source(sys.argv[1]), schema, sys.argv[2])\n"
        )
        words = [sys.executable, "-c", code, source.files[0].path, str(tmp_path / "out")]
        done = subprocess.run(words, capture_output=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        left = [path for path in tmp_path.iterdir() if path.name != "first.csv"]
        assert [path.name[:5] for path in left] == [".out-"]
        with pytest.raises(FileNotFoundError, match="not a records folder"):
            Records.open(tmp_path / "out")
        prepare(source, SMALL, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["first.csv", "out"]

    def test_a_folder_of_a_living_process_is_not_swept(self, tmp_path):
        work = tmp_path / ".out-1"
        (work / "records").mkdir(parents=True)
        sweep(tmp_path / "out")  # not locked yet: its process is about to
        with open(work / "lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            sweep(tmp_path / "out")
            assert work.is_dir()
        sweep(tmp_path / "out")
        assert not work.exists()

    def test_a_replacement_that_was_killed_half_way_is_undone(self, folder, tmp_path):
        work = tmp_path / ".out-1"
        work.mkdir()
        (work / "lock").touch()
        folder.rename(work / "previous")
        sweep(folder)
        assert len(Records.open(folder).index("train")) == 4
        assert not work.exists()


class TestFullDisk:
    @pytest.mark.parametrize("append", [False, True])
    @pytest.mark.parametrize(
        "error",
        [
            tf.errors.ResourceExhaustedError(None, None, "x.tfrecord; No space left on device"),
            OSError(errno.ENOSPC, "No space left on device"),
        ],
        ids=["tensorflow", "python"],
    )
    def test_of_the_records(self, error, append, folder, tmp_path, monkeypatch):
        before = files_of(folder)

        def fail(*_):
            raise error

        monkeypatch.setattr(EpisodeWriter, "close", fail)
        more = source_of(tmp_path, "more", small_rows("ef", "xw"))
        with pytest.raises(OSError, match=r"the disk is full: .*Nothing was changed") as raised:
            prepare(more, SMALL, folder, append=append, overwrite=not append)
        assert raised.value.errno == errno.ENOSPC
        assert files_of(folder) == before
        assert not list(tmp_path.glob(".out-*"))

    @pytest.mark.parametrize("made", ["_work_folders", "append_of", "_commit"])
    def test_before_and_after_the_records(self, made, folder, tmp_path, monkeypatch):
        """From the first folder that is made on."""
        before = files_of(folder)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device", "a hidden folder")

        monkeypatch.setattr(prepare_module, made, full)
        more = source_of(tmp_path, "more", small_rows("ef", "xw"))
        with pytest.raises(OSError, match=r"the disk is full: .*Nothing was changed") as raised:
            prepare(more, SMALL, folder, append=True)
        assert str(raised.value).endswith(f"{str(folder)!r}")
        assert files_of(folder) == before
        assert not list(tmp_path.glob(".out-*"))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("keys", "largest_file_bytes", "file"),
        [("vocabulary", 100_000, "item-000.parquet"), ("hash", 300_000, "tfrecord")],
    )
    def test_of_a_real_process(self, keys, largest_file_bytes, file, folder, tmp_path):
        """The system refuses files beyond a size, as it does on a full disk."""
        before = files_of(folder)
        rows = tmp_path / "large.csv"
        with open(rows, "w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["user", "item", "rating", "at"])
            writer.writerows((n % 2000, f"a rather long name {n}", 1, n) for n in range(60_000))
        code = (
            "import resource, signal, sys\n"
            "from gmeta_tf.meta_io.preparing.prepare import prepare\n"
            "from gmeta_tf.meta_io.sources.sources import files_source\n"
            "from gmeta_tf.schema import Field, Schema, Table\n"
            "tables = (Table('item', keys=sys.argv[4]),)\n"
            "schema = Schema((Field('item'),), 'rating', 'user', time='at', tables=tables)\n"
            "source = files_source(sys.argv[1])\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "limit = int(sys.argv[3])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
            "try: prepare(source, schema, sys.argv[2], num_files=1, overwrite=True)\n"
            "except OSError as error: print(error.errno, error)\n"
        )
        words = [sys.executable, "-c", code, str(rows), str(folder), str(largest_file_bytes), keys]
        done = subprocess.run(words, capture_output=True, timeout=120, text=True)
        assert done.stdout.startswith(f"{errno.ENOSPC} "), done.stderr
        assert "the disk is full" in done.stdout
        assert file in done.stdout
        assert files_of(folder) == before
        assert not list(tmp_path.glob(".out-*"))

    def test_other_errors_stay_what_they_are(self, folder, tmp_path, monkeypatch):
        def fail(*_):
            raise PermissionError(errno.EACCES, "not yours")

        monkeypatch.setattr(prepare_module, "details_of", fail)
        more = source_of(tmp_path, "more", small_rows("ef", "xw"))
        with pytest.raises(PermissionError, match="not yours"):
            prepare(more, SMALL, folder, append=True)
        assert os.listdir(folder)
