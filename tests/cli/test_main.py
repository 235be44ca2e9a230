"""The `gmeta-tf` command, end to end on a made-up log, and what it says when something is wrong."""

import csv
import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys

import docstring_parser
import numpy as np
import pytest
import yaml

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli import options
from gmeta_tf.cli import predict as predict_module
from gmeta_tf.cli import quickstart_report as report
from gmeta_tf.cli.first_checks import read_schema
from gmeta_tf.cli.help_pages import help_for_people
from gmeta_tf.cli.runs import load_run
from gmeta_tf.distributed.world import World
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.runs.run_folder import RunFolder


@pytest.mark.slow
def test_prepare_appends_and_tells_what_is_there(folder, tmp_path, capsys):
    records = str(tmp_path / "records")
    common = ["prepare", "--input", str(folder / "log.csv"), "--output", records]
    common += ["--schema", str(folder / "schema.yaml"), "--memory-limit", "1GB"]
    made = ["--valid-fraction", "0.1", "--episode-rows", "16", "--compression", "zlib"]
    cli.main([*common, *made, "--on-bad-row", "drop", "--spill-folder", str(tmp_path / "spilled")])
    first = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*common, "--append"])
    assert "log.csv, which was read for generation 0 of" in capsys.readouterr().err
    cli.main([*common, "--append", "--engine", "duckdb", "--allow-same-input"])
    second = capsys.readouterr().out
    rows = [
        int(shown.split(" rows of ")[0].split()[-1].replace(",", "")) for shown in (first, second)
    ]
    assert rows[1] == 2 * rows[0]
    assert "40 tasks" in first
    assert "40 tasks" in second
    assert "rows a task" in second
    assert not list((tmp_path / "spilled").iterdir())
    with pytest.raises(SystemExit):
        cli.main([*common, "--append", "--split-by", "both"])
    assert "expected the split to be" in capsys.readouterr().err


def test_prepare_warns_of_bad_rows(tmp_path, capsys):
    rows = [f"u{row // 5},i{row % 7},{row % 2}" for row in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,click", *rows, "u0,i0,", ",i0,1"]))
    (tmp_path / "s.yaml").write_text("task: user\nlabel: click\nfields: [{name: item}]\n")
    words = ["prepare", "--input", str(tmp_path / "log.csv"), "--schema", str(tmp_path / "s.yaml")]
    words += ["--output", str(tmp_path / "records"), "--on-bad-row", "drop"]
    cli.main([*words, "--max-bad-share", "0.07"])
    shown = capsys.readouterr()
    assert "dropped, label: 1 rows" in shown.out
    assert shown.err == (
        "warning: 2 rows, 6.2% of all, were bad and were left out. By reason: task 1, label 1. "
        "Correct them, or say how the file is written (--null-words, --separator).\n"
    )
    with pytest.raises(SystemExit):
        cli.main([*words, "--overwrite", "--max-bad-share", "0.06"])
    assert "2 of 32 (6.2%) are: task 1, label 1" in capsys.readouterr().err


def test_prepare_warns_of_words_for_a_missing_value(tmp_path, capsys):
    rows = [f"{user}\ti{row}\t{row % 2}" for user in ("u0", "u1", "\\N") for row in range(4)]
    rows += ["u0\tNULL\t1", "u1\tnan\t0", "\\N\tNullable\t0"]
    (tmp_path / "log.tsv").write_text("\n".join(["user\titem\tclick", *rows]))
    (tmp_path / "s.yaml").write_text("task: user\nlabel: click\nfields: [{name: item}]\n")
    words = ["prepare", "--input", str(tmp_path / "log.tsv"), "--schema", str(tmp_path / "s.yaml")]
    cli.main([*words, "--output", str(tmp_path / "records"), "--test-fraction", "0"])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0].startswith("warning: \\N among the values of the tasks. If that stands for")
    assert warnings[1].startswith("warning: NULL, nan among the values of the table 'item'. If")
    assert len(warnings) == 2


def test_a_run_is_loaded_by_its_folder_alone(folder):
    loaded = gm.load_run(str(folder / "run"))
    assert loaded.options.support == 3
    assert loaded.records.path == str(folder / "records")
    test = gm.TaskBatches(loaded.records, "test", tasks=4, support=3, every_query=True)
    found = loaded.model.evaluate(test, return_dict=True, verbose=0)
    assert found["tasks"] == loaded.records.contents["test"].tasks


def test_evaluate_prints_one_json_line(folder, capsys):
    cli.main(["evaluate", "--run", str(folder / "run"), "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert {"auc_adapted", "auc_unadapted", "auc_baseline", "tasks", "samples"} <= set(result)
    assert result["tasks"] == 8
    assert 0 < result["auc_baseline"] < 1
    assert result["auc_adapted"] != result["auc_unadapted"]


def test_evaluate_prints_a_table(folder, capsys):
    cli.main(["evaluate", "--run", str(folder / "run"), "--split", "valid"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["adapted", "unadapted", "baseline"]
    assert [line.split()[0] for line in shown[1:-1]] == ["auc", "task_auc", "log_loss"]
    assert len(shown[1].split()) == 4
    assert "4 tasks of the split 'valid'" in shown[-1]


def test_a_run_folder_holds_what_the_readme_says(folder):
    run = folder / "run"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "log.txt", "tensorboard", "checkpoint", "metrics.json"} <= names
    assert len((run / "log.txt").read_text().splitlines()) == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["samples_per_second"] > 0
    assert "val_auc_adapted" in metrics
    assert any((run / "tensorboard").iterdir())


@pytest.mark.slow
def test_resume_goes_on_where_it_stopped(folder, small, tmp_path):
    # A rate that falls over three epochs is another than one that falls over two.
    common = ["train", "--records", str(folder / "records"), *small, "--decay", "none"]
    cli.main([*common, "--run", str(tmp_path / "straight"), "--epochs", "3"])
    cli.main([*common, "--run", str(tmp_path / "stopped"), "--epochs", "2"])
    cli.main([*common, "--run", str(tmp_path / "stopped"), "--epochs", "3", "--resume"])
    for name in ("straight", "stopped"):
        assert latest_checkpoint(tmp_path / name / "checkpoint").name == "epoch-000003"
    models = [load_run(str(tmp_path / name), World())[2] for name in ("straight", "stopped")]
    for ours, theirs in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_predict_writes_a_column(folder, tmp_path, capsys):
    common = ["predict", "--saved-model", str(folder / "run" / "saved_model")]
    log, out = str(folder / "log.csv"), tmp_path / "p.csv"
    cli.main([*common, "--query", log, "--support", log, "--output", str(out)])
    with open(out, newline="", encoding="utf-8") as file:
        adapted = [float(row["prediction"]) for row in csv.DictReader(file)]
    cli.main([*common, "--query", log, "--output", str(out)])
    with open(out, newline="", encoding="utf-8") as file:
        unadapted = [float(row["prediction"]) for row in csv.DictReader(file)]
    with open(log, newline="", encoding="utf-8") as file:
        assert len(adapted) == len(unadapted) == len(list(csv.DictReader(file)))
    assert adapted != unadapted
    assert all(0 < value < 1 for value in adapted + unadapted)
    assert "rows" in capsys.readouterr().out


def test_predictions_replace_what_a_link_names_and_nothing_else(folder, tmp_path):
    """`p.csv.partial` is not ours by its name; of a full disk the older file stays."""
    (tmp_path / "real").mkdir()
    out, real = tmp_path / "p.csv", tmp_path / "real" / "p.csv"
    out.symlink_to(real)
    real.write_text("older")
    for name in ("p.csv.partial", "real/p.csv.partial"):
        (tmp_path / name).write_text("mine")
    words = ["--query", str(folder / "log.csv"), "--output", str(out)]
    cli.main(["predict", "--saved-model", str(folder / "run" / "saved_model"), *words])
    assert out.is_symlink()
    assert real.read_text().startswith("user,")
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert names == {"real", "p.csv", "p.csv.partial", "real/p.csv", "real/p.csv.partial"}
    assert (tmp_path / "p.csv.partial").read_text() == "mine"


def test_a_full_disk_leaves_the_older_predictions(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "p.csv").write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict_module.csv, "writer", full)
    words = ["--query", str(folder / "log.csv"), "--output", str(tmp_path / "p.csv")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "--saved-model", str(folder / "run" / "saved_model"), *words])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the disk is full: " in line
    assert line.endswith("p.csv'")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("p.csv", "older")]


def test_the_report_ends_in_json(folder, capsys, monkeypatch):
    run = folder / "run"
    monkeypatch.setattr(
        sys, "argv", ["report", "--run", str(run), "--saved-model", str(run / "saved_model")]
    )
    report.main()
    shown = capsys.readouterr().out.splitlines()
    result = json.loads(shown[-1])
    assert set(result) == {
        *("auc_adapted", "auc_unadapted", "auc_baseline", "tasks", "samples_per_second"),
        *("run", "saved_model", "play"),
    }
    (told,) = (line for line in shown[:-1] if "play" in line)
    assert told.endswith(f"gmeta-tf play --saved-model {run / 'saved_model'}")
    told = report.result_of_run(run, run / "saved_model", "my data")["play"]
    assert told.endswith("/saved_model --movielens 'my data'")
    assert f"{result['auc_adapted']:.4f}" in shown[1]
    with pytest.raises(FileNotFoundError, match="is not a SavedModel"):
        report.result_of_run(run, folder)


def test_the_quick_start_names_its_page(folder):
    page = folder / "run" / "report.html"
    page.touch()
    try:
        result = report.result_of_run(folder / "run", folder / "run" / "saved_model")
    finally:
        page.unlink()
    assert result["report"] == str(page)
    (line,) = (line for line in report.table(result).splitlines() if "in a browser" in line)
    assert line.endswith(str(page))


def test_the_next_command_can_be_typed_where_the_environment_is_not_activated(
    folder, tmp_path, monkeypatch
):
    command = tmp_path / ".venv" / "bin" / "gmeta-tf"
    command.parent.mkdir(parents=True)
    command.touch()
    monkeypatch.setattr(sys, "executable", str(command.with_name("python")))
    run = folder / "run"
    for where, name in ((tmp_path, ".venv/bin/gmeta-tf"), (folder, "gmeta-tf")):
        monkeypatch.chdir(where)
        assert report.result_of_run(run, run / "saved_model")["play"].startswith(f"{name} play ")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["prepare", "--output", "x"], "either --movielens or --input"),
        (["prepare", "--output", "x", "--input", "a.csv"], "--input needs --schema"),
        (["prepare", "--output", "x", "--input", "none.csv", "--schema", "none"], "no schema none"),
        (["train", "--records", "none", "--run", "x"], "not a records folder"),
        (
            ["train", "--records", "r", "--run", "x", "--model", "gpt"],
            "--model to be one of melu, maml_dlrm",
        ),
        (["train", "--records", "r", "--run", "x", "--epochs", "0"], "--epochs of at least 1"),
        (
            ["train", "--records", "r", "--run", "x", "--resume", "--overwrite"],
            "exclude each other",
        ),
        (
            ["predict", "--saved-model", "m", "--query", "q", "--output", "o", "--tasks", "0"],
            "--tasks of at least 1",
        ),
        (["evaluate", "--run", "none"], "is not a run folder"),
        (["export", "--run", "none"], "is not a run folder"),
        (["predict", "--saved-model", "none", "--query", "q", "--output", "o"], "not an exported"),
    ],
)
def test_bad_input_ends_with_one_line_on_stderr(words, match, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert shown.startswith(f"gmeta-tf {words[0]}: ")
    assert match in shown
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_there_is_not_overwritten(folder, small, capsys, tmp_path):
    words = ["train", "--records", str(folder / "records"), *small]
    with pytest.raises(SystemExit):
        cli.main([*words, "--run", str(folder / "run")])
    assert "pass --resume or --overwrite" in capsys.readouterr().err
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit):
        cli.main([*words, "--run", str(tmp_path), "--overwrite"])
    assert "is not a run folder" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_run_without_a_checkpoint_is_named(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"records": "r", "run": "x"}))
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--run", str(tmp_path)])
    assert "has no complete checkpoint yet" in capsys.readouterr().err


def test_a_schema_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no schema"):
        read_schema(str(tmp_path / "none.yaml"))
    (tmp_path / "s.yaml").write_text("- item")
    with pytest.raises(
        ValueError, match="expected fields, label and task, each with its value, got list"
    ):
        read_schema(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    "settings", [{"checkpoint_every": 0}, {"keep": 0}, {"checkpoint_every_steps": -1}]
)
def test_a_run_folder_keeps_at_least_one_checkpoint(settings, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every_steps and keep of at least 1"):
        RunFolder(tmp_path, None, **settings)


def test_a_wrong_flag_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--records", "r", "--run", "x", "--epoks", "3"])
    assert ended.value.code == 2
    assert "epoks" in capsys.readouterr().err


def test_a_config_file_gives_flags_and_later_flags_win(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("width: 7\nhidden: [5, 5]\n")
    with pytest.raises(SystemExit):
        cli.main(
            [
                "train",
                "--records",
                "r",
                "--run",
                "x",
                "--config",
                str(config),
                "--width",
                "9",
                "--print_config",
            ]
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["width"] == 9
    assert printed["hidden"] == [5, 5]


@pytest.mark.parametrize(
    ("config", "model"),
    [("quickstart", "factors"), ("melu", "melu"), ("maml_dlrm", "maml_dlrm"), ("dlrm", "dlrm")],
)
def test_the_configs_of_launch_are_some(config, model):
    values = yaml.safe_load(pathlib.Path(f"launch/{config}.yaml").read_text())
    trained = options.TrainOptions(records="r", run="x", **values)
    assert trained.model == model


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_every_flag_is_explained(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    kind, _ = cli._COMMANDS[name]
    explained = help_for_people(kind)
    for field, description in explained.items():
        positional = {("inspect", "path"), ("schema", "action"), ("schema", "files")}
        is_positional = (name, field) in positional
        assert f"{'' if is_positional else '--'}{field.replace('_', '-')}" in shown
        assert " ".join(description.split()[:4]).replace("- ", "-") in shown
    assert {field.name for field in dataclasses.fields(kind)} == set(explained)


def test_what_commands_share_is_explained_once():
    """In the docstring of the class that has the field."""
    kinds = {one for kind, _ in cli._COMMANDS.values() for one in kind.__mro__}
    for kind in kinds:
        own = {param.arg_name for param in docstring_parser.parse(kind.__doc__ or "").params}
        assert own == set(inspect.get_annotations(kind)), kind


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import sys; from gmeta_tf.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
