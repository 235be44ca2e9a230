"""The records that an engine makes of one made log, as digests to compare with another engine's.

python launch/same_records.py write FOLDER                  # the made log, in every format
python launch/same_records.py prepare FOLDER ENGINE REPORT  # prepares it with duckdb or spark
python launch/same_records.py compare REPORT REPORT...      # exit status 1 where two differ

`launch/try_newest.sh engines` does so with the stack's DuckDB and Spark and with the newest ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import prepare
from gmeta_tf.meta_io.sources.sources import files_source

FORMATS = ("csv", "jsonl", "parquet")
NUM_ROWS = 4000

# What makes a row bad, a column and a cell of it each: every one has to be a counted row.
BAD_CELLS = (
    *(("user", ""), ("user", " \t"), ("label", ""), ("label", "good"), ("label", "nan")),
    *(("label", "1e39"), ("label", "1_0"), ("at", ""), ("at", "noon"), ("at", "1.5")),
    *(("at", "9223372036854775808"), ("hours", "abc"), ("hours", "inf"), ("hours", "1_000")),
    *(("price", ""), ("price", "0x10"), ("shop", "-1"), ("shop", "1.5"), ("shop", "x")),
    *(("shop", "9223372036854775808"), ("near", "3|-4"), ("near", "3|100")),
)
DROPPED = ("task", "label", "time", "field hours", "field price", "field shop", "field near")


def schema_of(folder: pathlib.Path) -> gm.Schema:
    """Fields of every kind, keys of every kind, each transform, and tables that are joined."""
    return gm.Schema(
        (
            gm.Field("item", min_count=2),
            gm.Field("wide", column="item", table="wide"),
            gm.Field("town", column="city", table="town"),
            gm.Field("shop"),
            gm.Field("near", "multi", max_values=2),
            gm.Field("tags", "multi", max_values=3),
            gm.Field("genre", "multi", max_values=3),
            gm.Field("age"),
            gm.Field("price", "dense", transform="log1p"),
            gm.Field("hours", "dense", transform="standardize", missing="mean"),
            gm.Field("year", "dense", transform="minmax", missing="indicator"),
            gm.Field("share", "dense", transform="bucketize", buckets=4, missing=0.5),
        ),
        label="label",
        task="user",
        time="at",
        tables=(
            gm.Table("wide", keys="hash"),
            gm.Table("town", 50, keys="hash"),
            gm.Table("shop", keys="raw"),
            gm.Table("near", 100, keys="raw"),
        ),
        tables_to_join=(
            gm.SideTable("users", str(folder / "users.csv"), on="user", key="id"),
            gm.SideTable("years", str(folder / "years.csv"), on="item"),
            gm.SideTable(
                "genres",
                str(folder / "genres.csv"),
                on="item",
                many="name",
                columns=(("genre", "name"),),
            ),
        ),
    )


def made_rows(seed: int) -> list[dict[str, str]]:
    """Rows out of order, with equal times, Unicode, white space, missing and bad cells."""
    draw = np.random.default_rng(seed)
    items = ["007", "7", " 7 ", "Zoë", "ß", "日本", 'say "hi"', "a,b", "it's", "", "😀"]
    tags = ["red", "blue ", "red", "", "ünder", "É", "e\u0301"]
    shops = ["9223372036854775807", "9007199254740993", "4294967296", "0", "", " 12 "]
    rows = []
    for _ in range(NUM_ROWS):
        hours = str(draw.choice(["", " ", f"{draw.exponential() * 1e3:.6g}"], p=[0.1, 0.1, 0.8]))
        rows.append(
            {
                "user": f"u{min(int(draw.zipf(1.4)), 300)}",
                "item": str(draw.choice(items)),
                "city": str(draw.choice(["Köln", "Oslo", "Rome", "", "Lima"])),
                "shop": str(draw.choice(shops)),
                "near": "|".join(draw.choice(["0", "7", "007", " 99", "", "31"], draw.integers(5))),
                "tags": "|".join(draw.choice(tags, draw.integers(6))),
                "price": repr(float(draw.normal() * 10.0 ** draw.integers(-6, 7))),
                "hours": hours,
                "share": "" if draw.random() < 0.2 else f"{draw.random():.17g}",
                "label": str(draw.integers(0, 2)),
                # Larger than a double tells apart, with equal ones.
                "at": str(1_700_000_000_000_000_000 + int(draw.integers(NUM_ROWS // 2))),
            }
        )
    for place, (column, cell) in zip(
        draw.permutation(NUM_ROWS)[: 3 * len(BAD_CELLS)], BAD_CELLS * 3, strict=True
    ):
        rows[place] = rows[place] | {column: cell}
    return rows


def write(folder: pathlib.Path) -> None:
    """Writes the log of two days in every format, and the tables beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for day in (0, 1):
        rows = made_rows(day)
        for part in (0, 1):
            name = f"day-{day}-{part}"
            some = rows[part::2]
            lines = [",".join(some[0]), *(",".join(map(_quoted, row.values())) for row in some)]
            (folder / f"{name}.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
            objects = [json.dumps(_as_json(row), ensure_ascii=False) for row in some]
            (folder / f"{name}.jsonl").write_text("\n".join(objects) + "\n", encoding="utf-8")
            _write_parquet(folder / f"{name}.csv", folder / f"{name}.parquet")
    items = ("007", "7", "Zoë", "日本", "it's", "😀")
    ages = "".join(f"u{user},{18 + user % 60}\n" for user in range(1, 250))
    (folder / "users.csv").write_text(f"id,age\n{ages}", encoding="utf-8")
    years = "".join(f"{item},{1950 + 7 * place}\n" for place, item in enumerate(items))
    (folder / "years.csv").write_text(f"item,year\n{years}ß,\n", encoding="utf-8")
    genres = "".join(
        f"{item},{name}\n" for item in items for name in ("a", " b", "c")[:: len(item)]
    )
    (folder / "genres.csv").write_text(f"item,name\n{genres}", encoding="utf-8")


def _write_parquet(log: pathlib.Path, path: pathlib.Path) -> None:
    """The rows of a log with types: no number is NULL then, and too large a one is infinite."""
    numbers = ", ".join(f"TRY_CAST({name} AS DOUBLE) AS {name}" for name in ("price", "hours"))
    typed = f"string_split(near, '|') AS near, string_split(tags, '|') AS tags, {numbers}"
    with contextlib.closing(duckdb.connect()) as database:
        database.execute(f"CREATE TABLE texts AS {files_source(log).query}")
        database.execute(
            f"COPY (SELECT * REPLACE ({typed}, TRY_CAST(share AS FLOAT) AS share) FROM texts) "
            f"TO '{path}' (FORMAT parquet)"
        )


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell


def _as_json(row: Mapping[str, str]) -> dict[str, Any]:
    """A row whose times are numbers where they can be, missing cells null, and `tags` a list."""
    values: dict[str, Any] = {name: cell or None for name, cell in row.items()}
    if row["at"].isdigit():
        values["at"] = int(row["at"])
    values["tags"] = row["tags"].split("|") if row["tags"] else None
    return values


def prepared(folder: pathlib.Path, engine: str) -> dict[str, Any]:
    """What an engine makes of each format: a file's name -> its digest, or JSON values."""
    report: dict[str, Any] = {"engine": engine, "versions": _versions(engine)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in FORMATS:
            output = pathlib.Path(scratch) / name
            schema = schema_of(folder)
            shared: dict[str, Any] = {
                "engine": engine,
                "on_bad_row": "drop",
                "num_files": 3,
                "episode_rows": 64,
            }
            split = gm.Split(0.2, 0.2, by="both" if name == "jsonl" else "task")
            day = files_source(str(folder / f"day-0-*.{name}"))
            prepare(day, schema, output, split=split, **shared)
            later = files_source(str(folder / f"day-1-*.{name}"))
            records = prepare(later, schema, output, append=True, **shared)
            found = set(records.details["dropped_rows"])
            if name != "parquet" and found != set(DROPPED):
                raise ValueError(
                    f"{name}: expected rows dropped for {sorted(DROPPED)}, got {sorted(found)}."
                )
            report[name] = {
                path.relative_to(output).as_posix(): _content(path)
                for path in sorted(output.rglob("*"))
                if path.is_file()
            }
    return report


def _content(path: pathlib.Path) -> Any:
    """A digest of a file's bytes; of Parquet, which names the DuckDB that wrote it, its rows'."""
    if path.name == "schema.json":
        values = json.loads(path.read_text(encoding="utf-8"))
        del values["digest"]  # of all that follows, the Parquet files' digests too
        values["digests"] = {
            name: digest
            for name, digest in values["digests"].items()
            if not name.endswith(".parquet")
        }
        return values
    data = path.read_bytes()
    if path.suffix == ".parquet":
        with contextlib.closing(duckdb.connect()) as database:
            data = repr(database.execute(f"SELECT * FROM '{path}'").fetchall()).encode()
    return hashlib.sha256(data).hexdigest()


def _versions(engine: str) -> str:
    if engine != "spark":
        return f"DuckDB {duckdb.__version__}"
    import pyspark

    return f"Spark {pyspark.__version__} with DuckDB {duckdb.__version__}"


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The files of two reports that are not the same in both."""
    found = []
    for name in FORMATS:
        files = sorted({*first[name], *other[name]})
        found += [
            f"{name}/{file}" for file in files if first[name].get(file) != other[name].get(file)
        ]
    return found


def compare(reports: list[Mapping[str, Any]]) -> bool:
    """Prints what differs from the first report; whether nothing does."""
    first, *others = reports
    num_files = sum(len(first[name]) for name in FORMATS)
    print(f"{first['versions']}: {num_files} files")
    same = bool(num_files)
    for other in others:
        found = differences(first, other)
        same = same and not found
        told = "the same records" if not found else f"OTHER RECORDS: {', '.join(found)}"
        print(f"{other['versions']}: {told}")
    return same


def main(words: list[str]) -> int:
    """Runs one of the three commands; its exit status."""
    match words:
        case ["write", folder]:
            write(pathlib.Path(folder))
        case ["prepare", folder, engine, report]:
            found = prepared(pathlib.Path(folder), engine)
            pathlib.Path(report).write_text(json.dumps(found), encoding="utf-8")
            print(f"{found['versions']}: prepared {', '.join(FORMATS)}")
        case ["compare", _, _, *_]:
            reports = [json.loads(pathlib.Path(path).read_text()) for path in words[1:]]
            return 0 if compare(reports) else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
