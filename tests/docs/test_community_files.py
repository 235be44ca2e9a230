"""What contributors and forges read: each file parses, and what it names is there."""

import pathlib
import re
import shlex

import pytest
import yaml

from gmeta_tf.cli import main as cli

ROOT = pathlib.Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
SCRIPT = re.compile(r"launch/[\w-]+\.sh")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_pre_commit_is_the_gates_ruff():
    """Its commands are those of launch/test.sh, by the same ruff, on Python files."""
    (repo,) = read(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repo["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format"}
    gate = (ROOT / "launch/test.sh").read_text()
    for hook in hooks.values():
        assert (hook["language"], hook["types_or"]) == ("system", ["python", "pyi"])
        program, *words = shlex.split(hook["entry"])
        assert program == ".venv/bin/ruff"
        assert (ROOT / program).is_file()
        assert re.search(rf"check ruff {' '.join(words[:-1])}\b", gate)
        assert words[-1] == "--force-exclude"  # pyproject's excludes, for files given by name


def test_the_public_workflow_runs_the_two_commands_of_the_readme():
    workflow = read(".github/workflows/ci.yml")
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert sorted(commands) == ["bash launch/quickstart.sh", "bash launch/test.sh"]
    readme = (ROOT / "README.md").read_text()
    assert all(re.search(rf"^{re.escape(one)} ", readme, re.M) for one in commands)
    assert all((ROOT / one.split()[1]).is_file() for one in commands)
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
    for job in workflow["jobs"].values():
        assert set(job) == {"runs-on", "timeout-minutes", "steps"}
        assert job["steps"][0]["uses"].startswith("actions/checkout@")


def test_the_workflows_cache_is_keyed_by_files_that_are_there():
    (cached,) = [
        s for s in steps(read(".github/workflows/ci.yml")) if "cache@" in s.get("uses", "")
    ]
    patterns = re.findall(r"'([^']+)'", cached["with"]["key"])
    assert len(patterns) == 4
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    script = (ROOT / "launch/setup.sh").read_text()
    assert cached["with"]["path"] == "~/.cache/gmeta_tf"
    assert "cache=${GMETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gmeta_tf}" in script


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert set(form) == {"name", "description", "labels", "body"}
    assert all(part["type"] == "textarea" for part in form["body"])
    assert all({"id", "attributes"} <= set(part) for part in form["body"])
    assert all(part["attributes"]["label"] for part in form["body"])
    names = [part["id"] for part in form["body"]]
    assert len(set(names)) == len(names)
    assert any(part.get("validations") == {"required": True} for part in form["body"])


def test_there_are_issue_forms():
    assert {path.name for path in FORMS} == {"bug.yml", "idea.yml", "config.yml"}


@pytest.mark.parametrize("name", ["SECURITY.md", ".github/ISSUE_TEMPLATE/bug.yml"])
def test_commands_that_are_named_exist(name):
    parsers = cli._parser()._subcommands_action._name_parser_map
    text = re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
    calls = re.findall(r"`gmeta-tf (\w+)([^`]*)`", text)
    assert calls
    for command, words in calls:
        assert command in parsers
        flags = set(re.findall(r"--[\w-]+", words))
        assert flags <= set(parsers[command]._option_string_actions)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = read("CITATION.cff")
    setup = (ROOT / "setup.py").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f'version="{citation["version"]}"' in setup
    assert f'license="{citation["license"]}"' in setup
    (paper,) = citation["references"]
    assert f"doi {paper['doi']}" in (ROOT / "docs/architecture.md").read_text()
    assert (paper["year"], paper["authors"][0]["family-names"]) == (2023, "Xiao")


def test_what_security_says_of_files_holds():
    """No pickles, and YAML by a safe loader alone."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "gmeta_tf").rglob("*.py")]
    text = "\n".join(sources)
    assert "SafeLoader" in text
    assert not re.search(r"^import pickle|^from pickle|allow_pickle=True|yaml\.unsafe", text, re.M)


def test_contributing_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "pre-commit install" in text
    named = set(SCRIPT.findall(text))
    assert {"launch/setup.sh", "launch/test.sh"} <= named
    assert all((ROOT / name).is_file() for name in named)
    assert "SECURITY.md" in text
