"""launch/test.sh: which checks and tests it starts, told by stand-ins that write it down.

Nothing of the gate runs here. A copy of the script stands in a repository of its own, whose tools
note what they are asked and pass.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Notes its arguments, a line a call. Where pytest would, it reports one test that passed. Quick to
# start, as dozens are: without site packages.
TOOL = """#!{python} -IS
import os, pathlib, re, sys
name, *arguments = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
if arguments[:1] == ["-c"]:
    os.execv(sys.executable, [sys.executable, *arguments])
with open({calls!r}, "a") as file:
    print(name, *arguments, sep="\\t", file=file)
if "--junit-xml" in arguments:
    report = arguments[arguments.index("--junit-xml") + 1].replace("$HOROVOD_RANK", "0")
    path = pathlib.Path(report)
    (path.parent / "rank.0").mkdir(parents=True, exist_ok=True)
    (path.parent / "rank.0" / "stdout").write_text("[0]<stdout>:1 passed\\n")
    suite = "<testsuites><testsuite tests='1' skipped='0' failures='0' errors='0'/></testsuites>"
    path.write_text(suite)
sys.exit(int(name == os.environ.get("FAILS")))
"""


class Gate:
    """A repository with a copy of launch/test.sh, and what its tools were asked to do."""

    def __init__(self, folder: Path):
        self.root, self.calls = folder, folder / "calls"
        (folder / "launch").mkdir()
        shutil.copy(ROOT / "launch" / "test.sh", folder / "launch")
        (folder / "launch" / "setup.sh").write_text("true\n")
        tools = folder / ".venv" / "bin"
        tools.mkdir(parents=True)
        for name in ("python", "ruff", "mypy", "lint-imports", "horovodrun"):
            (tools / name).write_text(TOOL.format(python=sys.executable, calls=str(self.calls)))
            (tools / name).chmod(0o755)

    def run(self, *options, **environment):
        self.done = subprocess.run(
            ["bash", self.root / "launch" / "test.sh", *options],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.split("\t") for line in lines]


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.delenv("GMETA_WITHOUT_HOROVOD", raising=False)
    return Gate(tmp_path)


CHECKS = [["ruff", "check"], ["ruff", "format"], ["mypy"], ["lint-imports", "--no-cache"]]


def ranks_of(calls):
    return [call[call.index("-np") + 1] for call in calls if call[0] == "horovodrun"]


def test_without_options_it_is_the_whole_gate(gate):
    calls = gate.run()
    assert gate.done.returncode == 0, gate.done.stderr
    assert [call[:2] for call in calls[:4]] == CHECKS
    serial = calls[4]
    assert serial[:3] == ["python", "-m", "pytest"]
    assert "tests" in serial
    assert "not slow" not in serial
    assert ranks_of(calls) == ["2", "3"]
    assert not any("-k" in call or "not slow" in call for call in calls)
    assert re.search(r"^== passed in \d+ s$", gate.done.stdout, re.MULTILINE)


def test_quick_runs_all_checks_and_a_part_of_the_tests_and_says_so(gate):
    calls = gate.run("--quick")
    assert gate.done.returncode == 0, gate.done.stderr
    assert [call[:2] for call in calls[:4]] == CHECKS
    serial, *of_ranks = calls[4:]
    for call in (serial, *of_ranks):
        assert call[call.index("not slow") - 1] == "-m"
    assert "tests" not in serial
    paths = [Path(word) for word in serial if word.startswith("tests/") and word.endswith(".py")]
    assert all((ROOT / path).is_file() for path in paths)
    # Every room of the library has a file in it.
    rooms = {path.name for path in (ROOT / "gmeta_tf").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {path.parts[1] for path in paths}
    assert ranks_of(calls) == ["2", "3"]
    for ranks in of_ranks:
        chosen = ranks[ranks.index("-k") + 1].split(" or ")
        assert all((ROOT / "tests" / "parallel" / f"test_{name}.py").is_file() for name in chosen)
    assert "--quick is not the gate" in gate.done.stdout.splitlines()[-1]


def test_other_options_are_pytests_and_leave_the_checks_out(gate):
    calls = gate.run("-k", "exchange")
    assert gate.done.returncode == 0, gate.done.stderr
    assert [call[0] for call in calls] == ["python", "horovodrun", "horovodrun"]
    assert all(call[call.index("-k") + 1] == "exchange" for call in calls)
    assert "the tests that match passed" in gate.done.stdout


def test_quick_takes_nothing_beside_it(gate):
    assert gate.run("--quick", "-x") == []
    assert gate.done.returncode == 1
    assert "--quick takes no further options, got: -x" in gate.done.stderr


@pytest.mark.parametrize("tool", ["ruff", "mypy", "lint-imports", "python", "horovodrun"])
def test_the_first_failure_ends_it(gate, tool):
    calls = gate.run(FAILS=tool)
    assert gate.done.returncode == 1
    assert calls[-1][0] == tool
    assert "== FAILED: " in gate.done.stderr
    assert "passed in" not in gate.done.stdout
