"""Flags that take numbers: which of them was given a text that is none, or is in a file of flags.

jsonargparse reads them by Python's rule and by YAML's, which take `1_000`, `0x10` and `1:30`.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from gmeta_tf.cli.options import flag_of
from gmeta_tf.cli.yaml_file import flags_of
from gmeta_tf.number_texts import number, whole_number

__all__ = ["wrong_number"]

_Reading = Callable[[str], float]


def wrong_number(words: Sequence[str], kind: type) -> str | None:
    """What is wrong with the first flag whose text is no number by the rule of `number_texts`.

    Args:
        words: of a command line.
        kind: the dataclass of its options.

    Returns:
        The message, or None where there is nothing wrong.
    """
    readings = _readings_of(kind)
    flag, takes = "", 0.0
    for word in words:
        value = word
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            takes = readings[flag][1] if flag in readings else 0
            if not equals:
                continue
        if flag == "--config" and (problem := _wrong_in_file(value, readings)):
            return problem
        if takes > 0 and value != "null" and (problem := _wrong(value, flag, readings)):
            return problem
        takes -= 1
    return None


def _wrong_in_file(path: str, readings: Mapping[str, tuple[_Reading, float]]) -> str | None:
    try:
        values = flags_of(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # jsonargparse says what is wrong with the file
    for name, value in values.items() if isinstance(values, dict) else ():
        flag = f"--{name}".replace("_", "-")
        for one in (value if isinstance(value, list) else [value]) if flag in readings else ():
            if isinstance(one, str) and (problem := _wrong(one, flag, readings)):
                return f"{path}: {problem}"
    return None


def _wrong(text: str, flag: str, readings: Mapping[str, tuple[_Reading, float]]) -> str | None:
    try:
        readings[flag][0](text)
    except ValueError as error:
        return f"argument {flag}: {error}."
    return None


def _readings_of(kind: type) -> dict[str, tuple[_Reading, float]]:
    """Flag -> how its texts are read, and how many of them there may be."""
    readings: dict[str, tuple[_Reading, float]] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        types = list(_types_in(hints[field.name]))
        if (int in types or float in types) and str not in types:
            reading: _Reading = whole_number if int in types else number
            most = math.inf if list in types else 1
            readings[flag_of(field.name)] = reading, most
    return readings


def _types_in(hint: Any) -> typing.Iterator[Any]:
    """A hint's types: of `list[int] | None` list, int and None's."""
    yield typing.get_origin(hint) or hint
    for inner in typing.get_args(hint):
        yield from _types_in(inner)
