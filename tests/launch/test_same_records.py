"""launch/same_records.py: what it prepares has every bad cell, and it tells records that differ."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("same", ROOT / "launch" / "same_records.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    assert script.main(["write", str(folder / "made")]) == 0
    assert script.main(["prepare", str(folder / "made"), "duckdb", str(folder / "a.json")]) == 0
    return folder / "a.json"


def test_every_kind_of_cell_and_key_is_in_it(script, report):
    found = json.loads(report.read_text())
    for name in ("csv", "jsonl"):
        details = found[name]["schema.json"]["details"]
        assert set(details["dropped_rows"]) == set(script.DROPPED)
        # Each bad cell three times on each of two days.
        assert sum(details["dropped_rows"].values()) == 6 * len(script.BAD_CELLS)
    details = found["parquet"]["schema.json"]["details"]
    assert details["rows"] > 7000
    assert all(count > 100 for count in details["missed_rows"].values())
    assert set(details["cut_values"]) == {"near", "tags"}
    keys = {
        table["name"]: table["keys"] for table in found["csv"]["schema.json"]["schema"]["tables"]
    }
    assert set(keys.values()) == {"vocabulary", "hash", "raw"}
    assert found["jsonl"]["schema.json"]["details"]["left_out_rows"] > 1000


def test_the_same_records_pass(script, report, capsys):
    assert script.main(["compare", str(report), str(report)]) == 0
    assert capsys.readouterr().out.endswith(": the same records\n")


@pytest.mark.parametrize("change", ["record", "vocabulary", "count", "gone"])
def test_other_records_are_told(script, report, change, tmp_path, capsys):
    other = json.loads(report.read_text())
    files = other["jsonl"]
    record = next(name for name in files if name.endswith(".tfrecord"))
    vocabulary = next(name for name in files if name.startswith("vocabulary/"))
    if change == "record":
        files[record] = "0" * 64
    elif change == "vocabulary":
        files[vocabulary] = "0" * 64
    elif change == "count":
        files["schema.json"]["details"]["dropped_rows"]["task"] += 1
    else:
        del files[record]
    (tmp_path / "b.json").write_text(json.dumps(other))
    assert script.main(["compare", str(report), str(tmp_path / "b.json")]) == 1
    told = {"record": record, "vocabulary": vocabulary, "count": "schema.json", "gone": record}
    assert f"OTHER RECORDS: jsonl/{told[change]}\n" in capsys.readouterr().out


def test_a_vocabulary_counts_by_its_rows(script, tmp_path):
    import duckdb

    for name, codec in (("a", "snappy"), ("b", "zstd"), ("c", "snappy")):
        value = "y" if name == "c" else "x"
        duckdb.sql(f"SELECT '{value}' AS value").write_parquet(
            str(tmp_path / f"{name}.parquet"), compression=codec
        )
    first, same, other = (script._content(tmp_path / f"{name}.parquet") for name in "abc")
    assert first == same != other


def test_other_words(script, capsys):
    assert script.main(["compare", "one"]) == 2
    assert "python launch/same_records.py write FOLDER" in capsys.readouterr().err
