"""Crosses of fields of every kind, rows for them, and what their keys should be, one by one."""

import itertools

import numpy as np
from prepare_twin import Twin

from gmeta_tf.meta_io.preparing.hashing import hashed_keys
from gmeta_tf.schema import Field, Schema, Table

IDS = ["0", "7", "07", "2147483648", str(2**63 - 1), ""]
SCHEMA = Schema(
    (
        Field("item", min_count=2),
        Field("item_x_brand", cross=("item", "brand")),
        Field("brand"),
        Field("slot"),
        Field("id"),
        Field("tags", "multi", max_values=3),
        Field("ids", "multi", table="id", max_values=2),
        Field("far", cross=("id", "slot", "item")),
        Field("tags_x_ids", cross=("tags", "ids"), max_values=4),
        Field("tags_x_item", cross=("tags", "item"), max_values=5, table="tags_x_ids"),
        Field("price", "dense"),
    ),
    label="click",
    task="user",
    tables=(
        Table("brand", 50, keys="hash"),
        Table("slot", 12, keys="raw"),
        Table("id", keys="raw", width=3),
        Table("tags", 40, keys="hash"),
        Table("item_x_brand", 30, keys="hash"),
        Table("far", keys="hash", width=2),
        Table("tags_x_ids", 5000, keys="hash", width=2),
    ),
)


def made_rows(num_rows=60, seed=0):
    draw = np.random.default_rng(seed)

    def several(values):
        return "|".join(draw.choice(values, draw.integers(0, 5)))

    return [
        {
            "user": f"u{row % 6}",
            "item": draw.choice(["a", "b", " a ", "c", "", f"rare {row}"]),
            "brand": draw.choice(["", " Ünd ", "x", "a b"]),
            "slot": draw.choice(["0", "00", "3", "11", ""]),
            "id": draw.choice(IDS),
            "tags": several(["x", "y", " z", "", "x", "w"]),
            "ids": several(IDS),
            "price": "1.5",
            "click": str(draw.integers(2)),
        }
        for row in range(num_rows)
    ]


class CrossTwin(Twin):
    """As `Twin`, with the keys of crosses: all combinations in loops."""

    def _keys(self, field, row):
        if not field.cross:
            return super()._keys(field, row)
        named = {one.name: one for one in self.schema.fields}
        parts = [
            super(CrossTwin, self)._keys(named[name], row)[: named[name].num_slots] or [0]
            for name in field.cross
        ]
        texts = [",".join(map(str, one)) for one in itertools.product(*parts)]
        return hashed_keys(texts, self.schema.table(field.table_name)).tolist()
