"""`gmeta-tf report` measures what `gmeta-tf evaluate` does, on the same rows."""

import json
import re
import shutil

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.measured_run import measured_run, with_support_rows
from gmeta_tf.cli.options import ReportOptions
from gmeta_tf.cli.run_batches import evaluation_batches
from gmeta_tf.cli.runs import load_run
from gmeta_tf.report.page import report_page


@pytest.fixture(scope="module")
def found(folder):
    run = folder / "run"
    words = ["--output", str(folder / "page.html"), "--by", "genre"]
    cli.main(["report", "--run", str(run), *words])
    return json.loads((folder / "page.json").read_text())


def test_with_all_support_rows_it_is_the_evaluation(folder, found):
    evaluated = json.loads((folder / "run" / "evaluation-test.json").read_text())
    measured = found["runs"][0]["measured"]
    curve = measured["support_curve"]
    # The median task has 7 rows, so that 5 leave half of the tasks some to predict.
    assert (curve["metric"], curve["sizes"]) == ("auc", [0, 1, 2, 3, 5])
    assert curve["values"][0] != curve["values"][-1]
    steps = measured["inner_steps_curve"]
    assert (steps["metric"], steps["sizes"]) == ("auc", [0, 1, 2, 3, 5])
    np.testing.assert_allclose(steps["values"][0], evaluated["auc_unadapted"], rtol=1e-6)
    np.testing.assert_allclose(steps["values"][1], evaluated["auc_adapted"], rtol=1e-6)
    assert sum(measured["activity"]["rows"]) == evaluated["samples"]
    mean = np.mean(measured["task_auc"]["adapted"])
    np.testing.assert_allclose(mean, evaluated["task_auc_adapted"], rtol=1e-6)
    assert sum(measured["calibration"]["adapted"]["rows"]) == evaluated["samples"]


def test_segments_are_those_of_the_evaluation(folder, found, tmp_path):
    """`evaluate --by`, of a copy of the run: what it writes says more, and is not measured anew."""
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    cli.main(["evaluate", "--run", str(run), "--by", "genre"])
    evaluated = json.loads((run / "evaluation-test.json").read_text())["segments"]
    measured = found["runs"][0]["measured"]["segments"]
    assert (measured["field"], measured["metric"]) == ("genre", "auc")
    assert measured["rows"] == [one["rows"] for one in evaluated]
    assert len(measured["values"]) > 2
    for side in ("adapted", "unadapted"):
        assert measured[side] == [one[f"auc_{side}"] for one in evaluated]


def test_tables_are_those_of_the_planner(folder, found, capsys):
    records = found["runs"][0]["config"]["records"]
    words = ["--records", records, "--world-size", "1", "--width", "4", "--keys-from", "uniform"]
    cli.main(["plan", *words, "--json"])
    planned = json.loads(capsys.readouterr().out)["tables"]
    tables = found["runs"][0]["measured"]["tables"]
    assert [one["rows"] for one in tables] == [one["rows"] for one in planned]
    assert [one["bytes"] for one in tables] == [one["memory_bytes"]["most"] for one in planned]
    of_row = 4 + sum(slot.width for slot in gm.LazyAdam().slots(4).values())
    assert all(one["bytes"] == one["rank_bytes"] == one["rows"] * of_row * 4 for one in tables)


def test_traffic_of_two_ranks_is_that_of_the_planner(folder, found, capsys):
    assert found["runs"][0]["measured"]["traffic"] is None  # of one rank
    config = found["runs"][0]["config"]
    words = ["--records", config["records"], "--world-size", "2", "--width", "4", "--tasks"]
    words += [str(config["tasks"]), "--support", str(config["support"])]
    words += ["--query", str(config["query"]), "--hidden", *map(str, config["hidden"])]
    cli.main(["plan", *words, "--json"])
    planned = json.loads(capsys.readouterr().out)
    del planned["records"]
    options = ReportOptions(run=str(folder / "run"), progress=False)
    evaluated = json.loads((folder / "run" / "evaluation-test.json").read_text())
    known = {"support_sizes": [0], "inner_steps_curve": {"sizes": [0]}}  # measured before
    measured = json.loads(json.dumps(measured_run(options, evaluated | known, 2)))
    assert measured["traffic"] == planned
    assert planned["busiest_sent_bytes"] > 0
    run = found["runs"][0] | {"measured": measured}
    page = report_page([run], {}, split="test", versions={})
    [line] = re.findall("What a step of 2 ranks sends .*", page)
    assert f"it sends {planned['busiest_sent_bytes']:,.0f} bytes" in line
    assert f"a rank sends {planned['allreduce_bytes']:,.0f} bytes" in line
    for one in planned["tables"]:
        cells = (one["table"], "replicated", round(one["distinct_keys"]))
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page.replace(
            "sharded", "replicated"
        )


def test_all_figures_are_on_the_page(folder, found):
    page = (folder / "page.html").read_text()
    names = ("task-auc", "support-rows", "inner-steps", "calibration", "activity", "segments")
    names += ("tables",)
    assert all(f'alt="{found["figures"][name]["alt"][:30]}' in page for name in names)
    assert "Not measured" not in page


def test_fewer_support_rows_leave_the_query_rows_as_they_are(folder):
    """Predicted with two support rows, as if the others had never been there."""
    _, records, model = load_run(str(folder / "run"), gm.World())
    batches = evaluation_batches(records, "test", 3, 0, gm.World())
    all_rows = model.predict(batches, verbose=0)
    fewer = model.predict(with_support_rows(batches, 2), verbose=0)
    for name in ("task", "label", "unadapted"):
        np.testing.assert_array_equal(fewer[name], all_rows[name])
    assert (fewer["adapted"] != all_rows["adapted"]).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "price"], "expected --by to be a field with values, item, genre, liked, got"),
        (["--split", "nothing"], "has no split 'nothing'; it has train, test, valid"),
        (["--checkpoint", "epoch-000099"], "epoch-000099"),
    ],
)
def test_what_cannot_be_measured_makes_no_page(folder, tmp_path, capsys, words, message):
    output = ["--output", str(tmp_path / "x.html")]
    with pytest.raises(SystemExit):
        cli.main(["report", "--run", str(folder / "run"), *output, *words])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
