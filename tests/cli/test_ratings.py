"""`--loss ratings` through the commands."""

import json

import pytest
import yaml

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.runs import load_run


@pytest.mark.slow
def test_clicks_are_evaluated_and_ratings_learned(folder, small, tmp_path, capsys):
    records, run = str(folder / "records"), tmp_path / "run"
    words = ["train", "--records", records, "--run", str(run), *small, "--loss", "ratings"]
    words += ["--model", "cbml"]  # whose encoder reads them too
    cli.main([*words, "--epochs", "1"])
    cli.main(["evaluate", "--run", str(run), "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < report["auc_adapted"] < 1
    assert "log_loss_adapted" not in report
    options, _, model = load_run(str(run), gm.World())
    assert 1 < options.label_centre < 5
    assert model.row_loss.takes_values
    assert model.task_encoder.support.centre == options.label_centre
    assert model.task_encoder.support.scale == options.label_scale
    # What was found is the checkpoint's, and nothing that the run was asked for.
    assert yaml.safe_load((run / "config.yaml").read_text())["label_centre"] is None
    cli.main([*words, "--epochs", "2", "--resume"])
    shown = capsys.readouterr().out
    assert "--epochs: 2, was 1" in shown
    assert "--label-centre" not in shown


def test_it_needs_clicks(folder, small, tmp_path, capsys):
    schema = yaml.safe_load((folder / "schema.yaml").read_text()) | {"positive_from": None}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    files = ["--input", str(folder / "log.csv"), "--schema", str(tmp_path / "schema.yaml")]
    cli.main(["prepare", *files, "--output", str(tmp_path / "records")])
    words = ["--records", str(tmp_path / "records"), "--run", str(tmp_path / "run"), *small]
    with pytest.raises(SystemExit):
        cli.main(["train", *words, "--loss", "ratings"])
    assert "expected a schema with positive_from with --loss ratings" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
