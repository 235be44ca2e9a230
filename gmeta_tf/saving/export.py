"""SavedModels of stock TensorFlow ops: raw values in, adapted predictions out."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.export_digests import write_digests
from gmeta_tf.saving.serving_graph import ServingGraph, served_tables
from gmeta_tf.saving.writing import named_if_full
from gmeta_tf.schema import Schema

__all__ = ["check_export_output", "export_saved_model"]

_OWN_FILES = ("saved_model.pb", "assets.extra/schema.json")


def export_saved_model(
    model: MetaModel, path: str | pathlib.Path, vocabularies: Records | Mapping[str, np.ndarray]
) -> None:
    """Writes a SavedModel that adapts to a task's support rows and predicts its query rows.

    Gathers the tables from the ranks (they must fit on one server), so every rank must call it;
    rank 0 writes. Serving needs only TensorFlow: no Horovod, no gmeta_tf.

    Signatures, for T tasks of up to S support rows and Q query rows:

        predict (the default)
            support_<field>   string [T, S], or float32 for a dense field
            support_<label>   float32 [T, S], as in the raw data
            support_count     int32 [T], how many of the S rows count (0 for a task never seen)
            query_<field>     as for the support, [T, Q]
            -> prediction     float32 [T, Q]
            -> deviation      float32 [T, Q], the standard deviation of the label about its
                              prediction, where tasks adapt in closed form
        predict_unadapted
            query_<field>     -> prediction, from the shared values

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

    Raises:
        ValueError: a vocabulary is missing or differs in size from its table; or `path` exists and
            is not an export (on every rank).
        OSError: the disk is full (on every rank); an earlier export is as it was.
    """
    on_chief(lambda: check_export_output(path), model.world, name="export_output")
    schema = model.embedding.schema
    if isinstance(vocabularies, Records):
        folder = vocabularies.path
        vocabularies = {
            table.name: read_vocabulary(folder, table.name)
            for table in schema.tables
            if table.keys == "vocabulary"
        }
    _check_vocabularies(schema, vocabularies)
    tables = served_tables(model)
    on_chief(lambda: _write(model, path, tables, vocabularies), model.world, name="export_written")


def _write(
    model: MetaModel, path: str | pathlib.Path, tables: Any, vocabularies: Mapping[str, np.ndarray]
) -> None:
    """Builds the SavedModel beside `path`, and moves it there."""
    schema = model.embedding.schema
    serving = ServingGraph(model, tables, vocabularies)
    signatures = serving.signatures()
    # A link is followed: what it points to is replaced, and the link stays.
    path = pathlib.Path(os.path.realpath(path))
    with named_if_full(path), work_folder(path) as work:
        built = work / "saved_model"
        tf.saved_model.save(
            serving,
            str(built),
            signatures=signatures,
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        _forget_custom_gradients(built / "saved_model.pb")
        extra = built / "assets.extra"
        extra.mkdir(exist_ok=True)
        (extra / "schema.json").write_text(json.dumps(schema.to_json(), indent=2))
        write_digests(built)
        # Another process may have put something else there meanwhile.
        check_export_output(path)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        replace_folder(built, path, work)


def check_export_output(path: str | pathlib.Path) -> None:
    """Checks that an export may be written to `path`, and touches nothing.

    Raises:
        ValueError: it exists, is not empty and is not an export, so it must not be replaced.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not all((path / name).is_file() for name in _OWN_FILES):
        raise ValueError(
            f"{path} exists and is not an exported model (expected {' and '.join(_OWN_FILES)} in "
            "it), so it is not replaced. Choose another output."
        )
    for name in _OWN_FILES:
        check_inside(path, name)


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
