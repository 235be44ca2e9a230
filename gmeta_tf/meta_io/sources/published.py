"""Published data sets by name: which of their files are read and how, joined to what, as what rows.

What each is, where its format is described and what is odd in it: docs/data.md, "Published data".
"""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
from collections.abc import Callable
from typing import Any

from gmeta_tf.allowed import LAYOUTS, check_layout_task, check_word
from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.sources.ali_ccp import ali_ccp_schema, ali_ccp_source
from gmeta_tf.meta_io.sources.movielens import movielens_schema, movielens_source
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.sources.taobao import taobao_ads_schema, taobao_ads_source
from gmeta_tf.meta_io.sources.user_item_rating import user_item_rating
from gmeta_tf.meta_io.sql import number_of
from gmeta_tf.schema import Field, Schema, SideTable

__all__ = ["Layout", "read_layout"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a data set, and what its rows are.

    Attributes:
        log: names or patterns of the files of rows; each that is there is read.
        schema: of the rows; the paths of its tables are names or patterns in the folder.
        options: how the log is written.
        query: the SELECT that makes rows of `{log}`; empty where a line is a row.
        without: patterns of files that `log` matches and that are none of it.
        row: the query's column that numbers its rows, where it keeps no order of the files.
    """

    log: tuple[str, ...]
    schema: Schema
    options: ReaderOptions = ReaderOptions()  # noqa: RUF009, frozen
    query: str = ""
    without: tuple[str, ...] = ()
    row: str | None = None


def _movielens(table: SideTable) -> Schema:
    genre = Field("genre", "multi", column="genres", max_values=6)
    return Schema(
        (Field("item", column="movieId"), genre),
        label="rating",
        task="userId",
        time="timestamp",
        positive_from=4.0,
        tables_to_join=(table,),
    )


_NO_GENRE = "(no genres listed)"
_MOVIES_DAT = {
    "format": "csv",
    "separator": "::",
    "quoting": "none",
    "columns": ["movieId", "title", "genres"],
    "null_words": [_NO_GENRE],
}
_BOOKS = {"separator": ";", "encoding": "latin-1", "escape": "\\", "null_words": ["NULL"]}
_NEWS = (
    "news_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "of_title",
    "of_abstract",
)
_AVAZU = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_model", "device_type", "device_conn_type"),
    *(f"C{number}" for number in range(14, 22)),
)
_INTEGERS = tuple(f"I{number}" for number in range(1, 14))
_HASHES = tuple(f"C{number}" for number in range(1, 27))
_PROFILE = ("user", "gender", "age", "country", "signup")
_OF_PROFILE = tuple((name, name) for name in ("gender", "age", "country"))


def _lastfm(fields: tuple[Field, ...], **others: Any) -> Schema:
    return Schema((Field("artist"), *fields), label="log_plays", task="user", **others)


def _profile(path: str) -> SideTable:
    read = (("quoting", "none"), ("columns", list(_PROFILE)))
    return SideTable("users", path, on="user", columns=_OF_PROFILE, read=read)


def _log_of(plays: str) -> str:
    """The SQL of ln(1 + plays); missing, which makes a bad row, where that is no number from 0."""
    number = f"({number_of(plays)})"
    return f"CASE WHEN {number} >= 0 THEN ln(1 + {number}) END AS log_plays"


def _cells(line: str, *names: str) -> str:
    """The SQL of the first cells of a line with tabs, whatever is behind them."""
    return ", ".join(
        f"nullif(split_part({line}, '\t', {place + 1}), '') AS {name}"
        for place, name in enumerate(names)
    )


_LAYOUTS = {
    "movielens-10m": Layout(
        ("ratings.dat",),
        _movielens(
            SideTable("movies", "movies.dat", on="movieId", read=tuple(_MOVIES_DAT.items()))
        ),
        ReaderOptions(
            format="csv",
            separator="::",
            quoting="none",
            columns=("userId", "movieId", "rating", "timestamp"),
        ),
    ),
    "movielens-csv": Layout(
        ("ratings.csv",),
        _movielens(
            SideTable("movies", "movies.csv", on="movieId", read=(("null_words", [_NO_GENRE]),))
        ),
    ),
    "amazon-2023": Layout(
        ("*.csv", "*.csv.gz"),
        Schema(
            (Field("item", column="parent_asin"),),
            label="rating",
            task="user_id",
            time="timestamp",
            positive_from=4.0,
        ),
    ),
    "amazon-json": Layout(
        ("*.json", "*.json.gz"),
        Schema(
            (Field("item", column="asin"),),
            label="overall",
            task="reviewerID",
            time="unixReviewTime",
            positive_from=4.0,
        ),
        without=("meta_*",),
    ),
    "book-crossing": Layout(
        ("BX-Book-Ratings.csv",),
        Schema(
            (
                Field("item", column="ISBN"),
                Field("author", column="Book-Author"),
                Field("publisher", column="Publisher"),
                Field("year", column="Year-Of-Publication"),
                Field("age", column="Age"),
            ),
            label="Book-Rating",
            task="User-ID",
            positive_from=8.0,
            tables_to_join=(
                SideTable("users", "BX-Users.csv", on="User-ID", read=tuple(_BOOKS.items())),
                SideTable("books", "BX-Books.csv", on="ISBN", read=tuple(_BOOKS.items())),
            ),
        ),
        ReaderOptions(separator=";", encoding="latin-1", escape="\\"),
        # 0 is no rating: the user has to do with the book, and did not rate it.
        query="""SELECT * FROM ({log}) WHERE "Book-Rating" IS DISTINCT FROM '0'""",
    ),
    "yelp": Layout(
        ("yelp_academic_dataset_review.json",),
        Schema(
            (
                Field("item", column="business_id"),
                Field("city"),
                Field("state"),
                Field("categories", "multi", max_values=8, separator=","),
            ),
            label="stars",
            task="user_id",
            time="date",
            positive_from=4.0,
            tables_to_join=(
                SideTable(
                    "businesses",
                    "yelp_academic_dataset_business.json",
                    on="business_id",
                    columns=tuple((name, name) for name in ("city", "state", "categories")),
                ),
            ),
        ),
    ),
    "kuairand": Layout(
        # The log of videos shown at random is another experiment: log_random_*.csv.
        ("log_standard_*.csv",),
        Schema(
            (
                Field("item", column="video_id"),
                Field("author_id"),
                Field("video_type"),
                Field("music_id"),
                Field("tag", "multi", max_values=4, separator=","),
                Field("tab"),
                Field("user_active_degree"),
                Field("follow_user_num_range"),
                Field("fans_user_num_range"),
            ),
            label="is_click",
            task="user_id",
            time="time_ms",
            tables_to_join=(
                SideTable(
                    "users",
                    "user_features_*.csv",
                    on="user_id",
                    columns=tuple(
                        (name, name)
                        for name in (
                            *("user_active_degree", "follow_user_num_range"),
                            "fans_user_num_range",
                        )
                    ),
                ),
                SideTable(
                    "videos",
                    "video_features_basic_*.csv",
                    on="video_id",
                    columns=tuple(
                        (name, name) for name in ("author_id", "video_type", "music_id", "tag")
                    ),
                ),
            ),
        ),
    ),
    "mind": Layout(
        ("behaviors.tsv",),
        Schema(
            (Field("item", column="news_id"), Field("category"), Field("subcategory")),
            label="click",
            task="user_id",
            time="time",
            tables_to_join=(
                SideTable(
                    "news",
                    "news.tsv",
                    on="news_id",
                    columns=(("category", "category"), ("subcategory", "subcategory")),
                    read=(("quoting", "none"), ("columns", list(_NEWS))),
                ),
            ),
        ),
        ReaderOptions(
            quoting="none", columns=("impression_id", "user_id", "time", "history", "impressions")
        ),
        # A line is an impression: news with "-1" behind those that were clicked, "-0" else, and
        # nothing in the test of MIND-large, which makes bad rows.
        query=(
            r"SELECT user_id, time, regexp_extract(shown, '^(.*?)(-[01])?$', 1) AS news_id,"
            r" nullif(regexp_extract(shown, '-([01])$', 1), '') AS click FROM (SELECT user_id, "
            r"try_strptime(time, '%m/%d/%Y %I:%M:%S %p') AS time, "
            r"unnest(string_split_regex(trim(impressions), ' +')) AS shown FROM ({log}))"
        ),
    ),
    "avazu": Layout(
        ("train", "train.gz", "train.csv", "train.csv.gz"),
        Schema(tuple(Field(name) for name in _AVAZU), label="click", task="device_ip", time="hour"),
        ReaderOptions(format="csv"),
    ),
    "criteo": Layout(
        ("train.txt", "train.txt.gz"),
        Schema(
            (
                *(Field(name) for name in _HASHES[1:]),
                # Most are counts of very different sizes; some are negative.
                *(
                    Field(name, "dense", transform="log1p", missing="indicator")
                    for name in _INTEGERS
                ),
            ),
            label="label",
            task=_HASHES[0],
        ),
        ReaderOptions(format="tsv", quoting="none", columns=("label", *_INTEGERS, *_HASHES)),
    ),
    "tenrec": Layout(
        ("QK-video.csv",),
        # Follows, likes, shares and the times of watching come after the click: they would tell it.
        Schema(
            (
                Field("item", column="item_id"),
                Field("video_category"),
                Field("gender"),
                Field("age"),
            ),
            label="click",
            task="user_id",
        ),
        ReaderOptions(null_words=("\\N",)),
    ),
    "lastfm-2k": Layout(
        ("user_artists.dat",),
        _lastfm(()),
        ReaderOptions(format="tsv", quoting="none"),
        query=(
            f'SELECT "userID" AS user, "artistID" AS artist, {_log_of("weight")} FROM ({{log}})'
        ),
    ),
    "lastfm-360k": Layout(
        ("usersha1-artmbid-artname-plays.tsv",),
        _lastfm(
            (Field("gender"), Field("age"), Field("country")),
            tables_to_join=(_profile("usersha1-profile.tsv"),),
        ),
        ReaderOptions(quoting="none", columns=("user", "artist_id", "artist_name", "plays")),
        # Some rows have a date where the user stands.
        query=(
            f"SELECT user, coalesce(artist_id, artist_name) AS artist, {_log_of('plays')} "
            "FROM ({log}) WHERE regexp_full_match(user, '[0-9a-f]{{40}}')"
        ),
    ),
    "lastfm-1k": Layout(
        ("userid-timestamp-artid-artname-traid-traname.tsv",),
        _lastfm(
            (Field("gender"), Field("age"), Field("country")),
            time="first_played",
            tables_to_join=(_profile("userid-profile.tsv"),),
        ),
        # A cell is the whole line: names of tracks have tabs in them.
        ReaderOptions(separator="\x1f", quoting="none", columns=("line",)),
        # A line is a play. The engine keeps the order of rows, and a group has none.
        query=(
            "SELECT row_number() OVER (ORDER BY user, first_played, artist) AS row, * FROM "
            "(SELECT user, coalesce(artist_id, artist_name) AS artist, "
            "ln(1 + count(*)) AS log_plays, min(played) AS first_played FROM "
            f"(SELECT {_cells('line', 'user', 'played', 'artist_id', 'artist_name')} "
            "FROM ({log})) GROUP BY ALL)"
        ),
        row="row",
    ),
    "douban": Layout(
        ("douban_book.tsv", "douban_movie.tsv", "douban_music.tsv"),
        Schema(
            (Field("item", column="ItemId"),),
            label="Rating",
            task="UserId",
            time="Timestamp",
            positive_from=4.0,
        ),
        # -1 is no rating: the user wants to read, see or hear it, or has.
        query="""SELECT * FROM ({log}) WHERE "Rating" IS DISTINCT FROM '-1'""",
    ),
}

_WITH_A_READER: dict[str, Callable[[str], tuple[Source, Schema]]] = {
    "movielens": lambda folder: (movielens_source(folder), movielens_schema()),
    "ali-ccp": lambda folder: (ali_ccp_source(folder), ali_ccp_schema()),
    "taobao-ads": lambda folder: (taobao_ads_source(folder), taobao_ads_schema()),
    "user-item-rating": user_item_rating,
}


def read_layout(
    name: str,
    directory: str | os.PathLike[str],
    *,
    task: str | None = None,
    schema: Schema | None = None,
) -> tuple[Source, Schema]:
    """The rows of a published data set, and what they are.

    Args:
        name: one of `allowed.LAYOUTS`.
        directory: a local folder with its files, unpacked, under the names that they come with.
        task: the column that is a task, for a layout of `allowed.TASKS_OF_LAYOUTS`; it is no field
            then. None is what the layout proposes.
        schema: one of the caller's own, which takes the place of the layout's.

    Raises:
        ValueError: another name or task, or the folder lacks a file; otherwise as `files_source`.
    """
    check_word("layout", name, LAYOUTS)
    check_layout_task("task", name, task, schema is not None)
    folder = os.fspath(directory)
    if files.is_remote(folder):
        raise ValueError(
            f"the layout {name!r}: expected a local folder, got {folder}. Copy it to a local disk."
        )
    if name in _WITH_A_READER:
        source, known = _WITH_A_READER[name](folder)
    else:
        source, known = _read(name, folder, _LAYOUTS[name])
    if task is not None:
        known = _with_task(known, task)
    return source, known if schema is None else schema


def _read(name: str, folder: str, layout: Layout) -> tuple[Source, Schema]:
    log = _found(name, folder, layout.log, layout.without)
    tables = tuple(
        dataclasses.replace(table, path=os.path.join(glob.escape(folder), table.path))
        for table in layout.schema.tables_to_join
    )
    for table in layout.schema.tables_to_join:
        _found(name, folder, (table.path,), ())
    source = files_source([glob.escape(path) for path in log], options=layout.options)
    if layout.query:
        query = layout.query.format(log=source.query)
        source = Source(source.description, query, row=layout.row, files=source.files)
    return source, dataclasses.replace(layout.schema, tables_to_join=tables)


def _with_task(schema: Schema, task: str) -> Schema:
    """The schema with another task: the task of before takes its place among the fields.

    Each field has a table of its own name.
    """
    fields = tuple(Field(schema.task) if field.name == task else field for field in schema.fields)
    return dataclasses.replace(schema, fields=fields, task=task, tables=())


def _found(
    name: str, folder: str, patterns: tuple[str, ...], without: tuple[str, ...]
) -> list[str]:
    """The files that patterns match, in the order of the patterns and of their names."""
    path = pathlib.Path(folder)
    left_out = {file for pattern in without for file in path.glob(pattern)}
    found = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    kept = [os.fspath(file) for file in found if file.is_file() and file not in left_out]
    if not kept:
        there = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        raise ValueError(
            f"{folder} has no {' or '.join(patterns)}, which the layout {name!r} is read from; "
            f"found {', '.join(there[:10]) or 'nothing'}. Name the folder of the unpacked files."
        )
    return kept
