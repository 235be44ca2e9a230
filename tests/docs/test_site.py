"""The site of docs/: every page is in it, it builds without a warning, and its commands run."""

import importlib.metadata
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import gmeta_tf as gm
from gmeta_tf.cli.main import main

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages_of(entries):
    """The files that a navigation names."""
    for entry in entries:
        ((_, target),) = entry.items()
        yield from pages_of(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_navigation():
    named = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    there = [path.name for path in DOCS.glob("*.md")]
    missing = sorted(set(there) - set(named))
    assert missing == [], f"add {', '.join(missing)} to `nav` of mkdocs.yml"
    assert sorted(named) == sorted(there)


def test_the_api_page_has_every_public_name():
    shown = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    of_library = [name for name in shown if name.startswith("gmeta_tf.")]
    expected = {f"{home}.{name}" for name, home in gm._HOME.items() if name != "models"}
    assert sorted(of_library) == sorted(expected)
    learners = {f"models.{path.stem}" for path in (ROOT / "models").glob("*.py")}
    shown_learners = set(shown) - expected
    assert learners - shown_learners == {
        "models.__init__",
        "models.inputs",
        "models.support_encoder",
    }
    assert shown_learners <= learners


def test_extras_are_documented():
    extras = set(importlib.metadata.metadata("gmeta_tf").get_all("Provides-Extra"))
    section = (DOCS / "index.md").read_text("utf-8").split("## What to install")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == extras


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed: the extra docs")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.html")}
    assert len(shown) == len(list(DOCS.glob("*.md"))) + 1  # 404.html
    # A block that Markdown does not know as one would be a paragraph with quotes.
    assert [name for name, text in shown.items() if "```" in text] == []
    assert "MetaModel" in shown["api.html"]
    # Examples of docstrings are code.
    assert '<span class="gp">&gt;&gt;&gt; </span>' in shown["api.html"]


def run_page(name):
    """Writes the files of a page to the current folder and runs its commands; their names."""
    ran = []
    text = (DOCS / name).read_text("utf-8")
    for kind, file, block in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.S | re.M):
        if file:
            pathlib.Path(file).write_text(block, encoding="utf-8")
        elif kind == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "gmeta-tf"
                main(words)
                ran.append(words[0])
        elif kind == "python":
            exec(compile(block, name, "exec"), {})
            ran.append(kind)
    return ran


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_folder")
def test_getting_started(capsys):
    assert run_page("index.md") == [
        *("schema", "check", "prepare", "train", "evaluate", "report", "export")
    ]
    assert pathlib.Path("run/report.html").is_file()
    capsys.readouterr()
    from gmeta_tf.cli.options import PlayOptions
    from gmeta_tf.cli.play import labels_to_give, newcomer_of

    options = PlayOptions(saved_model="run/saved_model", names="films.csv")
    predictor = gm.Predictor.load("run/saved_model")
    newcomer = newcomer_of(options, predictor)
    assert set(newcomer.catalogue.names) <= {"Alien", "Brazil", "Casino", "Dogma"}
    low, high = labels_to_give(options, predictor.schema)
    assert newcomer.recommend({0: high}).adapted != newcomer.recommend({0: low}).adapted


@pytest.mark.usefixtures("in_a_folder")
def test_the_schema_page():
    pathlib.Path("films.csv").write_text("film,genre,price\na,Drama|War,3\nb,Drama,\n")
    lines = [f"u{user};{film};a;s;{user % 5 + 1};{user};1" for user in range(9) for film in "ab"]
    header = "user;film;last_film;shop;stars;when;importance"
    pathlib.Path("log.csv").write_text("\n".join([header, *lines]))
    assert run_page("schema.md") == []
    main(["prepare", "--schema", "schema.yaml", "--input", "log.csv", "--output", "records"])
    schema = gm.Records.open("records").schema
    assert [field.kind for field in schema.fields] == [
        *("categorical", "categorical", "multi", "dense", "categorical", "multi", "multi")
    ]


@pytest.mark.usefixtures("in_a_folder")
def test_from_recbole():
    assert run_page("from_recbole.md") == ["prepare"]
    records = gm.Records.open("records")
    assert sum(one.rows for one in records.contents.values()) == 9
    assert [field.name for field in records.schema.fields] == ["item", "genre"]


def test_from_torchrec():
    assert run_page("from_torchrec.md") == ["python"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_folder")
def test_tuning(folder_of_records):
    pathlib.Path("records").symlink_to(folder_of_records)
    assert run_page("tuning.md") == ["train", "train", "report"]
    assert "run-b" in pathlib.Path("run-a/report.html").read_text("utf-8")


@pytest.fixture
def folder_of_records(tmp_path_factory):
    from made_log import SCHEMA, write_log

    folder = tmp_path_factory.mktemp("tuning")
    write_log(folder / "log.csv", num_tasks=40)
    split = gm.Split(0.2, 0.2)
    source = gm.files_source(str(folder / "log.csv"))
    gm.prepare(source, SCHEMA, str(folder / "records"), split=split, num_files=2)
    return folder / "records"
