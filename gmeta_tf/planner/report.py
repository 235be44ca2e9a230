"""A placement as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from gmeta_tf.planner.placement import Placement, TablePlacement
from gmeta_tf.planner.table_sizes import TableSize

__all__ = ["aligned", "human_bytes", "placement_lines", "size_lines"]

_COLUMNS = 100
_LEGEND = (
    "a rank: rows and slots of the largest share. keys: the distinct keys of a rank's step; "
    "remote: those that other ranks own; serves: the rows that an owner sends to others; busiest "
    "owner: over the mean; sends: the bytes of keys, rows and gradients that a rank sends of a "
    "sharded table; replica: what a rank would send if all had the table; fewer bytes: which of "
    " the two lowers what the busiest rank moves.",
    "",
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size_lines(sizes: Sequence[TableSize]) -> list[str]:
    """The memory of the tables and their slots: one line for each table.

    Args:
        sizes: what `table_sizes` gave.
    """
    names = ("table", "rows", "width", "rows of a rank", "rows take", "slots take", "a rank")
    lines = [names, *(_size_cells(size) for size in sizes)]
    known = [size for size in sizes if size.rows_of_ranks is not None]
    if known:
        rows = np.sum([size.held_by_ranks or () for size in known], axis=0)
        memory = np.sum([size.bytes_of_ranks or () for size in known], axis=0)
        total_rows = sum(size.num_rows or 0 for size in known)
        lines.append(
            (
                "total" if len(known) == len(sizes) else "total of those that do not grow",
                f"{total_rows:,}",
                "",
                _span(rows),
                human_bytes(sum((size.num_rows or 0) * size.row_bytes for size in known)),
                human_bytes(sum((size.num_rows or 0) * size.slot_bytes for size in known)),
                human_bytes(memory.max()),
            )
        )
    return aligned(lines)


def placement_lines(placement: Placement) -> list[str]:
    """The whole report.

    Args:
        placement: what `place` gave.
    """
    shape, wire = placement.shape, placement.wire
    key_bytes = sorted({wire.key_bytes(table.size.group_rows) for table in placement.tables})
    head = [
        f"{placement.world_size:,} ranks; a step of a rank is {shape.tasks:,} tasks of "
        f"{shape.support:,} support and {shape.query:,} query rows",
        f"keys travel in {' or '.join(str(size) for size in key_bytes)} bytes, rows and gradients "
        f"as {wire.numbers}",
        f"distinct keys: {placement.requests_from}",
    ]
    memory = size_lines([table.size for table in placement.tables])
    return [
        *_wrapped(head),
        "",
        "memory",
        *memory,
        "",
        "traffic of a step"
        + (", if all tables were sharded" if _replicated_tables(placement) else ""),
        *_traffic_lines(placement),
        "",
        *_wrapped([*_LEGEND, *_verdict(placement)]),
    ]


def human_bytes(number: float) -> str:
    """Bytes in three digits and a decimal unit.

    Example:
        >>> human_bytes(1_234_000)
        '1.23 MB'
        >>> human_bytes(12)
        '12 B'
    """
    if number < 999.5:
        return f"{number:.0f} B"
    for unit in _UNITS:
        if number < 999.5 or unit == _UNITS[-1]:
            break
        number /= 1000
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:,.{digits}f} {unit}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines, indented; the first column to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _size_cells(size: TableSize) -> tuple[str, ...]:
    if size.num_rows is None or size.held_by_ranks is None or size.bytes_of_ranks is None:
        each = (f"{human_bytes(size.row_bytes)} each", f"{human_bytes(size.slot_bytes)} each")
        return (size.name, "grows", str(size.width), "", *each, "")
    return (
        size.name,
        f"{size.num_rows:,}",
        str(size.width),
        _span(np.array(size.held_by_ranks)),
        human_bytes(size.num_rows * size.row_bytes),
        human_bytes(size.num_rows * size.slot_bytes),
        human_bytes(max(size.bytes_of_ranks)),
    )


def _traffic_lines(placement: Placement) -> list[str]:
    names = (
        "table",
        "keys",
        "remote",
        "serves",
        "busiest owner",
        "sends",
        "replica",
        "fewer bytes",
    )
    lines = [names, *(_traffic_cells(table) for table in placement.tables)]
    keys = sum(table.distinct_keys for table in placement.tables)
    remote = sum(table.remote_keys for table in placement.tables)
    lines.append(
        (
            "total",
            _count(keys),
            _share(remote, keys),
            _count(float(placement.served.mean())),
            _over_mean(placement.served),
            human_bytes(placement.sent.mean()),
            "",
            "",
        )
    )
    return aligned(lines)


def _traffic_cells(table: TablePlacement) -> tuple[str, ...]:
    return (
        table.size.name,
        _count(table.distinct_keys),
        _share(table.remote_keys, table.distinct_keys),
        _count(float(table.served.mean())),
        _over_mean(table.served),
        human_bytes(table.sent.mean()),
        "" if table.replica_bytes is None else human_bytes(table.replica_bytes),
        "replica" if table.replicate else "exchange",
    )


def _replicated_tables(placement: Placement) -> tuple[str, ...]:
    return () if placement.replication is None else placement.replication.tables


def _verdict(placement: Placement) -> list[str]:
    if placement.world_size == 1:
        return ["one rank exchanges nothing."]
    return [*_traffic_verdict(placement), *_replication_verdict(placement)]


def _traffic_verdict(placement: Placement) -> list[str]:
    rank = placement.busiest_rank
    sent, received = placement.sent, placement.received
    as_sharded = "sharded, " if _replicated_tables(placement) else ""
    lines = [
        f"{as_sharded}rank {rank} is the busiest: it sends {human_bytes(sent[rank])} and gets "
        f"{human_bytes(received[rank])} in a step; the mean rank sends {human_bytes(sent.mean())}."
    ]
    if placement.dense_bytes is not None:
        lines.append(
            f"dense weights: {placement.dense_weights:,} numbers, for which a rank sends "
            f"{human_bytes(placement.dense_bytes)} in an AllReduce."
        )
    return lines


def _replication_verdict(placement: Placement) -> list[str]:
    """What training replicates, and whether replicas of sharded tables would save bytes."""
    lines, chosen = [], placement.replication
    if chosen is not None and chosen.tables:
        lines.append(
            f"replicated on every rank: {', '.join(chosen.tables)}, since {chosen.reason}."
        )
        if len(chosen.tables) == len(placement.tables):
            lines.append("all tables are replicated: a step has one collective, and no exchange.")
        return lines
    if chosen is not None:
        lines.append(f"no table is replicated: {chosen.reason}.")
    before, after = placement.bytes_of_advice
    if not placement.replicated:
        return [*lines, "by bytes alone, no table is cheaper replicated either."]
    lines.append(
        f"by bytes alone, --replicate {','.join(placement.replicated)}: the busiest rank would "
        f"move {human_bytes(after)} instead of {human_bytes(before)} "
        f"({100 * (1 - after / before):.1f} % less)."
    )
    return lines


def _wrapped(sentences: Sequence[str]) -> list[str]:
    """Sentences wrapped into lines; each sentence begins a new line."""
    return [line for text in sentences for line in textwrap.wrap(text, _COLUMNS) or [""]]


def _span(rows: np.ndarray) -> str:
    least, most = int(rows.min()), int(rows.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.0f} %" if total else ""


def _over_mean(values: np.ndarray) -> str:
    mean = float(values.mean())
    return f"{values.max() / mean:.2f} x" if mean else ""
