"""A made-up raw log: what a user would hand to `gmeta-tf prepare`."""

import csv

import numpy as np

import gmeta_tf as gm

SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("price", "dense"),
        gm.Field("genre", "multi", max_values=3),
        gm.Field("liked", table="item"),
    ),
    label="stars",
    task="user",
    time="when",
    positive_from=3.0,
)
GENRES = ["Drama", "Comédie", "Sci Fi", " Action", ""]


def write_log(path, *, seed=0, num_tasks=30):
    """A raw log with unsorted distinct times, Unicode, blanks, repeats and missing values."""
    draw = np.random.default_rng(seed)
    rows = []
    for task in range(num_tasks):
        for _ in range(draw.integers(1, 14)):
            genres = "|".join(draw.choice(GENRES, draw.integers(0, 6)))
            item = "" if draw.random() < 0.05 else f"i{draw.integers(40)}"
            liked = f"i{draw.integers(40)} "
            rows.append([f"u{task}", item, draw.normal(), genres, liked, draw.integers(1, 6)])
    times = draw.permutation(len(rows))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "price", "genre", "liked", "stars", "when"])
        writer.writerows([*row, time] for row, time in zip(rows, times, strict=True))


def write_day_2(path):
    """Rows of tasks old and new, with items and a genre that day 1 did not have."""
    draw = np.random.default_rng(5)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "price", "genre", "liked", "stars", "when"])
        for row in range(60):
            user, item = f"u{draw.integers(30, 50)}", f"new{draw.integers(5)}"
            genre = "Western|Drama" if row % 2 else "Drama"
            writer.writerow(
                [user, item, draw.normal(), genre, "i3", draw.integers(1, 6), 10_000 + row]
            )
