"""`user item rating`: the separator, a header and a time are found."""

import contextlib

import duckdb
import pytest

from gmeta_tf.meta_io.sources.user_item_rating import user_item_rating


def rows_of(source):
    with contextlib.closing(duckdb.connect()) as database:
        return database.execute(source.query).fetchall()


ROWS = [["7", "a1", "3.5", "978300760"], ["7", "b", "4", "978300761"], ["8", "a1", "1", "5"]]


@pytest.mark.parametrize("separator", ["\t", ",", "::", ";", "|", " "])
@pytest.mark.parametrize("num_columns", [3, 4])
@pytest.mark.parametrize("header", [None, ["UserId", "ItemId", "Rating", "Timestamp"]])
def test_every_form(separator, num_columns, header, tmp_path):
    lines = [row[:num_columns] for row in ([header] if header else []) + ROWS]
    text = "".join(separator.join(line) + "\n" for line in lines)
    (tmp_path / "ratings.dat").write_text(text)
    source, schema = user_item_rating(tmp_path)
    names = (header or ["user", "item", "rating", "time"])[:num_columns]
    assert list(source.columns) == names
    assert rows_of(source) == [tuple(row[:num_columns]) for row in ROWS]
    assert (schema.task, schema.label, schema.positive_from) == (names[0], names[2], 4.0)
    assert schema.time == (names[3] if num_columns == 4 else None)
    assert [(field.name, field.column_name) for field in schema.fields] == [("item", names[1])]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"notes.txt": ""}, r"expected one of ratings\.dat, .*found notes\.txt\. Name the folder"),
        ({"ratings.dat": "1 2 3", "ratings.csv": "1"}, r"found ratings\.dat, ratings\.csv\."),
        ({"ratings.dat": "\n"}, r"ratings\.dat has no rows: expected user, item and rating"),
        (
            {"ratings.txt": "1 2 3\n1 2\n"},
            r"equally many of ::, .* or spaces, got '1 2 3'",
        ),
        ({"ratings.txt": "1,2\n3,4\n"}, r"user, item, rating and perhaps a time, got 2 cells in"),
        ({"ratings.csv": "1,2,3,4,5\n"}, r"got 5 cells in '1,2,3,4,5'\. Name the columns"),
    ],
)
def test_other_folders(files, match, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        user_item_rating(tmp_path)
