"""YAML files that people write: what is wrong with one is told in a line, with its place."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML's safe types; a name that stands twice in a mapping is an error, as YAML 1.2 has it."""

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
