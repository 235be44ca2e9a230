"""Each example runs on a made log, and is short."""

import json
import pathlib
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
from made_log import SCHEMA, write_log
from made_tables import write_tables

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


def test_support_attention(run, records):
    last = run("support_attention.py", records)[-1]
    adapted, unadapted = map(float, re.findall(r"0\.\d{4}", last))
    assert adapted != unadapted


def test_attention_reads_the_rows_that_are_there():
    """A softmax by hand over a task's own rows, one of weight 2 as two, a missing one as none."""
    example = runpy.run_path(str(FOLDER / "support_attention.py"))
    draw = np.random.default_rng(0)
    inputs = {
        "embedded": draw.normal(size=(3, 4, 2, 5)).astype(np.float32),
        "label": draw.integers(0, 2, (3, 4)).astype(np.float32),
        "weight": np.array([[1, 2, 1, 0.5], [1, 1, 0, 0], [0, 0, 0, 0]], np.float32),
    }
    encoder = example["SupportAttention"](width=6, seeds=2)
    found = encoder(inputs).numpy()
    (row, bias), (seeds,), (task, shift) = (
        one.get_weights() for one in (encoder.row, encoder.seeds, encoder.task)
    )
    for place in range(3):
        there = inputs["weight"][place] > 0
        flat = inputs["embedded"][place][there].reshape(-1, 10)
        rows = np.maximum(np.column_stack([flat, inputs["label"][place][there]]) @ row + bias, 0)
        share = inputs["weight"][place][there][:, np.newaxis] * np.exp(rows @ seeds)
        share = share / np.maximum(share.sum(axis=0), 1e-9)
        expected = (share.T @ rows).reshape(-1) @ task + shift
        np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)


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


def test_optuna_search(run, records):
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (last,) = run("optuna_search.py", records, 1)
    assert re.match(r"best of 1: 0\.\d{4} with \{'width': [48], 'inner_rate': 0\.", last)


def test_side_tables(run, tmp_path):
    rows = write_tables(tmp_path)
    log = "\n".join(f"{row['user']},{row['item']},{row['stars']}" for row in rows)
    (tmp_path / "log.csv").write_text(f"user,item,stars\n{log}\n")
    of_items = {row["item"]: row for row in rows if row["item"] and row["year"]}
    lines = [f"{key},{row['year']},{'|'.join(row['genre'])}" for key, row in of_items.items()]
    (tmp_path / "items.csv").write_text("\n".join(["item,year,genre", *lines]))
    words = (tmp_path / name for name in ("log.csv", "items.csv", "records"))
    *fields, last = run("side_tables.py", *words)
    assert fields == ["item: categorical", "year: dense", "genre: multi"]
    assert re.match(r"test loss \d+\.\d{4}$", last)


def test_playground(capsys):
    """By its cells, one after the other, as a kernel would."""
    notebook = json.loads((FOLDER / "playground.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]
    assert sum(len(cell.splitlines()) for cell in cells) < 80
    assert not any(one.get("outputs") for one in notebook["cells"])
    names = {}
    for cell in cells:
        exec(compile(cell, "playground.ipynb", "exec"), names)
    nobody, after_one, after_two = capsys.readouterr().out.splitlines()[-3:]
    assert [line[0] for line in (nobody, after_one, after_two)] == ["0", "1", "2"]
    # What there is to learn: a user has a genre.
    assert after_two.count("Drama") >= 4
    shutil.rmtree(names["folder"])


def test_examples_are_short_and_listed():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((\w+\.(?:py|ipynb))\)", page)
    assert sorted(named) == sorted([*(path.name for path in EXAMPLES), "playground.ipynb"])
    tests = pathlib.Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 80
        assert f"def test_{path.stem}(" in tests
    for name in ("random_search.py", "optuna_search.py"):
        assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) <= 40
