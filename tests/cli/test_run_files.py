"""A run folder: who may take it, and that an older run is there until the new one has it."""

import dataclasses
import os
import pathlib
import resource
import signal

import pytest
import yaml

from gmeta_tf.cli import run_files, runs
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import check_run_folder, claim_run_folder, read_config


@pytest.fixture
def run(tmp_path):
    """A folder with an older run."""
    run = tmp_path / "run"
    claim_run_folder(TrainOptions(records="r", run=str(run), width=3))
    (run / "checkpoint" / "epoch-000001").mkdir(parents=True)
    (run / "checkpoint" / "epoch-000001" / "manifest.json").write_text("{}")
    (run / "log.txt").write_text("epoch 1")
    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


R = os.path.abspath("r")


def test_a_new_run_writes_its_options(run):
    assert read_config(run) == TrainOptions(records=R, run=str(run), width=3)


def test_overwrite_leaves_the_new_config_alone(run):
    options = TrainOptions(records=R, run=str(run), width=5, overwrite=True)
    claim_run_folder(options)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    # What was asked for once is not asked for whenever the run is loaded.
    assert read_config(run) == dataclasses.replace(options, overwrite=False)


def test_resume_keeps_what_is_there(run):
    before = contents(run)
    claim_run_folder(TrainOptions(records="r", run=str(run), epochs=7, resume=True))
    after = contents(run)
    assert read_config(run).epochs == 7
    assert before.pop("config.yaml") != after.pop("config.yaml")
    assert before == after


def test_checks_touch_nothing(run):
    before = contents(run)
    check_run_folder(TrainOptions(records="r", run=str(run), overwrite=True))
    check_run_folder(TrainOptions(records="r", run=str(run), resume=True))
    check_run_folder(TrainOptions(records="r", run=str(run / "new")))
    assert contents(run) == before


def test_an_older_run_comes_back_when_the_new_one_cannot_be_written(run, monkeypatch):
    before = contents(run)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(run_files, "_replace_config", full)
    with pytest.raises(OSError, match="no space left"):
        claim_run_folder(TrainOptions(records="r", run=str(run), overwrite=True))
    assert contents(run) == before


@pytest.mark.parametrize("flag", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_full_disk_leaves_no_half_of_a_config(flag, run, tmp_path):
    """As where a file may have no more than 100 bytes."""
    folder = run if flag else tmp_path / "new"
    before = contents(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            claim_run_folder(TrainOptions(records="r", run=str(folder), **flag))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(run) == before
    assert flag or list(folder.iterdir()) == []


def test_the_folder_may_be_the_current_one_or_a_link(run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(run)
    claim_run_folder(TrainOptions(records="r", run=str(tmp_path / "link"), overwrite=True))
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    (run / "log.txt").write_text("epoch 1")
    monkeypatch.chdir(run)
    claim_run_folder(TrainOptions(records="../r", run=".", overwrite=True))
    assert [path.name for path in pathlib.Path().iterdir()] == ["config.yaml"]


def test_of_two_processes_one_takes_a_new_folder(tmp_path, monkeypatch):
    """Both have seen that there is no run."""
    options = TrainOptions(records="r", run=str(tmp_path / "run"))
    claim_run_folder(options)
    with pytest.raises(ValueError, match=r"exists\. Choose another --run"):
        claim_run_folder(options)
    (tmp_path / "run" / "config.yaml").unlink()
    monkeypatch.setattr(run_files, "check_run_folder", lambda options: None)
    found = pathlib.Path.is_file
    # The other process writes its file after this one has looked for it.
    monkeypatch.setattr(pathlib.Path, "is_file", lambda path: False)
    (tmp_path / "run" / "config.yaml").write_text("theirs")
    with pytest.raises(ValueError, match="was taken by another process"):
        claim_run_folder(options)
    monkeypatch.setattr(pathlib.Path, "is_file", found)
    assert (tmp_path / "run" / "config.yaml").read_text() == "theirs"


# What `gmeta-tf train` wrote before options had shared bases: every field, in another order, and
# fewer of them before that.
EARLIER = """
records: r
run: x
model: melu
hidden: [64, 64]
width: 16
inner_steps: 1
inner_learning_rate: 0.5
embedding_inner_learning_rate: null
order: 2
adapt_embeddings: null
overlap: adapted
learn_rates: false
tasks: 32
support: 10
query: 40
every_row: false
in_time_order: false
buckets: 1
look_ahead: true
epochs: 10
optimizer: adam
learning_rate: 0.001
weight_decay: null
row_optimizer: adagrad
row_learning_rate: 0.1
wire: float32
replicate: auto
non_finite: raise
capacity: null
when_full: evict
admit_after: 1
time_to_live: null
embedding_scale: 0.05
loss: binary_crossentropy
metrics: [auc, task_auc, log_loss]
validate: true
checkpoint_every: 10
checkpoint_every_steps: null
seed: 0
resume: false
overwrite: false
"""


def test_a_config_of_an_earlier_version_loads(tmp_path):
    config = tmp_path / "config.yaml"
    # Today's defaults are others; of what it does not have, rates that fall are no default.
    expected = TrainOptions(
        records="r",
        run="x",
        inner_learning_rate=0.5,
        epochs=10,
        learning_rate=0.001,
        row_optimizer="adagrad",
        row_learning_rate=0.1,
        embedding_scale=0.05,
        decay="none",
    )
    config.write_text(EARLIER)
    assert read_config(tmp_path) == expected
    config.write_text("records: r\nrun: x\nwidth: 3\n")
    assert read_config(tmp_path) == TrainOptions(records="r", run="x", width=3, decay="none")
    config.write_text(EARLIER.replace("checkpoint_every_steps: null", "checkpoint_every_steps: 0"))
    assert read_config(tmp_path) == expected


@pytest.mark.parametrize(
    "text",
    [
        "records: r\nrun: x\nwire: float8\n",
        "records: r\n",
        "records: r\nrun: x\nwidht: 3\n",
        "[",
        "3",
    ],
)
def test_a_config_that_does_not_load(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml does not hold the options of a run: "):
        read_config(tmp_path)


def test_the_saved_config_is_what_the_command_takes(run):
    """As `--config`, but for the folder."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert set(values) == {field.name for field in dataclasses.fields(TrainOptions)}


def test_the_records_of_a_run_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim_run_folder(TrainOptions(records="records", run="run"))
    claim_run_folder(TrainOptions(records="s3://bucket/records", run="of-remote"))
    monkeypatch.chdir("/")
    assert read_config(tmp_path / "run").records == str(tmp_path / "records")
    assert read_config(tmp_path / "of-remote").records == "s3://bucket/records"


def test_a_name_that_stands_twice_in_a_config(run):
    with open(run / "config.yaml", "a", encoding="utf-8") as config:
        config.write("width: 9\n")
    with pytest.raises(
        ValueError, match=r"options of a run: .*config.yaml, .*'width' stands twice"
    ):
        read_config(run)


def test_records_that_are_gone_are_told_with_the_file_that_names_them(tmp_path):
    options = TrainOptions(records=str(tmp_path / "moved"), run=str(tmp_path / "run"))
    told = "records that run/config.yaml names are not there: .*moved is not a records.*--records"
    with pytest.raises(FileNotFoundError, match=told):
        runs._with_records(options, "run", None)
    with pytest.raises(FileNotFoundError, match=r"^\S*other is not a records folder"):
        runs._with_records(options, "run", str(tmp_path / "other"))
