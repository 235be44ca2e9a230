"""MovieLens, in the three layouts that people have it in, as a source of raw rows."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence

from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.sources.sources import Source, source_files
from gmeta_tf.schema import Field, Schema

__all__ = ["movielens_100k", "movielens_items", "movielens_schema", "movielens_source"]

_PACKAGE = "recbole==1.2.1"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k"
_REMEDY = (
    "Without a network get ml-100k.zip or ml-1m.zip from https://grouplens.org/datasets/movielens, "
    "unpack it and give its folder: --movielens DIR (launch/quickstart.sh --data DIR)."
)
_RECBOLE_FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")
_100K_FILES = ("u.data", "u.user", "u.item")
_1M_FILES = ("ratings.dat", "users.dat", "movies.dat")

# In the order of the flag columns of `u.item`.
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def movielens_schema() -> Schema:
    """The schema of what `movielens_source` gives: a task is a user, a rating from 4 is a 1."""
    return Schema(
        (
            Field("item", column="item_id"),
            Field("genre", "multi", max_values=6),
            Field("year"),
            Field("age"),
            Field("gender"),
            Field("occupation"),
            Field("zip_area"),
        ),
        label="rating",
        task="user_id",
        time="timestamp",
        positive_from=4.0,
    )


def movielens_100k(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The folder of MovieLens-100k, downloaded the first time.

    The files come out of the `recbole` package, whose hash is checked. GroupLens' licence allows
    research use and forbids redistribution (https://files.grouplens.org/datasets/movielens/
    ml-100k-README.txt): neither commit the files nor publish anything that contains them.

    Args:
        cache: where the folder is made. None is `$GMETA_DATA`, else `~/.cache/gmeta_tf`.

    Raises:
        ConnectionError: the package cannot be downloaded; says from where, and why.
        ValueError: what was downloaded has another hash.
    """
    if cache is None:
        cache = os.environ.get("GMETA_DATA") or pathlib.Path.home() / ".cache" / "gmeta_tf"
    folder = pathlib.Path(cache) / "ml-100k"
    if _has(folder, _RECBOLE_FILES):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as work:
        wheel = _download(pathlib.Path(work))
        with zipfile.ZipFile(wheel) as archive:
            for name in _RECBOLE_FILES:
                extracted = pathlib.Path(work) / name
                extracted.write_bytes(archive.read(f"{_FOLDER_IN_WHEEL}/{name}"))
                to_disk(extracted)
        # Each file appears whole, and a second process that does the same writes the same bytes.
        for name in _RECBOLE_FILES:
            (pathlib.Path(work) / name).replace(folder / name)
    return folder


def movielens_source(directory: str | os.PathLike[str]) -> Source:
    """The ratings of a MovieLens folder with what is known of their users and items.

    The layouts: GroupLens' ml-100k (`u.data`, `u.user`, `u.item`), GroupLens' ml-1m (`ratings.dat`,
    `users.dat`, `movies.dat`) and what `movielens_100k` downloads. Each gives the columns user_id,
    item_id, rating, timestamp, age, gender, occupation, zip, zip_area (the zip's first two
    characters), genre (joined by "|") and year (of the release). Ages and occupations of ml-1m are
    the codes of its README.

    Raises:
        ValueError: the folder is in none of these layouts.
    """
    folder = pathlib.Path(directory)
    names, queries = _layout_of(folder)
    return Source(
        f"MovieLens in {folder}",
        _joined(*queries),
        row="row",
        files=source_files(folder / name for name in names),
    )


def movielens_items(directory: str | os.PathLike[str]) -> Source:
    """The films of a MovieLens folder, for people to read: item_id, title, genre and year.

    Titles are without the year, and begin with their article ("The Net", not "Net, The").

    Raises:
        ValueError: the folder is in none of the layouts of `movielens_source`.
    """
    folder = pathlib.Path(directory)
    names, (_, _, items) = _layout_of(folder)
    articles = "The|A|An|L''|La|Le|Les|Il|Lo|El|Los|Das|Der|Die"
    title = r"regexp_replace(title, '(\s*\([0-9]{4}\))+\s*$', '')"
    title = rf"regexp_replace({title}, '^(.*), ({articles})$', '\2 \1')"
    return Source(
        f"the films of MovieLens in {folder}",
        f"SELECT item_id, {title} AS title, genre, year FROM ({items})",
        files=source_files([folder / names[2]]),
    )


def _layout_of(folder: pathlib.Path) -> tuple[Sequence[str], tuple[str, str, str]]:
    """The files of a folder, and the queries of its ratings, users and items."""
    layouts: tuple[tuple[Sequence[str], Callable[[pathlib.Path], tuple[str, str, str]]], ...] = (
        (_RECBOLE_FILES, _recbole),
        (_100K_FILES, _grouplens_100k),
        (_1M_FILES, _grouplens_1m),
    )
    for names, queries_of in layouts:
        if _has(folder, names):
            return names, queries_of(folder)
    expected = ", or ".join(", ".join(names) for names, _ in layouts)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise ValueError(
        f"{folder} is not a folder of MovieLens: expected the files {expected}; "
        f"found {', '.join(found[:10]) or 'nothing'}. "
        "Name the folder that the archive of GroupLens was unpacked to."
    )


def _has(folder: pathlib.Path, names: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _download(folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "-vv", "--no-deps"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "15"]
    command += ["--dest", str(folder), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("recbole-*.whl"))
    if done.returncode != 0 or not wheels:
        url, reason = _told_by_pip(done.stdout, done.stderr)
        raise ConnectionError(
            f"MovieLens-100k cannot be downloaded from {url}: {reason}. {_REMEDY}"
        )
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != _SHA256:
        url, _ = _told_by_pip(done.stdout, done.stderr)
        raise ValueError(
            f"MovieLens-100k cannot be downloaded from {url}: expected {_PACKAGE} with the SHA-256 "
            f"{_SHA256}, got {found}. Look at the package index that pip is set to. {_REMEDY}"
        )
    return wheels[0]


def _told_by_pip(out: str, errors: str) -> tuple[str, str]:
    """The address that pip asked, and what went wrong there; without names and passwords."""
    lines = [line for line in errors.splitlines() if line.strip()] or ["pip gave no reason"]
    reason = lines[-1].removeprefix("ERROR: ")
    if reason.endswith("is invalid."):
        reason = "what came is another file, or a part of one"
    url = "the package index that pip is set to"
    # The last: before it pip may have found in vain in other places.
    if fetched := re.findall(r"Could not fetch URL (\S+): (.*?)(?: - skipping)?$", out, re.M):
        url, reason = fetched[-1]
        inner = re.search(r"(?:>: |Error\(')([^'\"]+)", reason)
        reason = re.sub(r" for url: \S+", "", inner[1] if inner else reason)
    elif downloaded := re.findall(r"Downloading (?:link )?(\S+://\S+)", out):
        url = downloaded[-1]
    return re.sub(r"(?<=://)[^/@\s]*@", "", url), reason.strip().rstrip(".")


def _joined(ratings: str, users: str, items: str) -> str:
    return (
        "SELECT row, user_id, item_id, rating, timestamp, age, gender, occupation, zip, "
        f"left(zip, 2) AS zip_area, genre, year FROM ({ratings}) "
        f"LEFT JOIN ({users}) USING (user_id) LEFT JOIN ({items}) USING (item_id)"
    )


def _recbole(folder: pathlib.Path) -> tuple[str, str, str]:
    ratings, users, items = (folder / name for name in _RECBOLE_FILES)
    table = functools.partial(_table, separator="\t", encoding="utf-8", header=True)
    return (
        f"SELECT row_number() OVER () AS row, * FROM {table(ratings, _RATING_COLUMNS)}",
        f"SELECT * FROM {table(users, ('user_id', 'age', 'gender', 'occupation', 'zip'))}",
        "SELECT item_id, title, year, replace(genres, ' ', '|') AS genre "
        f"FROM {table(items, ('item_id', 'title', 'year', 'genres'))}",
    )


def _grouplens_100k(folder: pathlib.Path) -> tuple[str, str, str]:
    ratings, users, items = (folder / name for name in _100K_FILES)
    flags = [f"genre_{position}" for position in range(len(_GENRES))]
    user_columns = ("user_id", "age", "gender", "occupation", "zip")
    item_columns = ("item_id", "title", "release_date", "video_date", "url", *flags)
    genres = ", ".join(
        f"CASE WHEN {flag} = '1' THEN '{genre.replace(chr(39), chr(39) * 2)}' END"
        for flag, genre in zip(flags, _GENRES, strict=True)
    )
    rows = _table(ratings, _RATING_COLUMNS, "\t")
    return (
        f"SELECT row_number() OVER () AS row, * FROM {rows}",
        f"SELECT * FROM {_table(users, user_columns, '|')}",
        f"SELECT item_id, title, concat_ws('|', {genres}) AS genre, "
        "nullif(regexp_extract(release_date, '[0-9]{4}$'), '') AS year "
        f"FROM {_table(items, item_columns, '|')}",
    )


def _grouplens_1m(folder: pathlib.Path) -> tuple[str, str, str]:
    ratings, users, items = (folder / name for name in _1M_FILES)
    rows = _table(ratings, _RATING_COLUMNS, "::")
    user_columns = ("user_id", "gender", "age", "occupation", "zip")
    return (
        f"SELECT row_number() OVER () AS row, * FROM {rows}",
        f"SELECT * FROM {_table(users, user_columns, '::')}",
        "SELECT item_id, title, genres AS genre, "
        r"nullif(regexp_extract(title, '\(([0-9]{4})\)\s*$', 1), '') AS year "
        f"FROM {_table(items, ('item_id', 'title', 'genres'), '::')}",
    )


def _table(
    path: pathlib.Path,
    columns: Sequence[str],
    separator: str,
    encoding: str = "latin-1",
    header: bool = False,
) -> str:
    """The SQL table of a text file: no quotes, every column as text."""
    types = ", ".join(f"'{column}': 'VARCHAR'" for column in columns)
    quoted = str(path).replace("'", "''")
    return (
        f"read_csv('{quoted}', auto_detect=false, header={str(header).lower()}, quote='', "
        f"escape='', delim='{separator}', encoding='{encoding}', columns={{{types}}})"
    )
