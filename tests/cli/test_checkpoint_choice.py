"""`--checkpoint` and `--fall-back`, and runs whose records or options are not those of before."""

import json
import shutil

import pytest
import yaml
from made_log import SCHEMA, write_log

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.cli.runs import load_run
from gmeta_tf.distributed.world import World
from gmeta_tf.saving.checkpoints.checkpoint import checked_checkpoint, latest_checkpoint

ONE = World()


@pytest.fixture
def run(folder, tmp_path):
    """The run of two epochs, copied."""
    return shutil.copytree(folder / "run", tmp_path / "run")


def damage(run, name="epoch-000002"):
    file = run / "checkpoint" / name / "rows-00000-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def saved_epoch(model):
    """The steps that its optimizer has done tell the checkpoints apart."""
    return int(model.optimizer.iterations)


def failing(words, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_an_earlier_one_by_its_name(run):
    (_, _, last), (_, _, first) = (
        load_run(str(run), ONE, checkpoint=name) for name in (None, "epoch-000001")
    )
    assert 0 < saved_epoch(first) == saved_epoch(last) // 2
    with pytest.raises(
        ValueError, match=r"--checkpoint to be one of epoch-000001, epoch-000002, .*got '\.\./x'"
    ):
        load_run(str(run), ONE, checkpoint="../x")


def test_falling_back_passes_over_what_is_damaged(run, caplog):
    whole = saved_epoch(load_run(str(run), ONE, fall_back=True)[2])
    damage(run)
    with pytest.raises(ValueError, match=r"epoch-000002 is damaged .*--fall-back"):
        load_run(str(run), ONE)
    assert saved_epoch(load_run(str(run), ONE, fall_back=True)[2]) == whole // 2
    assert "Falling back to epoch-000001" in caplog.text
    damage(run, "epoch-000001")
    with pytest.raises(ValueError, match="epoch-000001 is damaged"):
        load_run(str(run), ONE, fall_back=True)


@pytest.mark.parametrize(
    "words", [["evaluate"], ["export", "--output", "@new"]], ids=["evaluate", "export"]
)
def test_the_commands_name_the_flags_and_change_nothing(words, run, tmp_path, capsys):
    damage(run)
    before = sorted(tmp_path.rglob("*"))
    words = [word.replace("@", f"{tmp_path}/") for word in words]
    shown = failing([*words, "--run", str(run)], capsys)
    assert "rows-00000-of-00001.safetensors: expected the SHA-256" in shown
    assert "for a run `--checkpoint NAME` or `--fall-back` chooses it" in shown
    assert sorted(tmp_path.rglob("*")) == before


def resume(folder, run, small, *words):
    records = str(folder / "records")
    cli.main(["train", "--records", records, "--run", str(run), *small, "--resume", *words])


def test_a_run_that_goes_on_from_an_earlier_one_ends_with_the_newest(folder, run, small, capsys):
    """Nothing is left to train here; the newer checkpoint would be the one that counts."""
    damage(run)
    newer = run / "checkpoint" / "epoch-000002"
    content = {path.name: path.read_bytes() for path in newer.iterdir()}
    resume(folder, run, small, "--fall-back", "--epochs", "1")
    assert "resuming after epoch 1 from" in capsys.readouterr().out
    assert latest_checkpoint(run / "checkpoint").name == "epoch-000001"
    aside = run / "set_aside" / "epoch-000002"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == content
    # What was asked for once is not asked for again.
    assert read_config(run).checkpoint is None
    assert not read_config(run).fall_back
    shutil.copytree(aside, newer)
    resume(folder, run, small, "--checkpoint", "epoch-000001", "--epochs", "1")
    names = sorted(path.name for path in (run / "set_aside").iterdir())
    assert names == ["epoch-000002", "epoch-000002-1"]


@pytest.mark.parametrize("flag", [{"checkpoint": "epoch-000001"}, {"fall_back": True}], ids=str)
def test_where_to_go_on_needs_resume(flag):
    name = "--" + next(iter(flag)).replace("_", "-")
    with pytest.raises(ValueError, match=f"{name} says where to go on: expected --resume with it"):
        TrainOptions(records="r", run="x", **flag)


@pytest.fixture
def other_records(folder, tmp_path):
    """Another log of the same schema, prepared in the place that the run's records had."""
    write_log(tmp_path / "log.csv", seed=5, num_tasks=40)
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_json()))
    files = ["--input", str(tmp_path / "log.csv"), "--schema", str(tmp_path / "schema.yaml")]
    cli.main(["prepare", *files, "--output", str(tmp_path / "records"), "--no-progress"])
    return tmp_path / "records"


def test_records_that_were_prepared_anew_under_a_run(run, small, other_records, capsys):
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"records": str(other_records)}
    config.write_text(yaml.safe_dump(values))
    for words in (
        ["evaluate", "--run", str(run)],
        ["export", "--run", str(run), "--output", str(run / "new")],
        ["train", "--records", str(other_records), "--run", str(run), *small, "--resume"],
    ):
        shown = failing(words, capsys)
        assert "records holds other data than the checkpoint" in shown
        assert "Give the records of the run, or train anew." in shown
    assert config.read_text() == yaml.safe_dump(values)
    assert not (run / "new").exists()


def prepared(folder, log, output, *words):
    """The log with the options that the run's records were prepared with."""
    files = ["--input", str(log), "--schema", str(folder / "schema.yaml"), "--no-progress"]
    cli.main(["prepare", *files, "--output", str(output), *words])


def test_the_same_values_in_other_rows(folder, run, small, tmp_path, capsys):
    """Each row twice: keys mean what they did, but a run that goes on would see other rows."""
    head, body = (folder / "log.csv").read_text(encoding="utf-8").split("\n", 1)
    (tmp_path / "twice.csv").write_text(f"{head}\n{body}{body}", encoding="utf-8")
    words = ["--valid-fraction", "0.1", "--num-files", "3"]
    prepared(folder, tmp_path / "twice.csv", tmp_path / "records", *words)
    train = ["train", "--records", str(tmp_path / "records"), "--run", str(run), *small]
    shown = failing([*train, "--resume"], capsys)
    assert "rows of the split 'train' are not those that it was trained with" in shown
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"records": str(tmp_path / "records")}
    config.write_text(yaml.safe_dump(values))
    assert saved_epoch(load_run(str(run), ONE)[2]) > 0


def test_a_run_goes_on_after_rows_were_appended(folder, run, small, tmp_path, capsys):
    records = shutil.copytree(folder / "records", tmp_path / "records")
    prepared(folder, folder / "log.csv", records, "--append", "--allow-same-input")
    # Nothing is left to train; what is compared is.
    words = ["--records", str(records), "--run", str(run), *small, "--resume", "--epochs", "2"]
    capsys.readouterr()
    cli.main(["train", *words])
    assert "was appended to since: generation 0 is now 1" in capsys.readouterr().err


def test_a_config_that_was_changed_does_not_change_the_model(run, capsys):
    """A flip in it, or a run that went on with other options and was killed."""
    config = run / "config.yaml"
    expected, *_ = load_run(str(run), ONE)
    text = config.read_text().replace("inner_learning_rate: 0.5", "inner_learning_rate: 0.7")
    text = text.replace("width: 4", "width: 5").replace("support: 3", "support: 2")
    text = text.replace("in_time_order: false", "in_time_order: true")
    config.write_text(text)
    capsys.readouterr()
    options, *_ = load_run(str(run), ONE)
    assert options == expected
    said = capsys.readouterr().err
    assert "(width 5, not 4, inner_learning_rate 0.7, not 0.5, " in said
    assert "support 2, not 3, in_time_order True, not False); the checkpoint's count" in said


def test_the_manifest_has_what_the_model_was_trained_on(run, folder):
    details = checked_checkpoint(latest_checkpoint(run / "checkpoint"), ONE).details
    assert details["options"]["width"] == 4
    schema = json.loads((folder / "records" / "schema.json").read_text())
    assert details["records"]["vocabularies"].keys() == schema["vocabularies"].keys()
