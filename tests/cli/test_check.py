"""`gmeta-tf check`: what it prints, and that it leaves nothing behind."""

import json

import pytest

from gmeta_tf.cli.main import main

SCHEMA = "fields: [{name: item}, {name: year, kind: dense}]\nlabel: stars\ntask: user\n"


@pytest.fixture
def log(tmp_path):
    rows = "".join(
        f"{row % 12},i{row * 7 % 10},{1950 + row * 13 % 70},{row * 5 % 11 % 5 + 1}\n"
        for row in range(240)
    )
    (tmp_path / "log.csv").write_text("user,item,year,stars\n" + rows + "1,i1,1999,x\n")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


def checked(folder, *words):
    (folder / "spilled").mkdir(exist_ok=True)
    main(
        [
            *("check", "--input", str(folder / "log.csv")),
            *("--schema", str(folder / "schema.yaml")),
            *("--spill-folder", str(folder / "spilled"), *words),
        ]
    )
    assert list((folder / "spilled").iterdir()) == []


def test_findings_are_numbered_and_nothing_is_left(log, capsys):
    checked(log)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{log}/log.csv: 240 rows of 12 tasks"
    assert "  dropped, label: 1 rows" in lines
    found = [line for line in lines if line[:2] in ("1.", "2.", "3.", "4.")]
    assert found[0].startswith("1. labels go from 1 to 5, and the loss takes 0 to 1.")
    assert found[1].startswith("2. the dense field 'year' has values from 19")
    assert found[2].startswith("3. 1 rows, 0.4% of all, were bad")
    assert len(found) == 3


def test_sound_data(log, capsys):
    (log / "schema.yaml").write_text(SCHEMA.replace("dense}", "dense, transform: minmax}"))
    checked(log, "--loss", "mse", "--rows", "200", "--support", "4")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"the first 200 rows of {log}/log.csv: 200 rows of 12 tasks"
    assert lines[-1] == "Nothing was found that is likely to go wrong."


def test_json(log, capsys):
    checked(log, "--json", "--support", "25")
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert len(told["findings"]) == 4
    assert told["details"]["rows"] == 240


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either --movielens or --input, got neither"),
        (["--input", "log.csv"], "--input needs --schema, a YAML file"),
        (["--input", "none.csv", "--schema", "none.yaml"], "no schema none.yaml"),
    ],
)
def test_what_is_not_given(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["check", *words])
    assert message in capsys.readouterr().err
