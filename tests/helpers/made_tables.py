"""A made log with tables of users, items and brands beside it, and the same joined by hand."""

import json

import numpy as np

import gmeta_tf as gm

FIELDS = (
    gm.Field("item"),
    gm.Field("age"),
    gm.Field("year", "dense", transform="standardize", missing="mean"),
    gm.Field("genre", "multi", max_values=3),
    gm.Field("country"),
)


def schema_of(folder, **changed):
    """Joins users (`;`, a key of another name), items, a genre a line, and the items' brands."""
    tables = {
        "users": {"path": f"{folder}/users.txt", "on": "user", "key": "id"},
        "items": {
            "path": f"{folder}/items.tsv",
            "on": "item",
            "columns": {"year": "released", "brand": "brand"},
        },
        "genres": {
            "path": f"{folder}/genres.csv",
            "on": "item",
            "many": "name",
            "columns": {"genre": "name"},
        },
        "brands": {"path": f"{folder}/brands.csv", "on": "brand"},
    }
    tables["users"]["read"] = {"separator": ";", "format": "csv"}
    for name, values in changed.items():
        tables[name] |= values
    values = gm.Schema(FIELDS, "stars", "user", time="when").to_json()
    return gm.Schema.from_json(values | {"tables_to_join": tables})


def write_tables(folder, *, users=12, items=15, seed=0):
    """Writes the log (three files) and the tables; the log's rows with all that they have.

    The last user and the first two items stand in no table, an item has no brand, some rows no
    item; keys have white space around them here and there.
    """
    draw = np.random.default_rng(seed)
    age = {f"u{i}": str(draw.integers(18, 60)) for i in range(users - 1)}
    year = {f"i{i}": str(draw.integers(1950, 2020)) for i in range(2, items)}
    brand = {item: f"b{draw.integers(3)}" for item in year} | {"i3": ""}
    genres = {item: draw.choice(list("pqrs"), draw.integers(1, 5)).tolist() for item in year}
    country = {f"b{i}": f"c{i % 2}" for i in range(3)}
    rows = []
    for user in range(users):
        for _ in range(draw.integers(3, 9)):
            item = f"i{draw.integers(items)}" if draw.random() < 0.95 else ""
            stars = int(draw.integers(1, 6))
            when = int(draw.integers(4))  # equal ones are in the order of the files
            rows.append({"user": f"u{user}", "item": item, "stars": stars, "when": when})
    order = draw.permutation(len(rows))
    rows = [rows[place] for place in order]
    header = "user,item,stars,when\n"
    for part in range(3):
        lines = [",".join(map(str, row.values())) for row in rows[part::3]]
        text = header + "\n".join(lines) + "\n"
        (folder / f"log-{part}.csv").write_text(text.replace(",i4,", ", i4 ,"))
    (folder / "users.txt").write_text("id;age\n" + _lines(age, ";") + "u0 ;" + age["u0"] + "\n")
    both = {item: f"{brand[item]}\t{year[item]}" for item in year}
    (folder / "items.tsv").write_text("item\tbrand\treleased\n" + _lines(both, "\t"))
    pairs = [(item, name) for item, names in genres.items() for name in names]
    pairs = [pairs[place] for place in sorted(draw.permutation(len(pairs)))]
    (folder / "genres.csv").write_text(
        "item,name\n" + "".join(f"{item},{name}\n" for item, name in pairs) + "i5,\n"
    )
    (folder / "brands.csv").write_text("brand,country\n" + _lines(country, ","))
    for row in rows:
        item = row["item"]
        row["age"] = age.get(row["user"], "")
        row["year"] = year.get(item, "")
        row["genre"] = genres.get(item, [])
        row["country"] = country.get(brand.get(item, ""), "")
    return [row for part in range(3) for row in rows[part::3]]


def write_flat(path, rows):
    """JSON lines of rows that have everything."""
    lines = [json.dumps({k: v if v != "" else None for k, v in row.items()}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def log_of(folder):
    """The files of the log, in their order."""
    return [folder / f"log-{part}.csv" for part in range(3)]


def _lines(values, separator):
    return "".join(f"{key}{separator}{value}\n" for key, value in values.items())
