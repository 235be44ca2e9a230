"""The rules of a dynamic table, whose keys nobody listed beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gmeta_tf.allowed import (
    UNKNOWN_IN_TRAINING,
    UNKNOWN_OTHERWISE,
    WHEN_FULL,
    check_word,
)
from gmeta_tf.schema import Schema

__all__ = ["DynamicTable", "rules_of_tables"]


@dataclasses.dataclass(frozen=True)
class DynamicTable:
    """A table whose rows come with their keys, and may go again.

    A key without a row reads the *default row*, which is zeros and which no gradient changes. A
    key that gets a row starts from its initial row, a pure function of (seed, key), and the
    optimizer's slots from their start values, whether or not it had a row before.

    Over SOK a table keeps only some of these rules: see `sok.dynamic.unkept_rule`.

    Attributes:
        capacity: the most keys of the table. Each of the W ranks holds at most
            `ceil(capacity / W)`. None is as many as the machines' memory holds.
        when_full: what happens to a key that would get a row where the rank is full. `"evict"`:
            the least recently seen keys give their rows up, as many as are needed; among keys last
            seen in one step the smallest go first. Keys of this step keep theirs (where they alone
            are too many, the last ones read the default row).
            `"default"`: it reads the default row. `"error"`: training stops.
        admit_after: a key gets a row in the step that is its n-th sighting; before that it reads
            the default row and its gradient is dropped. A sighting is a training step in which
            any rank reads the key, however often.
        admit_probability: the share of the keys that may get a row at all, chosen by a pure
            function of (seed, key).
        forget_after: the sightings of a waiting key are forgotten once it was not seen for more
            than so many steps.
        max_waiting: the most waiting keys whose sightings are counted, over all ranks; beyond it
            those seen longest ago are forgotten.
        time_to_live: a key gives its row up once it was not seen for more than so many training
            steps. None is never.
        unknown_in_training: what a key without a row does. `"insert"`: it gets one, by the rules
            above. `"default"`: it reads the default row. `"bucket"`: it shares a trained row that
            its hash picks. `"error"`: training stops. Without `"insert"` the table keeps the keys
            that were loaded.
        unknown_otherwise: the same in evaluation, prediction and serving, which change nothing:
            `"default"`, `"bucket"` or `"error"`.
        num_buckets: the shared rows of each rank. Used where a policy is `"bucket"`.

    Raises:
        ValueError: a number out of its range, an unknown policy.
    """

    capacity: int | None = None
    when_full: str = "evict"
    admit_after: int = 1
    admit_probability: float = 1.0
    forget_after: int = 10_000
    max_waiting: int = 1 << 20
    time_to_live: int | None = None
    unknown_in_training: str = "insert"
    unknown_otherwise: str = "default"
    num_buckets: int = 1024

    def __post_init__(self) -> None:
        for name, allowed in (
            ("when_full", WHEN_FULL),
            ("unknown_in_training", UNKNOWN_IN_TRAINING),
            ("unknown_otherwise", UNKNOWN_OTHERWISE),
        ):
            check_word(f"DynamicTable: {name}", getattr(self, name), allowed)
        for name in (
            "capacity",
            "admit_after",
            "forget_after",
            "max_waiting",
            "time_to_live",
            "num_buckets",
        ):
            value = getattr(self, name)
            may_be_none = name in ("capacity", "time_to_live")
            if not (may_be_none and value is None) and value < 1:
                none = ", or None for no limit" if may_be_none else ""
                raise ValueError(f"DynamicTable: expected {name} of at least 1{none}, got {value}.")
        if not 0 < self.admit_probability <= 1:
            raise ValueError(
                "DynamicTable: expected an admit_probability above 0 and at most 1, got "
                f"{self.admit_probability}. For no new keys, state unknown_in_training='default'."
            )

    @property
    def has_buckets(self) -> bool:
        """Whether a policy needs shared rows."""
        return "bucket" in (self.unknown_in_training, self.unknown_otherwise)

    def keys_of_a_rank(self, num_ranks: int) -> int | None:
        """The most keys with rows on each of W ranks."""
        return None if self.capacity is None else -(-self.capacity // num_ranks)


def rules_of_tables(
    schema: Schema, dynamic: DynamicTable | Mapping[str, DynamicTable] | None
) -> dict[str, DynamicTable]:
    """The rules of each dynamic table of the schema.

    Args:
        schema: whose tables.
        dynamic: the rules of all, or by name; tables that are not named take `DynamicTable()`.

    Raises:
        ValueError: rules of a table that is not dynamic.
    """
    names = [table.name for table in schema.tables if table.is_dynamic]
    if dynamic is None or isinstance(dynamic, DynamicTable):
        return dict.fromkeys(names, dynamic or DynamicTable())
    others = [name for name in dynamic if name not in names]
    if others:
        raise ValueError(
            f"ShardedEmbedding: expected rules (dynamic=) of dynamic tables, which are "
            f"{', '.join(names) or 'none'} here, got rules of {others[0]!r}. A table is dynamic if "
            "its keys are 'hash' or 'raw' and it states no num_rows."
        )
    return {name: dynamic.get(name, DynamicTable()) for name in names}
