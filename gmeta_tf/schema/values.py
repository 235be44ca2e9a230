"""What the values of a schema may be: their types, and the names that a file may state."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_names", "check_types", "described", "frozen", "is_a", "no_twice"]


def check_types(made: Any) -> None:
    """Checks that the values of a field, a table or a schema are of their types.

    Raises:
        ValueError: one that is not, or an empty text.
    """
    hints = typing.get_type_hints(type(made))
    owner = type(made).__name__
    if isinstance(name := getattr(made, "name", None), str) and name:
        owner = f"{owner} {name!r}"
    for member in dataclasses.fields(made):
        value, hint = getattr(made, member.name), hints[member.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if value is None and type(None) in kinds:
            continue
        known = [kind for kind in _EXPECTED if kind in kinds]
        if known and not any(is_a(value, kind) for kind in known):
            expected = " or ".join(_EXPECTED[kind] for kind in known)
            raise ValueError(
                f"{owner}: expected {member.name} to be {expected}, got {described(value)}."
                + _remedy(value, known[0])
            )


def check_names(
    where: str,
    values: object,
    kind: type,
    required: Sequence[str],
    unknown: Sequence[str] = (),
) -> None:
    """Checks the names of what a file states of a field, a table or the whole.

    Args:
        where: for messages, such as `fields[2]`.
        values: what it states.
        kind: the class that is made of it.
        required: what may not be missing.
        unknown: attributes that a file does not state.

    Raises:
        ValueError: no mapping, a name that the class does not have, or one that is missing.
    """
    known = [member.name for member in dataclasses.fields(kind) if member.name not in unknown]
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{where}: expected {', '.join(required or known)} and what else it has, each with its "
            "value, "
            f"got {described(values)}."
        )
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise ValueError(
                f"{where}: there is no {name!r} in it; known are {', '.join(known)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
    for name in required:
        if values.get(name) is None:
            raise ValueError(f"{where}: {name} is missing; required are {', '.join(required)}.")


def no_twice(what: str, names: Sequence[str]) -> None:
    """Raises where one of the names stands twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Schema: the {what} {twice[0]!r} stands twice. Give each its own name.")


_EXPECTED = {str: "a text", int: "an integer", float: "a finite number"}


def is_a(value: object, kind: type) -> bool:
    """Whether a value is a text that is not empty, an integer, or a finite number; no bool is."""
    if kind is str:
        return isinstance(value, str) and value != ""
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int)
    return isinstance(value, int | float) and math.isfinite(value)


def described(value: object) -> str:
    """What an error says of a value that is wrong."""
    return "an empty text" if value == "" else f"{value!r} (of type {type(value).__name__})"


def _remedy(value: object, kind: type) -> str:
    if kind is str and isinstance(value, int | float | datetime.date):
        return f" In YAML put it in quotes: {str(value)!r}."
    if kind is not str and isinstance(value, str) and value:
        return " Write it without quotes."
    return ""


def frozen(value: Any) -> Any:
    """A list as a tuple, and anything else as it is."""
    return tuple(value) if isinstance(value, list | tuple) else value
