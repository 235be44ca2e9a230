"""The stages of `prepare` on Apache Spark.

source -> good rows -> tasks, splits -> values counted -> keys of values -> encoded and sorted

Spark runs a task for each file of the source (see `spark_rows`), joins, groups and sorts. The
distinct tasks and values that it finds are numbered by DuckDB in this process, as in the other
engine, and go back to Spark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from gmeta_tf.meta_io.preparing.encode import EncodedRows
from gmeta_tf.meta_io.preparing.job import Encoded, Job, TimeCuts
from gmeta_tf.meta_io.preparing.raw_rows import RawRows
from gmeta_tf.meta_io.preparing.spark_rows import good_rows
from gmeta_tf.meta_io.preparing.spark_run import SparkRun
from gmeta_tf.meta_io.preparing.spark_session import heap_bytes, spark_session, told_of_spark
from gmeta_tf.meta_io.preparing.split import SPLITS
from gmeta_tf.meta_io.preparing.task_tables import make_tasks, save_tasks, side_of_row, time_cuts
from gmeta_tf.meta_io.preparing.vocabularies import KeyMaps, is_mapped
from gmeta_tf.meta_io.sql import connect, one_value, sql_parquet
from gmeta_tf.schema import PADDING_KEY, UNKNOWN_KEY, Field, Schema

__all__ = ["encoded_by_spark"]

_TASK_BITS = 56


@contextlib.contextmanager
def encoded_by_spark(job: Job) -> Iterator[Encoded]:
    """The rows of a job, encoded and sorted; they can be read until the block ends.

    Raises:
        ImportError: there is no pyspark.
        OSError: there is no Java, or Spark fails.
        ValueError: what is wrong with the data, in the words of the other engine.
    """
    with contextlib.closing(connect(job.spill_folder, job.memory_limit)) as database:
        half = heap_bytes(database)
        with contextlib.ExitStack() as stack:
            with job.progress.stage("starting Spark"):
                session = stack.enter_context(spark_session(job.spill_folder, half))
            stack.enter_context(told_of_spark())
            run = SparkRun(job, database, session, half)
            rows, num_good = good_rows(run)
            run.choose_partitions("good")
            with job.progress.stage("numbering tasks"):
                cuts = _place_rows(run, rows)
            with job.progress.stage("counting values"):
                _count_values(run)
            with job.progress.stage("making vocabularies"):
                sizes = _make_keys(run, rows)
            with job.progress.stage("encoding and sorting"):
                cut = _encode(run)
        encoded = EncodedRows(database, job.schema, _TASK_BITS)
        database.execute(f"CREATE VIEW encoded AS SELECT place FROM {run.sql('encoded')}")
        num_encoded = encoded.count()
        if num_encoded != num_good and job.split.by != "both":
            raise OSError(f"Spark lost rows: expected {num_good}, got {num_encoded}.")
        save_tasks(database, job, encoded.rows_of_tasks)
        database.execute("DROP VIEW encoded")
        yield Encoded(
            functools.partial(_read, run),
            sizes,
            cuts,
            {
                "dropped_rows": rows.dropped,
                "missed_rows": rows.missed,
                "left_out_rows": num_good - num_encoded,
                "cut_values": cut,
            },
        )


def _place_rows(run: SparkRun, rows: RawRows) -> TimeCuts:
    """Makes `placed` of `good`: place (the side and the task's number), row, time, ..."""
    database, schema = run.database, run.job.schema
    types = _types_of(schema, rows.time_kind)
    run.view("good", ", ".join(f"{name} {kind}" for name, kind in types.items()))
    run.write("SELECT DISTINCT task FROM good", "distinct_tasks")
    database.execute(f"CREATE VIEW loaded AS SELECT time FROM {run.sql('good')}")
    cuts = time_cuts(database, run.job, dataclasses.replace(rows, time="time"))
    distinct = run.sql("distinct_tasks")
    database.execute(f"CREATE OR REPLACE VIEW loaded AS SELECT task FROM {distinct}")
    make_tasks(database, run.job)
    run.copy("SELECT raw, CAST(task AS BIGINT) AS number, side FROM task_of", "task_of")
    run.view("task_of", "raw STRING, number BIGINT, side TINYINT")
    database.execute("DROP VIEW loaded")
    database.execute("DROP TABLE task_of")
    columns = [
        f"array_distinct({name}) AS {name}" if kind == "ARRAY<STRING>" else name
        for name, kind in types.items()
        if name != "task"
    ]
    # The side's SQL is the same to both engines.
    side = f"CAST({side_of_row(run.job.split, cuts, 'time')} AS BIGINT)"
    place = f"shiftleft({side}, {_TASK_BITS}) | number"
    run.write(
        f"SELECT * FROM (SELECT {place} AS place, {', '.join(columns)} "
        "FROM good JOIN task_of ON task = raw) WHERE place IS NOT NULL",
        "placed",
    )
    run.drop("good", "distinct_tasks", "task_of")
    return cuts


def _count_values(run: SparkRun) -> None:
    """Makes `counted`: of each field that is looked up its distinct values, with training rows."""
    values = []
    for position, field in _looked_up(run.job.schema).items():
        pair = f"named_struct('field', {position}, 'value', {{}})"
        if field.kind == "multi":
            values.append(f"transform(field_{position}, x -> {pair.format('x')})")
        else:
            values.append(f"array({pair.format(f'field_{position}')})")
    if not values:
        return
    is_training = f"shiftright(place, {_TASK_BITS}) = {SPLITS.index('train')}"
    run.write(
        "SELECT pair.field, pair.value, count_if(is_training) AS training FROM "
        f"(SELECT {is_training} AS is_training, explode(concat({', '.join(values)})) AS pair "
        "FROM placed) WHERE pair.value IS NOT NULL GROUP BY pair.field, pair.value",
        "counted",
    )


def _make_keys(run: SparkRun, rows: RawRows) -> dict[str, int]:
    """Makes `keys_<i>` of the fields that are looked up, by DuckDB; the vocabularies' sizes."""
    database, schema = run.database, run.job.schema
    looked_up = _looked_up(schema)
    for position in looked_up:
        database.execute(
            f"CREATE TABLE texts_{position} AS SELECT value AS raw, 0 AS rows, training "
            f"FROM {run.sql('counted')} WHERE field = {position}"
        )
    # Single values are left, of multi-valued fields too.
    single = dataclasses.replace(
        schema,
        fields=tuple(
            dataclasses.replace(field, kind="categorical") if field.kind == "multi" else field
            for field in schema.fields
        ),
    )
    maps = KeyMaps(database, dataclasses.replace(run.job, schema=single), rows, "")
    sizes = {}
    for table in schema.tables:
        size, _ = maps.make(table)
        if table.keys == "vocabulary":
            sizes[table.name] = size
    for position in looked_up:
        name = f"keys_{position}"
        run.copy(f"SELECT raw, CAST(slot_0 AS BIGINT) AS key FROM {name}", name)
        run.view(name, "raw STRING, key BIGINT")
        database.execute(f"DROP TABLE {name}")
    return sizes


def _encode(run: SparkRun) -> dict[str, int]:
    """Makes `encoded`, sorted; says how many values were cut off of the multi-valued fields."""
    schema = run.job.schema
    looked_up = _looked_up(schema)
    _encode_lists(run)
    columns, joins, dense = ["label"], [], []
    columns += [] if schema.weight is None else ["weight"]
    for position, field in enumerate(schema.fields):
        keys = f"field_{position}"
        if field.kind == "dense":
            dense.append(keys)
            continue
        if position in looked_up:
            table = f"{'lists' if field.kind == 'multi' else 'keys'}_{position}"
            joins.append(f"LEFT JOIN {table} ON field_{position} = {table}.raw")
            keys = f"{table}.key"
        kind = "INT" if schema.table(field.table_name).words_per_key == 1 else "BIGINT"
        for slot in range(field.num_slots):
            key = f"get({keys}, {slot})" if field.kind == "multi" else keys
            missing = UNKNOWN_KEY if slot == 0 else PADDING_KEY
            columns.append(f"CAST(coalesce(CAST({key} AS BIGINT), {missing}) AS {kind})")
    named = ", ".join(f"{column} AS column_{i}" for i, column in enumerate([*columns, *dense]))
    named += ", time AS moment" if run.job.with_times else ""
    run.write(
        f"SELECT place, {named} FROM placed {' '.join(joins)} ORDER BY place, time, row", "encoded"
    )
    cut = _cut_values(run)
    run.drop("placed", *(f"keys_{position}" for position in looked_up))
    return cut


def _encode_lists(run: SparkRun) -> None:
    """Makes `lists_<i>` of a field's distinct lists: raw, key (a list), and the values cut off."""
    fields = {i: field for i, field in _looked_up(run.job.schema).items() if field.kind == "multi"}
    if not fields:
        return
    pairs = ", ".join(f"named_struct('field', {i}, 'list', field_{i})" for i in fields)
    keys = " UNION ALL ".join(f"SELECT {i} AS field, raw, key FROM keys_{i}" for i in fields)
    most = " ".join(f"WHEN {i} THEN {field.max_values}" for i, field in fields.items())
    lists = (
        f"SELECT pair.field, pair.list, count(*) AS rows FROM (SELECT explode(array({pairs})) "
        "AS pair FROM placed) GROUP BY pair.field, pair.list"
    )
    parts = f"SELECT field, list, rows, posexplode(list) AS (at, raw) FROM ({lists})"
    keyed = (
        "SELECT field, list, first(rows) AS rows, "
        "array_sort(collect_list(struct(at, key))).key AS key "
        f"FROM ({parts}) JOIN ({keys}) USING (field, raw) GROUP BY field, list"
    )
    run.write(
        "SELECT field, list AS raw, slice(key, 1, most) AS key, "
        "rows * greatest(size(key) - most, 0) AS cut "
        f"FROM (SELECT *, CASE field {most} END AS most FROM ({keyed}))",
        "lists",
        folder_of_each="field",
    )
    for i in fields:
        run.view(f"lists_{i}", "raw ARRAY<STRING>, key ARRAY<BIGINT>", f"lists/field={i}")


def _cut_values(run: SparkRun) -> dict[str, int]:
    """The values beyond `max_values` of the fields that have such, table after table."""
    schema = run.job.schema
    looked_up = _looked_up(schema)
    cut = {}
    for table in schema.tables:
        for position, field in enumerate(schema.fields):
            if field.table_name != table.name or field.kind != "multi":
                continue
            if position not in looked_up:
                cut_of_row = f"greatest(size(field_{position}) - {field.max_values}, 0)"
                query = f"SELECT coalesce(sum({cut_of_row}), 0) FROM placed"
                cut[field.name] = int(run.session.sql(query).collect()[0][0])
            elif run.files(f"lists/field={position}"):
                query = f"SELECT sum(cut) FROM {run.sql(f'lists/field={position}')}"
                cut[field.name] = int(one_value(run.database, query))
    return {name: count for name, count in cut.items() if count}


def _read(run: SparkRun, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A split's rows of `encoded`, file after file."""
    side = SPLITS.index(split)
    encoded = EncodedRows(run.database, run.job.schema, _TASK_BITS, run.job.with_times)
    for file in run.files("encoded"):
        run.database.execute(
            f"CREATE OR REPLACE TABLE encoded AS SELECT * FROM {sql_parquet(file)} "
            f"WHERE place >= {side << _TASK_BITS} AND place < {(side + 1) << _TASK_BITS}"
        )
        yield from encoded.read(split)


def _looked_up(schema: Schema) -> dict[int, Field]:
    """The fields whose values are counted and looked up, by position; raw keys are none."""
    return {
        position: field
        for position, field in enumerate(schema.fields)
        if is_mapped(field, schema) and schema.table(field.table_name).keys != "raw"
    }


def _types_of(schema: Schema, time_kind: str) -> dict[str, str]:
    """Spark's types of the columns of `good`."""
    types = {
        "row": "BIGINT",
        "task": "STRING",
        "time": "DOUBLE" if time_kind == "number" else "BIGINT",
        "label": "FLOAT",
        **({} if schema.weight is None else {"weight": "FLOAT"}),
    }
    for position, field in enumerate(schema.fields):
        if field.kind == "multi":
            kind = "ARRAY<STRING>"
        elif field.kind == "dense":
            kind = "FLOAT"
        else:
            kind = "STRING" if is_mapped(field, schema) else "BIGINT"
        types[f"field_{position}"] = kind
    return types
