"""A delta: what turns the values of an exported model into those of a later one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gmeta_tf.saving.deltas.row_changes import (
    IndexedChanges,
    KeyedChanges,
    Moved,
    changes_of_indexed,
    changes_of_keyed,
    indexed_after,
    keyed_after,
)
from gmeta_tf.saving.exports.served_values import Values

__all__ = ["Appended", "Delta", "Indexed", "Keyed", "Part", "make_delta", "values_after"]


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Tables of known size.

    Attributes:
        rows: the name of their rows among the values.
        moved: where the rows of each were and are.
    """

    rows: str
    moved: tuple[Moved, ...]


@dataclasses.dataclass(frozen=True)
class Keyed:
    """A dynamic table.

    Attributes:
        keys: the name of its keys among the values.
        rows: the name of its rows.
    """

    keys: str
    rows: str


@dataclasses.dataclass(frozen=True)
class Appended:
    """A vocabulary, to which values are only ever appended.

    Attributes:
        values: its name among the values.
    """

    values: str


Part = Indexed | Keyed | Appended
_KINDS = {kind.__name__.lower(): kind for kind in (Indexed, Keyed, Appended)}


@dataclasses.dataclass(frozen=True)
class Delta:
    """What a delta's file holds.

    Attributes:
        parts: the values of which only changes are kept, by what they are.
        arrays: the changes, as `<place of the part>/<what>`, and each other value as
            `whole/<name>`.
    """

    parts: tuple[Part, ...]
    arrays: Values

    def parts_as_json(self) -> list[dict[str, Any]]:
        """The parts, as JSON values."""
        return [
            {"kind": type(part).__name__.lower(), **dataclasses.asdict(part)} for part in self.parts
        ]

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Any]], arrays: Values) -> Delta:
        """The delta of `parts_as_json` and arrays.

        Raises:
            ValueError: a part of another kind.
        """
        made: list[Part] = []
        for part in parts:
            values = dict(part)
            kind = _KINDS.get(values.pop("kind", None))
            if kind is None:
                raise ValueError(
                    f"expected the parts of a delta to be of {', '.join(_KINDS)}, got "
                    f"{part.get('kind')!r}. Apply it with the gmeta_tf that made it."
                )
            if "moved" in values:
                values["moved"] = tuple(Moved(*table) for table in values["moved"])
            made.append(kind(**values))
        return cls(tuple(made), arrays)


def make_delta(before: Values, now: Values, parts: Sequence[Part]) -> Delta:
    """What turns `before` into `now`.

    Args:
        before: of the model that is served.
        now: of the later one.
        parts: what is not to be kept whole.

    Raises:
        ValueError: a vocabulary does not begin with its earlier values.
    """
    arrays: Values = {}
    of_parts: set[str] = set()
    for place, part in enumerate(parts):
        changes: dict[str, Any]
        if isinstance(part, Indexed):
            changes = changes_of_indexed(before[part.rows], now[part.rows], part.moved)._asdict()
        elif isinstance(part, Keyed):
            old, new = ((v[part.keys], v[part.rows]) for v in (before, now))
            changes = changes_of_keyed(*old, *new)._asdict()
        else:
            changes = {"values": _appended(before[part.values], now[part.values])}
        arrays |= {f"{place}/{name}": np.asarray(value) for name, value in changes.items()}
        of_parts |= {name for name in dataclasses.asdict(part).values() if isinstance(name, str)}
    whole = {f"whole/{name}": value for name, value in now.items() if name not in of_parts}
    return Delta(tuple(parts), arrays | whole)


def values_after(before: Values, delta: Delta) -> Values:
    """The values of the later model.

    Raises:
        ValueError: the delta does not fit the values.
    """
    arrays = delta.arrays
    now = {
        name.removeprefix("whole/"): value
        for name, value in arrays.items()
        if name.startswith("whole/")
    }
    try:
        for place, part in enumerate(delta.parts):
            if isinstance(part, Indexed):
                changes = IndexedChanges(*_of_part(arrays, place, IndexedChanges._fields))
                now[part.rows] = indexed_after(before[part.rows], changes, part.moved)
            elif isinstance(part, Keyed):
                changed = KeyedChanges(*_of_part(arrays, place, KeyedChanges._fields))
                now[part.keys], now[part.rows] = keyed_after(
                    before[part.keys], before[part.rows], changed
                )
            else:
                (appended,) = _of_part(arrays, place, ("values",))
                now[part.values] = np.concatenate([before[part.values], appended])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"it does not fit the model: {error!r}") from error
    return now


def _of_part(arrays: Values, place: int, names: Sequence[str]) -> list[np.ndarray]:
    return [arrays[f"{place}/{name}"] for name in names]


def _appended(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    if now[: len(before)].tolist() != before.tolist():
        raise ValueError(
            "expected a vocabulary to begin with the values that it had, got others. Export in "
            "full."
        )
    return now[len(before) :]
