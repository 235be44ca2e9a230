"""What `gmeta-tf COMMAND --help` and a wrong command line print: usage, and flags in groups."""

from __future__ import annotations

import argparse
import dataclasses
import re
import textwrap
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from gmeta_tf.cli.data_options import ReaderFlags
from gmeta_tf.cli.inner_options import InnerOptions
from gmeta_tf.cli.option_fields import Options, flag_of, help_of

__all__ = ["GROUPS", "CommandsParser", "HelpFormatter", "help_for_people", "usage_of"]

GROUPS: dict[type[Options], str] = {
    InnerOptions: "how tasks adapt by gradient steps",
    ReaderFlags: "how CSV and TSV files are written, where not in the usual way",
}
"""Flags that most people leave out, under a heading of their own; all others come before them."""


def help_for_people(kind: type[Options]) -> dict[str, str]:
    """Field -> its help, where a flag that is left out is "unset" and not Python's None.

    >>> from gmeta_tf.cli.options import ServeOptions
    >>> help_for_people(ServeOptions)["name"]
    "of the model in paths; unset is the folder's name."
    """
    return {name: _in_words(text) for name, text in help_of(kind).items()}


def _in_words(text: str) -> str:
    at_a_start = re.sub(r"(^|\.\s+)None\b", r"\1Unset", text)
    return re.sub(r"\bNone\b", "unset", at_a_start)


def usage_of(name: str, kind: type[Options]) -> str:
    """What has to be given: the first line of the command's help.

    >>> from gmeta_tf.cli.options import TrainOptions
    >>> usage_of("train", TrainOptions)
    'gmeta-tf train --records RECORDS --run RUN [flags]'
    """
    words = []
    for field in dataclasses.fields(kind):
        if field.metadata.get("positional"):
            words.append(field.name.upper() + (" ..." if "list" in str(field.type) else ""))
        elif field.default is field.default_factory is dataclasses.MISSING:
            words.append(f"{flag_of(field.name)} {field.name.upper()}")
    # On 80 columns, with "usage: " before it.
    return textwrap.fill(
        " ".join(["gmeta-tf", name, *words, "[flags]"]),
        72,
        subsequent_indent=" " * 15,
        break_on_hyphens=False,
    )


class CommandsParser(ArgumentParser):
    """The parser of all subcommands, which leaves errors of one to that one's own parser.

    Attributes:
        commands: name -> its parser; filled by who adds them.
    """

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.commands: dict[str, ArgumentParser] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints usage and the message, and exits with 2.

        What is missing is called `train.records` by the parser, and by its flag here.
        """
        missing = re.findall(r"([\w-]+)\.(\w+)", message) if _MISSING in message else []
        if not missing or missing[0][0] not in self.commands:
            super().error(message, ex)
        parser = self.commands[missing[0][0]]
        flags = {action.dest: action.option_strings for action in parser._actions}
        names = [flags[name][0] if flags[name] else name.upper() for _, name in missing]
        parser.error(f"expected {' and '.join(names)}, without which there is nothing to do.")


_MISSING = "arguments are required: "


class HelpFormatter(DefaultHelpFormatter):
    """The parser's help, without the names of Python's types and with lines of its own kept."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        has_own_lines = "\n  gmeta-tf " in text
        return text if has_own_lines else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        if "--print_config" in action.option_strings:
            return "print such a file of the flags that are given here, and stop"
        if isinstance(action, ActionConfigFile) or action.dest in ("help", "subcommand"):
            return super()._get_help_string(action)
        told = []
        if action.required:
            told.append("required")
        elif action.default is not None:
            told.append(f"default: {_shown(action.default)}")
        return f"{action.help}{f' ({told[0]})' if told else ''}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
