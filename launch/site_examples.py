"""For the site: the examples of docstrings are code."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example[^\n]*:\n((?:[ \t]+[^\n]*\n|\n)+)", re.MULTILINE)


def fenced(text: str) -> str:
    """A docstring whose examples are fenced blocks, which Markdown leaves as they are."""

    def block(found: re.Match[str]) -> str:
        code = textwrap.dedent(found[1]).strip("\n")
        kind = "pycon" if code.startswith(">>>") else "python"
        return f"**Example**\n\n```{kind}\n{code}\n```\n\n"

    return _EXAMPLE.sub(block, f"{text}\n").rstrip("\n")


class FencedExamples(griffe.Extension):
    """Fences the examples of every object that the site shows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object, once all of it is known."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
