"""What a row is: its fields, the embedding tables that they read, its label and its task."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import itertools
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gmeta_tf.allowed import DENSE_TRANSFORMS, FIELD_KINDS, KEYS, MISSING, check_word

__all__ = ["Field", "Fitted", "Schema", "SideTable", "Table"]

UNKNOWN_KEY = 0
PADDING_KEY = -1
LARGEST_KEY = 2**63 - 1
_LARGEST_NARROW_SIZE = 2**31


@dataclasses.dataclass(frozen=True)
class Table:
    """One embedding table.

    Attributes:
        name: what fields and error messages call it; files are named after it too.
        num_rows: its rows, row 0 (the unknown value's) included. Of a vocabulary, `gmeta-tf
            prepare` fills it in. Of hashed and raw keys it is stated, or None for keys without a
            limit, whose rows come with them (a *dynamic* table, see `DynamicTable`).
        width: D, the numbers in a row. None takes the model's width. Tables that state the same
            width (or none) are one tensor of rows.
        keys: how a value becomes a key; a missing value is key 0 in each of them.
            `"vocabulary"`: the place in the list of the training data's values, the most frequent
            first, from 1; what is not in it is key 0.
            `"hash"`: `1 + h % (num_rows - 1)`, where h is the 64-bit fingerprint of the value's
            text (see `meta_io.hashing`); without num_rows as if that were `2**63 - 1`.
            `"raw"`: the value is the key, an integer from 0 to `num_rows - 1`, or to `2**63 - 1`.

    Raises:
        ValueError: a value of another type, an empty name or one with a slash, a size below 1,
            hashed keys with fewer than 2 rows, an unknown kind of keys.
    """

    name: str
    num_rows: int | None = None
    width: int | None = None
    keys: str = "vocabulary"

    def __post_init__(self) -> None:
        check_types(self)
        if "/" in self.name or "\\" in self.name or self.name in (".", ".."):
            raise ValueError(
                f"the table {self.name!r} names a file of the records folder: expected a name "
                "without slashes. Rename the table."
            )
        check_word(f"Table {self.name!r}: keys", self.keys, KEYS)
        for what, value in (("num_rows", self.num_rows), ("width", self.width)):
            if value is not None and value < 1:
                raise ValueError(
                    f"Table {self.name!r}: expected {what} to be at least 1, got {value}."
                )
            if value is not None and value > LARGEST_KEY:
                raise ValueError(
                    f"Table {self.name!r}: expected {what} to be at most 2**63 - 1, got {value}."
                )
        if self.keys == "hash" and self.num_rows == 1:
            raise ValueError(
                f"Table {self.name!r}: hashed keys need at least 2 rows (row 0 is the missing "
                "value's), got 1."
            )

    @property
    def is_dynamic(self) -> bool:
        """Whether its rows come with their keys: keys without a list and without a limit."""
        return self.keys != "vocabulary" and self.num_rows is None

    @property
    def words_per_key(self) -> int:
        """The 32-bit words that a key takes in a record: 1, or 2 where keys may pass 2**31 - 1."""
        if self.keys == "vocabulary":
            return 1
        return 1 if self.num_rows is not None and self.num_rows <= _LARGEST_NARROW_SIZE else 2


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

    Raises:
        ValueError: a value of another type, an empty name, an unknown kind, a dense field with a
            table, another one with a transform, a count below 1, edges that do not ascend.
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

    def __post_init__(self) -> None:
        check_types(self)
        check_word(f"Field {self.name!r}: kind", self.kind, FIELD_KINDS)
        self._check_transform()
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

    def _check_transform(self) -> None:
        where = f"Field {self.name!r}"
        check_word(f"{where}: transform", self.transform, DENSE_TRANSFORMS)
        if isinstance(self.missing, str):
            check_word(f"{where}: missing", self.missing, MISSING, "Or give a number.")
        object.__setattr__(self, "edges", _edges_of(where, self.edges))
        saved: Any = self.fitted
        if saved is not None and not isinstance(saved, Fitted):
            _check_names(f"{where}: fitted", saved, Fitted, required=())
            object.__setattr__(self, "fitted", Fitted(**saved))
        asked = {
            name: getattr(self, name)
            for name, default in _OF_DENSE_FIELDS.items()
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
                f"{where}: expected read to be options, each with its value, got "
                f"{_described(read)}."
            )
        pairs = read.items() if isinstance(read, Mapping) else read
        object.__setattr__(self, "read", tuple((str(name), _frozen(one)) for name, one in pairs))
        _no_twice(f"column that {self.name!r} gives,", [name for name, _ in self.columns])
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


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a row is, and what groups rows into tasks.

    Attributes:
        fields: the features, in the order in which learners see them.
        label: the column of what is to be predicted, a number.
        task: the column whose value names the task (a user, an advertiser, a scenario).
        time: a column to order a task's rows by; None keeps the order of the files.
        positive_from: labels of at least this are 1 and the others 0 where the data is read
            (records keep the number); None leaves the number.
        tables: the tables. Those that fields name and that are not listed are added.
        tables_to_join: further files that give columns to the rows; in JSON and YAML a mapping of
            names.

    Raises:
        ValueError: a value of another type, no field, a name that stands twice, a table that no
            field reads.

    Example:
        >>> fields = (Field("item"), Field("genre", "multi", max_values=3))
        >>> schema = Schema(fields, label="rating", task="user")
        >>> [table.name for table in schema.tables]
        ['item', 'genre']
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    fields: tuple[Field, ...]
    label: str
    task: str
    time: str | None = None
    positive_from: float | None = None
    tables: tuple[Table, ...] = ()
    tables_to_join: tuple[SideTable, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        for member, kind in _MEMBERS.items():
            object.__setattr__(self, member, tuple(getattr(self, member)))
            for entry in getattr(self, member):
                if not isinstance(entry, kind):
                    raise ValueError(
                        f"Schema: expected {member} of {kind.__name__} objects, got "
                        f"{_described(entry)}."
                    )
        if not self.fields:
            raise ValueError("Schema: expected at least one field, got none.")
        _no_twice("field", [field.name for field in self.fields])
        _no_twice("table", [table.name for table in self.tables])
        _no_twice("table to join", [table.name for table in self.tables_to_join])
        read = list(dict.fromkeys(f.table_name for f in self.fields if f.kind != "dense"))
        listed = {table.name: table for table in self.tables}
        unread = [name for name in listed if name not in read]
        if unread:
            raise ValueError(
                f"Schema: no field reads the table {unread[0]!r}; fields read {', '.join(read)}. "
                "Correct the name or drop the table."
            )
        tables = tuple(listed.get(name, Table(name)) for name in read)
        object.__setattr__(self, "tables", tables)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs: the task's, the label's, the time's, the fields'."""
        others = (self.task, self.label, *(() if self.time is None else (self.time,)))
        return tuple(dict.fromkeys((*others, *(field.column_name for field in self.fields))))

    @property
    def key_fields(self) -> tuple[Field, ...]:
        """The fields that read a table, in the schema's order."""
        return tuple(field for field in self.fields if field.kind != "dense")

    @property
    def dense_fields(self) -> tuple[Field, ...]:
        """The fields that are numbers, in the schema's order."""
        return tuple(field for field in self.fields if field.kind == "dense")

    @property
    def num_dense_columns(self) -> int:
        """The width of the learner's input `"dense"`.

        Raises:
            ValueError: a transform has not been fitted.
        """
        return sum(field.num_columns for field in self.dense_fields)

    def table(self, name: str) -> Table:
        """The table of that name; KeyError when there is none."""
        return {table.name: table for table in self.tables}[name]

    def with_num_rows(self, num_rows: Mapping[str, int]) -> Schema:
        """The same schema with the sizes of the named tables filled in."""
        tables = tuple(
            dataclasses.replace(table, num_rows=num_rows.get(table.name, table.num_rows))
            for table in self.tables
        )
        return dataclasses.replace(self, tables=tables)

    def with_fitted(self, fitted: Mapping[str, Fitted]) -> Schema:
        """The same schema with what was learned of the named dense fields filled in."""
        fields = tuple(
            dataclasses.replace(field, fitted=fitted.get(field.name, field.fitted))
            for field in self.fields
        )
        return dataclasses.replace(self, fields=fields)

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values; `from_json` undoes it.

        What only dense fields have is left out where it is not asked for, so that schemas that do
        without it are what they always were.
        """
        values = dataclasses.asdict(self)
        for field in values["fields"]:
            for name, default in _OF_DENSE_FIELDS.items():
                if field[name] == default:
                    del field[name]
        values["tables_to_join"] = {table.name: table.to_json() for table in self.tables_to_join}
        if not self.tables_to_join:
            del values["tables_to_join"]
        return json.loads(json.dumps(values))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Schema:
        """Reads what `to_json` gave, or what a person wrote in YAML.

        Args:
            values: `fields` (a list of `Field`'s values), `label`, `task`, and the optional rest.

        Raises:
            ValueError: a name that is not known, a required one that is missing, or a value that
                does not fit. It names the place, such as `fields[2]`.
        """
        _check_names("the schema", values, cls, required=("fields", "label", "task"))
        values = dict(values)
        for member, kind in (("fields", Field), ("tables", Table)):
            values[member] = tuple(_entries(values.get(member), member, kind))
        values["tables_to_join"] = tuple(_side_tables(values.get("tables_to_join")))
        return cls(**values)


_MEMBERS: dict[str, type] = {"fields": Field, "tables": Table, "tables_to_join": SideTable}


def _side_tables(named: object) -> Iterator[SideTable]:
    """The tables to join of JSON values, each made; an error names the table."""
    if named is None:
        return
    if not isinstance(named, Mapping):
        raise ValueError(
            "tables_to_join: expected a name for each table, such as "
            f"{{films: {{path: films.csv, on: film}}}}, got {_described(named)}."
        )
    for name, values in named.items():
        where = f"tables_to_join, {name}"
        _check_names(where, values, SideTable, required=("path", "on"), unknown=("name",))
        try:
            yield SideTable(name, **values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _renamed(where: str, columns: Any) -> tuple[tuple[str, str], ...]:
    """Columns, as a list of names or as a mapping of new names to old ones, as pairs."""
    if isinstance(columns, Mapping):
        pairs = list(columns.items())
    elif isinstance(columns, list | tuple):
        pairs = [(one, one) if isinstance(one, str) else one for one in columns]
    else:
        pairs = [columns]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or not all(_is_a(name, str) for name in pair):
            raise ValueError(
                f"{where}: expected columns to be a list of names, or a mapping of new names to "
                f"the table's, got {_described(columns)}."
            )
    return tuple((str(new), str(old)) for new, old in pairs)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


# Members of a dense field alone, and what they are where nobody asks for anything.
_OF_DENSE_FIELDS: dict[str, Any] = {
    "transform": "none",
    "missing": "error",
    "buckets": 10,
    "edges": (),
    "fitted": None,
}


def _edges_of(where: str, edges: object) -> tuple[float, ...]:
    """Edges of buckets as a tuple of numbers."""
    if not isinstance(edges, list | tuple) or not all(_is_a(edge, float) for edge in edges):
        raise ValueError(
            f"{where}: expected edges to be a list of finite numbers, got {_described(edges)}."
        )
    if any(left >= right for left, right in itertools.pairwise(edges)):
        raise ValueError(f"{where}: expected edges to ascend, got {list(edges)}. Sort them.")
    return tuple(map(float, edges))


def _entries(entries: object, member: str, kind: type[Field] | type[Table]) -> Iterator[Any]:
    """The fields or tables of JSON values, each made; an error names the entry."""
    if entries is None:
        return
    if not isinstance(entries, list | tuple):
        raise ValueError(
            f"{member}: expected a list, such as [{{name: item}}], got {_described(entries)}."
        )
    for place, entry in enumerate(entries):
        where = f"{member}[{place}]"
        _check_names(where, entry, kind, required=("name",))
        try:
            yield kind(**entry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _no_twice(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Schema: the {what} {twice[0]!r} stands twice. Give each its own name.")


def _check_names(
    where: str,
    values: object,
    kind: type,
    required: Sequence[str],
    unknown: Sequence[str] = (),
) -> None:
    known = [member.name for member in dataclasses.fields(kind) if member.name not in unknown]
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{where}: expected {', '.join(required or known)} and what else it has, each with its "
            "value, "
            f"got {_described(values)}."
        )
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise ValueError(
                f"{where}: there is no {name!r} in it; known are {', '.join(known)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
    for name in required:
        if values.get(name) is None:
            raise ValueError(f"{where}: {name} is missing; required are {', '.join(required)}.")


def check_types(made: Field | Fitted | SideTable | Table | Schema) -> None:
    """Checks that the values of a field, a table or a schema are of their types.

    Raises:
        ValueError: one that is not, or an empty text.
    """
    hints = typing.get_type_hints(type(made))
    owner = type(made).__name__
    if isinstance(name := getattr(made, "name", None), str) and name:
        owner = f"{owner} {name!r}"
    for member in dataclasses.fields(made):
        value, hint = getattr(made, member.name), hints[member.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if value is None and type(None) in kinds:
            continue
        known = [kind for kind in _EXPECTED if kind in kinds]
        if known and not any(_is_a(value, kind) for kind in known):
            expected = " or ".join(_EXPECTED[kind] for kind in known)
            raise ValueError(
                f"{owner}: expected {member.name} to be {expected}, got {_described(value)}."
                + _remedy(value, known[0])
            )


_EXPECTED = {str: "a text", int: "an integer", float: "a finite number"}


def _is_a(value: object, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str) and value != ""
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int)
    return isinstance(value, int | float) and math.isfinite(value)


def _described(value: object) -> str:
    return "an empty text" if value == "" else f"{value!r} (of type {type(value).__name__})"


def _remedy(value: object, kind: type) -> str:
    if kind is str and isinstance(value, int | float | datetime.date):
        return f" In YAML put it in quotes: {str(value)!r}."
    if kind is not str and isinstance(value, str) and value:
        return " Write it without quotes."
    return ""
