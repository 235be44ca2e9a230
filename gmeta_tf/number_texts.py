"""What text is a number: one rule for logs, options, YAML files and the environment.

A number is ASCII digits with at most one decimal point, a sign before them and an exponent after
them if need be, and ASCII white space around. Python's `float` and DuckDB's casts also take
`1_000`, Python other scripts' digits and white space, and both `inf` and `nan`: what one place
reads as a number, another would then reject.
"""

from __future__ import annotations

import re

__all__ = ["NUMBER", "WHITE_SPACE", "number", "whole_number"]

WHITE_SPACE = " \t\n\r\x0b\x0c"
_WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""The pattern of a number without white space around it."""


def number(text: str) -> float:
    """The number that a text is.

    Example:
        >>> number(" 1e-3 "), number(".5")
        (0.001, 0.5)
        >>> number("1_000")
        Traceback (most recent call last):
        ValueError: expected a number such as 0.5 or 1e-3, got '1_000'

    Raises:
        ValueError: it is none. Numbers beyond the largest double are infinite, as elsewhere.
    """
    if not re.fullmatch(NUMBER, text.strip(WHITE_SPACE)):
        raise ValueError(f"expected a number such as 0.5 or 1e-3, got {text!r}")
    return float(text)


def whole_number(text: str) -> int:
    """The whole number that a text is.

    Example:
        >>> whole_number("-12")
        -12

    Raises:
        ValueError: it is none.
    """
    if not _WHOLE.fullmatch(text.strip(WHITE_SPACE)):
        raise ValueError(f"expected a whole number such as 12, got {text!r}")
    return int(text)
