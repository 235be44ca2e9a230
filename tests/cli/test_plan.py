"""`gmeta-tf plan`: what it prints, and that its numbers are those of the library."""

import dataclasses
import json
import subprocess
import sys

import made_data
import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.options import PlanOptions, StepOptions, TrainOptions

SMALL = ["--tasks", "4", "--support", "3", "--query", "5", "--width", "4", "--hidden", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    made_data.make_records(folder, 40)
    return str(folder)


def run(folder, capsys, *words):
    cli.main(["plan", "--records", folder, *SMALL, *words])
    return capsys.readouterr().out


def test_it_prints_a_report(folder, capsys):
    words = ("--steps", "2", "--row-optimizer", "sgd", "--replicate", "never")
    shown = run(folder, capsys, "--world-size", "3", *words)
    lines = shown.splitlines()
    assert lines[0] == folder
    assert lines[1].startswith("3 ranks; a step of a rank is 4 tasks of 3 support and 5 query")
    assert "counted in 2 step(s) of every rank, split 'train', seed 0" in shown
    for name in ("item", "genre", "total"):
        assert sum(line.startswith(f"  {name} ") for line in lines) == 2
    memory = next(line for line in lines if line.startswith("  item "))
    assert memory.split()[1:] == ["17", "4", "5", "to", "6", "272", "B", "0", "B", "96", "B"]
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize("name", ["melu", "cbml"])
def test_its_json_is_one_line_and_knows_the_dense_weights(folder, capsys, name):
    (line,) = run(folder, capsys, "--world-size", "2", "--json", "--model", name).splitlines()
    shown = json.loads(line)
    trained = TrainOptions(records=folder, run="", width=4, hidden=[6], model=name)
    model = build_model(trained, gm.Records.open(folder).schema, gm.World())
    assert shown["dense_weights"] == sum(
        int(variable.shape.num_elements()) for variable in model.trainable_variables
    )
    assert shown["allreduce_bytes"] == 4 * shown["dense_weights"]
    assert shown["world_size"] == 2
    assert shown["sent_bytes"]["mean"] > 0


def test_a_bound_is_no_less_than_a_count(folder, capsys):
    counted, most = (
        json.loads(run(folder, capsys, "--world-size", "2", "--json", "--keys-from", source))
        for source in ("records", "uniform")
    )
    assert "drawn evenly" in most["requests_from"]
    for ours, theirs in zip(counted["tables"], most["tables"], strict=True):
        assert 0 < ours["distinct_keys"] < theirs["distinct_keys"]


def test_tables_that_grow(tmp_path, capsys):
    """Their keys can not be counted yet; their rows and the learner's weights are told."""
    tables = (gm.Table("item", keys="raw"), gm.Table("genre", 7))
    schema = dataclasses.replace(made_data.SCHEMA, tables=tables)
    folder = str(tmp_path)
    made_data.make_records(folder, 40, schema=schema)
    words = ("--world-size", "2", "--keys-from", "uniform")
    assert "grows" in run(folder, capsys, *words)
    shown = json.loads(run(folder, capsys, *words, "--json"))
    model = build_model(
        TrainOptions(records=folder, run="", width=4, hidden=[6]), schema, gm.World()
    )
    assert shown["dense_weights"] == sum(
        int(variable.shape.num_elements()) for variable in model.trainable_variables
    )


@pytest.mark.slow
def test_the_seed_and_the_wire_matter(folder, capsys):
    first, seeded, half = (
        json.loads(run(folder, capsys, "--world-size", "2", "--json", *words))["sent_bytes"]["mean"]
        for words in ([], ["--seed", "1"], ["--wire", "bfloat16"])
    )
    assert seeded != first
    assert 0.5 < half / first < 0.75


def test_flags_are_those_of_train():
    names = [{field.name for field in dataclasses.fields(k)} for k in (TrainOptions, PlanOptions)]
    shared = {field.name for field in dataclasses.fields(StepOptions)}
    assert names[0] & names[1] == shared
    assert {"records", "width", "row_optimizer", "tasks", "support", "query", "seed"} <= shared
    for kind in (TrainOptions, PlanOptions):
        assert not shared & set(kind.__annotations__)


def test_help_says_what_the_report_tells(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "give those that you will train with" in shown
    assert "whether the table would be cheaper replicated on every rank" in shown


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--world-size", "0"], "plan: expected --world-size of at least 1, got 0"),
        (["--world-size", "2", "--steps", "0"], "expected --steps of at least 1, got 0"),
        (
            ["--world-size", "2", "--wire", "int8"],
            "--wire to be one of float32, bfloat16",
        ),
        (
            ["--world-size", "2", "--keys-from", "x"],
            "--keys-from to be one of records, uniform",
        ),
        (
            ["--world-size", "2", "--model", "gpt"],
            "--model to be one of melu, maml_dlrm, mmaml, cbml, factors, dlrm, got",
        ),
        (
            ["--world-size", "2", "--row-optimizer", "x"],
            "--row-optimizer to be one of sgd",
        ),
        (["--world-size", "40"], "Lower tasks to 1 or less"),
    ],
)
def test_bad_input_ends_with_one_line_on_stderr(words, match, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        run(folder, capsys, *words)
    assert ended.value.code == 1
    assert match in capsys.readouterr().err


def test_no_records(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(str(tmp_path / "none"), capsys, "--world-size", "2")
    assert "not a records folder" in capsys.readouterr().err


@pytest.mark.slow
def test_it_needs_no_horovod(folder):
    code = (
        "import sys; from gmeta_tf.cli.main import main\n"
        f"main(['plan', '--records', {folder!r}, '--world-size', '2', '--tasks', '4'])\n"
        "sys.exit(any(name.startswith('horovod') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
