"""For the site: what Python-Markdown does not read as GitHub does."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The files that blocks are, ```csv log.csv, as titles: otherwise they would not be blocks."""
    return re.sub(r'^```(\w+) ([^\s"]+)$', r'```\1 title="\2"', markdown, flags=re.MULTILINE)
