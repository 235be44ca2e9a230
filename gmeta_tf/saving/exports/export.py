"""SavedModels of stock TensorFlow ops: raw values in, adapted predictions out."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.preparing.work_folder import work_folder
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.exports.export_output import check_export_output, commit_export
from gmeta_tf.saving.exports.export_version import version_of, write_version
from gmeta_tf.saving.exports.look_ups import LOOKED_UP, LookUp, look_ups_of
from gmeta_tf.saving.exports.serving_graph import ServingGraph, served_tables
from gmeta_tf.saving.exports.warm_up import write_warm_up
from gmeta_tf.saving.writing import named_if_full
from gmeta_tf.schema import Schema

__all__ = ["export_saved_model", "serving_graph", "write_export"]


def export_saved_model(
    model: MetaModel,
    path: str | pathlib.Path,
    vocabularies: Records | Mapping[str, np.ndarray],
    *,
    checkpoint: str | None = None,
    look_ups: Mapping[str, Mapping[str, Any]] | None = None,
    warm_up: bool = False,
) -> None:
    """Writes a SavedModel that adapts to a task's support rows and predicts its query rows.

    Gathers the tables from the ranks (they must fit on one server), so every rank must call it;
    rank 0 writes. Serving needs only TensorFlow: no Horovod, no gmeta_tf.

    Signatures, for T tasks of up to S support rows and Q query rows:

        predict (the default)
            support_<field>   string [T, S], or float32 for a dense field
            support_<label>   float32 [T, S], as in the raw data
            support_<weight>  float32 [T, S], at least 0; where the schema has a weight
            support_count     int32 [T], how many of the S rows count (0 for a task never seen)
            query_<field>     as for the support, [T, Q]
            -> prediction     float32 [T, Q]
            -> deviation      float32 [T, Q], the standard deviation of the label about its
                              prediction, where tasks adapt in closed form
        predict_unadapted
            query_<field>     -> prediction, from the shared values
        predict_integers, where a field has integers (raw keys, or a vocabulary of nothing else)
            as predict; int64 [T, R] for those fields
        predict_keys
            as predict; int64 [T, R] for a key field and [T, R, L] for a multi-valued one, -1 after
            the last: the keys that `prepare` makes
        predict_examples
            examples          string [T], a `tf.train.Example` for each task with the inputs of
                              predict but support_count, which the number of labels tells
            -> as predict

    A field, or a weight, whose value is the same in all of a task's rows may be given once, [T, 1].

    Values become keys as in `prepare`. A value outside the vocabulary, or that is not a key of a
    table with raw keys, reads row 0. The values of a multi-valued field share one string, with the
    field's separator. A name that TensorFlow does not take is written as `input_names` says, such
    as `support_Book_Rating` for the label `Book-Rating`.

    Args:
        model: compiled.
        path: a folder. An earlier export is replaced when the new one is complete; any other
            folder that is not empty is left alone.
        vocabularies: the records that the model was trained on; or table -> its values, str
            `[num_rows - 1]`, where value i has the key i + 1, for the tables with a vocabulary.
        checkpoint: the name of the checkpoint that the model is of, for the export's version.
        look_ups: field -> columns of raw values, a row for each value of that field, such as the
            genre and year of each film: the graph finds these fields itself, and all signatures but
            `predict_keys` do without them. A value without a row has missing ones. Only rank 0's
            are used.
        warm_up: add requests that TensorFlow Serving answers before it serves the model.

    Raises:
        ValueError: a vocabulary is missing or differs in size from its table; a look-up does not
            fit the schema; or `path` exists and is not an export (on every rank).
        OSError: the disk is full (on every rank); an earlier export is as it was.
    """
    found: list[LookUp] = []

    def check() -> None:
        check_export_output(path)
        found.extend(look_ups_of(model.embedding.schema, look_ups or {}))

    on_chief(check, model.world, name="export_output")
    serving = serving_graph(model, vocabularies, found)
    steps = int(model.optimizer.iterations)
    # A link is followed: what it points to is replaced, and the link stays.
    target = pathlib.Path(os.path.realpath(path))

    def write() -> None:
        with named_if_full(target), work_folder(target) as work:
            write_export(work / "saved_model", serving, steps, checkpoint, warm_up=warm_up)
            commit_export(work / "saved_model", target, work)

    on_chief(write, model.world, name="export_written")


def write_export(
    built: pathlib.Path,
    serving: ServingGraph,
    steps: int,
    checkpoint: str | None,
    *,
    warm_up: bool = False,
) -> None:
    """Writes a served model to a new folder, without the digests of its files."""
    signatures = serving.signatures()
    tf.saved_model.save(
        serving,
        str(built),
        signatures=signatures,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    _forget_custom_gradients(built / "saved_model.pb")
    extra = built / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / "schema.json").write_text(json.dumps(serving.schema.to_json(), indent=2))
    if serving.looked_up:
        (built / LOOKED_UP).write_text(json.dumps(serving.looked_up, indent=2))
    if warm_up:
        write_warm_up(built, signatures)
    write_version(built, version_of(serving.values(), steps, checkpoint))


def serving_graph(
    model: MetaModel,
    vocabularies: Records | Mapping[str, np.ndarray],
    look_ups: Sequence[LookUp] = (),
) -> ServingGraph:
    """The served form of a model; its tables are gathered, so every rank must call it.

    Args:
        model: compiled.
        vocabularies: as for `export_saved_model`.
        look_ups: what the graph finds itself.

    Raises:
        ValueError: a vocabulary is missing or differs in size from its table.
    """
    schema = model.embedding.schema
    looked_up = [table.name for table in schema.tables if table.keys == "vocabulary"]
    if isinstance(vocabularies, Records):
        folder = vocabularies.path
        vocabularies = {table: read_vocabulary(folder, table) for table in looked_up}
    _check_vocabularies(schema, vocabularies)
    in_order = {table: vocabularies[table] for table in looked_up}
    return ServingGraph(model, served_tables(model), in_order, look_ups)


def _forget_custom_gradients(file: pathlib.Path) -> None:
    """Removes the names of custom gradients from a saved graph.

    The graph contains the inner loop's gradients, and serving needs no others. With the names
    TensorFlow would warn of each one whenever the model is loaded.
    """
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                node.attr.pop("_gradient_op_type", None)
    file.write_bytes(saved.SerializeToString())


def _check_vocabularies(schema: Schema, vocabularies: Mapping[str, np.ndarray]) -> None:
    for table in schema.tables:
        if table.keys != "vocabulary":
            continue
        if table.name not in vocabularies:
            raise ValueError(
                f"the table {table.name!r} has no vocabulary among {sorted(vocabularies)}. "
                "Pass one for every table, or the Records that the model was trained on."
            )
        found = len(vocabularies[table.name])
        if found + 1 != table.num_rows:
            raise ValueError(
                f"the vocabulary of the table {table.name!r} has {found} values, its "
                f"{table.num_rows} rows want {(table.num_rows or 0) - 1} (row 0 is the unknown "
                "value's). Pass the vocabulary of the records that the model was trained on."
            )
