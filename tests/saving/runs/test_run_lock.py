"""Two processes do not train in one run folder; a lock whose owner is gone is taken over."""

import fcntl
import json
import os
import socket
import time

import pytest

from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder
from gmeta_tf.saving.runs import run_lock
from gmeta_tf.saving.runs.run_lock import LOCK, RunLock, check_unlocked

HOST = socket.gethostname()


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "run"
    claim_run_folder(TrainOptions(records="r", run=str(run)))
    return run


@pytest.fixture
def taken(run):
    """The folder is another process's: an open file of its own has the lock."""
    (run / LOCK).write_text(json.dumps({"host": HOST, "pid": 12345}))
    with open(run / LOCK, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield run


def test_the_second_is_told_who_has_it(taken):
    words = rf"run is in use by process 12345 on {HOST}: expected .*Wait for it to end"
    for attempt in (RunLock.take, check_unlocked):
        with pytest.raises(ValueError, match=words):
            attempt(taken)
    assert json.loads((taken / LOCK).read_text())["pid"] == 12345


@pytest.mark.parametrize("flag", [{"resume": True}, {"overwrite": True}])
def test_train_looks_before_it_builds_anything(flag, taken):
    with pytest.raises(ValueError, match="is in use by process 12345"):
        check_run_folder(TrainOptions(records="r", run=str(taken), **flag))
    assert (taken / "config.yaml").is_file()


def test_a_file_that_says_nothing_yet(taken):
    (taken / LOCK).write_text("")
    with pytest.raises(ValueError, match="is in use by another process"):
        RunLock.take(taken)


def test_it_is_there_while_it_is_held(run):
    with RunLock.take(run):
        own = {"host": HOST, "pid": os.getpid(), "renewed_every_seconds": 30.0}
        assert json.loads((run / LOCK).read_text()) == own
        with open(run / LOCK, "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # This process has it, under whatever name.
        check_unlocked(run)
        (run.parent / "link").symlink_to(run)
        with RunLock.take(run.parent / "link"):
            pass
        assert not (run / LOCK).exists()
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_the_lock_of_a_process_that_is_gone_is_taken_over(run):
    (run / LOCK).write_text(json.dumps({"host": HOST, "pid": 2**22 + 1}))
    check_unlocked(run)
    with RunLock.take(run):
        assert json.loads((run / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_stands(run):
    (run / LOCK).write_text(json.dumps({"host": "node-7", "pid": 4}))
    words = rf"process 4 on node-7.* If that process is gone, remove .*{LOCK}\."
    with pytest.raises(ValueError, match=words):
        RunLock.take(run)
    assert json.loads((run / LOCK).read_text())["host"] == "node-7"


RENEWED = {"host": "node-7", "pid": 4, "renewed_every_seconds": 30.0}


def lock_of_age(run, seconds, **changed):
    (run / LOCK).write_text(json.dumps(RENEWED | changed))
    at = time.time() - seconds
    os.utime(run / LOCK, (at, at))


def test_a_lock_of_another_host_that_gives_signs_of_life_stands(run):
    lock_of_age(run, 40)
    words = r"process 4 on node-7.* sign of life 4[0-9] s ago; .* free 300 s after .* remove .*lock"
    for attempt in (RunLock.take, check_unlocked):
        with pytest.raises(ValueError, match=words):
            attempt(run)


def test_a_lock_of_another_host_without_a_sign_of_life_is_taken_over(run, caplog):
    lock_of_age(run, 301)
    check_unlocked(run)
    with RunLock.take(run):
        assert json.loads((run / LOCK).read_text())["host"] == HOST
    assert "taken over from process 4 on node-7, which has given no sign" in caplog.text


def test_the_owner_gives_signs_of_life(run, monkeypatch):
    monkeypatch.setattr(run_lock, "_BEAT_SECONDS", 0.01)
    with RunLock.take(run) as lock:
        os.utime(run / LOCK, (1, 1))
        until = time.monotonic() + 10
        while (run / LOCK).stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - (run / LOCK).stat().st_mtime < 10
    assert lock.renewing.wait(10)


@pytest.mark.parametrize("how", ["taken over", "removed", "a pipe"])
def test_a_process_that_has_lost_its_lock_is_told(how, run):
    with RunLock.take(run) as lock:
        lock.check()
        if how == "taken over":
            lock_of_age(run, 0)
        else:
            (run / LOCK).unlink()
        if how == "a pipe":
            os.mkfifo(run / LOCK)
        found = "that of process 4 on node-7" if how == "taken over" else "nobody's"
        with pytest.raises(ValueError, match=f"no longer this process's: .* to be {found}"):
            lock.check()


def test_on_a_file_system_without_locks_the_process_is_looked_for(run, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    (run / LOCK).write_text(json.dumps({"host": HOST, "pid": os.getppid()}))
    with pytest.raises(ValueError, match=f"in use by process {os.getppid()}"):
        RunLock.take(run)
    (run / LOCK).write_text(json.dumps({"host": HOST, "pid": 2**22 + 1}))
    with RunLock.take(run):
        pass


def test_a_pipe_or_a_link_in_its_place(run, tmp_path):
    os.mkfifo(run / LOCK)
    with pytest.raises(ValueError, match=r"is not a file, so .* cannot be locked"):
        RunLock.take(run)
    (run / LOCK).unlink()
    (tmp_path / "mine").write_text("mine")
    (run / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        RunLock.take(run)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_that_is_given_back_while_another_waits_for_it(run, monkeypatch):
    """The file that was opened is no longer the one of that name: the next one is taken."""
    opened, real = [], os.open

    def open_then_removed(path, *arguments):
        descriptor = real(path, *arguments)
        if not opened:
            os.unlink(path)
        opened.append(path)
        return descriptor

    monkeypatch.setattr(run_lock.os, "open", open_then_removed)
    with RunLock.take(run):
        assert len(opened) == 2
        assert (run / LOCK).is_file()


def test_overwriting_keeps_the_lock(run):
    with RunLock.take(run):
        claim_run_folder(TrainOptions(records="r", run=str(run), overwrite=True))
        assert sorted(path.name for path in run.iterdir()) == [LOCK, "config.yaml"]
