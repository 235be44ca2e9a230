"""Taobao's display advertising log as a source of raw rows.

The files, their columns and what they mean are described at https://tianchi.aliyun.com/dataset/56
(Ad Display/Click Data on Taobao.com); read here, with the files' first lines and the space at the
end of a name, as https://github.com/PaddlePaddle/PaddleRec quotes them, in
datasets/Ali_Display_Ad_Click/readme.md.
"""

from __future__ import annotations

import os

from gmeta_tf.meta_io.sources.layouts import expected_files
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.sql import number_of, sql_name
from gmeta_tf.schema import Field, Schema

__all__ = ["taobao_ads_schema", "taobao_ads_source"]

_COLUMNS = {
    "raw_sample.csv": ("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"),
    "ad_feature.csv": ("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"),
    "user_profile.csv": (
        "userid",
        "cms_segid",
        "cms_group_id",
        "final_gender_code",
        "age_level",
        "pvalue_level",
        "shopping_level",
        "occupation",
        "new_user_class_level",
    ),
}
_OF_AD = ("cate_id", "campaign_id", "customer", "brand")
_OF_USER = _COLUMNS["user_profile.csv"][1:]


def taobao_ads_schema(min_count: int = 1) -> Schema:
    """The schema of what `taobao_ads_source` gives: a task is a user, a click is a 1.

    Args:
        min_count: values seen fewer times share the unknown value's row, in every field.
    """
    names = ("adgroup_id", "pid", *_OF_AD, *_OF_USER)
    return Schema(
        (
            *(Field(name, min_count=min_count) for name in names),
            Field("log_price", "dense"),
        ),
        label="clk",
        task="user",
        time="time_stamp",
    )


def taobao_ads_source(directory: str | os.PathLike[str]) -> Source:
    """The impressions of a Taobao folder with what is known of their ads and users.

    The files are `raw_sample.csv`, `ad_feature.csv` and `user_profile.csv`, each with a header,
    around whose names white space does not matter. The behaviour log is not read. It gives the
    columns of the three under their names, and `log_price`, which is ln(1 + price), and 0 for an
    ad whose price is not known (and missing for one that is no number from 0 on, which makes a
    bad row). The text "NULL" is a missing value.

    Raises:
        ValueError: a missing file, or a file with other columns.
    """
    paths = expected_files(
        directory, list(_COLUMNS), "Taobao ads", "Name the folder with the files of Tianchi."
    )
    sources = [files_source(path) for path in paths]
    samples, ads, users = (
        _renamed(source, expected)
        for source, expected in zip(sources, _COLUMNS.values(), strict=True)
    )
    number = f"({number_of('price')})"
    log_price = f"CASE WHEN price IS NULL THEN 0 WHEN {number} >= 0 THEN ln(1 + {number})"
    query = (
        f"SELECT row, {', '.join(map(sql_name, _COLUMNS['raw_sample.csv']))}, {', '.join(_OF_AD)}, "
        f"price, {', '.join(_OF_USER)}, {log_price} END AS log_price FROM "
        f"(SELECT row_number() OVER () AS row, * FROM ({samples})) "
        f"LEFT JOIN ({ads}) USING (adgroup_id) LEFT JOIN ({users}) ON userid = {sql_name('user')}"
    )
    files = tuple(file for source in sources for file in source.files)
    return Source(f"Taobao ads in {os.fspath(directory)}", query, row="row", files=files)


def _renamed(source: Source, expected: tuple[str, ...]) -> str:
    """The source's query with bare names and without the text NULL."""
    column_of = {column.strip(): column for column in source.columns}
    missing = [name for name in expected if name not in column_of]
    if missing:
        raise ValueError(
            f"{source.description}: expected the columns {', '.join(expected)}, got "
            f"{', '.join(source.columns)}, without {missing[0]}. Give the file its header."
        )
    columns = (
        f"nullif({sql_name(column_of[name])}, 'NULL') AS {sql_name(name)}" for name in expected
    )
    return f"SELECT {', '.join(columns)} FROM ({source.query})"
