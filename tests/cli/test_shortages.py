"""Too little memory, too many open files and a full disk are one line, whoever says so."""

import errno
import subprocess
import sys

import duckdb
import pytest
import tensorflow as tf

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.shortages import is_out_of_memory, left_of_address_space, shortage_of

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


def test_an_error_while_a_shortage_is_handled_is_that_shortage(monkeypatch, capsys):
    def short(_):
        try:
            raise MemoryError("std::bad_alloc")
        except MemoryError:
            try:
                raise KeyError("no name")
            except KeyError as error:
                raise RuntimeError("half a graph") from error

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", short)
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--run", "run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gmeta-tf evaluate: out of memory (std::bad_alloc)")


def test_a_command_out_of_memory_waits_for_no_destructor():
    """TensorFlow's graphs may never be freed again then, and the traceback holds them."""
    text = (
        "import atexit, sys, time\n"
        "from gmeta_tf.cli import main as cli\n"
        "class Stuck:\n"
        "    def __del__(self): time.sleep(600)\n"
        "def short(_):\n"
        "    stuck = Stuck()\n"
        "    try: raise MemoryError('std::bad_alloc')\n"
        "    except MemoryError as error: raise ValueError('query.csv cannot be read') from error\n"
        "atexit.register(print, 'at exit')\n"
        "cli._FIRST_CHECKS['evaluate'] = short\n"
        "sys.argv = ['gmeta-tf', 'evaluate', '--run', 'run']\n"
        "print('printed before')\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "printed before\n")
    assert done.stderr == "gmeta-tf evaluate: query.csv cannot be read\n"


@pytest.mark.parametrize("error", MEMORY + FILES + DISK, ids=lambda error: type(error).__name__)
def test_which_shortages_are_of_memory(error):
    assert is_out_of_memory(error) == (error in MEMORY)


def test_other_errors_are_none():
    assert shortage_of(RuntimeError("a fault of ours")) is None
    told = "the disk is full: No space left on device. Make room, and start again"
    assert shortage_of(OSError(errno.ENOSPC, told, "run/.lock")) is None


def test_an_odd_error_at_the_limit_of_memory_is_probably_its_end(monkeypatch, capsys):
    def broken(_):
        raise KeyError("")

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", broken)
    monkeypatch.setattr("gmeta_tf.cli.shortages.left_of_address_space", lambda: 1 << 20)
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--run", "run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gmeta-tf evaluate: out of memory (probably, since KeyError: '')")
    monkeypatch.setattr("gmeta_tf.cli.shortages.left_of_address_space", lambda: 1 << 30)
    with pytest.raises(KeyError):
        cli.main(["evaluate", "--run", "run"])


def test_what_is_left_of_the_address_space():
    assert left_of_address_space() is None  # no limit here
    limited = (
        "import resource, numpy\n"
        "from gmeta_tf.cli.shortages import left_of_address_space\n"
        "most = 8 << 30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "before = left_of_address_space()\n"
        "taken = numpy.empty(1 << 30, 'u1')\n"
        "print(before - left_of_address_space(), before < most)\n"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    taken, is_below = done.stdout.split()
    assert (1 << 30) * 0.95 < int(taken) < (1 << 30) * 1.05
    assert is_below == "True"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main(["evaluate", "--run", "run"])
