"""What a model was trained on: enough of a records folder to know it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.records.index_checks import index_chunks
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.value_tables import sum_of_values

__all__ = ["check_fingerprint", "fingerprint_of", "has_other_rows"]


def fingerprint_of(records: Records) -> dict[str, Any]:
    """The schema, the vocabularies, the rows' index and the generation of a folder.

    Appending to a folder changes neither the first values of a vocabulary nor the first entries of
    an index, and both are known by their first ones: see `check_fingerprint`.

    Returns:
        JSON values.

    Raises:
        ValueError: a vocabulary or an index is missing or damaged.
    """
    return {
        "generation": records.generation,
        "schema": _schema(records),
        "vocabularies": {
            table: _of_vocabulary(records, table, None) for table in sorted(records.vocabularies)
        },
        "index": {split: _of_index(records.index(split), None) for split in records.splits},
    }


def check_fingerprint(
    saved: Mapping[str, Any], records: Records, path: object, *, may_grow: bool = False
) -> None:
    """Checks that keys mean in `records` what they meant where a model was trained.

    Args:
        saved: the `fingerprint_of` those records.
        records: the records to go on with.
        path: the checkpoint, for messages.
        may_grow: whether vocabularies may have more values, after those that they had.

    Raises:
        ValueError: another data set, or the same one after an appending that made its tables
            larger than the model's.
    """
    found, expected = _schema(records), saved["schema"]
    if found != expected:
        name = next(name for name in expected | found if expected.get(name) != found.get(name))
        raise _other(
            records,
            path,
            f"expected the schema's {name} to be {expected.get(name)}, found {found.get(name)}",
        )
    grown = []
    for table, known in saved["vocabularies"].items():
        if table not in records.vocabularies:
            raise _other(records, path, f"the table {table!r} has no vocabulary")
        begin = _of_vocabulary(records, table, known["values"])
        if begin["values"] < known["values"]:
            what = f"{known['values']} values of the table {table!r}, found {begin['values']}"
            raise _other(records, path, f"expected {what}")
        if begin != known:
            raise _other(records, path, f"the values of the table {table!r} are not the same")
        size = records.schema.table(table).num_rows
        if size is not None and size > known["values"] + 1:
            grown.append(f"{table} from {known['values']} to {size - 1} values")
    if grown and not may_grow:
        raise ValueError(
            f"{records.path} was appended to since the checkpoint {path} was saved: generation "
            f"{saved['generation']} is now {records.generation}, and vocabularies have grown "
            f"({', '.join(grown)}), for which the model has no rows. Go on with `gmeta-tf train "
            "--resume`, which adds them, or give a copy of the records of generation "
            f"{saved['generation']}."
        )


def has_other_rows(saved: Mapping[str, Any], records: Records) -> str | None:
    """What a model that goes on would meet in place of the rows that it was trained on, in words.

    Returns:
        None where the rows are the same, or where rows were only appended to them.
    """
    for split, known in saved["index"].items():
        if split not in records.contents:
            return f"there is no split {split!r}"
        index = records.index(split)
        if _of_index(index, known["episodes"]) != known:
            return f"the rows of the split {split!r} are not those that it was trained with"
    return None


def _other(records: Records, path: object, what: str) -> ValueError:
    return ValueError(
        f"{records.path} holds other data than the checkpoint {path} was trained on: {what}. Were "
        "they prepared anew? Give the records of the run, or train anew."
    )


def _schema(records: Records) -> dict[str, Any]:
    """The schema without the sizes of vocabularies, which have an entry of their own."""
    values = records.schema.to_json()
    values.pop("tables_to_join", None)  # where columns come from, and not what they are
    for table in values["tables"]:
        if table["keys"] == "vocabulary" and table["name"] in records.vocabularies:
            table.pop("num_rows")
    return values


def _of_vocabulary(records: Records, table: str, first: int | None) -> dict[str, Any]:
    """How many of the values with the keys 1 to `first` there are, and a sum over them."""
    path = files.join(records.path, records.vocabularies[table])
    return sum_of_values(path, "key", first)._asdict()


def _of_index(index: np.ndarray, first: int | None) -> dict[str, Any]:
    """How many of the first entries there are, and a digest of them."""
    entries = index if first is None else index[:first]
    digest = hashlib.sha256()
    for chunk in index_chunks(entries):
        digest.update(chunk.tobytes())
    return {"episodes": len(entries), "sha256": digest.hexdigest()}
