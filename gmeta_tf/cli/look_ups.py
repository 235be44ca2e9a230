"""The tables that a schema joins, as what a served model looks up by a field."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from gmeta_tf.cli.predict import read_source
from gmeta_tf.meta_io.sources.side_tables import side_table_source
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.meta_io.sql import connect, sql_name, sql_text, trimmed
from gmeta_tf.schema import Schema, SideTable

__all__ = ["read_look_ups"]


def read_look_ups(schema: Schema, fields: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Field -> the columns that the schema's tables give to each of its values.

    A table may be joined on what another one gives, as in `prepare`.

    Args:
        schema: says which tables.
        fields: the names of fields that tables are joined on.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no such field, none that a table is joined on, or a table that cannot be read.
    """
    return {name: _read(schema, name) for name in dict.fromkeys(fields)}


def _read(schema: Schema, name: str) -> dict[str, np.ndarray]:
    joined_on = {table.on for table in schema.tables_to_join}
    column = {
        field.name: field.column_name
        for field in schema.fields
        if field.kind == "categorical" and field.column_name in joined_on
    }
    if name not in column:
        raise ValueError(
            f"expected --look-up to name a field that one of the schema's tables_to_join is joined "
            f"on ({', '.join(column) or 'there is none'}), got {name!r}."
        )
    by = column[name]
    own = [table for table in schema.tables_to_join if table.on == by]
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-look-up-") as scratch:
        folder = pathlib.Path(scratch)
        with contextlib.closing(connect(folder, None)) as database:
            keys = [
                f"SELECT {trimmed(sql_name(table.key_column))} AS key "
                f"FROM ({side_table_source(table, folder).query})"
                for table in own
            ]
            all_keys = (
                f"SELECT DISTINCT key AS {sql_name(by)} FROM ({' UNION ALL '.join(keys)}) "
                "WHERE key IS NOT NULL ORDER BY key"
            )
            path = folder / "keys.parquet"
            database.execute(f"COPY ({all_keys}) TO {sql_text(path)} (FORMAT parquet)")
        source = dataclasses.replace(files_source(path), description=f"the values of {name!r}")
        further = [table.on for table in schema.tables_to_join]
        joins: tuple[SideTable, ...] = ()
        rows: dict[str, np.ndarray] = {by: np.zeros(0)}
        while True:
            more = tuple(
                one for one in schema.tables_to_join if one.on in rows and one not in joins
            )
            if not more:
                return rows
            joins += more
            rows = read_source(source, dataclasses.replace(schema, tables_to_join=joins), further)
