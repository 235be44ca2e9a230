"""How text files are read: what a schema's file says under `read`, and flags."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from gmeta_tf.allowed import ENCODINGS, FILE_FORMATS, QUOTINGS, check_word

__all__ = ["ReaderOptions"]

_LONGEST_SEPARATOR_BYTES = 4  # of DuckDB's


@dataclasses.dataclass(frozen=True)
class ReaderOptions:
    """How CSV and TSV files are written, where not in the usual way.

    Attributes:
        separator: what stands between cells, of up to four bytes, such as `";"` or `"::"`. None is
            the format's: a comma in CSV, a tab in TSV.
        quoting: `"minimal"`, where cells with separators, quotes or ends of lines are in quotes; or
            `"none"`, where a quote is a letter like others. None is `"minimal"`, unless the lines
            of a file are rows either way and the rows differ: that is an error.
        columns: the names of the columns of files without a header. None is the header's.
        null_words: cells that stand for a missing value, as an empty one does, such as `"NULL"` or
            `"\\\\N"`.
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
