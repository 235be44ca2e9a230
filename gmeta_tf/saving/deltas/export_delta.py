"""Deltas of a model: what changed since an earlier state of it was exported."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.embedding.static_shard import TableRange
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.saving.deltas.delta import Appended, Delta, Indexed, Keyed, Part, make_delta
from gmeta_tf.saving.deltas.delta_files import GRAPH, check_delta_output, write_delta
from gmeta_tf.saving.deltas.row_changes import Moved
from gmeta_tf.saving.exports.export import serving_graph, write_export
from gmeta_tf.saving.exports.export_version import VERSION, ExportVersion, version_of
from gmeta_tf.saving.exports.look_ups import LookUp, look_ups_of
from gmeta_tf.saving.exports.served_values import OBJECT_GRAPH, Values, read_values, variable_name
from gmeta_tf.saving.exports.serving_graph import ServingGraph
from gmeta_tf.saving.writing import named_if_full

__all__ = ["ServedState", "export_delta", "served_state"]


class ServedState(NamedTuple):
    """What an export of a model has, or would have, apart from its graph.

    Attributes:
        values: its variables, by name.
        version: which it is.
        ranges: group -> its tables, in the order of the groups; None of a dynamic table.
        num_vocabularies: the tables with a vocabulary.
    """

    values: Values
    version: ExportVersion
    ranges: Mapping[str, tuple[TableRange, ...] | None]
    num_vocabularies: int


def served_state(
    model: MetaModel,
    vocabularies: Records | Mapping[str, np.ndarray],
    *,
    checkpoint: str | None = None,
) -> ServedState:
    """The state of a model, to export later ones as deltas on it. Every rank must call it.

    Args:
        model: compiled.
        vocabularies: as for `export_saved_model`.
        checkpoint: the name of the checkpoint that the model is of.
    """
    return _state(model, serving_graph(model, vocabularies), checkpoint)


def export_delta(
    model: MetaModel,
    path: str | pathlib.Path,
    vocabularies: Records | Mapping[str, np.ndarray],
    *,
    before: ServedState,
    checkpoint: str | None = None,
    look_ups: Mapping[str, Mapping[str, Any]] | None = None,
    warm_up: bool = False,
) -> ExportVersion:
    """Writes what `apply_delta` makes the model's export of, from that of an earlier state.

    That is: rows of tables that have changed or are new, keys of dynamic tables that have no row
    any more, values that were appended to vocabularies, all dense weights, and the graph. Every
    rank must call it; rank 0 writes.

    Args:
        model: compiled.
        path: a folder. An earlier delta is replaced when the new one is whole; any other folder
            that is not empty is left alone.
        vocabularies: as for `export_saved_model`.
        before: the earlier state, of the same tables but for grown vocabularies.
        checkpoint: the name of the checkpoint that the model is of.
        look_ups: as for `export_saved_model`; the delta has them whole, whichever were exported
            before.
        warm_up: as for `export_saved_model`.

    Returns:
        The version that the delta makes.

    Raises:
        ValueError: other tables, a vocabulary that does not begin with its earlier values, a
            look-up that does not fit, or `path` exists and is not a delta (on every rank).
        OSError: the disk is full (on every rank); an earlier delta is as it was.
    """
    # A link is followed: what it points to is replaced, and the link stays.
    target = pathlib.Path(os.path.realpath(path))
    found: list[LookUp] = []

    def check() -> None:
        check_delta_output(target)
        found.extend(look_ups_of(model.embedding.schema, look_ups or {}))

    on_chief(check, model.world, name="delta_output")
    serving = serving_graph(model, vocabularies, found)
    now = _state(model, serving, checkpoint)

    def write() -> None:
        delta = make_delta(before.values, now.values, _parts(before, now))
        with named_if_full(target), work_folder(target) as work:
            built = work / "delta"
            write_export(built / GRAPH, serving, now.version.steps, checkpoint, warm_up=warm_up)
            objects = _without_values(built / GRAPH)
            whole = Delta(delta.parts, delta.arrays | {f"whole/{OBJECT_GRAPH}": objects})
            write_delta(built, before.version, now.version, whole)
            # Another process may have put something else there meanwhile.
            check_delta_output(target)
            replace_folder(built, target, work)

    on_chief(write, model.world, name="delta_written")
    return now.version


def _without_values(exported: pathlib.Path) -> np.ndarray:
    """Takes out of an export what applying writes anew; returns the description of its objects."""
    objects = read_values(exported)[OBJECT_GRAPH]
    shutil.rmtree(exported / "variables")
    (exported / VERSION).unlink()
    # What TensorFlow says of these very files of variables.
    (exported / "fingerprint.pb").unlink(missing_ok=True)
    return objects


def _state(model: MetaModel, serving: ServingGraph, checkpoint: str | None) -> ServedState:
    embedding, values = model.embedding, serving.values()
    return ServedState(
        values,
        version_of(values, int(model.optimizer.iterations), checkpoint),
        {
            group: embedding.indexed[group].tables if group in embedding.indexed else None
            for group in embedding.groups
        },
        len(serving.keys.values),
    )


def _parts(before: ServedState, now: ServedState) -> list[Part]:
    """How the later values follow from the earlier ones."""
    _check_same_tables(before, now)
    parts: list[Part] = []
    for place, (group, tables) in enumerate(now.ranges.items()):
        rows, earlier = variable_name(f"tables/{place}/rows"), before.ranges[group]
        if tables is None or earlier is None:
            parts.append(Keyed(variable_name(f"tables/{place}/keys"), rows))
            continue
        moved = (
            Moved(old.first_row, new.first_row, old.num_rows)
            for old, new in zip(earlier, tables, strict=True)
        )
        parts.append(Indexed(rows, tuple(moved)))
    places = range(now.num_vocabularies)
    return [*parts, *(Appended(variable_name(f"keys/values/{place}")) for place in places)]


def _check_same_tables(before: ServedState, now: ServedState) -> None:
    earlier, later = _described(before), _described(now)
    are_smaller = any(
        old.num_rows > new.num_rows
        for group, tables in now.ranges.items()
        for old, new in zip(before.ranges.get(group) or (), tables or (), strict=False)
    )
    if earlier != later or are_smaller:
        raise ValueError(
            "expected a delta between two models of the same tables, apart from grown "
            f"vocabularies, got {earlier} and {later}{', smaller ones' if are_smaller else ''}. "
            "Export in full."
        )


def _described(state: ServedState) -> list[str]:
    """The tables of each group, and the width of their rows."""
    return [
        f"{group} of width {state.values[variable_name(f'tables/{place}/rows')].shape[1]}: "
        + ", ".join(["dynamic"] if tables is None else [table.name for table in tables])
        for place, (group, tables) in enumerate(state.ranges.items())
    ]
