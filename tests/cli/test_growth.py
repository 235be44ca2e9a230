"""A day's log with new values: the run that was trained on the days before goes on."""

import shutil

import pytest
from made_log import write_day_2

import gmeta_tf as gm
from gmeta_tf.cli import main as cli


def append_day_2(folder, here):
    write_day_2(here / "day-2.csv")
    words = ["--schema", str(folder / "schema.yaml"), "--output", str(here / "records")]
    cli.main(["prepare", "--input", str(here / "day-2.csv"), *words, "--append"])


@pytest.fixture
def day_2(folder, tmp_path):
    """The run and the records of day 1, and day 2 appended to the records."""
    for name in ("records", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    append_day_2(folder, tmp_path)
    return tmp_path


def train(folder, *words):
    where = ["--records", str(folder / "records"), "--run", str(folder / "run")]
    cli.main(["train", *where, "--resume", *words])


@pytest.mark.slow
def test_a_run_goes_on_with_grown_vocabularies(day_2, small, capsys):
    folder = day_2
    records = gm.Records.open(folder / "records")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["export", "--run", str(folder / "run"), "--records", str(folder / "records")])
    assert "for which the model has no rows. Go on with `gmeta-tf train --resume`" in (
        capsys.readouterr().err
    )
    train(folder, "--epochs", "3", *small)
    shown = capsys.readouterr().out
    sizes = {table.name: table.num_rows for table in records.schema.tables}
    assert f"item: 5 rows added for new values, {sizes['item']} in all" in shown
    assert f"genre: 1 rows added for new values, {sizes['genre']} in all" in shown
    _, _, model = gm.load_run(folder / "run", gm.World())
    assert model.embedding.schema == records.schema
    # Day 2's rows are read: the model evaluates, and exports with the new values.
    cli.main(["evaluate", "--run", str(folder / "run")])
    cli.main(["export", "--run", str(folder / "run"), "--output", str(folder / "saved")])
    train(folder, "--epochs", "4", *small)
    assert "rows added" not in capsys.readouterr().out


@pytest.mark.slow
def test_epochs_are_compared_anew(folder, tmp_path, small, capsys):
    """The best epoch of the smaller tables is no model of the larger ones."""
    shutil.copytree(folder / "records", tmp_path / "records")
    train(tmp_path, "--epochs", "1", "--patience", "3", *small)
    append_day_2(folder, tmp_path)
    capsys.readouterr()
    train(tmp_path, "--epochs", "2", "--patience", "3", *small)
    assert "the tables have grown since auc was compared: it is anew" in capsys.readouterr().out
    cli.main(["export", "--run", str(tmp_path / "run")])
    saved = gm.load_run(tmp_path / "run", gm.World()).model.embedding.schema
    assert saved == gm.Records.open(tmp_path / "records").schema
