"""Ratings in one text file, a line each: user, item, rating, and a time where there is one.

Many data sets have this form and no more than it: Douban, Epinions, FilmTrust, Flixster, Ciao.
"""

from __future__ import annotations

import glob
import itertools
import os
import pathlib
import re
from collections.abc import Sequence

from gmeta_tf.meta_io.sources.reader_options import SEPARATORS, ReaderOptions, even_separator
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.number_texts import NUMBER
from gmeta_tf.schema import Field, Schema

__all__ = ["user_item_rating"]

_FILES = ("ratings.dat", "ratings.csv", "ratings.tsv", "ratings.txt", "ratings_data.txt")
_NAMES = ("user", "item", "rating", "time")
_LINES = 50


def user_item_rating(directory: str | os.PathLike[str]) -> tuple[Source, Schema]:
    """The ratings of a folder, and what they are: a task is a user, 4 and more is positive.

    The separator is what all of the first lines have equally often. A first line whose third cell
    is no number is a header, whatever names it has.

    Args:
        directory: a local folder with one of `ratings.dat`, `ratings.csv`, `ratings.tsv`,
            `ratings.txt` and `ratings_data.txt`.

    Raises:
        ValueError: none of the files or several of them, or lines of another form.
    """
    path = _file_in(pathlib.Path(directory))
    lines = _first_lines(path)
    separator = _separator(path, lines)
    cells = [line.split(separator) for line in lines]
    if len(cells[0]) not in (3, 4):
        raise ValueError(
            f"{path}: expected lines of user, item, rating and perhaps a time, got "
            f"{len(cells[0])} cells in {lines[0]!r}. Name the columns and write a schema: "
            "--columns NAME ..., --schema FILE."
        )
    has_header = not re.fullmatch(NUMBER, cells[0][2].strip(' "'))
    names = [cell.strip(' "') for cell in cells[0]] if has_header else list(_NAMES[: len(cells[0])])
    options = ReaderOptions(
        format="csv", separator=separator, columns=None if has_header else tuple(names)
    )
    source = files_source(glob.escape(os.fspath(path)), options=options)
    user, item, rating, *time = source.columns
    schema = Schema(
        (Field("item", column=item),),
        label=rating,
        task=user,
        time=time[0] if time else None,
        positive_from=4.0,
    )
    return source, schema


def _file_in(folder: pathlib.Path) -> pathlib.Path:
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in _FILES if (folder / name).is_file()]
    if len(found) == 1:
        return folder / found[0]
    raise ValueError(
        f"{folder}: expected one of {', '.join(_FILES)}, which the layout 'user-item-rating' is "
        f"read from; found {', '.join(found or there[:10]) or 'nothing'}. Name the folder of the "
        "file, and keep one in it."
    )


def _first_lines(path: pathlib.Path) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.rstrip("\n") for line in itertools.islice(file, _LINES)]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no rows: expected user, item and rating in each line.")
    return lines


def _separator(path: pathlib.Path, lines: Sequence[str]) -> str:
    found = even_separator(lines, None)
    if found is None and len({line.count(" ") for line in lines}) == 1 and " " in lines[0]:
        found = " "
    if found is None:
        shown = ", ".join(mark.replace("\t", "\\t") for mark in SEPARATORS)
        raise ValueError(
            f"{path}: expected lines with equally many of {shown} or spaces, got {lines[0]!r}. "
            "Write a schema, and say --separator, --columns and --schema for the file."
        )
    return found
