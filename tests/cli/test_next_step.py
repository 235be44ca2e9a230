"""At a terminal each command says how far it is, and what to type next; elsewhere neither."""

import io

import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.next_step import tell_next


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("words", "stages", "command"),
    [
        (
            ["check", "--schema", "schema.yaml", "--input", "log.csv", "--support", "1"],
            ["reading"],
            "gmeta-tf prepare --schema schema.yaml --input log.csv --output records",
        ),
        (
            ["prepare", "--schema", "schema.yaml", "--input", "log.csv", "--output", "again"],
            ["reading"],
            "gmeta-tf train --records again --run run",
        ),
        (
            ["evaluate", "--run", "run"],
            ["loading the model", "evaluating", "counting the baseline"],
            "gmeta-tf report --run run",
        ),
        (["evaluate", "--run", "run", "--json"], [], ""),
        (
            ["export", "--run", "run", "--output", "to serve"],
            ["loading the model", "writing the SavedModel"],
            "gmeta-tf play --saved-model 'to serve'",
        ),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_a_command_at_a_terminal(words, stages, command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    cli.main(words)
    lines = terminal.getvalue().replace("\r", "\n").splitlines()
    assert [one for one in lines if one.startswith("next: ")] == [f"next: {command}"] * bool(
        command
    )
    for stage in stages:
        assert [one for one in lines if one.startswith(f"{stage} ")][-1].endswith(" s")
    if not stages:
        assert lines == []


def test_what_is_no_terminal_is_told_nothing(capsys):
    tell_next("gmeta-tf", "train")
    assert capsys.readouterr() == ("", "")
