"""Side tables through the commands: paths beside the schema, and predictions of short rows."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from made_tables import schema_of, write_flat, write_tables

from gmeta_tf.cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Records, a run and its export, of a schema whose paths are relative to it."""
    folder = tmp_path_factory.mktemp("tables")
    rows = write_tables(folder)
    write_flat(folder / "flat.jsonl", rows)
    values = schema_of(".").to_json()
    (folder / "schema.yaml").write_text(yaml.safe_dump(values))
    log, records, run = str(folder / "log-*.csv"), str(folder / "records"), str(folder / "run")
    schema = str(folder / "schema.yaml")
    main(["prepare", "--input", log, "--schema", schema, "--output", records, "--num-files", "2"])
    main(
        [
            *("train", "--records", records, "--run", run, "--epochs", "1", "--tasks", "4"),
            *("--support", "2", "--query", "2", "--loss", "mse"),
        ]
    )
    main(["export", "--run", run])
    return folder


def predicted(folder, query, *words, support="log-1.csv"):
    main(
        [
            *("predict", "--saved-model", str(folder / "run/saved_model")),
            *("--query", str(folder / query), "--support", str(folder / support)),
            *("--output", str(folder / "p.csv"), *words),
        ]
    )
    with open(folder / "p.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_rows_that_have_everything(made, capsys):
    short = predicted(made, "log-0.csv")
    assert list(short[0]) == ["user", "item", "stars", "when", "prediction"]
    told = capsys.readouterr().err
    assert f"of {len(short)} rows of {made}/log-0.csv found nothing in the table 'users'" in told
    rows = [json.loads(line) for line in (made / "flat.jsonl").read_text().splitlines()]
    sizes = [len((made / f"log-{part}.csv").read_text().splitlines()) - 1 for part in range(3)]
    write_flat(made / "query.jsonl", rows[: sizes[0]])
    write_flat(made / "support.jsonl", rows[sizes[0] : sizes[0] + sizes[1]])
    whole = predicted(made, "query.jsonl", support="support.jsonl")
    assert "found nothing" not in capsys.readouterr().err
    first, second = ([float(row["prediction"]) for row in one] for one in (short, whole))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert np.ptp(first) > 0


def test_tables_may_lie_elsewhere(made, tmp_path):
    expected = predicted(made, "log-0.csv")
    shutil.copytree(made, tmp_path / "moved")
    for name in ("users.txt", "brands.csv"):
        (made / name).rename(made / f"{name}.away")
    try:
        with pytest.raises(SystemExit):
            predicted(made, "log-0.csv")
        words = [f"{name}={tmp_path}/moved/{file}" for name, file in TABLES.items()]
        assert predicted(made, "log-0.csv", "--tables", *words) == expected
    finally:
        for name in ("users.txt", "brands.csv"):
            (made / f"{name}.away").rename(made / name)


TABLES = {"users": "users.txt", "brands": "brands.csv"}


@pytest.mark.parametrize("words", ["films=x.csv", "users", "users="])
def test_a_table_that_there_is_not(words, made, capsys):
    with pytest.raises(SystemExit):
        predicted(made, "log-0.csv", "--tables", words)
    told = capsys.readouterr().err
    assert "expected --tables to be NAME=PATH, with a table of brands, genres, items, users" in told


def test_a_table_of_the_schema_that_is_not_there_is_told_first(tmp_path, capsys):
    write_tables(tmp_path)
    values = schema_of(".", users={"path": "none.txt"}).to_json()
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(values))
    words = ["--input", "no-log.csv", "--schema", str(tmp_path / "schema.yaml")]
    with pytest.raises(SystemExit):
        main(["prepare", *words, "--output", str(tmp_path / "records")])
    told = capsys.readouterr().err
    assert f"tables_to_join, users: no file {tmp_path}/none.txt" in told.replace("/./", "/")
    assert "relative to the schema's file" in told
