"""An embedding table, and its keys."""

from __future__ import annotations

import dataclasses

from gmeta_tf.allowed import KEYS, check_word
from gmeta_tf.schema.values import check_types

__all__ = ["LARGEST_KEY", "PADDING_KEY", "UNKNOWN_KEY", "Table"]

UNKNOWN_KEY = 0
PADDING_KEY = -1
LARGEST_KEY = 2**63 - 1
_LARGEST_NARROW_SIZE = 2**31


@dataclasses.dataclass(frozen=True)
class Table:
    """One embedding table.

    Attributes:
        name: what fields and error messages call it; files are named after it too.
        num_rows: its rows, row 0 (the unknown value's) included. Of a vocabulary, `gmeta-tf
            prepare` fills it in. Of hashed and raw keys it is stated, or None for keys without a
            limit, whose rows come with them (a *dynamic* table, see `DynamicTable`).
        width: D, the numbers in a row. None takes the model's width. Tables that state the same
            width (or none) are one tensor of rows.
        keys: how a value becomes a key; a missing value is key 0 in each of them.
            `"vocabulary"`: the place in the list of the training data's values, the most frequent
            first, from 1; what is not in it is key 0.
            `"hash"`: `1 + h % (num_rows - 1)`, where h is the 64-bit fingerprint of the value's
            text (see `meta_io.hashing`); without num_rows as if that were `2**63 - 1`.
            `"raw"`: the value is the key, an integer from 0 to `num_rows - 1`, or to `2**63 - 1`.

    Raises:
        ValueError: a value of another type, an empty name or one with a slash, a size below 1,
            hashed keys with fewer than 2 rows, an unknown kind of keys.
    """

    name: str
    num_rows: int | None = None
    width: int | None = None
    keys: str = "vocabulary"

    def __post_init__(self) -> None:
        check_types(self)
        if "/" in self.name or "\\" in self.name or self.name in (".", ".."):
            raise ValueError(
                f"the table {self.name!r} names a file of the records folder: expected a name "
                "without slashes. Rename the table."
            )
        check_word(f"Table {self.name!r}: keys", self.keys, KEYS)
        for what, value in (("num_rows", self.num_rows), ("width", self.width)):
            if value is not None and value < 1:
                raise ValueError(
                    f"Table {self.name!r}: expected {what} to be at least 1, got {value}."
                )
            if value is not None and value > LARGEST_KEY:
                raise ValueError(
                    f"Table {self.name!r}: expected {what} to be at most 2**63 - 1, got {value}."
                )
        if self.keys == "hash" and self.num_rows == 1:
            raise ValueError(
                f"Table {self.name!r}: hashed keys need at least 2 rows (row 0 is the missing "
                "value's), got 1."
            )

    @property
    def is_dynamic(self) -> bool:
        """Whether its rows come with their keys: keys without a list and without a limit."""
        return self.keys != "vocabulary" and self.num_rows is None

    @property
    def words_per_key(self) -> int:
        """The 32-bit words that a key takes in a record: 1, or 2 where keys may pass 2**31 - 1."""
        if self.keys == "vocabulary":
            return 1
        return 1 if self.num_rows is not None and self.num_rows <= _LARGEST_NARROW_SIZE else 2
