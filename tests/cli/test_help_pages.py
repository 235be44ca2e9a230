"""Each --help on a terminal of 80 columns, as somebody reads it who knows no Python."""

import os
import re

import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.cli.help_pages import GROUPS, usage_of


def shown(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", [None, *cli._COMMANDS])
def test_a_page_fits_and_has_no_words_of_python(name, capsys, monkeypatch):
    lines = shown([name] if name else [], capsys, monkeypatch)
    assert [line for line in lines if len(line) >= 80] == []
    text = "\n".join(lines)
    of_python = r"(?<!-)\b(?:None|null|NoneType|True|False|type: \w+)\b"
    assert re.findall(of_python, text) == []
    if name:
        # What has to be given stands in the usage, and nothing else.
        usage = usage_of(name, cli._COMMANDS[name][0])
        assert text.startswith(f"usage: {usage}\n\n")
        explained = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
        required = [one.split()[0] for one in explained if "(required)" in " ".join(one.split())]
        assert sorted(required) == sorted(re.findall(r"--[\w-]+", usage))


def test_flags_that_most_leave_out_come_last_under_one_heading(capsys, monkeypatch):
    for name, (kind, _) in cli._COMMANDS.items():
        lines = shown([name], capsys, monkeypatch)
        headings = [line[:-1] for line in lines if re.match(r"[a-z].*:$", line)]
        groups = [title for group, title in GROUPS.items() if issubclass(kind, group)]
        assert headings[-1 - len(groups) :] == ["options", *groups]
    lines = shown(["prepare"], capsys, monkeypatch)
    starts = [line.split()[0] for line in lines if line.startswith("  --")]
    assert starts.index("--output") < starts.index("--input") < starts.index("--separator")


def test_a_flag_that_is_left_out_has_its_default_beside_it(capsys, monkeypatch):
    page = " ".join(" ".join(shown(["train"], capsys, monkeypatch)).split())
    assert (
        "--hidden HIDDEN [HIDDEN ...] the widths of the hidden layers; factors has none. " in page
    )
    assert "(default: 64 64)" in page
    assert "--resume, --no-resume go on from the run's last checkpoint. (default: no)" in page
    assert "unset is 0.002, and of factors 0.01. --weight-decay" in page


@pytest.mark.parametrize(
    ("words", "usage", "message"),
    [
        (["train"], "gmeta-tf train --records", "expected --records and --run, without which"),
        (["schema"], "gmeta-tf schema ACTION", "expected ACTION and FILES, without which"),
        (["train", "--rekords", "x"], "gmeta-tf train --records", "arguments: --rekords x"),
        (
            ["train", "--records", "r", "--run", "x", "--epochs", "three"],
            "gmeta-tf train --records",
            "argument --epochs: expected a whole number such as 12, got 'three'.",
        ),
        (["trian"], "gmeta-tf COMMAND", "argument COMMAND: invalid choice: 'trian'"),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_a_wrong_command_line(words, usage, message, capsys, monkeypatch):
    """Usage, where to read on, and what is wrong: of the command that was meant."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"usage: {usage}")
    of_command = "" if usage.endswith("COMMAND") else f" {words[0]}"
    assert f"tip: For details of accepted options run: gmeta-tf{of_command} --help" in others
    assert others[-1].startswith("error: ")
    assert message in others[-1]
    assert "." not in message.split("expected")[0].replace("...", "")  # no train.records


def test_no_words_show_the_way(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "with data of your own" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("level", [None, "0"])
def test_tensorflows_notices_are_left_out_unless_somebody_asks_for_them(level, monkeypatch, capsys):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level or "")
    if level is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--run", "no such run"])
    assert "no such run is not a run folder" in capsys.readouterr().err
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == (level or "2")
