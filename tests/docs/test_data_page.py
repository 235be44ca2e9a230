"""docs/data.md: each section's files are written and its commands run, in their order."""

import dataclasses
import pathlib
import re
import shlex

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf import allowed
from gmeta_tf.cli.main import main
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def run(section):
    """Writes the section's files to the current folder, and runs its commands; their number."""
    commands = 0
    for kind, name, text in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", section, re.S | re.M):
        if name:
            pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(name).write_text(text, encoding="utf-8")
        elif kind == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "gmeta-tf"
                main(words)
                commands += 1
    return commands


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_schema_to_begin_with():
    assert run(SECTIONS["A schema to begin with"]) == 2
    schema = gm.Records.open("records").schema
    assert (schema.task, schema.label, schema.time) == ("user", "rating", "time")
    assert [table.name for table in schema.tables_to_join] == ["films"]
    assert {field.name: field.kind for field in schema.fields} == {
        "item": "categorical",
        "year": "categorical",
        "genres": "multi",
    }


def test_a_look_before_training(capsys):
    assert run(SECTIONS["A look before training"]) == 1
    told = capsys.readouterr().out
    assert "\n1. labels go from 1 to 5, and the loss takes 0 to 1." in told
    assert "\n2. the dense field 'year' has values from 1970 to 2003" in told
    assert not list(pathlib.Path().glob("records*"))


def test_times(capsys):
    assert run(SECTIONS["Times"]) == 2
    shown = "time: milliseconds, 1997-09-20 to 1998-04-22"
    assert shown in SECTIONS["Times"]
    assert capsys.readouterr().out.count(f"  {shown}\n") == 2


def test_dense_values(capsys):
    assert run(SECTIONS["Dense values"]) == 2
    assert "warning: the dense field" not in capsys.readouterr().err
    schema = gm.Records.open("records").schema
    assert schema.num_dense_columns == 1 + 1 + 4
    words = re.findall(r"^\| `(\w+)` \|", SECTIONS["Dense values"], re.MULTILINE)
    assert {*allowed.DENSE_TRANSFORMS, *allowed.MISSING, "transform", "missing"} == set(words)


def test_crosses_of_fields():
    assert run(SECTIONS["Crosses of fields"]) == 2
    schema = gm.Records.open("records").schema
    assert schema.fields[3].cross == ("age", "genres")
    assert (schema.fields[3].kind, schema.fields[3].num_slots) == ("multi", 3)


def test_the_last_rows_before_each_one():
    section = SECTIONS["The last rows before each one"]
    assert run(section) == 2
    records = gm.Records.open("records")
    films = [None, *read_vocabulary("records", "film").tolist()]
    found = {}
    for split in records.splits:
        for task, words in records.read(split):
            for film, *history in words[1:].T.tolist():
                past = [films[key] for key in history if key > 0]
                found.setdefault((task + 1, films[film]), []).append(past)
    assert found[1, "a"] == [[]]
    assert found[1, "b"] == found[1, "c"] == [["a"]]
    assert found[1, "d"] == [["c", "b", "a"]]
    assert found[2, "d"] == [["b", "a"]]
    assert "| 1, c, 20 | a: rows of one time are not in each other's past |" in section


def test_tables_of_users_and_items(capsys):
    assert run(SECTIONS["Tables of users and items"]) == 3
    inputs = gm.Predictor.load("run/saved_model").predict.structured_input_signature[1]
    assert {"query_film", "query_age"} == {name for name in inputs if name.startswith("query_")}
    told = capsys.readouterr().out
    assert "joined films: 1 rows found nothing in it" in told  # film e
    assert "joined studios: 2 rows found nothing in it" in told
    told_of = re.findall(r"^\| `(\w+)` \|", SECTIONS["Tables of users and items"], re.MULTILINE)
    known = {field.name for field in dataclasses.fields(gm.SideTable)}
    assert set(told_of) == known - {"name"}


def test_sample_weights(capsys):
    assert run(SECTIONS["Sample weights"]) == 5
    assert "weighted_log_loss" in capsys.readouterr().out
    records = gm.Records.open("records")
    assert records.schema.weight == "importance"
    weights = [w for split in records.splits for _, words in records.read(split) for w in words[1]]
    assert sorted(np.array(weights).view(np.float32))[:3] == [0, 0.5, 0.5]
    assert len(pathlib.Path("predictions.csv").read_text().splitlines()) == 13


def test_published_data(capsys):
    section = SECTIONS["Published data"]
    assert run(section) == 2
    assert "7 rows of 3 tasks" in capsys.readouterr().out
    fields = gm.Records.open("records").schema.fields
    assert [(field.name, field.kind) for field in fields] == [
        ("item", "categorical"),
        ("genre", "multi"),
    ]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall("`([a-z][a-z0-9-]+)`", row)]
    assert named == list(allowed.LAYOUTS)


def test_tables_in_memory():
    [code] = re.findall(r"^```py\n(.*?)^```$", SECTIONS["Tables in memory"], re.S | re.M)
    exec(code, names := {})
    records = names["records"]
    assert (records.details["rows"], records.details["tasks"]) == (400, 20)
    assert records.schema.table("film").num_rows == 5


def test_every_section_is_in_the_list_at_the_top():
    listed = re.findall(r"^- \[(.+?)\]\(#(.+?)\)", PAGE, re.MULTILINE)
    assert [name for name, _ in listed] == list(SECTIONS)
    assert [anchor for _, anchor in listed] == [
        name.lower().replace(",", "").replace(" ", "-") for name in SECTIONS
    ]
