"""A further file, whose columns are joined to the rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from gmeta_tf.schema.values import check_types, described, frozen, is_a, no_twice

__all__ = ["SideTable"]


@dataclasses.dataclass(frozen=True)
class SideTable:
    """A second table that gives columns to the rows of the log: of users, of items.

    Attributes:
        name: what messages call it.
        path: its file, or a pattern. In a schema's file it is relative to that file.
        on: the column of the log that is looked up in it, or one that another table gives.
        key: the column of the table that it is looked up in. None is `on`.
        columns: the columns that it gives, as (name, the table's column). Empty gives all but the
            key under their own names. Those that the schema does not read are not joined.
        many: the column that has one value a line, of several lines a key (a film's genres, a line
            each): it becomes a list in the order of the lines. None has one line a key.
        read: how the file is written, as (option, value): see `ReaderOptions`.

    Raises:
        ValueError: a value of another type, a name that stands twice, or further columns beside
            `many`.
    """

    name: str
    path: str
    on: str
    key: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    many: str | None = None
    read: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        where = f"SideTable {self.name!r}"
        object.__setattr__(self, "columns", _renamed(where, self.columns))
        read: Any = self.read
        if not isinstance(read, Mapping | list | tuple):
            raise ValueError(
                f"{where}: expected read to be options, each with its value, got {described(read)}."
            )
        pairs = read.items() if isinstance(read, Mapping) else read
        object.__setattr__(self, "read", tuple((str(name), frozen(one)) for name, one in pairs))
        no_twice(f"column that {self.name!r} gives,", [name for name, _ in self.columns])
        if self.many is not None:
            if not self.columns:
                object.__setattr__(self, "columns", ((self.many, self.many),))
            if [column for _, column in self.columns] != [self.many]:
                raise ValueError(
                    f"{where}: with many={self.many!r} it gives that column alone, got columns "
                    f"{', '.join(column for _, column in self.columns)}. Name the file a second "
                    "time, under another name, for columns of one value."
                )

    @property
    def key_column(self) -> str:
        """The column of the table that it is looked up in."""
        return self.key or self.on

    def to_json(self) -> dict[str, Any]:
        """What stands under the table's name, as JSON values."""
        values: dict[str, Any] = {"path": self.path, "on": self.on}
        if self.key is not None:
            values["key"] = self.key
        if self.many is not None:
            values["many"] = self.many
        if self.columns and self.columns != ((self.many, self.many),):
            values["columns"] = dict(self.columns)
        if self.read:
            values["read"] = json.loads(json.dumps(dict(self.read)))
        return values


def _renamed(where: str, columns: Any) -> tuple[tuple[str, str], ...]:
    """Columns, as a list of names or as a mapping of new names to old ones, as pairs."""
    if isinstance(columns, Mapping):
        pairs = list(columns.items())
    elif isinstance(columns, list | tuple):
        pairs = [(one, one) if isinstance(one, str) else one for one in columns]
    else:
        pairs = [columns]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or not all(is_a(name, str) for name in pair):
            raise ValueError(
                f"{where}: expected columns to be a list of names, or a mapping of new names to "
                f"the table's, got {described(columns)}."
            )
    return tuple((str(new), str(old)) for new, old in pairs)
