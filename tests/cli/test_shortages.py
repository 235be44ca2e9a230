"""Too little memory, too many open files and a full disk are one line, whoever says so."""

import errno

import duckdb
import pytest
import tensorflow as tf

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.shortages import shortage_of

MEMORY = [
    MemoryError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
    duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate\nmore"),
]
FILES = [
    OSError(errno.EMFILE, "Too many open files", "records"),
    duckdb.IOException("IO Error: Cannot open file: Too many open files\nmore"),
    tf.errors.ResourceExhaustedError(None, None, "variables.index; Too many open files"),
]
DISK = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded", "run/.lock"),
    tf.errors.ResourceExhaustedError(None, None, "run/x; No space left on device"),
]


@pytest.mark.parametrize("error", MEMORY + FILES + DISK, ids=lambda error: type(error).__name__)
def test_a_shortage_is_one_line_and_status_1(error, monkeypatch, capsys):
    def short(_):
        raise error

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", short)
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--run", "run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    what, remedy = "out of memory", "more memory"
    if error in FILES:
        what, remedy = "too many open files", "ulimit -n"
    if error in DISK:
        what, remedy = "the disk is full", "Make room"
    assert line.startswith(f"gmeta-tf evaluate: {what} (")
    assert "What was saved before is as it was" in line
    assert remedy in line


def test_other_errors_are_none():
    assert shortage_of(RuntimeError("a fault of ours")) is None
    told = "the disk is full: No space left on device. Make room, and start again"
    assert shortage_of(OSError(errno.ENOSPC, told, "run/.lock")) is None


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main(["evaluate", "--run", "run"])
