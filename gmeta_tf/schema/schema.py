"""What a row is: its fields, the embedding tables that they read, its label and its task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gmeta_tf.allowed import TIME_UNITS, check_word
from gmeta_tf.schema.field import OF_DENSE_FIELDS, OF_DERIVED_FIELDS, Field, Fitted
from gmeta_tf.schema.side_table import SideTable
from gmeta_tf.schema.table import Table
from gmeta_tf.schema.values import check_names, check_types, described, no_twice

__all__ = ["Schema"]


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
        weight: the column of a row's weight in the losses, a number of at least 0: a row of weight
            2 counts as two rows. None weighs all rows alike.
        tables: the tables. Those that fields name and that are not listed are added.
        tables_to_join: further files that give columns to the rows; in JSON and YAML a mapping of
            names.
        time_unit: what the time's numbers count since 1970: `"seconds"`, `"milliseconds"`,
            `"microseconds"`, `"nanoseconds"`, or `"none"` for numbers that count something else.
            None leaves it to `prepare` to tell. It says what is shown, and what other numbers are
            taken for a mistake; rows are in the order of the numbers in any case.

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
    weight: str | None = None
    tables: tuple[Table, ...] = ()
    tables_to_join: tuple[SideTable, ...] = ()
    time_unit: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for member, kind in _MEMBERS.items():
            object.__setattr__(self, member, tuple(getattr(self, member)))
            for entry in getattr(self, member):
                if not isinstance(entry, kind):
                    raise ValueError(
                        f"Schema: expected {member} of {kind.__name__} objects, got "
                        f"{described(entry)}."
                    )
        if not self.fields:
            raise ValueError("Schema: expected at least one field, got none.")
        self._check_time_unit()
        object.__setattr__(self, "fields", tuple(map(self._with_table, self.fields)))
        no_twice("field", [field.name for field in self.fields])
        no_twice("table", [table.name for table in self.tables])
        no_twice("table to join", [table.name for table in self.tables_to_join])
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
        object.__setattr__(self, "fields", tuple(map(self._checked_cross, self.fields)))

    def _with_table(self, field: Field) -> Field:
        """A field of the last rows' values with the table of those; other fields as they are."""
        if field.last is None:
            return field
        where = f"Field {field.name!r}"
        may_be = [one for one in self.read_fields if one.kind == "categorical"]
        named = [one for one in may_be if one.name == field.of]
        if not named:
            raise ValueError(
                f"{where}: expected `of` to name a field of one value that reads a column "
                f"({', '.join(one.name for one in may_be) or 'there is none'}), got {field.of!r}."
            )
        if self.time is None:
            raise ValueError(
                f"{where}: the last {field.last} rows need a time to be told by, but the schema "
                "has none. Name the column (time)."
            )
        if field.table not in (None, named[0].table_name):
            raise ValueError(
                f"{where}: it shares the table {named[0].table_name!r} of {field.of!r}, got "
                f"table={field.table!r}. Leave it out."
            )
        return dataclasses.replace(field, table=named[0].table_name)

    def _checked_cross(self, field: Field) -> Field:
        """A cross with the kind that its parts give it; other fields as they are."""
        if not field.cross:
            return field
        where, named = f"Field {field.name!r}", {one.name: one for one in self.key_fields}
        parts = [named.get(name) for name in field.cross]
        pairs = 1
        for name, part in zip(field.cross, parts, strict=True):
            if part is None or part.cross:
                may_be = ", ".join(one.name for one in named.values() if not one.cross)
                raise ValueError(
                    f"{where}: expected cross to name fields that are looked up ({may_be}), got "
                    f"{name!r}. Of a number, state a second field of its column that is "
                    "categorical."
                )
            pairs *= part.num_slots
        table = self.table(field.table_name)
        if table.keys != "hash":
            raise ValueError(
                f"{where}: expected the table {table.name!r} of a cross to have hashed keys, got "
                f"{table.keys!r}. State it under tables, such as "
                f"{{name: {table.name}, keys: hash, num_rows: 10000}}."
            )
        if pairs > _MOST_PAIRS:
            raise ValueError(
                f"{where}: expected at most {_MOST_PAIRS:,} combinations of values a row, got up "
                f"to {pairs:,} of {' x '.join(field.cross)}. Lower their max_values."
            )
        return field if pairs == 1 else dataclasses.replace(field, kind="multi")

    def _check_time_unit(self) -> None:
        if self.time_unit is None:
            return
        check_word("Schema: time_unit", self.time_unit, TIME_UNITS)
        if self.time is None:
            raise ValueError(
                f"Schema: expected a time with time_unit={self.time_unit!r}, got none. Name the "
                "column (time), or leave time_unit out."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs: the task's, label's, time's and weight's, the fields'."""
        others = [one for one in (self.task, self.label, self.time, self.weight) if one is not None]
        return tuple(dict.fromkeys((*others, *(field.column_name for field in self.read_fields))))

    @property
    def read_fields(self) -> tuple[Field, ...]:
        """The fields that read a column of the log, in the schema's order."""
        return tuple(field for field in self.fields if not field.is_derived)

    @property
    def given_fields(self) -> tuple[Field, ...]:
        """The fields that a request to a served model carries: a cross is made of others there."""
        return tuple(field for field in self.fields if not field.cross)

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

    def without_derived(self) -> Schema:
        """The schema of the fields that read a column of the log."""
        read = {field.table_name for field in self.read_fields}
        tables = tuple(table for table in self.tables if table.name in read)
        return dataclasses.replace(self, fields=self.read_fields, tables=tables)

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

        What only dense or derived fields have is left out where it is not asked for, and so are the
        weight and the time's unit, so that schemas that do without them are what they always were.
        """
        values = dataclasses.asdict(self)
        for field in values["fields"]:
            for name, default in (OF_DENSE_FIELDS | OF_DERIVED_FIELDS).items():
                if field[name] == default:
                    del field[name]
        values["tables_to_join"] = {table.name: table.to_json() for table in self.tables_to_join}
        if not self.tables_to_join:
            del values["tables_to_join"]
        if self.time_unit is None:
            del values["time_unit"]
        if self.weight is None:
            del values["weight"]
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
        check_names("the schema", values, cls, required=("fields", "label", "task"))
        values = dict(values)
        for member, kind in (("fields", Field), ("tables", Table)):
            values[member] = tuple(_entries(values.get(member), member, kind))
        values["tables_to_join"] = tuple(_side_tables(values.get("tables_to_join")))
        return cls(**values)


_MOST_PAIRS = 1024

_MEMBERS: dict[str, type] = {"fields": Field, "tables": Table, "tables_to_join": SideTable}


def _side_tables(named: object) -> Iterator[SideTable]:
    """The tables to join of JSON values, each made; an error names the table."""
    if named is None:
        return
    if not isinstance(named, Mapping):
        raise ValueError(
            "tables_to_join: expected a name for each table, such as "
            f"{{films: {{path: films.csv, on: film}}}}, got {described(named)}."
        )
    for name, values in named.items():
        where = f"tables_to_join, {name}"
        check_names(where, values, SideTable, required=("path", "on"), unknown=("name",))
        try:
            yield SideTable(name, **values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _entries(entries: object, member: str, kind: type[Field] | type[Table]) -> Iterator[Any]:
    """The fields or tables of JSON values, each made; an error names the entry."""
    if entries is None:
        return
    if not isinstance(entries, list | tuple):
        raise ValueError(
            f"{member}: expected a list, such as [{{name: item}}], got {described(entries)}."
        )
    for place, entry in enumerate(entries):
        where = f"{member}[{place}]"
        check_names(where, entry, kind, required=("name",))
        try:
            yield kind(**entry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
