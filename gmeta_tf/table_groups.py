"""Which tables share keys, and which share an input of the learner: facts of the schema."""

from __future__ import annotations

from gmeta_tf.schema import Schema, Table

__all__ = ["input_groups", "key_groups", "num_keys_of", "num_rows_of"]


def key_groups(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The tables whose keys are told apart together.

    Returns:
        `"embedded"` -> the tables of known size that take the model's width; `"embedded_16"` ->
        those that state width 16; and so on, tables in the schema's order. A dynamic table is a
        group of its own, `"embedded:<table>"`: its keys leave no room for those of others.
    """
    groups: dict[str, list[str]] = {}
    for table in schema.tables:
        name = _input_of(table)
        group = f"{name}:{table.name}" if table.is_dynamic else name
        groups.setdefault(group, []).append(table.name)
    return {group: tuple(names) for group, names in groups.items()}


def input_groups(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The learner's inputs, and the groups of tables that each reads: those of one width."""
    inputs: dict[str, list[str]] = {}
    for group, tables in key_groups(schema).items():
        inputs.setdefault(_input_of(schema.table(tables[0])), []).append(group)
    return {name: tuple(groups) for name, groups in inputs.items()}


def _input_of(table: Table) -> str:
    return "embedded" if table.width is None else f"embedded_{table.width}"


def num_keys_of(schema: Schema, tables: tuple[str, ...]) -> int | None:
    """How many keys a group of tables has; None of a dynamic one."""
    if schema.table(tables[0]).is_dynamic:
        return None
    return sum(num_rows_of(schema, name) for name in tables)


def num_rows_of(schema: Schema, table: str) -> int:
    """The rows of a table of known size.

    Raises:
        ValueError: the schema does not state it.
    """
    num_rows = schema.table(table).num_rows
    if num_rows is None:
        raise ValueError(
            f"the table {table!r} has no num_rows: expected a schema whose vocabularies are "
            "built. Use the schema of the records folder (Records.schema)."
        )
    return num_rows
