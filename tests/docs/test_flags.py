"""Each flag that a page, a script's call or a message of the library names is one that there is."""

import ast
import pathlib
import re

import pytest

from gmeta_tf.cli import main as cli

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
MODULES = sorted((ROOT / "gmeta_tf").rglob("*.py"))

# Flags of programs that are not ours.
OF_OTHERS = {
    *(
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--dest",
        "--retries",
        "--timeout",
    ),  # pip
    "--master",  # spark-submit
    *("--network-interfaces", "--gloo", "--ssh-identity-file"),  # horovodrun
    "--shm-size",  # docker
    *("--dir", "--tag_set", "--signature_def", "--input_exprs"),  # saved_model_cli
    "--fix",  # ruff
    "--strict",  # mkdocs
}
# Names that stand for any flag.
ANY_FLAG = {"--like-this", "--yes", "--no-yes"}

FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
CALL = re.compile(r"gmeta-tf (\w+(?:-\w+)*)((?:(?!gmeta-tf)[^`\n])*)")
OWNER = re.compile(r"^(\w+): ")


def flags_of_commands():
    """Command -> its parser's flags."""
    parsers = cli._parser()._subcommands_action._name_parser_map
    return {name: set(parser._option_string_actions) for name, parser in parsers.items()}


def flags_of_scripts():
    """Those of benchmarks, scripts and the fault campaign, by the code that reads them."""
    found = set()
    own = [ROOT / "gmeta_tf/cli/quickstart_report.py", ROOT / "tests/faults/__main__.py"]
    for path in (*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "launch").rglob("*.py"), *own):
        # The first argument of add_argument, or of a function that calls it.
        found |= set(re.findall(r"\(\s*\"(--[\w-]+)\"", path.read_text("utf-8")))
    for path in SCRIPTS:
        found |= set(re.findall(r"^ *(?:-\w \| )?(--[\w-]+)\)", path.read_text("utf-8"), re.M))
    return found


COMMANDS = flags_of_commands()
KNOWN = set().union(*COMMANDS.values()) | flags_of_scripts() | OF_OTHERS | ANY_FLAG


def unknown_in_calls(text):
    """Flags of `gmeta-tf COMMAND ...` that the command does not have."""
    text = text.replace("\\\n", " ")
    return [
        f"{command} {flag}"
        for command, words in CALL.findall(text)
        if command in COMMANDS
        for flag in FLAG.findall(words)
        if flag not in COMMANDS[command]
    ]


def unknown_in_text(text):
    """Those, and flags that nothing has."""
    return unknown_in_calls(text) + [flag for flag in FLAG.findall(text) if flag not in KNOWN]


def unknown_on_page(text):
    """Of Markdown, where a code span may go over two lines and a block's lines are single calls."""
    found = []
    for index, part in enumerate(re.split(r"^```.*$", text, flags=re.M)):
        is_block = index % 2 == 1
        found += unknown_in_text(part if is_block else re.sub(r"\s+", " ", part))
    return found


def texts_of(module):
    """The module's texts, f-strings with a gap for each value."""
    tree = ast.parse(module)
    within = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and id(node) not in within:
            yield str(node.value)


def unknown_in_module(module):
    found = []
    for text in texts_of(module):
        found += unknown_in_text(text)
        owner = OWNER.match(text)
        if owner and owner[1] in COMMANDS:
            flags = COMMANDS[owner[1]]
            # What follows ` -- ` is another command's.
            own = FLAG.findall(text.split(" -- ")[0])
            found += [f"{owner[1]} {flag}" for flag in own if flag not in flags]
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages(path):
    assert unknown_on_page(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_calls_of_scripts(path):
    assert unknown_in_calls(path.read_text(encoding="utf-8")) == []


def test_messages():
    found = {}
    for path in MODULES:
        if unknown := unknown_in_module(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = unknown
    assert found == {}


def test_exceptions_are_needed():
    """No flag is excepted that a command has, or that nothing names."""
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *MODULES)]
    named = {flag for text in texts for flag in FLAG.findall(text)}
    assert named >= OF_OTHERS | ANY_FLAG
    assert not (OF_OTHERS | ANY_FLAG) & set().union(*COMMANDS.values())


def test_there_is_something_to_check():
    calls = [CALL.findall(path.read_text(encoding="utf-8")) for path in (*PAGES, *SCRIPTS)]
    called = {command for found in calls for command, _ in found}
    assert called & set(COMMANDS) >= {"prepare", "inspect", "plan", "train", "evaluate", "export"}
    assert {"--checkpoint-every", "--no-validate", "--config", "--help"} <= COMMANDS["train"]
    assert "--warm-up" in flags_of_scripts()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pass `--made-up`.", ["--made-up"]),
        ("Lower --checkpoint_every.", ["--checkpoint_every"]),
        ("`gmeta-tf train\n--engine`", ["train --engine"]),
        ("```bash\ngmeta-tf train --tasks 3 \\\n  --engine spark\n```", ["train --engine"]),
        ("`gmeta-tf plan` knows `--engine` by `gmeta-tf prepare --engine`", []),
        ("```bash\ngmeta-tf train --run x\ngmeta-tf inspect x --verify\n```", []),
    ],
)
def test_a_made_up_flag_is_found_on_a_page(text, expected):
    assert unknown_on_page(text) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("raise ValueError(f'{run}: lower ' '--checkpoint_every')", ["--checkpoint_every"]),
        ("f'{run} is none: `gmeta-tf train --engine {name}`'", ["train --engine"]),
        ("'train: --engine is not known'", ["train --engine"]),
        ("# --made-up\n'train: --wire is not known'", []),
    ],
)
def test_a_made_up_flag_is_found_in_a_message(module, expected):
    assert unknown_in_module(module) == expected
