"""Which tables every rank holds a copy of: the rule behind `ShardedEmbedding(replicate=...)`."""

from __future__ import annotations

import dataclasses

from gmeta_tf.meta_io.pipeline import key_groups
from gmeta_tf.schema import Schema

__all__ = ["Copies", "choose_copies"]

# Of an AlltoAll between 2 ranks of one machine, by `python -m benchmarks.replicated`, rounded down;
# docs/embeddings.md has the figures. A step with copies has one collective less, and sends so many
# bytes in the time that it saves.
_COLLECTIVE_SECONDS = 1e-3
_BYTES_PER_SECOND = 1e9
_MOST_SENT_BYTES = int(_COLLECTIVE_SECONDS * _BYTES_PER_SECOND)


@dataclasses.dataclass(frozen=True)
class Copies:
    """What is copied to every rank, and why.

    Attributes:
        groups: the groups of tables (see `key_groups`) of which every rank holds all rows.
        tables: the tables in them.
        sent_bytes: what a rank sends in a step, so that all have the sums of the gradients of every
            row of the tables of known size; whether they are copied or not.
        reason: why these are copied, or none, in words.
    """

    groups: tuple[str, ...]
    tables: tuple[str, ...]
    sent_bytes: int
    reason: str


def choose_copies(
    schema: Schema, width: int, world_size: int, replicate: str | bool = "auto"
) -> Copies:
    """Which groups of tables every rank holds a copy of.

    A copied group is not exchanged: its rows are read where they are needed, and the gradients of
    all its rows, `num_rows (D + 1)` numbers, are summed over the ranks in the message of the dense
    gradients. Where every group is copied, a step has no rows to send and one collective less.

    So `"auto"` copies all groups or none: all, where no table grows and sending the sums takes less
    time than the collective that is saved. A rank sends its sums to each other rank (so few that an
    AllReduce, which would send fewer where ranks are many, is no quicker: `parcels.may_ride`):

        (W - 1) 4 num_rows (D + 1) bytes  <=  1 ms x 1 GB/s

    The bytes of the exchange that go too are not counted: they follow from a step's keys, and would
    only speak for copies.

    Args:
        schema: with the sizes filled in; a table without `num_rows` grows.
        width: D of the tables that state none.
        world_size: W.
        replicate: `"auto"`; True copies every group of tables of known size, False none.

    Raises:
        ValueError: another `replicate`.
    """
    # By type, too: 1 is True, and "always" is a word of the command line.
    if not (isinstance(replicate, bool) or replicate == "auto"):
        raise ValueError(
            f"ShardedEmbedding: expected replicate to be 'auto', True or False, got {replicate!r}."
        )
    groups = key_groups(schema)
    grows = [names[0] for names in groups.values() if schema.table(names[0]).is_dynamic]
    known = {g: names for g, names in groups.items() if names[0] not in grows}
    numbers = [
        (schema.table(name).num_rows or 0) * ((schema.table(name).width or width) + 1)
        for names in known.values()
        for name in names
    ]
    sent_bytes = 4 * sum(numbers) * (world_size - 1)

    def copies(chosen: dict[str, tuple[str, ...]], reason: str) -> Copies:
        tables = tuple(name for names in chosen.values() for name in names)
        return Copies(tuple(chosen), tables, sent_bytes, reason)

    if world_size == 1:
        return copies({}, "one rank holds all rows anyway")
    if replicate is False:
        return copies({}, "replicate=False shards every table")
    if replicate is True:
        return copies(known, "replicate=True copies every table of known size")
    if grows:
        return copies({}, f"the table {grows[0]!r} grows, so rows are exchanged in any case")
    limit = f"the {_MOST_SENT_BYTES:,} that take as long as the collective that copies save"
    told = f"for the sums of all rows a rank sends {sent_bytes:,} bytes in a step"
    if sent_bytes > _MOST_SENT_BYTES:
        return copies({}, f"{told}, more than {limit}")
    return copies(known, f"{told}, no more than {limit}")
