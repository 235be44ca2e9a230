"""How text files are read: what a schema's file says under `read`, and flags."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from gmeta_tf.allowed import ENCODINGS, FILE_FORMATS, QUOTINGS, check_word

__all__ = ["SEPARATORS", "ReaderOptions", "even_separator"]

SEPARATORS = ("::", "\t", ";", "|", ",")
"""Those that are looked for where none is stated."""

_LONGEST_SEPARATOR_BYTES = 4  # of DuckDB's
_ESCAPES = ('"', "\\")


@dataclasses.dataclass(frozen=True)
class ReaderOptions:
    """How CSV and TSV files are written, where not in the usual way.

    Attributes:
        separator: what stands between cells, of up to four bytes, such as `";"` or `"::"`. None is
            the format's: a comma in CSV, a tab in TSV; or, where the header has none of those, what
            all of the first lines have equally often.
        quoting: `"minimal"`, where cells with separators, quotes or ends of lines are in quotes; or
            `"none"`, where a quote is a letter like others. None is `"minimal"`, unless the lines
            of a file are rows either way and the rows differ: that is an error.
        columns: the names of the columns of files without a header. None is the header's.
        null_words: cells that stand for a missing value, as an empty one does, such as `"NULL"` or
            `"\\\\N"`.
        escape: what stands before a quote within quotes. None is the quote itself, `""`; a
            backslash is `"\\\\"`.
        encoding: `"utf-8"`, `"latin-1"` or `"utf-16"`.
        format: `"csv"` or `"tsv"` for files of any ending. None goes by the ending.

    Raises:
        ValueError: a value that is none of these.

    Example:
        >>> ReaderOptions(separator=";", null_words=("NULL",)).is_default
        False
    """

    separator: str | None = None
    quoting: str | None = None
    columns: tuple[str, ...] | None = None
    null_words: tuple[str, ...] = ()
    escape: str | None = None
    encoding: str = "utf-8"
    format: str | None = None

    def __post_init__(self) -> None:
        for name in ("columns", "null_words"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if self.quoting is not None:
            check_word("quoting", self.quoting, QUOTINGS)
        check_word("encoding", self.encoding, ENCODINGS)
        if self.format is not None:
            check_word("format", self.format, FILE_FORMATS)
        self._check_separator()
        self._check_columns()
        if self.escape is not None and (self.escape not in _ESCAPES or self.quoting == "none"):
            raise ValueError(
                f"expected escape to be one of {' '.join(_ESCAPES)}, and cells to be quoted, got "
                f"{self.escape!r} with quoting {self.quoting!r}. Leave one of them out."
            )

    def _check_separator(self) -> None:
        if self.separator == "\\t":  # as it is typed in a shell
            object.__setattr__(self, "separator", "\t")
        separator = self.separator
        if separator is None:
            return
        if not isinstance(separator, str) or not (
            1 <= len(separator.encode()) <= _LONGEST_SEPARATOR_BYTES
        ):
            raise ValueError(
                "expected separator to be a text of 1 to 4 bytes, such as ';' or '::', got "
                f"{separator!r}."
            )
        if set(separator) & set('"\r\n\0'):
            raise ValueError(
                "expected separator to be without quotes and ends of lines, got "
                f"{separator!r}. Write the files with another one."
            )

    def _check_columns(self) -> None:
        columns = self.columns
        if columns is None:
            return
        if not columns or not all(columns):
            raise ValueError(
                f"expected columns to name every column of the files, got {list(columns)}. Leave "
                "it out where the files have a header."
            )
        lower = [column.lower() for column in columns]
        twice = [column for column in columns if lower.count(column.lower()) > 1]
        if twice:
            raise ValueError(
                f"expected columns to name each column once, got {', '.join(twice)} (names that "
                "differ by case alone are the same). Rename them."
            )

    @property
    def is_default(self) -> bool:
        """Whether nothing is asked for."""
        return self == ReaderOptions()

    @property
    def quote(self) -> str:
        """The quote, as DuckDB takes it; empty where none is."""
        return "" if self.quoting == "none" else '"'

    @property
    def escape_letter(self) -> str:
        """What stands before a quote within quotes, as DuckDB takes it."""
        return (self.escape or self.quote) if self.quote else ""

    @classmethod
    def from_json(cls, values: Any) -> ReaderOptions:
        """Reads what a person wrote under `read` in a schema's file.

        Raises:
            ValueError: no mapping, a name that is not known, or a value that does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping):
            raise ValueError(
                f"read: expected {', '.join(known)}, each with its value, got {values!r}."
            )
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ValueError(
                    f"read: there is no {name!r} in it; known are {', '.join(known)}."
                    + (f" Did you mean {near[0]!r}?" if near else "")
                )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"read: {error}") from error


def even_separator(lines: Sequence[str], usual: str | None) -> str | None:
    """What all lines have equally often; None where nothing is.

    Args:
        lines: the first ones of a file, without empty ones.
        usual: the format's own, which is taken where it fits; None has none.

    Example:
        >>> even_separator(["1::7::5", "1::9::3"], ",")
        '::'
    """
    counts = {mark: {line.count(mark) for line in lines} for mark in SEPARATORS}
    even = {mark: next(iter(found)) for mark, found in counts.items() if len(found) == 1}
    even = {mark: count for mark, count in even.items() if count}
    if usual in even:
        return usual
    # Of several the most frequent one; `::` before what it is made of.
    return max(even, key=lambda mark: (even[mark], -SEPARATORS.index(mark)), default=None)


def _texts(name: str, values: Any) -> tuple[str, ...] | None:
    """A list of texts as a tuple; None stays None."""
    if values is None:
        return None if name == "columns" else ()
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise ValueError(
            f"expected {name} to be a list of texts, got {values!r}. In YAML put numbers and null "
            "in quotes."
        )
    return tuple(values)
