"""Each example runs on a made log, and is short."""

import json
import pathlib
import re
import runpy
import sys

import pytest
from made_log import SCHEMA, write_log

import gmeta_tf as gm

FOLDER = pathlib.Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "log.csv"
    write_log(path, num_tasks=40)
    return path


@pytest.fixture(scope="module")
def records(log):
    folder = log.parent / "records"
    split = gm.Split(0.2, 0.2)
    gm.prepare(gm.files_source(str(log)), SCHEMA, str(folder), split=split, num_files=2)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example as a script; the lines that it prints."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_attention_learner(run, records):
    last = run("attention_learner.py", records)[-1]
    adapted, unadapted = map(float, re.findall(r"0\.\d{4}", last))
    assert adapted != unadapted


def test_dynamic_table(run, log, tmp_path):
    lines = run("dynamic_table.py", log, tmp_path / "records")
    assert run("dynamic_table.py", log, tmp_path / "records") == lines  # records that are there
    counts = [[int(word) for word in re.findall(r"\d+", line)] for line in lines]
    assert [epoch for epoch, _, _ in counts] == [1, 2, 3]
    assert all(30 < rows <= 41 for _, rows, _ in counts)  # 40 items, and the missing one
    assert counts[-1][2] > 0  # some items were not seen for so long


def test_early_stopping(run, records, tmp_path):
    last = run("early_stopping.py", records, tmp_path / "run")[-1]
    best, epochs = map(int, re.match(r"epoch (\d+) of (\d+): test AUC 0\.\d{4}$", last).groups())
    assert best <= epochs <= 20
    assert epochs == 20 or epochs == best + 2
    assert (tmp_path / "run" / "checkpoint" / f"epoch-{best:06d}" / "manifest.json").is_file()


def test_random_search(run, records):
    *tried, best = run("random_search.py", records, 2)
    found = [json.loads(line) for line in tried]
    assert len(found) == 2
    assert found[0] != found[1]
    assert json.loads(best.removeprefix("best:")) == max(found, key=lambda one: one["auc"])


def test_examples_are_short_and_listed():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((\w+\.py)\)", page)
    assert sorted(named) == [path.name for path in EXAMPLES]
    tests = pathlib.Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 80
        assert f"def test_{path.stem}(" in tests
    assert len((FOLDER / "random_search.py").read_text(encoding="utf-8").splitlines()) <= 40
