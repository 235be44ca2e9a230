"""The items of a page: what a person reads of them, and what the model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from gmeta_tf.number_texts import WHITE_SPACE
from gmeta_tf.schema import Field, Schema

__all__ = ["Catalogue", "catalogue_of", "item_field"]

Rows = Mapping[str, np.ndarray]

_NAMES = ("title", "name")


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items, the most frequent first, each once.

    Attributes:
        field: the field of the items.
        names: what a person reads, one a item.
        details: a second line, such as "1995 · Comedy, Drama"; may be empty.
        columns: the schema's columns that describe an item -> values as in raw rows, `[n]` each.
        num_unknown: items of the names that the model has no row for.
        num_beyond: items that are beyond the most frequent ones.
    """

    field: Field
    names: tuple[str, ...]
    details: tuple[str, ...]
    columns: dict[str, np.ndarray]
    num_unknown: int = 0
    num_beyond: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def found(self, text: str) -> list[int]:
        """The places of the items whose names have all words of a text, in the items' order."""
        words = text.casefold().split()
        return [
            place
            for place, name in enumerate(self.names)
            if all(word in name.casefold() for word in words)
        ]


def item_field(schema: Schema, rows: Rows | None, asked: str | None = None) -> Field:
    """The field of the items: the one asked for, or the only one that can be it.

    Args:
        schema: the model's.
        rows: the table of names; None where there is none.
        asked: the field's name.

    Raises:
        ValueError: no such field, one that is no single value, or several that it may be.
    """
    known = [field for field in schema.given_fields if field.kind == "categorical"]
    told = ", ".join(field.name for field in known) or "none"
    if asked is not None:
        for field in known:
            if field.name == asked:
                return field
        raise ValueError(
            f"expected --item to be a categorical field of the model ({told}), got {asked!r}."
        )
    if rows is None:
        may_be = [one for one in known if schema.table(one.table_name).keys == "vocabulary"]
    else:
        may_be = [one for one in known if one.column_name in rows]
        several = [one for one in may_be if _is_key(rows[one.column_name])]
        may_be = several or may_be
    if len(may_be) > 1:
        # A table with a line for each of its values describes the items.
        described = {table.on for table in schema.tables_to_join if table.many is None}
        may_be = [one for one in may_be if one.column_name in described] or may_be
    if len(may_be) == 1:
        return may_be[0]
    got = ", ".join(one.name for one in may_be) or "none"
    where = "" if rows is None else ", whose column the names have or --key names"
    raise ValueError(
        f"expected one field of the model that is the items, got {got}; categorical fields are "
        f"{told}. Say which one it is: --item FIELD{where}."
    )


def catalogue_of(
    schema: Schema,
    field: Field,
    rows: Rows | None,
    vocabulary: Sequence[str] | None,
    *,
    name_column: str | None = None,
    most: int = 2000,
) -> Catalogue:
    """The items of a table of names that the model knows.

    Args:
        schema: the model's.
        field: the items'.
        rows: column -> values as `gmeta-tf prepare` reads them, a line an item; None takes the
            vocabulary's values for names.
        vocabulary: the values of the field's table, the most frequent first; None where it has no
            list of them, and the table of names says the order.
        name_column: the column of names; None is `title` or `name`, or else the item itself.
        most: keep so many items, the most frequent ones.

    Raises:
        ValueError: no such column, or not one item that the model knows.
    """
    if rows is None:
        if vocabulary is None:
            raise ValueError(
                f"the model has no list of the values of {field.name!r}, whose table "
                f"{field.table_name!r} has no vocabulary. Give --names FILE with the items."
            )
        rows = {field.column_name: np.array(vocabulary, object)}
    if field.column_name not in rows:
        raise ValueError(
            f"the names have no column {field.column_name!r} of the items, only "
            f"{', '.join(rows)}. Say which one has the items' values: --key COLUMN."
        )
    title = _column_of_names(rows, field, name_column)
    keys = [_text(value) for value in rows[field.column_name]]
    order = _order(keys, vocabulary)
    if not order:
        known = ", ".join(map(repr, list(vocabulary or ())[:3])) or "none"
        raise ValueError(
            f"the model knows none of the {len(keys)} items of the names: expected values of "
            f"{field.name!r} such as {known}, got {', '.join(map(repr, keys[:3])) or 'no rows'}. "
            "Is it the file of this model's items?"
        )
    chosen = order[:most]
    given = [one for one in schema.given_fields if one.column_name in rows]
    described = {one.column_name: rows[one.column_name] for one in given}
    columns = {name: _of(values, chosen) for name, values in described.items()}
    # The vocabulary's values have no white space around them, and are what the model looks up.
    columns[field.column_name] = np.array([keys[place] for place in chosen], object)
    names = tuple(_text(rows[title][place]) or keys[place] for place in chosen)
    others = [one for one in schema.given_fields if one.column_name in columns and one is not field]
    details = tuple(_details(others, columns, place, title) for place in range(len(chosen)))
    num_beyond = len(order) - len(chosen)
    num_unknown = len(set(keys) - {""}) - len(order)
    return Catalogue(field, names, details, columns, num_unknown, num_beyond)


def _column_of_names(rows: Rows, field: Field, asked: str | None) -> str:
    if asked is not None:
        if asked not in rows:
            raise ValueError(
                f"expected --name-column to be a column of the names ({', '.join(rows)}), got "
                f"{asked!r}."
            )
        return asked
    by_case = {column.casefold(): column for column in rows}
    return next((by_case[name] for name in _NAMES if name in by_case), field.column_name)


def _order(keys: Sequence[str], vocabulary: Sequence[str] | None) -> list[int]:
    """The places of the items to show, each item once: its first line counts."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        if key:
            first.setdefault(key, place)
    if vocabulary is None:
        return list(first.values())
    return [first[value] for value in vocabulary if value in first]


def _of(values: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    # One by one: NumPy would make a matrix of lists of one length.
    taken = np.empty(len(chosen), object)
    for place, row in enumerate(chosen):
        taken[place] = values[row]
    return taken


def _details(
    fields: Sequence[Field], columns: Rows, place: int, title: str, longest: int = 60
) -> str:
    texts = []
    # Lists, which are long, come last.
    for field in sorted(fields, key=lambda one: one.kind == "multi"):
        if field.column_name == title:
            continue
        value = columns[field.column_name][place]
        parts = value if isinstance(value, list | tuple | np.ndarray) else [value]
        if field.kind == "multi" and len(parts) == 1:
            parts = _text(parts[0]).split(field.separator)
        if text := ", ".join(part for one in parts if (part := _text(one))):
            texts.append(text if len(text) <= longest else f"{text[: longest - 1]}…")
    return " · ".join(texts)


def _is_key(values: np.ndarray) -> bool:
    texts = [_text(value) for value in values]
    return len(set(texts)) == len(texts)


def _text(value: object) -> str:
    if value is None or value != value:  # a missing value
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip(WHITE_SPACE)
