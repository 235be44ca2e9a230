"""Ali-CCP, Alibaba's click and conversion log, as a source of raw rows.

The files and the meaning of their fields are described at https://tianchi.aliyun.com/dataset/408
(read here as https://github.com/NVIDIA-Merlin/models quotes it, in
merlin/datasets/ecommerce/aliccp/dataset.py); the data set is of Ma et al., Entire Space Multi-Task
Model, SIGIR 2018 (https://arxiv.org/abs/1804.07931). That 109_14, 110_14, 127_14, 150_14, 210 and
853 have several values in a row is taken from public readers of the files.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from gmeta_tf.meta_io.sources.layouts import expected_files, headerless
from gmeta_tf.meta_io.sources.sources import Source, source_files
from gmeta_tf.meta_io.sql import number_of, sql_name, sql_text
from gmeta_tf.schema import Field, Schema

__all__ = ["ali_ccp_schema", "ali_ccp_source"]

_PARTS = ("train", "test")
_SKELETON = ("sample_id", "click", "conversion", "common", "num_features", "features")
_COMMON = ("common", "num_features", "features")

# Column: the field's number. Those of the user stand in the common features, the others in the
# skeleton.
_USER = {
    "user_id": "101",
    "user_profile": "121",
    "user_group": "122",
    "user_gender": "124",
    "user_age": "125",
    "user_consumption_1": "126",
    "user_consumption_2": "127",
    "user_occupation": "128",
    "user_geography": "129",
}
_HISTORY = {
    "seen_categories": "109_14",
    "seen_shops": "110_14",
    "seen_brands": "127_14",
    "seen_intentions": "150_14",
}
_ITEM = {
    "item": "205",
    "category": "206",
    "shop": "207",
    "brand": "216",
    "user_category": "508",
    "user_shop": "509",
    "user_brand": "702",
    "position": "301",
}
_ITEM_LISTS = {"intention": "210", "user_intention": "853"}


def ali_ccp_schema(label: str = "click", max_values: int = 10) -> Schema:
    """The schema of what `ali_ccp_source` gives: a task is a user, a field a feature of the data.

    Every field has a table of its own, as the data numbers the values of each field apart.

    Args:
        label: "click", or "conversion" (of any impression, clicked or not).
        max_values: of the fields with several values; the source keeps the same number.

    Raises:
        ValueError: another label.
    """
    if label not in ("click", "conversion"):
        raise ValueError(f"expected a label of 'click' or 'conversion', got {label!r}.")
    single = [name for name in (*_USER, *_ITEM) if name != "user_id"]
    return Schema(
        (
            *(Field(name) for name in single),
            *(Field(name, "multi", max_values=max_values) for name in (*_HISTORY, *_ITEM_LISTS)),
        ),
        label=label,
        task="user_id",
    )


def ali_ccp_source(
    directory: str | os.PathLike[str],
    parts: Sequence[str] = ("train",),
    max_values: int = 10,
) -> Source:
    """The impressions of an Ali-CCP folder, each with its own and its common features.

    The files are `sample_skeleton_<part>.csv` and `common_features_<part>.csv`, in the folder or
    in its `sample_<part>` as the archives have them. Neither has a header; a list of features has
    `field, 0x02, feature, 0x03, value` parted by 0x01.

    It gives sample_id, click, conversion, a column for each field (text, missing where a row does
    not have it) and a list for each field with several values: those of the largest value, most
    first, equal ones in the order of the file. The values themselves, which are weights, are left
    out. An impression whose common features are not there has no user. One with a conversion and
    no click, which the data set's description rules out, is not left out here.

    Args:
        directory: the folder.
        parts: "train", "test" or both, one after the other; prepare's own split draws users anew.
        max_values: how many values of a list are kept.

    Raises:
        ValueError: another part, a missing file, or max_values below 1.
    """
    unknown = [part for part in parts if part not in _PARTS]
    if unknown or not parts:
        raise ValueError(f"expected parts of {', '.join(_PARTS)}, got {list(parts)}.")
    if max_values < 1:
        raise ValueError(f"expected max_values of at least 1, got {max_values}.")
    files = {part: _files_of(pathlib.Path(directory), part) for part in parts}
    skeletons = " UNION ALL ".join(
        f"SELECT {sql_text(part)} AS part, * FROM {headerless([skeleton], _SKELETON, ',')}"
        for part, (skeleton, _) in files.items()
    )
    commons = " UNION ALL ".join(
        f"SELECT {sql_text(part)} AS part, common, {_extracted(_USER, _HISTORY, max_values)} "
        f"FROM {headerless([common], _COMMON, ',')}"
        for part, (_, common) in files.items()
    )
    own = _extracted(_ITEM, _ITEM_LISTS, max_values)
    names = ", ".join(map(sql_name, (*_USER, *_ITEM, *_HISTORY, *_ITEM_LISTS)))
    # Numbered before the join, which keeps no order. The features are taken apart before it too,
    # so that it holds what is kept of them alone.
    query = (
        f"SELECT row, part, sample_id, click, conversion, {names} FROM "
        f"(SELECT row_number() OVER () AS row, part, sample_id, click, conversion, common, {own} "
        f"FROM ({skeletons})) LEFT JOIN ({commons}) USING (part, common)"
    )
    return Source(
        f"Ali-CCP {' and '.join(parts)} in {directory}",
        query,
        row="row",
        files=source_files(path for pair in files.values() for path in pair),
    )


def _files_of(folder: pathlib.Path, part: str) -> tuple[pathlib.Path, ...]:
    names = (f"sample_skeleton_{part}.csv", f"common_features_{part}.csv")
    if (folder / f"sample_{part}").is_dir():
        folder = folder / f"sample_{part}"
    return expected_files(
        folder, names, "Ali-CCP", "Name the folder that the archives of Tianchi were unpacked to."
    )


def _extracted(single: dict[str, str], lists: dict[str, str], max_values: int) -> str:
    """The columns of fields, taken out of the text `features` row by row."""
    columns, weight = [], number_of("split_part(pair, '\x03', 2)")
    for name, field in single.items():
        pattern = sql_text(f"(?:^|\x01){field}\x02([^\x01\x03]*)")
        columns.append(f"nullif(regexp_extract(features, {pattern}, 1), '') AS {name}")
    for name, field in lists.items():
        # Cut at the field itself, which is several times as fast as a pattern that is looked for.
        begins = sql_text(f"\x01{field}\x02")
        pairs = (
            f"list_transform(string_split('\x01' || features, {begins})[2:], "
            "lambda rest: split_part(rest, '\x01', 1))"
        )
        weighed = (
            f"list_transform({pairs}, lambda pair, place: {{"
            f"'weight': -coalesce({weight}, 0), "
            "'place': place, 'value': split_part(pair, '\x03', 1)})"
        )
        columns.append(
            f"list_transform(list_sort({weighed})[:{max_values}], lambda one: one.value) AS {name}"
        )
    return ", ".join(columns)
