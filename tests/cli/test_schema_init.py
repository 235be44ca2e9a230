"""`gmeta-tf schema init`: drafts that prepare takes, of files as people have them."""

import contextlib
import csv
import subprocess
import sys

import duckdb
import numpy as np
import pytest
from made_tables import write_tables

import gmeta_tf as gm
from gmeta_tf.cli.first_checks import read_schema
from gmeta_tf.cli.main import main


def drafted(folder, *files, output="schema.yaml"):
    path = folder / output
    main(["schema", "init", *(str(folder / file) for file in files), "--output", str(path)])
    return path, read_schema(str(path))


def prepared(folder, path, log):
    words = ["--input", str(folder / log), "--schema", str(path), "--num-files", "1"]
    main(["prepare", *words, "--output", str(folder / "records")])
    return gm.Records.open(folder / "records")


def write_shop(path):
    """A log of a shop: numbers of two scales, a list, a text, a constant, a missing value."""
    draw = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["customer_id", "sku", "price", "views", "tags", "country", "comment", "bought", "at"]
        )
        for row in range(400):
            price = "" if row % 9 == 0 else round(float(draw.normal(30, 9)), 2)
            comment = f"What I think of the parcel with the number {row} is this."
            tags = "|".join(draw.choice(list("abcd"), draw.integers(1, 4)))
            views = int(np.exp(draw.normal(2, 2)))
            item = f"s{draw.integers(60)}"
            at = f"2024-03-{row % 28 + 1:02d} 10:00:00"
            writer.writerow([row % 40, item, price, views, tags, "fr", comment, row % 2, at])


def test_a_log_of_a_shop(tmp_path):
    write_shop(tmp_path / "log.csv")
    path, schema = drafted(tmp_path, "log.csv")
    assert (schema.task, schema.label, schema.time) == ("customer_id", "bought", "at")
    assert schema.positive_from is None
    fields = {field.name: field for field in schema.fields}
    assert list(fields) == ["sku", "price", "views", "tags"]
    assert fields["sku"].kind == "categorical"
    assert (fields["price"].transform, fields["price"].missing) == ("standardize", "mean")
    assert (fields["views"].transform, fields["views"].missing) == ("log1p", "error")
    assert fields["tags"].kind == "multi"
    text = path.read_text()
    assert "# - {name: country}   # one value alone" in text
    assert "# - {name: comment}   # free text" in text
    assert "11.2% missing" in text
    assert "time: at   # a task's rows are in this order. dates, 2024-03-01 to 2024-03-28" in text
    assert prepared(tmp_path, path, "log.csv").details["rows"] == 400


@pytest.mark.parametrize("separator", ["::", "\t", ";", "|", ","])
@pytest.mark.parametrize("header", [True, False])
def test_ratings_of_any_separator(separator, header, tmp_path):
    draw = np.random.default_rng(1)
    rows = [
        [draw.integers(30), draw.integers(50), draw.integers(1, 6), 978300760 + row]
        for row in range(300)
    ]
    names = ["userId", "movieId", "rating", "timestamp"]
    lines = [separator.join(map(str, row)) for row in ([names] * header + rows)]
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n")
    path, schema = drafted(tmp_path, "ratings.dat")
    expected = ("userId", "rating", "timestamp") if header else ("user", "rating", "time")
    assert (schema.task, schema.label, schema.time) == expected
    assert schema.positive_from == 4
    assert [field.name for field in schema.fields] == ["movieId" if header else "item"]
    assert ". seconds, 2000-12-31 22:12:40 to 2000-12-31 22:17:39\n" in path.read_text()
    assert prepared(tmp_path, path, "ratings.dat").details["rows"] == 300


def test_tables_are_joined_and_relative_to_the_schema(tmp_path):
    write_tables(tmp_path, users=30)
    (tmp_path / "deep").mkdir()
    path, schema = drafted(
        tmp_path, "log-0.csv", "users.txt", "items.tsv", "genres.csv", output="deep/schema.yaml"
    )
    tables = {table.name: table for table in schema.tables_to_join}
    assert (tables["users"].on, tables["users"].key) == ("user", "id")
    assert dict(tables["users"].read) == {"separator": ";", "format": "csv"}
    assert (tables["genres"].on, tables["genres"].many) == ("item", "name")
    assert {new for new, _ in tables["items"].columns} == {"brand", "released"}
    assert "path: ../users.txt, on: user" in path.read_text()
    records = prepared(tmp_path, path, "log-*.csv")
    assert records.details["missed_rows"].keys() == {"users", "items", "genres"}


def test_latin_1_and_null_words(tmp_path):
    rows = "".join(f"{row % 9};caf\xe9 {row % 4};{row % 5};NULL\n" for row in range(60))
    (tmp_path / "log.csv").write_bytes(("user;place;score;city\n" + rows).encode("latin-1"))
    path, schema = drafted(tmp_path, "log.csv")
    text = path.read_text()
    assert "read: {separator: ;, null_words: ['NULL'], encoding: latin-1}" in text.replace(
        "[NULL]", "['NULL']"
    )
    assert (schema.task, schema.label) == ("user", "score")
    assert prepared(tmp_path, path, "log.csv").details["rows"] == 60


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_other_formats(ending, tmp_path):
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(
            "COPY (SELECT range % 7 AS user_id, range % 11 AS asin, range % 5 + 1 AS stars, "
            "[concat('g', range % 3)] AS genres FROM range(200)) "
            f"TO '{tmp_path}/log{ending}' (FORMAT {'json' if ending == '.jsonl' else 'parquet'})"
        )
    written, schema = drafted(tmp_path, f"log{ending}")
    assert (schema.task, schema.label) == ("user_id", "stars")
    assert {field.name: field.kind for field in schema.fields} == {
        "asin": "categorical",
        "genres": "multi",
    }
    assert prepared(tmp_path, written, f"log{ending}").details["rows"] == 200


def fails(capsys, *words):
    with pytest.raises(SystemExit):
        main(["schema", "init", *map(str, words)])
    return capsys.readouterr().err


def test_what_cannot_be_read(tmp_path, capsys):
    assert "no file" in fails(capsys, tmp_path / "none.csv")
    (tmp_path / "one.txt").write_text("user item\n1 2\n")
    told = fails(capsys, tmp_path / "one.txt")
    assert r"no separator was found: expected lines with equally many of ::, \t, ;, |, ," in told
    assert "--separator SEPARATOR" in told
    write_shop(tmp_path / "log.csv")
    (tmp_path / "there.yaml").write_text("mine")
    told = fails(capsys, tmp_path / "log.csv", "--output", tmp_path / "there.yaml")
    assert "there.yaml exists" in told
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_a_separator_that_is_stated(tmp_path):
    (tmp_path / "u.data").write_text(
        "".join(f"{row % 9} {row % 7} {row % 5}\n" for row in range(60))
    )
    main(
        [
            *("schema", "init", str(tmp_path / "u.data"), "--separator", " "),
            *("--output", str(tmp_path / "schema.yaml")),
        ]
    )
    assert read_schema(str(tmp_path / "schema.yaml")).task == "user"


def test_neither_waits_for_tensorflow_nor_reads_all_of_a_file(tmp_path):
    write_shop(tmp_path / "log.csv")
    code = (
        "import sys; from gmeta_tf.cli.main import main\n"
        "from gmeta_tf.meta_io.sources import sample\n"
        "sample._READ_BYTES = 2000\n"
        f"main(['schema', 'init', {str(tmp_path / 'log.csv')!r}])\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr
    rows = int(done.stdout.split("# From the first ")[1].split(" rows")[0])
    assert 10 < rows < 30
