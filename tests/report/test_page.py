"""The page of a run: what is on it, and that it needs nothing beside it."""

import html.parser
import json
import re
import subprocess
import sys

import pytest
from made_run import DETAILS, EVALUATION, LOG, write_run

from gmeta_tf.cli import main as cli

VOID = {"meta", "img", "br"}


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed, and keeps texts, links and pictures."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.links, self.pictures = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("href", "src", "action", "data") if name in given]
        if tag == "img":
            self.pictures.append(given["alt"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())


def report_of(*words):
    """Makes a report without a model; its page, read."""
    cli.main(["report", "--no-measure", *map(str, words)])


def test_the_page_holds_the_numbers_of_the_evaluation(tmp_path, capsys):
    run = write_run(tmp_path / "run", model="melu")
    report_of("--run", run)
    assert str(run / "report.html") in capsys.readouterr().out
    page = Reader((run / "report.html").read_text())
    for number in ("0.7654", "0.6543", "0.7123", "0.5432", "0.6321"):
        assert number in page.texts
    shown = " ".join(page.texts)
    assert "1,234 tasks that training has not seen, 56,789 query rows, 10 support rows" in shown
    assert "the rate of each item" in shown
    assert "3.1% of the training time was waiting for input" in shown
    assert "54,321" in shown
    assert "Not measured" in shown


def test_the_page_needs_no_network(tmp_path):
    run = write_run(tmp_path / "run")
    report_of("--run", run)
    text = (run / "report.html").read_text()
    links = Reader(text).links
    assert len(links) == 4
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in links)
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)


def test_pictures_have_texts_with_their_numbers_and_are_files_too(tmp_path):
    run = write_run(tmp_path / "run")
    report_of("--run", run)
    told = json.loads((run / "report.json").read_text())["figures"]
    assert set(told) == {"loss", "validation-auc", "evaluation", "step-time"}
    assert "training ends at 0.5 (epoch 2)" in told["loss"]["alt"]
    assert "auc adapted 0.7654; log_loss adapted 0.5432" in told["evaluation"]["alt"]
    alts = Reader((run / "report.html").read_text()).pictures
    assert sorted(alts) == sorted(one["alt"] for one in told.values())
    for name in told:
        assert (run / f"report-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_all_figures(tmp_path):
    run = write_run(tmp_path / "run", log=LOG.replace("0.6123", "nan"))
    report_of("--run", run)
    (found,) = json.loads((run / "report.json").read_text())["runs"]
    assert found["curves"]["loss"] == {"epochs": [1, 2], "values": [0.7, 0.5]}
    assert found["curves"]["val_loss"]["values"] == [0.6931, None]
    assert found["evaluations"]["test"]["report"] == EVALUATION
    assert found["evaluations"]["test"]["table"]["auc"]["baseline"] == 0.7123


def test_what_an_evaluation_tells_beyond_its_table(tmp_path):
    """Its curves, segments, calibration and intervals are figures and tables without a model."""
    intervals = {"auc_adapted": [0.7123, 0.8123], "auc_adapted_less_unadapted": [0.0123, None]}
    evaluation = EVALUATION | DETAILS | {"intervals": intervals}
    evaluation |= {"checkpoint": "epoch-000002", "chosen": "the best of two"}
    run = write_run(tmp_path / "run", evaluation=evaluation)
    report_of("--run", run)
    told = json.loads((run / "report.json").read_text())["figures"]
    assert "adapted ends at 0.75 (support rows of a task 5)" in told["support-rows"]["alt"]
    assert told["segments"]["title"] == "auc by age"
    assert "young 0.875; all others none" in told["segments"]["alt"]
    assert "calibration error adapted 0.062; unadapted 0.062" in told["calibration"]["alt"]
    texts = Reader((run / "report.html").read_text()).texts
    assert {"0.7123 to 0.8123", "0.0123 to –", "all others", "0.8750"} <= set(texts)
    assert "epoch-000002: the best of two." in " ".join(texts)
    assert "Not measured" not in " ".join(texts)


def test_texts_from_data_are_escaped(tmp_path):
    """The name of a run, of a field and of a segment, and options."""
    name = "<script>alert('$x$')</script>&\""
    evaluation = EVALUATION | {"baseline": "<b>item", "by_age": [{"value": "<i>", "auc": 0.25}]}
    run = write_run(
        tmp_path / name.replace("/", "_"),
        evaluation=evaluation,
        task_fields=["<u>"],
        model="factors",
    )
    report_of("--run", run)
    text = (run / "report.html").read_text()
    assert not re.search("<script|<b>|<i>|<u>", text)
    shown = Reader(text).texts
    assert any("<script>alert('$x$')<_script>&\"" in one for one in shown)
    assert any("the rate of each <b>item" in one for one in shown)
    assert "<i>" in shown
    assert "['<u>']" in shown


def test_two_runs_side_by_side(tmp_path):
    first = write_run(tmp_path / "first", learning_rate=0.5)
    other = EVALUATION | {"auc_adapted": 0.8765}
    second = write_run(tmp_path / "second", evaluation=other, log=LOG.replace("0.6234", "0.6789"))
    report_of("--run", first, "--against", second, "--output", tmp_path / "both.html")
    page = Reader((tmp_path / "both.html").read_text())
    assert {"0.7654", "0.8765"} <= set(page.texts)
    told = json.loads((tmp_path / "both.json").read_text())["figures"]
    assert "first: adapted ends at 0.6234" in told["validation-auc"]["alt"]
    assert "second: adapted ends at 0.6789" in told["validation-auc"]["alt"]
    options = page.texts[page.texts.index("option") :]
    assert options[:4] == ["option", "first", "second", "run"]
    assert options.index("learning_rate") < options.index("records")
    assert not (first / "report.html").exists()


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / one / "run") for one in "ab"]
    report_of("--run", runs[0], "--against", runs[1], "--output", tmp_path / "x.html")
    found = json.loads((tmp_path / "x.json").read_text())["runs"]
    assert [one["label"] for one in found] == [str(run) for run in runs]


def test_a_run_without_an_evaluation_or_an_epoch(tmp_path):
    run = write_run(tmp_path / "run", evaluation=None, log="")
    (run / "metrics.json").unlink()
    report_of("--run", run)
    shown = " ".join(Reader((run / "report.html").read_text()).texts)
    assert f"run `gmeta-tf evaluate --run {run} --split test`" in shown
    assert "No epoch has ended yet." in shown
    assert json.loads((run / "report.json").read_text())["figures"] == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation-test.json", "{", "evaluation-test.json is not JSON"),
        ("evaluation-test.json", "[1]", "expected a JSON object, got list"),
        ("evaluation-test.json", '{"auc_adapted": "x"}', "auc_adapted to be a number, got 'x'"),
        (
            "evaluation-test.json",
            '{"support": "ten"}',
            "expected support to be a number, got 'ten'",
        ),
        ("metrics.json", "nothing", "metrics.json is not JSON"),
        ("log.txt", "what?\n", "log.txt, line 1: expected `epoch 3"),
        ("config.yaml", "a: [", "does not hold"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error_and_no_page(
    tmp_path, capsys, name, content, message
):
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(SystemExit):
        report_of("--run", run)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (run / "report.html").exists()


def test_records_that_cannot_be_read(tmp_path, capsys):
    records = tmp_path / "records"
    records.mkdir()
    (records / "schema.json").write_text('{"splits": {"train": {}}}')
    run = write_run(tmp_path / "run", records=str(records))
    with pytest.raises(SystemExit):
        report_of("--run", run)
    assert "does not describe records: KeyError('tasks')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "none"], "none is not a run folder"),
        (["--run", "run", "--against", "none"], "none is not a run folder"),
        (["--run", "run", "--output", "x.pdf"], "expected --output to be an HTML file"),
        (["--run", "run", "--output", "no/x.html"], "the folder of --output no/x.html does not"),
        (["--run", "run", "--seed", "-1"], "expected --seed of at least 0"),
    ],
)
def test_wrong_words(tmp_path, monkeypatch, capsys, words, message):
    write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        report_of(*words)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        report_of("--run", run)
    assert "Install it: pip install 'gmeta_tf[report]'" in capsys.readouterr().err


def test_without_measuring_tensorflow_is_not_imported(tmp_path):
    """Its import takes longer than the page."""
    run = write_run(tmp_path / "run")
    script = (
        "import sys; from gmeta_tf.cli.main import main; "
        f"main(['report', '--no-measure', '--run', {str(run)!r}]); "
        "assert 'matplotlib' in sys.modules; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert (run / "report.html").is_file()
