"""Tables beside the log: the records of a log that was joined by hand, and every error."""

import dataclasses
import pathlib
import shutil

import pytest
from made_tables import FIELDS, log_of, schema_of, write_flat, write_tables

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.preparing.summary import describe
from gmeta_tf.meta_io.sources.sources import files_source

HOW = {"split": Split(0.3), "num_files": 2, "episode_rows": 7}


def prepared(folder, name="records", *, schema=None, **options):
    schema = schema_of(folder) if schema is None else schema
    return prepare(files_source(log_of(folder)), schema, folder / name, **(HOW | options))


def record_files(records):
    folder = pathlib.Path(records.path)
    return {name: (folder / name).read_bytes() for name in records.named_files}


class TestRecords:
    def test_are_those_of_a_log_that_was_joined_by_hand(self, tmp_path):
        flat = write_flat(tmp_path / "flat.jsonl", write_tables(tmp_path))
        expected = prepare(
            files_source(flat),
            gm.Schema(FIELDS, "stars", "user", time="when"),
            tmp_path / "f",
            **HOW,
        )
        found = prepared(tmp_path)
        assert record_files(found) == record_files(expected)
        assert found.schema.fields == expected.schema.fields
        assert found.details["dense_values"]["year"]["missing"] > 3

    def test_misses_are_counted_and_told(self, tmp_path):
        rows = write_tables(tmp_path)
        records = prepared(tmp_path)
        no_age = sum(row["age"] == "" for row in rows)
        no_item = sum(row["year"] == "" for row in rows)
        no_brand = sum(row["country"] == "" for row in rows)
        assert 0 < no_age < no_item < no_brand < len(rows)
        assert records.details["missed_rows"] == {
            "users": no_age,
            "items": no_item,
            "genres": no_item,
            "brands": no_brand,
        }
        assert (
            f"  joined users: {no_age} rows found nothing in it" in describe(records).splitlines()
        )

    def test_nothing_else_is_joined_and_nothing_is_left_over(self, tmp_path):
        write_tables(tmp_path)
        schema = schema_of(tmp_path)
        schema = dataclasses.replace(
            schema, fields=FIELDS[:2], tables=(), tables_to_join=schema.tables_to_join[:1]
        )
        records = prepared(tmp_path, schema=schema, spill_folder=tmp_path / "spilled")
        assert [field.name for field in records.schema.fields] == ["item", "age"]
        assert list((tmp_path / "spilled").iterdir()) == []
        assert not list(tmp_path.glob(".*"))

    def test_a_log_is_appended_with_tables_that_lie_elsewhere(self, tmp_path):
        write_tables(tmp_path)
        first = prepared(tmp_path)
        later = tmp_path / "later"
        later.mkdir()
        write_tables(later, seed=1)
        second = prepare(
            files_source(log_of(later)), schema_of(later), tmp_path / "records", append=True
        )
        before, after = first.details["missed_rows"], second.details["missed_rows"]
        assert all(after[name] > before[name] for name in before)
        gm.Records.open(second.path, schema_of(later))

    def test_other_tables_are_other_records(self, tmp_path):
        write_tables(tmp_path)
        prepared(tmp_path)
        shutil.copy(tmp_path / "log-0.csv", tmp_path / "log-3.csv")
        other = schema_of(tmp_path, users={"columns": ["age"]})
        with pytest.raises(ValueError, match="expected the schema to be"):
            prepare(files_source(tmp_path / "log-3.csv"), other, tmp_path / "records", append=True)


class TestErrors:
    def fails(self, folder, error, match, **changed):
        with pytest.raises(error, match=match):
            prepared(folder, schema=schema_of(folder, **changed))
        assert not (folder / "records").exists()

    def test_a_table_that_is_not_there(self, tmp_path):
        write_tables(tmp_path)
        match = r"the table 'users' of tables_to_join: no file .*none.csv.* Correct its path"
        self.fails(tmp_path, FileNotFoundError, match, users={"path": f"{tmp_path}/none.csv"})

    def test_a_table_that_cannot_be_read(self, tmp_path):
        write_tables(tmp_path)
        match = r"the table 'users' of tables_to_join: .*users.txt: expected a name that ends in"
        self.fails(tmp_path, ValueError, match, users={"read": {"separator": ";"}})
        match = r"the table 'users' of tables_to_join: read: there is no 'separater'"
        self.fails(tmp_path, ValueError, match, users={"read": {"separater": ";"}})

    def test_a_column_that_is_not_there(self, tmp_path):
        write_tables(tmp_path)
        match = (
            r"has no column 'brend', which the table 'brands' is joined on; there are user, item, "
        )
        self.fails(tmp_path, ValueError, match, brands={"on": "brend"})
        match = r"the table 'users' .*users.txt\) has no column 'user'; .* id, age. Correct `key`"
        self.fails(tmp_path, ValueError, match, users={"key": "user"})
        match = r"the table 'items' .* has no column 'yeer'; .* Correct `columns`"
        self.fails(tmp_path, ValueError, match, items={"columns": {"year": "yeer"}})

    def test_a_column_that_two_have(self, tmp_path):
        write_tables(tmp_path)
        match = r"the column 'Stars' is in .*log-0.csv.* and in the table 'items' .* Rename it with"
        columns = {"year": "released", "brand": "brand", "Stars": "released"}
        log = (tmp_path / "log-0.csv").read_text()
        for part in range(3):  # to DuckDB, names that differ by case alone are the same
            (tmp_path / f"log-{part}.csv").write_text(log.replace("stars", "STARS", 1))
        schema = schema_of(tmp_path, items={"columns": columns})
        schema = dataclasses.replace(
            schema, fields=(*schema.fields, gm.Field("Stars")), label="STARS"
        )
        with pytest.raises(ValueError, match=match):
            prepared(tmp_path, schema=schema, allow_same_input=True)

    def test_a_table_that_nobody_needs(self, tmp_path):
        write_tables(tmp_path)
        schema = schema_of(tmp_path)
        schema = dataclasses.replace(schema, fields=FIELDS[:4], tables=())
        match = r"the table 'brands' .* gives no column that the schema reads: expected .*country"
        with pytest.raises(ValueError, match=match):
            prepared(tmp_path, schema=schema)

    def test_keys_that_stand_twice(self, tmp_path):
        write_tables(tmp_path)
        with open(tmp_path / "users.txt", "a") as file:
            file.write("u3;99\n u5;98\n")
        match = (
            r"the table 'users' .*: expected one row for each 'id', but 2 of 11 have several that "
            r"differ, such as 'u3'. .* `many: COLUMN`"
        )
        self.fails(tmp_path, ValueError, match)

    def test_no_key_at_all(self, tmp_path):
        write_tables(tmp_path)
        (tmp_path / "users.txt").write_text("id;age\n;3\n ;4\n")
        self.fails(tmp_path, ValueError, r"the table 'users' .* has no key in 'id'")

    def test_no_row_that_finds_anything(self, tmp_path):
        write_tables(tmp_path)
        (tmp_path / "users.txt").write_text("id;age\n7.0;3\n8.0;4\n")
        match = (
            r"the table 'users': expected some of the \d+ rows of .* to find their 'user' in it, "
            r"but none does: the first of them is 'u\d+', and a key of the table '7.0'"
        )
        self.fails(tmp_path, ValueError, match)

    def test_many_of_lists(self, tmp_path):
        rows = write_tables(tmp_path)
        write_flat(tmp_path / "genres.jsonl", [r for r in rows if r["genre"]])
        changed = {"path": f"{tmp_path}/genres.jsonl", "many": "genre", "columns": ["genre"]}
        match = r"the table 'genres' .*: the column 'genre' has lists already"
        self.fails(tmp_path, ValueError, match, genres=changed)

    def test_lines_that_a_quote_swallows(self, tmp_path):
        write_tables(tmp_path)
        with open(tmp_path / "brands.csv", "a") as file:
            file.write('"b7,c1\nb8",c1\n')
        self.fails(tmp_path, ValueError, r"brands.csv, line 5: a quoted cell goes on over the end")
