"""files_source: what comes out of each format cell by cell, and what each bad file is told."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import os
import pathlib
import subprocess

import duckdb
import pytest

from gmeta_tf.meta_io.sources.compressed import check_whole
from gmeta_tf.meta_io.sources.sources import (
    Source,
    check_unchanged,
    files_source,
    materialised,
    reading_error,
)

Rows = list[tuple[object, ...]]


def write(path: pathlib.Path, content: str | bytes) -> pathlib.Path:
    """Writes a file, compressed as its ending says."""
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".zst":
        with contextlib.closing(duckdb.connect()) as database:
            # DuckDB's writer of CSV is the zstd at hand: one column of lines, nothing quoted.
            database.execute(
                f"COPY (SELECT unnest(string_split(?, chr(10)))) TO '{path}' (FORMAT csv, "
                "HEADER false, QUOTE '', ESCAPE '', DELIMITER '\x1f', COMPRESSION zstd)",
                [data.decode().removesuffix("\n")],
            )
        return path
    packed = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(packed(data))
    return path


def write_parquet(path: pathlib.Path, query: str) -> pathlib.Path:
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def rows_of(source: Source, threads: int = 4) -> Rows:
    """What the source's query gives; an error of DuckDB becomes the one that prepare raises."""
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"SET threads={threads}")
        try:
            rows = database.execute(source.query)
            if source.columns:
                assert tuple(column[0] for column in rows.description) == source.columns
            return rows.fetchall()
        except duckdb.Error as error:
            raise reading_error(source.description, error) from error


class TestDelimited:
    TEXT = 'user,item\n007,"a,b"\n1,"say ""hi"""\n,x\n" 2 ",NULL\n'
    ROWS = (("007", "a,b"), ("1", 'say "hi"'), (None, "x"), (" 2 ", "NULL"))

    @pytest.mark.parametrize(
        "name", ["f.csv", "f.csv.gz", "f.csv.zst", "F.CSV", "F.CSV.GZ", "it's [1]*.csv"]
    )
    def test_cells_are_the_texts(self, name, tmp_path):
        write(tmp_path / "it's 1 as a pattern.csv", "user,item\nanother,file\n")
        source = files_source(write(tmp_path / name, self.TEXT))
        assert tuple(rows_of(source)) == self.ROWS
        assert source.description == str(tmp_path / name)

    @pytest.mark.parametrize("name", ["f.tsv", "f.tsv.gz", "f.tsv.zst"])
    def test_tsv(self, name, tmp_path):
        source = files_source(write(tmp_path / name, "user\titem\n007\ta,b\n1.50\t\n"))
        assert rows_of(source) == [("007", "a,b"), ("1.50", None)]
        assert (source.format, source.columns) == ("tsv", ("user", "item"))

    @pytest.mark.parametrize(
        ("content", "rows"),
        [
            (b"\xef\xbb\xbfuser,item\n1,2\n", [("1", "2")]),
            (b"user,item\r\n1,2\r\n3,4\r\n", [("1", "2"), ("3", "4")]),
            (b"\xef\xbb\xbfuser,item\r\n1,2", [("1", "2")]),
            (b'user,item\n1,"two\nlines"\n2,"a\r\nb"\n', [("1", "two\nlines"), ("2", "a\r\nb")]),
            (b"user,item\n1,2\n\n3,4\n", [("1", "2"), ("3", "4")]),
            (b"user,item\n1,2,\n", [("1", "2")]),
            (b"user,item\n2020-01-01,1e5\n", [("2020-01-01", "1e5")]),
            (b"user,item\n# 1,2\n", [("# 1", "2")]),
            (b"user,item\n", []),
            (b"user,item", []),
        ],
        ids=["bom", "crlf", "both", "newline", "blank", "extra", "date", "sharp", "header", "cut"],
    )
    def test_line_ends_and_marks(self, content, rows, tmp_path):
        source = files_source(write(tmp_path / "f.csv", content))
        assert source.columns == ("user", "item")
        assert rows_of(source) == rows

    def test_a_name_may_hold_anything(self, tmp_path):
        header = '"it\'s ""x""","a\nb",,select,Zoë \n'
        source = files_source(write(tmp_path / "f.csv", header + "1,2,3,4,5\n"))
        assert source.columns == ('it\'s "x"', "a\nb", "column2", "select", "Zoë ")
        assert rows_of(source) == [("1", "2", "3", "4", "5")]

    def test_columns_go_by_name(self, tmp_path):
        write(tmp_path / "0.csv", "user,item\n1,a\n")
        write(tmp_path / "1.csv", "item,user\nb,2\n")
        write(tmp_path / "2.csv.gz", "item,user\nc,3\n")
        write(tmp_path / "3.csv", b"")
        source = files_source([tmp_path / "*.csv", tmp_path / "2.csv.gz"])
        assert rows_of(source) == [("1", "a"), ("2", "b"), ("3", "c")]
        assert [file.columns for file in source.files] == [
            *[("user", "item"), ("item", "user"), (), ("item", "user")]
        ]

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("user", r'1\.csv cannot be read: the column "item" is missing; expected those of .*0'),
            ("user,item,x", r'1\.csv cannot be read: the column "x" is one too many; .*got user'),
            ("user,Item", r'1\.csv cannot be read: the column "item" is missing'),
        ],
    )
    def test_other_columns_are_refused(self, header, message, tmp_path):
        write(tmp_path / "0.csv", "user,item\n1,a\n")
        write(tmp_path / "1.csv", header + "\n")
        with pytest.raises(ValueError, match=message):
            files_source(tmp_path / "*.csv")

    @pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "f.csv.zst"])
    @pytest.mark.parametrize("header", ["a,b,a", "a,b,A", '"a",b,a', ",column0"])
    def test_a_column_that_stands_twice(self, name, header, tmp_path):
        path = write(tmp_path / name, header + "\n1,2,3\n")
        with pytest.raises(ValueError, match=r"header of .*f\.csv.*each column once, got '\w*', '"):
            files_source(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a,b\n1,2\n3\n4,5\n", r"1\.csv, line 3: expected 2 cells, got 1\. Correct"),
            (b"a,b\n1,2\n3,4,5\n", r"1\.csv, line 3: expected 2 cells, got 3\. .*quote cells"),
            (b"a,b\n1,2\n3,\xe9\n", r"1\.csv, line 3: expected UTF-8, got .* not utf-8\. .*iconv"),
            (b'a,b\n1,"2\n3,4\n', r"1\.csv, line 2: expected each quote to be closed"),
            (b'a,b\n1,"2"x\n', r"1\.csv, line 2: expected each quote to be closed"),
            (
                b"a,b\n1," + b"x" * 3_000_000 + b"\n",
                r"1\.csv, line 2: Maximum line size .*3000002.*Shorten",
            ),
        ],
        ids=["few", "many", "latin-1", "open-quote", "after-quote", "long"],
    )
    def test_a_bad_line_is_named(self, content, message, tmp_path):
        write(tmp_path / "0.csv", "a,b\n1,2\n")
        write(tmp_path / "1.csv", content)
        with pytest.raises(ValueError, match=message) as raised:
            rows_of(files_source(tmp_path / "*.csv"))
        both = f"{tmp_path / '0.csv'}, {tmp_path / '1.csv'}"
        assert str(raised.value).startswith(f"{both} cannot be read: ")
        assert len(str(raised.value)) < 1000

    def test_a_bad_line_far_down(self, tmp_path):
        lines = b"1,2\n" * 100_000
        path = write(tmp_path / "f.csv.gz", b"a,b\n" + lines + b"\xe9,2\n" + lines)
        with pytest.raises(ValueError, match=r"f\.csv\.gz, line 100002: expected UTF-8"):
            rows_of(files_source(path))

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_a_header_in_another_encoding(self, encoding, tmp_path):
        path = write(tmp_path / "f.csv", "prénom,b\n1,2\n".encode(encoding))
        with pytest.raises(ValueError, match=r"f\.csv, line 1: expected UTF-8"):
            files_source(path)

    def test_without_a_byte(self, tmp_path):
        with pytest.raises(ValueError, match=r"f\.csv has no rows: expected a header and rows"):
            files_source(write(tmp_path / "f.csv", b""))

    def test_rows_keep_the_order_of_the_files(self, tmp_path):
        for number in range(4):
            numbers = range(number * 60_000, (number + 1) * 60_000)
            header = "n,x\n" if number % 2 else "x,n\n"
            order = "{0},y\n" if number % 2 else "y,{0}\n"
            text = header + "".join(order.format(n) for n in numbers)
            write(tmp_path / f"{number}.csv{'.gz' * (number > 1)}", text)
        source = files_source([tmp_path / "?.csv", tmp_path / "?.csv.gz"])
        assert [int(row[1]) for row in rows_of(source, threads=8)] == list(range(240_000))


class TestJson:
    def test_values(self, tmp_path):
        lines = (
            '{"user": "007", "n": 9223372036854775808, "x": 1.10, "b": true, "o": {"k": [1]}, '
            '"u": "\\u00e9\\n\\"", "z": null}\n'
            '{"n": -9223372036854775809, "user": 9007199254740993, "x": 1e2}\r\n'
            "\n"
            '{"n": 123456789012345678901234567890, "user": "", "x": "1.10", "b": " x "}'
        )
        source = files_source(write(tmp_path / "f.jsonl", lines))
        assert source.columns == ("b", "n", "o", "u", "user", "x", "z")
        assert (source.format, source.list_columns) == ("json", ())
        big = "123456789012345678901234567890"
        assert rows_of(source) == [
            ("true", "9223372036854775808", '{"k":[1]}', 'é\n"', "007", "1.1", None),
            (None, "-9223372036854775809", None, None, "9007199254740993", "100.0", None),
            (" x ", big, None, None, "", "1.10", None),
        ]

    def test_lists(self, tmp_path):
        lines = (
            '{"l": ["a", null, 18446744073709551616, ["x"], {"k": 1}, "007"], "m": 1}\n'
            '{"l": [], "m": null}\n{"l": null}\n{"m": "[no list]"}\n'
        )
        source = files_source(write(tmp_path / "f.jsonl", lines))
        assert source.list_columns == ("l",)
        assert rows_of(source) == [
            (["a", None, "18446744073709551616", '["x"]', '{"k":1}', "007"], "1"),
            ([], None),
            (None, None),
            (None, "[no list]"),
        ]

    @pytest.mark.parametrize(
        "name",
        [f"f.{name}{packed}" for name in ("jsonl", "ndjson", "json") for packed in ("", ".gz")]
        + ["f.jsonl.zst"],
    )
    def test_endings(self, name, tmp_path):
        source = files_source(write(tmp_path / name, '{"a": "1"}\n{"a": "2"}\n'))
        assert rows_of(source) == [("1",), ("2",)]

    def test_columns_are_those_of_all_files(self, tmp_path):
        # The column that comes late comes after more lines than DuckDB looks at by itself.
        rows = "".join(json.dumps({"b": n}) + "\n" for n in range(30_000))
        write(tmp_path / "0.jsonl", rows)
        write(tmp_path / "1.jsonl.gz", '{"it\'s \\"x\\" $.k": 5, "b": "x"}\n')
        write(tmp_path / "2.jsonl", b"")
        write(tmp_path / "3.jsonl", '{"a": ["late"]}\n{}\n')
        source = files_source([tmp_path / f"{n}.jsonl*" for n in range(4)])
        assert source.columns == ("a", "b", 'it\'s "x" $.k')
        found = rows_of(source)
        assert [row[1] for row in found[:30_000]] == [str(n) for n in range(30_000)]
        assert found[30_000:] == [(None, "x", "5"), (["late"], None, None), (None, None, None)]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"a": 1}\n{"a":\n', r"1\.jsonl, about line \d: expected one JSON object .*unexpec"),
            (b'{"a": "\xe9"}\n', r"1\.jsonl, about line \d: expected .*UTF-8, got .*invalid UTF-8"),
            ('[{"a": 1},\n{"a": 2}]\n', r"1\.jsonl, about line"),
            ('[{"a": 1}]\n', r"1\.jsonl cannot be read: .*each line, got ARRAY\. .*no brackets"),
            ("7\n", r"1\.jsonl cannot be read: .*each line, got UBIGINT"),
            ('{"a": 1, "a": 2}\n', r'1\.jsonl, about line .*duplicate key "a"'),
            ('{"A": 1}\n', r"expected each column once, got 'A', 'a'"),
            ('{"a": [1]}\n{"a": [2]}\n', r"column 'a' .*lists or single values, got 2 .*and 1"),
            ('{\n"a": 1\n}\n', r"1\.jsonl, about line .*a line of its own"),
        ],
        ids=[*("cut", "latin-1", "array", "line"), *("scalar", "twice", "case", "mixed", "pretty")],
    )
    def test_that_cannot_be_read(self, content, message, tmp_path):
        write(tmp_path / "0.jsonl", '{"a": 1}\n')
        write(tmp_path / "1.jsonl", content)
        with pytest.raises(ValueError, match=message):
            files_source(tmp_path / "*.jsonl")

    @pytest.mark.parametrize("ending", ["", ".gz"])
    def test_with_a_byte_order_mark(self, ending, tmp_path):
        content = b'\xef\xbb\xbf{"a": 1}\n'
        path = write(tmp_path / f"f.jsonl{ending}", content)
        with pytest.raises(ValueError, match=r"f\.jsonl.*byte order mark.*again without the mark"):
            files_source(path)

    def test_a_column_of_nulls_for_longer_than_any_sample(self, tmp_path):
        """DuckDB looks at the first 20,480 rows for a column's type where nobody says it."""
        lines = '{"a": null, "b": 1, "c": null}\n' * 21_000
        last = '{"a": 9007199254740993, "b": 3.5, "c": ["x", null]}\n'
        source = files_source(write(tmp_path / "f.jsonl", lines + last))
        assert rows_of(source)[-1] == ("9007199254740993", "3.5", ["x", None])
        assert rows_of(source)[0] == (None, "1", None)

    def test_without_a_row(self, tmp_path):
        with pytest.raises(ValueError, match=r"f\.jsonl has no rows: expected a JSON object"):
            files_source(write(tmp_path / "f.jsonl", "\n"))


class TestParquet:
    def test_columns_go_by_name(self, tmp_path):
        write_parquet(tmp_path / "0.parquet", "SELECT 7 AS a, ['x', NULL] AS b")
        write_parquet(tmp_path / "1.parquet", "SELECT ['y'] AS b, 8 AS a")
        source = files_source(tmp_path / "*.parquet")
        assert (source.format, source.columns) == ("parquet", ("a", "b"))
        assert rows_of(source) == [(7, ["x", None]), (8, ["y"])]

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("SELECT '007' AS a", r"1\.parquet .*'a' to be INTEGER as in .*0\.parquet, got VARCHA"),
            ("SELECT 1 AS b", r'1\.parquet cannot be read: the column "a" is missing'),
            ("SELECT 1 AS a, 2 AS b", r'1\.parquet .*the column "b" is one too many'),
        ],
    )
    def test_other_columns_are_refused(self, query, message, tmp_path):
        write_parquet(tmp_path / "0.parquet", "SELECT 7 AS a")
        write_parquet(tmp_path / "1.parquet", query)
        with pytest.raises(ValueError, match=message):
            files_source(tmp_path / "*.parquet")


class TestCompressed:
    LINES = "a,b\n" + "".join(f"{n},{n * n}\n" for n in range(20_000))

    @pytest.mark.parametrize("ending", ["gz", "zst"])
    def test_whole_files_are_read(self, ending, tmp_path):
        path = write(tmp_path / f"f.csv.{ending}", self.LINES)
        # Several members, as appending to a compressed file makes them.
        path.write_bytes(
            path.read_bytes() + write(tmp_path / f"g.csv.{ending}", "x,y\n").read_bytes()
        )
        rows = rows_of(files_source(path))
        assert (len(rows), rows[0], rows[-1]) == (20_001, ("0", "0"), ("x", "y"))

    @pytest.mark.parametrize("ending", ["gz", "zst"])
    @pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
    @pytest.mark.parametrize("left", [0.001, 0.5, 0.9, -1])
    def test_files_that_were_cut_off(self, ending, name, left, tmp_path):
        path = write(tmp_path / f"{name}.{ending}", self.LINES)
        data = path.read_bytes()
        path.write_bytes(data[:left] if left < 0 else data[: int(left * len(data))])
        with pytest.raises(
            ValueError, match=r"expected a whole .* ends too early .*write it again"
        ):
            files_source(path)

    @pytest.mark.parametrize("ending", ["gz", "zst"])
    def test_files_that_are_something_else(self, ending, tmp_path):
        path = tmp_path / f"f.csv.{ending}"
        path.write_bytes(b"a,b\n1,2\n")
        with pytest.raises(ValueError, match=r"expected a (gzip|zstd) file, got something else"):
            files_source(path)

    def test_a_damaged_gzip(self, tmp_path):
        path = write(tmp_path / "f.csv.gz", self.LINES)
        data = bytearray(path.read_bytes())
        data[-6] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a damaged one .*CRC"):
            files_source(path)

    def test_a_zstd_with_a_skipped_frame_a_sum_and_one_byte_blocks(self, tmp_path):
        plain = tmp_path / "f.csv"
        plain.write_text("a,b\n" + "1,2\n" * 500_000)
        path = tmp_path / "f.csv.zst"
        try:
            subprocess.run(["zstd", "-q", "--check", str(plain), "-o", str(path)], check=True)
        except FileNotFoundError:
            pytest.skip("no zstd command")
        path.write_bytes(b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc" + path.read_bytes())
        assert files_source(path).columns == ("a", "b")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match="expected a whole zstd file"):
            files_source(path)

    @pytest.mark.parametrize(
        "start",
        [
            # A frame's descriptor and what it announces: a window, or one segment and its size.
            b"\x00\x58",
            b"\x40\x58\x1a\xff",
            b"\x20\x1a",
            b"\x60\x1a\xff",
            b"\xa0\x1a\x00\x00\x00",
            b"\xe0\x1a" + bytes(7),
        ],
    )
    def test_a_zstd_made_by_hand_and_all_of_its_cuts(self, start, tmp_path):
        rows = b"a\n1\n2\n"
        stored = (len(rows) << 3).to_bytes(3, "little") + rows
        repeated = (20 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"7"
        frame = b"\x28\xb5\x2f\xfd" + start + stored + repeated
        path = tmp_path / "f.csv.zst"
        path.write_bytes(frame)
        check_whole(str(path))
        if start[0] & 0xC0 == 0:
            assert rows_of(files_source(path)) == [("1",), ("2",), ("7" * 20,)]
        for length in range(1, len(frame)):
            path.write_bytes(frame[:length])
            with pytest.raises(ValueError, match="expected a whole zstd file"):
                check_whole(str(path))

    @pytest.mark.parametrize("ending", ["bz2", "xz", "zip"])
    def test_other_compressions(self, ending, tmp_path):
        path = write(tmp_path / f"f.csv.{ending}", "a,b\n1,2\n")
        with pytest.raises(
            ValueError, match=rf"plain or compressed by gzip.*got \.{ending}\. Unpa"
        ):
            files_source(path)


class TestUnchanged:
    def test_files_are_recorded(self, tmp_path):
        paths = [write(tmp_path / name, "a,b\n1,2\n") for name in ("0.csv", "1.csv.gz")]
        source = files_source(paths)
        check_unchanged(source)
        assert [file.path for file in source.files] == list(map(str, paths))
        assert [file.size_bytes for file in source.files] == [p.stat().st_size for p in paths]
        assert [file.modified_ns for file in source.files] == [p.stat().st_mtime_ns for p in paths]
        check_unchanged(Source("no files", "SELECT 1"))

    @pytest.mark.parametrize("change", ["shrunk", "same size", "gone"])
    def test_a_change_is_named(self, change, tmp_path):
        paths = [write(tmp_path / name, "a,b\n1,2\n") for name in ("0.csv", "1.csv")]
        source = files_source(paths)
        if change == "shrunk":
            stat = paths[1].stat()
            paths[1].write_text("a,b\n")
            os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif change == "same size":
            os.utime(paths[1], ns=(0, 5))
        else:
            paths[1].unlink()
        message = r"1\.csv changed while it was read: expected 8 bytes.*Start again"
        with pytest.raises(ValueError, match=message):
            check_unchanged(source)
        with pytest.raises(ValueError, match=r"cannot be read|changed while it was read"):
            materialised(source, tmp_path / "out.parquet")


class TestMaterialised:
    def test_is_the_same_rows_in_parquet(self, tmp_path):
        values = "('x', 2), ('y', 1), (NULL, 3)"
        query = f"SELECT a, number, [a] AS l FROM (VALUES {values}) t(a, number)"
        source = Source("made", query, row="number")
        written = materialised(source, tmp_path / "rows.parquet", memory_limit="200MB")
        assert (written.description, written.row, written.format) == ("made", "number", "parquet")
        assert rows_of(written) == [("y", 1, ["y"]), ("x", 2, ["x"]), (None, 3, [None])]
        assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]

    def test_keeps_the_order_of_files(self, tmp_path):
        rows = [(str(n), "x") for n in range(100_000)]
        text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
        source = files_source(write(tmp_path / "f.csv", text))
        assert rows_of(materialised(source, tmp_path / "f.parquet")) == rows

    def test_keeps_every_digit_of_what_parquet_has_not(self, tmp_path):
        query = (
            "SELECT sum(n) AS at, [sum(n)] AS many, CAST(sum(n) AS UHUGEINT) AS other "
            "FROM (VALUES (9007199254740993)) t(n)"
        )
        written = materialised(Source("made", query, row="at"), tmp_path / "f.parquet")
        exact = 9007199254740993
        assert rows_of(written) == [(exact, [str(exact)], str(exact))]

    def test_says_what_cannot_be_read(self, tmp_path):
        source = files_source(write(tmp_path / "f.csv", "a,b\n1\n"))
        with pytest.raises(ValueError, match=r"f\.csv, line 2: expected 2 cells, got 1"):
            materialised(source, tmp_path / "f.parquet")


def test_another_error_of_duckdb_is_passed_on():
    error = reading_error("made", duckdb.BinderException("Binder Error: no column x"))
    assert str(error) == "made cannot be read: Binder Error: no column x"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json", "rows.parquet"])
def test_a_folder_that_is_called_like_a_column_overrides_none(name, tmp_path):
    folder = tmp_path / "date=2023-08-28" / "user=all"
    folder.mkdir(parents=True)
    path = folder / name
    if name == "rows.parquet":
        write_parquet(path, "SELECT 'u1' AS user, '2023-08-28 10:15' AS date")
    elif name == "rows.json":
        write(path, '{"user": "u1", "date": "2023-08-28 10:15"}\n')
    else:
        write(path, "user,date\nu1,2023-08-28 10:15\n".replace(",", "\t" if "tsv" in name else ","))
    source = files_source(path)
    with contextlib.closing(duckdb.connect()) as database:
        described = database.execute(f"SELECT * FROM ({source.query})").fetchall()
        columns = [column[0] for column in database.description]
    assert sorted(zip(columns, described[0], strict=True)) == [
        ("date", "2023-08-28 10:15"),
        ("user", "u1"),
    ]
