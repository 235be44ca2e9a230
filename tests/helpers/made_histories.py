"""Fields of the last rows before each one, and rows for them."""

import random

from gmeta_tf.schema import Field, Schema, Table

SCHEMA = Schema(
    (
        Field("history", of="item", last=3),
        Field("item", min_count=2),
        Field("shop"),
        Field("shops", of="shop", last=2),
        Field("seen_x_item", cross=("history", "item"), max_values=2),
    ),
    "row",
    "user",
    time="at",
    tables=(Table("shop", keys="raw"), Table("seen_x_item", 1000, keys="hash")),
)


def made_rows(num_rows=120, seed=0):
    """Rows in no order, with equal times, repeated, rare and missing items; labels number them."""
    draw = random.Random(seed)
    return [
        {
            "user": f"u{draw.randrange(7)}",
            "item": draw.choice(["a", "b", "c", " a ", "", f"rare {row}"]),
            "shop": draw.choice(["3", "4294967299", "0", ""]),
            "row": str(row),
            "at": str(draw.randrange(25)),
        }
        for row in range(num_rows)
    ]
