"""Tables in memory: the records of the same rows in a Parquet file, and what is refused."""

from __future__ import annotations

import dataclasses
import pathlib

import duckdb
import numpy as np
import pytest

from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.sources.sources import files_source, materialised
from gmeta_tf.meta_io.sources.tables import table_source
from gmeta_tf.schema import Field, Schema, SideTable

NUM_ROWS = 3000
SCHEMA = Schema(
    (Field("item"), Field("shop"), Field("price", "dense", missing=0), Field("year")),
    label="rating",
    task="user",
    time="time",
)


def columns() -> dict[str, np.ndarray]:
    row = np.arange(NUM_ROWS)
    price = row / 8
    price[::7] = np.nan
    shop = np.array([None if n % 11 == 0 else f"s{n % 5}" for n in row], object)
    # Whole numbers but for one, far from the first rows and from every thousandth.
    rating = np.array([int(n) for n in row % 5], object)
    rating[2991] = 3.5
    item = np.array([f"i{n % 37}" for n in row], object)
    table = {"user": row % 23, "item": item, "shop": shop, "price": price, "time": row[::-1].copy()}
    return table | {"rating": rating}


def prepared(source: object, folder: pathlib.Path, name: str) -> Records:
    (folder / "items.csv").write_text(
        "item,year\n" + "".join(f"i{n},{1990 + n % 9}\n" for n in range(30))
    )
    joins = (SideTable("items", str(folder / "items.csv"), on="item"),)
    schema = dataclasses.replace(SCHEMA, tables_to_join=joins)
    return prepare(source, schema, folder / name, split=Split(0.3), num_files=2, episode_rows=64)


def words_of(records: Records) -> list[tuple[int, list[list[int]]]]:
    return [
        (task, words.tolist()) for split in records.splits for task, words in records.read(split)
    ]


@pytest.fixture(scope="module")
def of_a_file(tmp_path_factory):
    """The records of the rows as DuckDB writes them from lists, which have types of their own."""
    folder = tmp_path_factory.mktemp("file")
    with duckdb.connect() as database:
        database.execute(
            'CREATE TABLE rows ("user" BIGINT, item VARCHAR, shop VARCHAR, price DOUBLE, '
            "time BIGINT, rating DOUBLE)"
        )
        rows = list(zip(*(column.tolist() for column in columns().values()), strict=True))
        database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", rows)
        path = folder / "rows.parquet"
        database.execute(f"COPY (SELECT * FROM rows ORDER BY time DESC) TO '{path}'")
    return words_of(prepared(files_source(path), folder, "records"))


def made(kind: str) -> object:
    if kind == "numpy":
        return columns()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns(), index=range(NUM_ROWS, 0, -1))
    if kind == "pandas":
        return frame
    frame["rating"] = frame["rating"].astype(float)
    if kind == "polars":
        return pytest.importorskip("polars").from_pandas(frame)
    return pytest.importorskip("pyarrow").Table.from_pandas(frame, preserve_index=False)


@pytest.mark.parametrize("kind", ["numpy", "pandas", "polars", "pyarrow"])
def test_records_are_those_of_a_file(kind, of_a_file, tmp_path):
    records = prepared(made(kind), tmp_path, "records")
    assert words_of(records) == of_a_file
    assert records.details["sources"][0].startswith("the ")


def test_a_bad_row_is_named(tmp_path):
    table = columns()
    table["rating"][1234] = "good"
    with pytest.raises(ValueError, match=r"the NumPy arrays: .*the first is row 1235 \(counted"):
        prepared(table, tmp_path, "records")
    assert not (tmp_path / "records").exists()


def test_rows_are_materialised_in_their_order(tmp_path):
    source = materialised(table_source(columns()), tmp_path / "rows.parquet")
    with duckdb.connect() as database:
        found = database.execute(f"SELECT time FROM ({source.query})").fetchnumpy()["time"]
    assert found.tolist() == list(range(NUM_ROWS))[::-1]


def test_spark_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"engine .spark. reads files: .*got the NumPy arrays"):
        prepare(columns(), SCHEMA, tmp_path / "records", engine="spark")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (
            [1, 2],
            r"expected a Source, .* got builtins.list. Of files make a source by gm.files_sou",
        ),
        ({}, "the NumPy arrays has no columns"),
        ({"a": [1, 2]}, "column 'a': expected a NumPy array of one axis, got list"),
        ({"a": np.zeros((2, 2))}, r"column 'a': .* got shape \(2, 2\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "expected arrays of one length, got 'a' 2, 'b' 3"),
        ({0: np.zeros(2)}, "expected columns with texts as names, got 0"),
        ({"a": np.zeros(2), "A": np.zeros(2)}, "expected each column once, got 'a', 'A'"),
        ({"a": np.ma.masked_array([1, 2], [0, 1])}, "expected an array without a mask"),
    ],
)
def test_what_is_no_table(table, match):
    with pytest.raises(ValueError, match=match):
        table_source(table)


def test_no_rows(tmp_path):
    table = {name: column[:0] for name, column in columns().items()}
    with pytest.raises(ValueError, match="the NumPy arrays has no rows"):
        prepared(table, tmp_path, "records")
