"""A feature of a row, and how its values are made ready."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from gmeta_tf.allowed import DENSE_TRANSFORMS, FIELD_KINDS, MISSING, check_word
from gmeta_tf.schema.values import check_names, check_types, described, is_a

__all__ = ["OF_DENSE_FIELDS", "OF_DERIVED_FIELDS", "Field", "Fitted"]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a dense field's transform learned from the training rows; prepare fills it in.

    Attributes:
        centre: what is subtracted: the mean of `"standardize"`, the smallest of `"minmax"`.
        scale: what is then divided by: the standard deviation, or largest - smallest. 1 where that
            is 0, so that a value that is the same in all training rows becomes 0.
        mean: of the values that are there, which stands for a missing one under `missing: mean`.
        edges: of `"bucketize"`, ascending.

    Raises:
        ValueError: a value that is no finite number, a scale of 0 or below, edges that do not
            ascend.
    """

    centre: float = 0.0
    scale: float = 1.0
    mean: float = 0.0
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "edges", _edges_of("Fitted", self.edges))
        if self.scale <= 0:
            raise ValueError(f"Fitted: expected scale above 0, got {self.scale}.")


@dataclasses.dataclass(frozen=True)
class Field:
    """One feature of a row.

    Attributes:
        name: the feature's name; the column of the raw data unless `column` says otherwise.
        kind: `"categorical"` (one value, looked up), `"multi"` (up to L values, looked up and
            averaged) or `"dense"` (a number).
        table: the table that it reads; fields that name the same one share its rows. None is a
            table of the field's own name. A dense field has none.
        column: the column of the raw data. None is `name`.
        separator: what stands between the values of a `"multi"` field in the raw data.
        max_values: L of a `"multi"` field; a row's further values are cut off.
        min_count: values seen fewer times in the training rows share the unknown value's row
            (of a table with a vocabulary).
        transform: what a learner sees of a dense value x. Records keep x, and training, evaluation
            and the served model apply the same ops to it.
            `"none"`: x. `"standardize"`: (x - mean) / standard deviation. `"minmax"`:
            (x - smallest) / (largest - smallest). `"log1p"`: sign(x) ln(1 + |x|).
            `"bucketize"`: a 1 in the column of x's bucket among `edges` and 0 in the others.
            Means, deviations, smallest and largest are those of the training rows.
        missing: what a dense value that is not there is. `"error"`: a bad row. A number: that
            number. `"mean"`: the mean of the training rows. `"indicator"`: 0 in the value's
            columns and 1 in a further one, which is 0 in all other rows.
        buckets: how many buckets, cut at quantiles of the training rows so that each has about as
            many rows; equal edges are one.
        edges: the edges themselves, ascending; a value that equals one is in the bucket above.
        fitted: what was learned from the training rows.
        cross: names of other fields: the field's values are their values together, such as an age
            group with a genre, and it reads no column. Its table has hashed keys (see
            `meta_io.preparing.crosses`). Of multi-valued fields it has all pairs, up to
            `max_values`.
        of: another categorical field, whose values in the task's rows before each row are this
            field's, the newest first; it shares that one's table and reads no column (see
            `meta_io.preparing.histories`). A request to a served model carries them.
        last: how many rows before are looked at; the field is multi-valued.

    Raises:
        ValueError: a value of another type, an empty name, an unknown kind, a dense field with a
            table, another one with a transform, a count below 1, edges that do not ascend, a cross
            of less than two fields, `of` without `last`, or a field of others that states what only
            a column has.
    """

    name: str
    kind: str = "categorical"
    table: str | None = None
    column: str | None = None
    separator: str = "|"
    max_values: int = 8
    min_count: int = 1
    transform: str = "none"
    missing: str | float = "error"
    buckets: int = 10
    edges: tuple[float, ...] = ()
    fitted: Fitted | None = None
    cross: tuple[str, ...] = ()
    of: str | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_word(f"Field {self.name!r}: kind", self.kind, FIELD_KINDS)
        self._check_transform()
        self._check_derived()
        if self.kind == "dense" and self.table is not None:
            raise ValueError(
                f"Field {self.name!r}: a dense field reads no table, got table={self.table!r}. "
                "Make it categorical, or leave the table out."
            )
        for what, value in (("max_values", self.max_values), ("min_count", self.min_count)):
            if value < 1:
                raise ValueError(
                    f"Field {self.name!r}: expected {what} to be at least 1, got {value}."
                )
        if self.kind == "multi" and not self.separator:
            raise ValueError(f"Field {self.name!r}: expected a separator, got an empty one.")

    def _check_derived(self) -> None:
        where, parts = f"Field {self.name!r}", self._parts_of_cross()
        if (self.of is None) != (self.last is None) or (parts and self.of is not None):
            raise ValueError(
                f"{where}: expected of and last together (the last rows' values of a field), and "
                f"no cross beside them, got of={self.of!r}, last={self.last!r}, cross={parts!r}."
            )
        if parts and (len(parts) < 2 or len(set(parts)) < len(parts) or self.name in parts):
            raise ValueError(
                f"{where}: expected cross to name two other fields or more, each once, got "
                f"{', '.join(parts)}."
            )
        if self.last is not None and not 1 <= self.last <= _MOST_LAST:
            raise ValueError(
                f"{where}: expected last to be from 1 to {_MOST_LAST:,}, got {self.last}."
            )
        if not self.is_derived:
            return
        stated = [
            f"{name}={value!r}"
            for name, usual in (("column", None), ("min_count", 1))
            if (value := getattr(self, name)) != usual
        ]
        if self.kind == "dense" or stated:
            what = stated[0] if stated else "kind='dense'"
            raise ValueError(
                f"{where}: it has the keys of other fields and reads no column, got {what}. Leave "
                "it out."
            )
        if self.last is not None:
            object.__setattr__(self, "kind", "multi")
            object.__setattr__(self, "max_values", self.last)

    def _parts_of_cross(self) -> tuple[str, ...]:
        parts: Any = self.cross
        if not isinstance(parts, list | tuple) or not all(is_a(part, str) for part in parts):
            raise ValueError(
                f"Field {self.name!r}: expected cross to be a list of names of fields, got "
                f"{described(parts)}."
            )
        object.__setattr__(self, "cross", tuple(parts))
        return self.cross

    def _check_transform(self) -> None:
        where = f"Field {self.name!r}"
        check_word(f"{where}: transform", self.transform, DENSE_TRANSFORMS)
        if isinstance(self.missing, str):
            check_word(f"{where}: missing", self.missing, MISSING, "Or give a number.")
        object.__setattr__(self, "edges", _edges_of(where, self.edges))
        saved: Any = self.fitted
        if saved is not None and not isinstance(saved, Fitted):
            check_names(f"{where}: fitted", saved, Fitted, required=())
            object.__setattr__(self, "fitted", Fitted(**saved))
        asked = {
            name: getattr(self, name)
            for name, default in OF_DENSE_FIELDS.items()
            if getattr(self, name) != default
        }
        if self.kind != "dense" and asked:
            name, value = next(iter(asked.items()))
            raise ValueError(
                f"{where}: {name} is of dense fields, got {name}={value!r} of a {self.kind} one. "
                "Leave it out, or make the field dense."
            )
        if self.transform != "bucketize" and (self.edges or "buckets" in asked):
            raise ValueError(
                f"{where}: buckets and edges are of the transform bucketize, got "
                f"{self.transform!r}. Leave them out, or state transform: bucketize."
            )
        if self.buckets < 2:
            raise ValueError(f"{where}: expected buckets to be at least 2, got {self.buckets}.")

    @property
    def needs_fit(self) -> bool:
        """Whether what a learner sees of the field depends on the training rows."""
        is_fitted_transform = self.transform in ("standardize", "minmax")
        is_cut_by_quantiles = self.transform == "bucketize" and not self.edges
        return self.missing == "mean" or is_fitted_transform or is_cut_by_quantiles

    @property
    def bucket_edges(self) -> tuple[float, ...]:
        """The edges of a bucketized field: those that were stated, or fitted."""
        return self.edges or (() if self.fitted is None else self.fitted.edges)

    @property
    def num_columns(self) -> int:
        """How many numbers a learner sees of a dense field.

        Raises:
            ValueError: that depends on the training rows, and nothing has been fitted.
        """
        self.check_fitted()
        of_value = len(self.bucket_edges) + 1 if self.transform == "bucketize" else 1
        return of_value + (self.missing == "indicator")

    def check_fitted(self) -> None:
        """Checks that what depends on the training rows is there.

        Raises:
            ValueError: it is not.
        """
        if self.needs_fit and self.fitted is None:
            raise ValueError(
                f"the dense field {self.name!r} is not fitted: expected a schema whose transforms "
                f"were fitted to training rows, got transform={self.transform!r}, "
                f"missing={self.missing!r} and no fitted. Use the schema of the records folder "
                "(Records.schema)."
            )

    @property
    def is_derived(self) -> bool:
        """Whether `prepare` makes the field of others, and reads no column for it."""
        return bool(self.cross) or self.last is not None

    @property
    def table_name(self) -> str:
        """The table that the field reads."""
        return self.table or self.name

    @property
    def column_name(self) -> str:
        """The column of the raw data."""
        return self.column or self.name

    @property
    def num_slots(self) -> int:
        """The values that a row of the records holds for the field: L, or 1."""
        return self.max_values if self.kind == "multi" else 1


# Members of a dense field alone, and what they are where nobody asks for anything.
OF_DENSE_FIELDS: dict[str, Any] = {
    "transform": "none",
    "missing": "error",
    "buckets": 10,
    "edges": (),
    "fitted": None,
}
# Members of derived fields alone, likewise.
OF_DERIVED_FIELDS: dict[str, Any] = {"cross": (), "of": None, "last": None}
_MOST_LAST = 1024


def _edges_of(where: str, edges: object) -> tuple[float, ...]:
    """Edges of buckets as a tuple of numbers."""
    if not isinstance(edges, list | tuple) or not all(is_a(edge, float) for edge in edges):
        raise ValueError(
            f"{where}: expected edges to be a list of finite numbers, got {described(edges)}."
        )
    if any(left >= right for left, right in itertools.pairwise(edges)):
        raise ValueError(f"{where}: expected edges to ascend, got {list(edges)}. Sort them.")
    return tuple(map(float, edges))
