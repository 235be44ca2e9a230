"""How `gmeta-tf predict` reads its files: the texts of tasks and values are those of `prepare`."""

import datetime

import duckdb
import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.cli.main import main
from gmeta_tf.cli.predict import read_rows
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.exports.raw_columns import texts_of
from gmeta_tf.saving.serving.predictor import Predictor

TYPED = """
SELECT * FROM (VALUES
    (1::BIGINT, true, DATE '2024-02-29', 0.5::DOUBLE, 3::UTINYINT, ['a', NULL, 'b'],
     0.25::FLOAT, 1),
    (2, false, DATE '2023-01-01', -2.25, 4, ['b'], 1.5, 0),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
) AS log("user", seen, day, size, item, tags, price, click)
"""
SCHEMA = gm.Schema(
    (
        gm.Field("seen"),
        gm.Field("day"),
        gm.Field("size"),
        gm.Field("item"),
        gm.Field("tags", "multi"),
        gm.Field("price", "dense"),
    ),
    label="click",
    task="user",
)


@pytest.fixture
def typed(tmp_path):
    path = tmp_path / "typed.parquet"
    duckdb.execute(f"COPY ({TYPED}) TO '{path}' (FORMAT parquet)")
    return path


def test_typed_columns_are_the_texts_of_prepare(typed, tmp_path):
    rows = read_rows(str(typed), SCHEMA)
    assert rows["seen"].tolist() == ["true", "false", None]
    assert rows["day"].tolist() == ["2024-02-29", "2023-01-01", None]
    assert rows["size"].tolist() == ["0.5", "-2.25", None]
    assert texts_of(rows["tags"], "tags", "|").tolist() == ["a||b", "b", ""]
    assert rows["user"].tolist() == [1, 2, None]
    assert rows["item"].tolist() == [3, 4, None]
    assert rows["price"].tolist() == [0.25, 1.5, None]
    records = prepare(
        files_source(typed),
        SCHEMA,
        tmp_path / "records",
        split=Split(0.0),
        on_bad_row="drop",
        max_bad_share=1.0,
    )
    for name in ("seen", "day", "size"):
        assert set(read_vocabulary(records.path, name)) == set(rows[name][:2])


def test_other_columns_stay_as_they_are(tmp_path):
    path = tmp_path / "log.parquet"
    duckdb.execute(
        f"COPY (SELECT 1 AS item, TIMESTAMP '2024-01-01' AS made, 'u' AS user) TO '{path}'"
    )
    schema = gm.Schema((gm.Field("item"),), label="click", task="user")
    rows = read_rows(str(path), schema)
    assert list(rows) == ["item", "made", "user"]
    assert rows["made"].astype("datetime64[s]").item() == datetime.datetime(2024, 1, 1)


def test_a_text_of_a_csv_file_stays_as_it_stands(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,price\n 7,007, 1.5\n7,,2\n")
    schema = gm.Schema((gm.Field("item"), gm.Field("price", "dense")), label="click", task="user")
    rows = read_rows(str(path), schema)
    assert rows["item"].tolist() in (["007", None], ["007", ""])
    assert [str(user).strip() for user in rows["user"]] == ["7", "7"]
    assert np.asarray(rows["price"], float).tolist() == [1.5, 2]


def test_weights_of_support_rows_may_come_from_a_table(tmp_path, monkeypatch):
    """Query rows need none, and the table is then not joined to them."""
    (tmp_path / "log.csv").write_text("user,item,click\nu,a,1\nv,b,0\n")
    (tmp_path / "users.csv").write_text("user,importance\nv,3\nu,0.5\n")
    tables = {"users": {"path": str(tmp_path / "users.csv"), "on": "user"}}
    values = gm.Schema((gm.Field("item"),), "click", "user", weight="importance").to_json()
    given = []

    class Model:
        schema = request_schema = gm.Schema.from_json(values | {"tables_to_join": tables})
        tells_deviation = False

        def __call__(self, query, support, **options):
            given.append((query, support))
            return np.zeros(2, np.float32)

    monkeypatch.setattr(Predictor, "load", lambda path: Model())
    log, output = str(tmp_path / "log.csv"), str(tmp_path / "out.csv")
    words = ["predict", "--saved-model", "m", "--query", log, "--output", output]
    main([*words, "--support", log])
    main(words)
    assert [list(query) for query, _ in given] == [["user", "item", "click"]] * 2
    assert given[0][1]["importance"].tolist() == ["0.5", "3"]
    assert {name: len(column) for name, column in given[1][1].items()} == dict.fromkeys(
        ["user", "item", "click", "importance"], 0
    )
