"""What classes of options are made of: fields with their words and ranges, and their flags."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import docstring_parser

from gmeta_tf.allowed import check_word

__all__ = [
    "ABOVE_0",
    "AT_LEAST_0",
    "AT_LEAST_1",
    "AT_LEAST_2",
    "FINITE",
    "FRACTION",
    "ORDER",
    "PORT",
    "RATE",
    "SEED",
    "SHARE",
    "Options",
    "Range",
    "check_metric_names",
    "description_of",
    "flag_of",
    "help_of",
    "number",
    "of_model",
    "required_number",
    "word",
]


class Range(NamedTuple):
    """Which numbers an option takes, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Range("of at least 0", lambda number: number >= 0)
AT_LEAST_1 = Range("of at least 1", lambda number: number >= 1)
AT_LEAST_2 = Range("of at least 2", lambda number: number >= 2)
FRACTION = Range("of at least 0 and below 1", lambda number: 0 <= number < 1)
SHARE = Range("above 0 and at most 1", lambda number: 0 < number <= 1)
FINITE = Range("to be a finite number", math.isfinite)
RATE = Range("to be a finite number of at least 0", lambda number: 0 <= number < math.inf)
ABOVE_0 = Range("to be a finite number above 0", lambda number: 0 < number < math.inf)
SEED = Range("of at least 0 and below 2**32", lambda number: 0 <= number < 2**32)
PORT = Range("of at least 0 and below 65536", lambda number: 0 <= number < 65536)
ORDER = Range("to be 1 or 2", lambda number: number in (1, 2))


def number(default: Any, of: Range) -> Any:
    return dataclasses.field(default=default, metadata={"range": of})


def required_number(of: Range) -> Any:
    return dataclasses.field(metadata={"range": of})


def word(default: str | None, of: Collection[str]) -> Any:
    return dataclasses.field(default=default, metadata={"words": of})


def of_model(of: Range | None = None, words: Collection[str] | None = None) -> Any:
    """An option that is None until `_fill_in` gives it what suits the model."""
    metadata = {"range": of} if words is None else {"words": words}
    return dataclasses.field(default=None, metadata=metadata)


def flag_of(name: str) -> str:
    """The flag of a field.

    >>> flag_of("row_optimizer")
    '--row-optimizer'
    """
    return f"--{name.replace('_', '-')}"


def description_of(kind: type[Options]) -> str:
    """What a class of options says of its subcommand."""
    return docstring_parser.parse(kind.__doc__ or "").description or ""


def help_of(kind: type[Options]) -> dict[str, str]:
    """Field -> its help, from the docstrings of the class and of those that it extends.

    `{words}` there stands for the words that the field takes.
    """
    documented: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        params = docstring_parser.parse(one.__doc__ or "").params
        documented |= {param.arg_name: param.description or "" for param in params}
    for field in dataclasses.fields(kind):
        words = ", ".join(map(str, field.metadata.get("words", ())))
        if field.name in documented:
            documented[field.name] = documented[field.name].replace("{words}", words)
    return documented


@dataclasses.dataclass(frozen=True)
class Options:
    """Checks each field's words and range.

    Raises:
        ValueError: a value that is not among the words, or out of its range.
    """

    def __post_init__(self) -> None:
        self._fill_in()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            named = f"{self._command()}: {flag_of(field.name)}"
            if "words" in field.metadata:
                check_word(named, value, field.metadata["words"])
            of: Range | None = field.metadata.get("range")
            for number in value if isinstance(value, list) else [value]:
                if of is not None and not of.holds(number):
                    raise ValueError(
                        f"{self._command()}: expected {flag_of(field.name)} {of.expected}, "
                        f"got {number}."
                    )

    def _fill_in(self) -> None:
        """Gives options that were not given what suits the others."""
        return  # most commands have no such options

    @classmethod
    def _command(cls) -> str:
        words = re.findall("[A-Z][a-z]*", cls.__name__.removesuffix("Options"))
        return "-".join(words).lower()


def check_metric_names(names: list[str] | None) -> None:
    from gmeta_tf.evaluation.metrics import metric  # NumPy, for which --help need not wait

    for name in names or ():
        metric(name)
