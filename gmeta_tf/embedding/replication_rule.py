"""Which tables every rank holds in full: the rule behind `ShardedEmbedding(replicate=...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups

__all__ = ["Replicate", "ReplicationChoice", "as_json", "choose_replicated"]

Replicate = str | bool | Collection[str]
"""`"auto"`; True, all tables of known size; False, none; or the tables' names."""

# An AlltoAll between 2 ranks of one machine, by `python -m benchmarks.replicated`, rounded down;
# docs/embeddings.md has the figures. Replicated tables save a step one collective, in whose time a
# rank can send so many bytes.
_COLLECTIVE_SECONDS = 1e-3
_BYTES_PER_SECOND = 1e9
_MOST_SENT_BYTES = int(_COLLECTIVE_SECONDS * _BYTES_PER_SECOND)


@dataclasses.dataclass(frozen=True)
class ReplicationChoice:
    """Which tables are replicated, and why.

    Attributes:
        groups: the groups of tables (see `key_groups`) that every rank holds in full.
        tables: the tables in them.
        sent_bytes: what a rank would send in a step to sum the gradients of all rows of all tables
            of known size, replicated or not.
        reason: why these are replicated, or none, in words.
    """

    groups: tuple[str, ...]
    tables: tuple[str, ...]
    sent_bytes: int
    reason: str


def choose_replicated(
    schema: Schema, width: int, world_size: int, replicate: Replicate = "auto"
) -> ReplicationChoice:
    """Which groups of tables every rank holds in full.

    A replicated group is not exchanged: its rows are read in place, and the gradients of all its
    rows, `num_rows (D + 1)` numbers, are summed over the ranks in the message of the dense
    gradients. Where every group is replicated, a step sends no rows and has one collective less.

    So `"auto"` replicates all groups or none: all, where no table grows and sending the sums takes
    less time than the saved collective. A rank sends its sums to each other rank (an AllReduce
    would send fewer where ranks are many, but is not quicker for so few:
    `packed_alltoall.may_piggyback`):

        (W - 1) 4 num_rows (D + 1) bytes  <=  1 ms x 1 GB/s

    The rule leaves out the bytes of the saved exchange: they depend on a step's keys, and would
    only favour replication.

    Args:
        schema: with the sizes filled in; a table without `num_rows` grows.
        width: D of the tables that state none.
        world_size: W.
        replicate: see `Replicate`. The keys of tables of one width travel together, so names have
            to cover whole groups.

    Raises:
        ValueError: another `replicate`; an unknown name, the name of a table that grows, or names
            of only some tables of a group.
    """
    groups = key_groups(schema)
    grows = [names[0] for names in groups.values() if schema.table(names[0]).is_dynamic]
    known = {g: names for g, names in groups.items() if names[0] not in grows}
    named = _named_groups(replicate, known, grows)
    numbers = [
        (schema.table(name).num_rows or 0) * ((schema.table(name).width or width) + 1)
        for names in known.values()
        for name in names
    ]
    sent_bytes = 4 * sum(numbers) * (world_size - 1)

    def choice(chosen: dict[str, tuple[str, ...]], reason: str) -> ReplicationChoice:
        tables = tuple(name for names in chosen.values() for name in names)
        return ReplicationChoice(tuple(chosen), tables, sent_bytes, reason)

    if world_size == 1:
        return choice({}, "one rank holds all rows anyway")
    if replicate is False:
        return choice({}, "replicate=False shards every table")
    if replicate is True:
        return choice(known, "replicate=True replicates every table of known size")
    if named is not None:
        return choice(named, "replicate names them")
    if grows:
        return choice({}, f"the table {grows[0]!r} grows, so rows are exchanged in any case")
    limit = f"the {_MOST_SENT_BYTES:,} that take as long as the collective that this saves"
    told = f"for the sums of all rows a rank sends {sent_bytes:,} bytes in a step"
    if sent_bytes > _MOST_SENT_BYTES:
        return choice({}, f"{told}, more than {limit}")
    return choice(known, f"{told}, no more than {limit}")


def as_json(replicate: Replicate) -> str | bool | list[str]:
    """The value as JSON, names in order."""
    return replicate if isinstance(replicate, str | bool) else sorted(replicate)


def _named_groups(
    replicate: Replicate, known: dict[str, tuple[str, ...]], grows: list[str]
) -> dict[str, tuple[str, ...]] | None:
    """The groups whose tables `replicate` names; None where it names none."""
    # By type as well: 1 equals True, and "always" is a word of the command line.
    if isinstance(replicate, bool) or replicate == "auto":
        return None
    if isinstance(replicate, str) or not isinstance(replicate, Collection):
        raise ValueError(
            "ShardedEmbedding: expected replicate to be 'auto', True, False or names of tables, "
            f"got {replicate!r}."
        )
    tables = [name for names in known.values() for name in names]
    for name in replicate:
        if name in grows:
            raise ValueError(
                f"ShardedEmbedding: expected replicate to name tables of known size, got {name!r}, "
                "which grows. State its num_rows, or leave it out."
            )
        if name not in tables:
            raise ValueError(
                f"ShardedEmbedding: expected replicate to name tables of the schema "
                f"({', '.join(tables)}), got {name!r}. Beside names it takes 'auto', True and "
                "False (on the command line: auto, always, never)."
            )
    chosen = {group: names for group, names in known.items() if set(names) & set(replicate)}
    for names in chosen.values():
        left_out = [name for name in names if name not in replicate]
        if left_out:
            raise ValueError(
                "ShardedEmbedding: expected replicate to name all tables of one width, whose keys "
                f"travel together ({', '.join(names)}), got them without {', '.join(left_out)}. "
                "Name those too, or give them a width of their own."
            )
    return chosen
