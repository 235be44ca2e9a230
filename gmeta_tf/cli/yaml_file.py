"""YAML files that people write: what is wrong with one is told in a line, with its place."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import yaml

from gmeta_tf import number_texts

__all__ = ["flags_of", "read_yaml"]

_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_FIRST_LETTERS = "+-.0123456789"


class _Loader(yaml.SafeLoader):
    """YAML's safe types; a name that stands twice in a mapping is an error, as YAML 1.2 has it.

    Of what YAML 1.1 takes for numbers, `1_000`, `010` (which is 8), `1:30` (which is 90), `0x1F`,
    `.inf` and `.nan` stay texts: they are no numbers by the rule of `number_texts`. What a YAML
    library writes as a text without quotes, such as `1e5`, stays one too. So do `on`, `off`, `yes`,
    `no`, `y` and `n`, which may be names or values of the data: `true` and `false` alone are truth
    values, as YAML 1.2 has it.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value != "<<":
                if name.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{name.value!r} stands twice; leave one of them out",
                        problem_mark=name.start_mark,
                    )
                seen.add(name.value)
        return super().construct_mapping(node, deep)


class _FlagsLoader(yaml.SafeLoader):
    """Of files of flags: every number by the rule of `number_texts`."""


def _only_numbers_of(loader: type[yaml.SafeLoader], integers: str, floats: str) -> None:
    of_letter = {
        letter: [(tag, pattern) for tag, pattern in found if tag not in (_INTEGER, _FLOAT)]
        for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader.yaml_implicit_resolvers = of_letter
    loader.add_implicit_resolver(_INTEGER, re.compile(f"(?:{integers})$"), list(_FIRST_LETTERS))
    loader.add_implicit_resolver(_FLOAT, re.compile(f"(?:{floats})$"), list(_FIRST_LETTERS))


_BOOLEAN = "tag:yaml.org,2002:bool"


def _only_true_and_false(loader: type[yaml.SafeLoader]) -> None:
    loader.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in found if tag != _BOOLEAN]
        for letter, found in loader.yaml_implicit_resolvers.items()
    }
    truth = re.compile("(?:true|True|TRUE|false|False|FALSE)$")
    loader.add_implicit_resolver(_BOOLEAN, truth, list("tTfF"))


_only_numbers_of(
    _Loader,
    "[-+]?(?:0|[1-9][0-9]*)",
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?",
)
_only_true_and_false(_Loader)
_only_numbers_of(_FlagsLoader, "[-+]?[0-9]+", number_texts.NUMBER)
# YAML's own takes 010 for 8.
_FlagsLoader.add_constructor(_INTEGER, lambda _, node: number_texts.whole_number(node.value))


def flags_of(text: str) -> Any:
    """The values in YAML of flags.

    Example:
        >>> flags_of("{learning_rate: 1e-3, tasks: 1_000}")
        {'learning_rate': 0.001, 'tasks': '1_000'}
    """
    return yaml.load(text, _FlagsLoader)


def read_yaml(path: str | pathlib.Path, holds: str) -> dict[str, Any]:
    """Reads a file of names and values, YAML or JSON.

    Args:
        path: a file.
        holds: what it should hold, for messages.

    Raises:
        ValueError: it is not YAML, a name stands twice, or it is no mapping; with the place.
        OSError: it cannot be read.
    """
    path = pathlib.Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{path}{place}: {error.problem}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8, got the byte {error.object[error.start]:#04x} at the place "
            f"{error.start}. Save it as UTF-8."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A character that YAML forbids; a date that no calendar has; nesting without end.
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected {holds}, got {type(values).__name__}.")
    return values
