"""Values to keys in DuckDB: vocabularies, hashed and raw keys, and the slots of each text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import duckdb
import numpy as np

from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.meta_io.preparing.job import Job
from gmeta_tf.meta_io.preparing.raw_rows import RawRows, parts_of
from gmeta_tf.meta_io.sql import one_value, sql_parquet, sql_text, trimmed
from gmeta_tf.schema import Field, Schema, Table

__all__ = ["KeyMaps", "is_mapped"]

_CHUNK_VALUES = 1 << 18
_COUNTED_TOGETHER = 16


def is_mapped(field: Field, schema: Schema) -> bool:
    """Whether a field's texts are looked up; a single raw key is read from its text."""
    if field.kind == "dense":
        return False
    return field.kind == "multi" or schema.table(field.table_name).keys != "raw"


@dataclasses.dataclass(frozen=True)
class KeyMaps:
    """Makes `keys_<i>` (raw, slot_0, ...) of the fields that are looked up.

    Texts and not rows are cut and looked up, since there are far fewer of them in most data.

    Attributes:
        database: with `loaded` and `task_of`.
        job: what is prepared.
        rows: what is known of `loaded`.
        side: the SQL of a row's side.
    """

    database: duckdb.DuckDBPyConnection
    job: Job
    rows: RawRows
    side: str

    @property
    def _schema(self) -> Schema:
        return self.job.schema

    def count_texts(self) -> None:
        """Makes `texts_<i>`: a field's distinct texts, their rows and their training rows."""
        mapped = [
            (position, field)
            for position, field in enumerate(self._schema.fields)
            if is_mapped(field, self._schema)
        ]
        single = [position for position, field in mapped if field.kind == "categorical"]
        # Several values are mostly different in each row: not together with others.
        groups = [[position] for position, field in mapped if field.kind == "multi"]
        groups += [
            single[first : first + _COUNTED_TOGETHER]
            for first in range(0, len(single), _COUNTED_TOGETHER)
        ]
        for positions in groups:
            self._count_together(positions)

    def _count_together(self, positions: Sequence[int]) -> None:
        names = [f"field_{position}" for position in positions]
        columns = ", ".join(names)
        self.database.execute(
            f"CREATE TABLE counted AS SELECT {columns}, grouping({columns}) AS others, "
            "count(side) AS rows, count(*) FILTER (side = 0) AS training "
            f"FROM (SELECT {columns}, {self.side} AS side FROM (SELECT {columns}, side"
            f"{', loaded.time' if self.job.split.by_time else ''} FROM loaded JOIN task_of "
            "ON loaded.task = task_of.raw)) "
            f"GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in names)})"
        )
        for place, position in enumerate(positions):
            others = (1 << len(positions)) - 1 - (1 << (len(positions) - 1 - place))
            self.database.execute(
                f"CREATE TABLE texts_{position} AS SELECT field_{position} AS raw, rows, training "
                f"FROM counted WHERE others = {others} AND field_{position} IS NOT NULL"
            )
        self.database.execute("DROP TABLE counted")

    def make(self, table: Table) -> tuple[int, dict[str, int]]:
        """Makes the `keys_<i>` of the fields that read a table, and saves its vocabulary.

        Returns:
            The values that have a key (of a vocabulary), and the cut values of each field.
        """
        readers = [
            (position, field)
            for position, field in enumerate(self._schema.fields)
            if field.table_name == table.name and is_mapped(field, self._schema)
        ]
        for position, field in readers:
            self._cut_texts(position, field)
        size = 0
        if table.keys == "vocabulary":
            size = self._make_vocabulary(table, readers)
        elif table.keys == "hash":
            self._make_hashed(table, [position for position, _ in readers])
        elif readers:
            values = _union("SELECT value FROM parts_{}", [position for position, _ in readers])
            self.database.execute(
                "CREATE TABLE lookup AS SELECT value, CAST(value AS BIGINT) AS key "
                f"FROM (SELECT DISTINCT value FROM ({values}))"
            )
        cut: dict[str, int] = {}
        for position, field in readers:
            cut |= self._map_texts(position, field, table)
        self.database.execute("DROP TABLE IF EXISTS lookup")
        return size, cut

    def _cut_texts(self, position: int, field: Field) -> None:
        """Makes `parts_<i>`: (raw, value, place of its first, rows, training) of the texts."""
        if field.kind == "categorical":
            self.database.execute(
                f"CREATE VIEW parts_{position} AS SELECT * FROM (SELECT raw, "
                f"{trimmed('raw')} AS value, 0 AS place, rows, training FROM texts_{position}) "
                "WHERE value IS NOT NULL"
            )
            return
        parts = parts_of(field, self.rows.types[field.column_name], "raw")
        self.database.execute(
            f"CREATE TABLE parts_{position} AS SELECT raw, {trimmed('part')} AS value, "
            "min(place) AS place, any_value(rows) AS rows, any_value(training) AS training FROM "
            f"(SELECT raw, rows, training, unnest({parts}) AS part, "
            f"generate_subscripts({parts}, 1) AS place FROM texts_{position}) "
            f"WHERE {trimmed('part')} IS NOT NULL GROUP BY raw, {trimmed('part')}"
        )

    def _make_vocabulary(self, table: Table, readers: Sequence[tuple[int, Field]]) -> int:
        known = "SELECT '' AS value, 0 AS key LIMIT 0"
        if self.job.previous is not None:
            file = sql_parquet(self.job.previous.vocabularies[table.name])
            known = f"SELECT value, key FROM {file}"
        self.database.execute(f"CREATE TABLE known AS {known}")
        num_known = one_value(self.database, "SELECT count(*) FROM known")
        values = _union("SELECT value, training FROM parts_{}", [place for place, _ in readers])
        min_count = min(field.min_count for _, field in readers)
        self.database.execute(
            "CREATE TABLE lookup AS SELECT value, key FROM known UNION ALL SELECT value, "
            f"{num_known} + row_number() OVER (ORDER BY count DESC, value) FROM "
            f"(SELECT value, sum(training) AS count FROM ({values}) GROUP BY value) "
            f"ANTI JOIN known USING (value) WHERE count >= {min_count}"
        )
        self.database.execute("DROP TABLE known")
        self.database.execute(
            "COPY (SELECT value, CAST(key AS BIGINT) AS key FROM lookup ORDER BY key) "
            f"TO {sql_text(self.job.vocabulary_files[table.name])} (FORMAT parquet)"
        )
        return one_value(self.database, "SELECT count(*) FROM lookup")

    def _make_hashed(self, table: Table, positions: Sequence[int]) -> None:
        values = _union("SELECT value FROM parts_{}", positions)
        self.database.execute(f"CREATE TABLE hashed AS SELECT DISTINCT value FROM ({values})")
        self.database.execute("CREATE TABLE lookup (value VARCHAR, key BIGINT)")
        total = one_value(self.database, "SELECT count(*) FROM hashed")
        for first in range(0, total, _CHUNK_VALUES):
            chunk = f"rowid >= {first} AND rowid < {first + _CHUNK_VALUES}"
            texts = self.database.execute(f"SELECT value FROM hashed WHERE {chunk}").fetchnumpy()
            keys = hashed_keys(np.asarray(texts["value"], object), table)
            self.database.register("keyed", {"place": first + np.arange(len(keys)), "key": keys})
            self.database.execute(
                "INSERT INTO lookup SELECT value, key FROM keyed JOIN "
                f"(SELECT rowid AS place, value FROM hashed WHERE {chunk}) USING (place)"
            )
            self.database.unregister("keyed")
        self.database.execute("DROP TABLE hashed")

    def _map_texts(self, position: int, field: Field, table: Table) -> dict[str, int]:
        """Makes `keys_<i>` by `lookup`; says how many values of a multi field were cut off."""
        kind = "INTEGER" if table.words_per_key == 1 else "BIGINT"
        found = (
            f"SELECT raw, place, rows, CAST(key AS {kind}) AS key FROM parts_{position} "
            "JOIN lookup USING (value)"
        )
        if field.kind == "categorical":
            self.database.execute(
                f"CREATE TABLE keys_{position} AS SELECT raw, key AS slot_0 FROM ({found})"
            )
            self._drop(f"VIEW parts_{position}", f"TABLE texts_{position}")
            return {}
        ranked = (
            "SELECT raw, rows, key, row_number() OVER (PARTITION BY raw ORDER BY place) - 1 "
            f"AS place FROM ({found})"
        )
        # A column a slot and not one list: DuckDB puts aggregates of a fixed size on disk when
        # memory runs out, and lists it cannot.
        slots = ", ".join(
            f"max(key) FILTER (place = {slot}) AS slot_{slot}" for slot in range(field.num_slots)
        )
        self.database.execute(
            f"CREATE TABLE keys_{position} AS SELECT raw, {slots}, "
            f"any_value(rows) * (count(*) - {field.num_slots}) AS cut FROM ({ranked}) GROUP BY raw"
        )
        cut = one_value(
            self.database, f"SELECT coalesce(sum(cut), 0) FROM keys_{position} WHERE cut > 0"
        )
        self._drop(f"TABLE parts_{position}", f"TABLE texts_{position}")
        return {field.name: int(cut)} if cut else {}

    def _drop(self, *things: str) -> None:
        for thing in things:
            self.database.execute(f"DROP {thing}")


def _union(query: str, positions: Sequence[int]) -> str:
    return " UNION ALL ".join(query.format(position) for position in positions)
