"""What is likely to go wrong: each finding on data that has it, and none on data that has not."""

import csv

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.findings import findings
from gmeta_tf.meta_io.sources.sources import files_source

FIELDS = (gm.Field("item"), gm.Field("size", "dense"), gm.Field("colour"))


def rows_of(tasks=20, rows=15, seed=0):
    draw = np.random.default_rng(seed)
    return [
        {
            "user": f"u{task}",
            "item": f"i{draw.integers(9)}",
            "size": round(float(draw.normal()), 3),
            "colour": draw.choice(["red", "green"]),
            "liked": int(draw.random() < 0.5),
        }
        for task in range(tasks)
        for _ in range(rows)
    ]


def found(folder, rows, *, fields=FIELDS, positive_from=None, weight=None, **asked):
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    schema = gm.Schema(fields, "liked", "user", positive_from=positive_from, weight=weight)
    source = files_source(folder / "log.csv")
    options = {"split": Split(0.0), "num_files": 2, "on_bad_row": "drop"}
    return findings(prepare(source, schema, folder / "records", **options), **asked)


def changed(rows, **columns):
    return [row | {name: make(row) for name, make in columns.items()} for row in rows]


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert found(tmp_path, rows_of()) == []


@pytest.mark.parametrize(("weightless", "told"), [(2, False), (3, True), (20, True)])
def test_tasks_whose_rows_weigh_nothing(weightless, told, tmp_path):
    """Of 20; a row of weight 0 beside others is fine."""
    nothing = {f"u{task}" for task in range(weightless)}
    rows = rows_of()
    for place, row in enumerate(rows):
        row["importance"] = 0 if row["user"] in nothing else 2 * (place % 3)
    texts = found(tmp_path, rows, weight="importance")
    share = f"{weightless / 20:.0%}"
    assert [text.startswith(f"in {share} of the first 20 training tasks") for text in texts] == (
        [True] if told else []
    )


STARS = {"liked": lambda row: row["liked"] * 3 + 1 + len(row["item"]) % 2}
CASES = {
    "labels": ({"liked": lambda row: 1 + 4 * row["liked"]}, {}, r"labels go from 1 to 5, and the"),
    "one label": ({"liked": lambda row: 1}, {}, r"all of the first 300 training rows have the lab"),
    "no positive": (
        {"liked": lambda row: row["liked"]},
        {"positive_from": 4.0},
        r"labels go from 0 to 1, so that with positive_from 4 all of the first 300 .* are 0",
    ),
    "scale": ({"size": lambda row: row["size"] + 2000}, {}, r"the dense field 'size' has values"),
    "dense leak": (
        {"size": lambda row: row["liked"] + row["size"] / 99},
        {},
        r"the field 'size' tells (9\d|100)% of the label's variance .* Is it known before the ",
    ),
    "leak": (
        {"colour": lambda row: "no" if row["liked"] else "yes"},
        {},
        r"the field 'colour' tells 100% of the label's variance",
    ),
    "label as field": (
        {},
        {"fields": (*FIELDS, gm.Field("liked"))},
        r"the field 'liked' reads the column 'liked', which is the label",
    ),
    "constant": ({"colour": lambda row: "red"}, {}, r"the field 'colour' .* has one value in the"),
    "dense constant": ({"size": lambda row: 3}, {}, r"the field 'size' .* has one value in the fi"),
    "small tasks": ({}, {"support": 15}, r"100% of the 20 training tasks have at most 15 rows"),
    "one class": (
        {"liked": lambda row: int(row["user"][1:]) % 2},
        {},
        r"in 100% of the first 20 training tasks of more than one row all labels are alike",
    ),
    "dropped": (
        {"liked": lambda row: "x" if row["user"] == "u3" else row["liked"]},
        {},
        r"15 rows, 5.0% of all, were bad and were left out. By reason: label 15.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_finding_alone(case, tmp_path):
    columns, options, match = CASES[case]
    told = found(tmp_path, changed(rows_of(), **columns), **options)
    with pytest.raises(AssertionError, match=match):
        raise AssertionError("\n".join(told) or "nothing")
    assert len(told) == 1


def test_a_loss_of_any_number_takes_any_label(tmp_path):
    rows = changed(rows_of(), liked=lambda row: 1 + 4 * row["liked"])
    assert found(tmp_path, rows, labels=None) == []


def test_values_of_few_rows_go_with_their_labels_by_chance(tmp_path):
    rows = changed(rows_of(), item=lambda row: f"{row['user']} {row['size']}")
    assert len({row["item"] for row in rows}) > 250
    assert found(tmp_path, rows) == []


def test_few_rows_tell_nothing(tmp_path):
    rows = changed(rows_of(4, 10), size=lambda row: row["liked"], colour=lambda row: "red")
    assert found(tmp_path, rows) == []


def test_rows_that_find_nothing_in_a_table(tmp_path):
    rows = rows_of()
    (tmp_path / "users.csv").write_text("user,age\n" + "".join(f"u{i},{i}\n" for i in range(15)))
    table = gm.SideTable("users", str(tmp_path / "users.csv"), "user")
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    schema = gm.Schema((*FIELDS, gm.Field("age")), "liked", "user", tables_to_join=(table,))
    records = prepare(files_source(tmp_path / "log.csv"), schema, tmp_path / "r", split=Split(0.0))
    (told,) = findings(records)
    assert told.startswith("75 of 300 rows (25.0%) found nothing in the table 'users'")
