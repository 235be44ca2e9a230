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

from gmeta_tf.batch import Batch
from gmeta_tf.distributed.collectives import broadcast_json
from gmeta_tf.distributed.ownership import owner_of
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.batches.assembly import assemble_batch
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.hashing import hash_buckets
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, work_folder
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.writing import named_if_full
from gmeta_tf.schema import LARGEST_KEY, PADDING_KEY, UNKNOWN_KEY, Field, Schema, Table

__all__ = ["check_export_output", "export_saved_model"]

Inputs = dict[str, tf.Tensor]

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
        predict_unadapted
            query_<field>     -> prediction, from the shared values

    Values become keys as in `prepare`. A value outside the vocabulary, or that is not a key of a
    table with raw keys, reads row 0. The values of a multi-valued field share one string, with the
    field's separator.

    Args:
        model: compiled.
        path: a folder. An earlier export is replaced when the new one is complete; any other
            folder that is not empty is left alone.
        vocabularies: the records that the model was trained on; or table -> its values, str
            `[num_rows - 1]`, where value i has the key i + 1, for the tables with a vocabulary.

    Raises:
        ValueError: a vocabulary is missing or differs in size from its table; or `path` exists and
            is not an export (on every rank).
        OSError: the disk is full; an earlier export is as it was.
    """
    _check_on_chief(path, model.world)
    schema = model.embedding.schema
    if isinstance(vocabularies, Records):
        folder = vocabularies.path
        vocabularies = {
            table.name: read_vocabulary(folder, table.name)
            for table in schema.tables
            if table.keys == "vocabulary"
        }
    _check_vocabularies(schema, vocabularies)
    tables = {
        group: _ServedDynamic(model.embedding, group, int(model.optimizer.iterations))
        if group in model.embedding.keyed
        else _ServedStatic(model.embedding.all_rows(group), group)
        for group in model.embedding.groups
    }
    if not model.world.is_chief:
        return
    serving = _Serving(model, tables, vocabularies)
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


def _check_on_chief(path: str | pathlib.Path, world: World) -> None:
    """Has rank 0 look; every rank raises what it found."""
    problem = None
    if world.is_chief:
        try:
            check_export_output(path)
        except ValueError as error:
            problem = str(error)
    problem = broadcast_json(problem, world, name="export_output")
    if problem is not None:
        raise ValueError(problem)


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


class _ServedStatic(tf.Module):
    """The rows of tables of known size, by key."""

    def __init__(self, rows: tf.Tensor, group: str) -> None:
        super().__init__()
        self.rows = tf.Variable(rows, trainable=False, name=f"{group}_rows")

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.rows, keys)


class _ServedDynamic(tf.Module):
    """A dynamic table's rows behind its sorted keys; unknown keys as `unknown_otherwise` says.

    The keys are in a variable: those of a hash table would be in the graph, which is limited to
    2 GB.
    """

    def __init__(self, embedding: ShardedEmbedding, group: str, step: int) -> None:
        super().__init__()
        shard = embedding.keyed[group]
        held = embedding.all_keys(group, step)
        self._shard = shard
        self._num_ranks = embedding.world.size
        self._num_keys = len(held.keys)
        self.keys = tf.Variable(held.keys, trainable=False, name="keys")
        # The keys' rows, then the default row, then the buckets.
        shared = np.concatenate([np.zeros([1, shard.width], np.float32), held.buckets])
        rows = np.concatenate([held.rows, shared])
        self.rows = tf.Variable(rows, trainable=False, name="rows")

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        row_indices = tf.searchsorted(self.keys, keys, out_type=tf.int64)
        # A key larger than all is compared with the padding, and then left out.
        found = tf.gather(tf.pad(self.keys, [[0, 1]]), row_indices)
        known = (found == keys) & (row_indices < self._num_keys)
        unknown = self._num_keys + self._shared_row(keys, known)
        return tf.gather(self.rows, tf.where(known, row_indices, unknown))

    def _shared_row(self, keys: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """The row indices of unknown keys, counted from the default row."""
        shard = self._shard
        policy = shard.options.unknown_otherwise
        if policy == "bucket":
            owner = owner_of(keys, self._num_ranks)
            return 1 + owner * shard.options.num_buckets + shard.bucket_of(keys)
        if policy == "error":
            message = f"the table {shard.table!r} has no row for a key of this request"
            checked = tf.debugging.Assert(tf.reduce_all(known), [message])
            with tf.control_dependencies([checked] if checked is not None else []):
                return tf.zeros_like(keys)
        return tf.zeros_like(keys)


class _Serving(tf.Module):
    """The saved object: whole tables, vocabularies and the learner's weights."""

    def __init__(
        self,
        model: MetaModel,
        tables: Mapping[str, _ServedStatic | _ServedDynamic],
        vocabularies: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__(name="gmeta_tf")
        self._model = model
        # Keras variables wrap TensorFlow ones, and a SavedModel tracks only the latter.
        self.weights = [variable.value for variable in model.variables]
        self.tables = dict(tables)
        self.vocabularies = {
            table: _lookup_table(values, table) for table, values in vocabularies.items()
        }

    @property
    def _schema(self) -> Schema:
        return self._model.embedding.schema

    def signatures(self) -> dict[str, Any]:
        """The concrete functions to serve."""
        query = _specs(self._schema, "query")
        support = {
            **_specs(self._schema, "support"),
            f"support_{self._schema.label}": tf.TensorSpec([None, None], tf.float32),
            "support_count": tf.TensorSpec([None], tf.int32),
        }
        adapted = tf.function(self._predict, autograph=False)
        unadapted = tf.function(self._predict_unadapted, autograph=False)
        predict = adapted.get_concrete_function(**_named({**support, **query}))
        return {
            "serving_default": predict,
            "predict": predict,
            "predict_unadapted": unadapted.get_concrete_function(**_named(query)),
        }

    def _predict(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = self._batch(inputs)
        outputs = self._model.adapter.outputs_in_one_lane(self._fetch(batch), batch, training=False)
        return {"prediction": self._model.row_loss.predict(outputs)}

    def _predict_unadapted(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = self._batch({**inputs, **self._no_support(inputs)})
        outputs = self._model.adapter.unadapted_outputs(self._fetch(batch), batch)
        return {"prediction": self._model.row_loss.predict(outputs)}

    def _no_support(self, query: Inputs) -> Inputs:
        num_tasks = tf.shape(next(iter(query.values())))[0]
        nothing = {
            name.replace("query_", "support_", 1): tf.zeros([num_tasks, 0], value.dtype)
            if value.dtype != tf.string
            else tf.fill([num_tasks, 0], "")
            for name, value in query.items()
        }
        label = {f"support_{self._schema.label}": tf.zeros([num_tasks, 0])}
        return {**nothing, **label, "support_count": tf.zeros([num_tasks], tf.int32)}

    def _fetch(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {group: table(batch["keys"][group]) for group, table in self.tables.items()}

    def _batch(self, inputs: Inputs) -> Batch:
        """Raw values as int32 words of records, so that serving reads as training does."""
        label = inputs[f"support_{self._schema.label}"]
        num_tasks, num_support = tf.shape(label)[0], tf.shape(label)[1]
        support, query = (self._words(inputs, part, label) for part in ("support", "query"))
        there = tf.sequence_mask(inputs["support_count"], num_support)[:, :, tf.newaxis]
        episodes = {
            "task": tf.range(num_tasks, dtype=tf.int64),
            "words": tf.concat([tf.where(there, support, -1), query], axis=1),
            "num_support": inputs["support_count"],
            "num_query": tf.fill([num_tasks], tf.shape(query)[1]),
        }
        return assemble_batch(episodes, self._schema, num_support)

    def _words(self, inputs: Inputs, part: str, label: tf.Tensor) -> tf.Tensor:
        """int32 `[T, R, C]`, see `records`."""
        first = inputs[f"{part}_{self._schema.fields[0].name}"]
        labels = label if part == "support" else tf.zeros(tf.shape(first))
        words = [tf.bitcast(labels, tf.int32)[:, :, tf.newaxis]]
        for field in self._schema.key_fields:
            keys = self._keys(field, inputs[f"{part}_{field.name}"])
            if self._schema.table(field.table_name).words_per_key == 2:
                words += tf.unstack(tf.bitcast(keys, tf.int32), axis=3)
            else:
                words.append(tf.cast(keys, tf.int32))
        for field in self._schema.dense_fields:
            dense = inputs[f"{part}_{field.name}"]
            words.append(tf.bitcast(dense, tf.int32)[:, :, tf.newaxis])
        return tf.concat(words, axis=2)

    def _keys(self, field: Field, text: tf.Tensor) -> tf.Tensor:
        """The keys of raw values `[T, R]`, int64 `[T, R, slots]`."""
        table = self._schema.table(field.table_name)
        if field.kind == "categorical":
            return self._key_of(table, tf.strings.strip(text))[:, :, tf.newaxis]
        values = tf.strings.split(tf.reshape(text, [-1]), field.separator)
        keys = self._key_of(table, tf.strings.strip(values).to_tensor(""))
        keys = first_distinct(keys, field.num_slots)
        return tf.reshape(keys, [tf.shape(text)[0], tf.shape(text)[1], field.num_slots])

    def _key_of(self, table: Table, value: tf.Tensor) -> tf.Tensor:
        """The keys of single stripped values, int64; 0 for a missing one."""
        if table.keys == "vocabulary":
            return self.vocabularies[table.name].lookup(value)
        if table.keys == "hash":
            hashed = 1 + tf.strings.to_hash_bucket_fast(value, hash_buckets(table))
            return tf.where(value == "", tf.constant(UNKNOWN_KEY, tf.int64), hashed)
        # 18 digits always fit; a longer number would fail the whole request.
        is_key = tf.strings.regex_full_match(value, "[0-9]{1,18}")
        key = tf.strings.to_number(tf.where(is_key, value, "0"), tf.int64)
        inside = key < (table.num_rows or LARGEST_KEY)
        return tf.where(inside, key, tf.constant(UNKNOWN_KEY, tf.int64))


def first_distinct(keys: tf.Tensor, count: int) -> tf.Tensor:
    """Each row's first `count` distinct known keys, as `prepare` writes a multi-valued field.

        count 3: [5 0 5 2] -> [5 2 -1];  [0 0 0 0] -> [0 -1 -1]

    Args:
        keys: `[N, M]`, 0 is unknown.
        count: L.

    Returns:
        `[N, L]`, -1 after the last; a row without a known key holds one 0.
    """
    keys = tf.pad(keys, [[0, 0], [0, count]])
    same = keys[:, :, tf.newaxis] == keys[:, tf.newaxis, :]
    seen_before = tf.linalg.band_part(tf.cast(same, tf.int32), -1, 0) - tf.eye(
        tf.shape(keys)[1], dtype=tf.int32
    )
    new = (tf.reduce_max(seen_before, axis=2) == 0) & (keys != UNKNOWN_KEY)
    order = tf.argsort(tf.cast(~new, tf.int32), axis=1, stable=True)[:, :count]
    picked = tf.gather(keys, order, batch_dims=1)
    padding = tf.constant(PADDING_KEY, keys.dtype)
    picked = tf.where(tf.gather(new, order, batch_dims=1), picked, padding)
    none = tf.reduce_all(picked == PADDING_KEY, axis=1, keepdims=True)
    only_unknown = tf.one_hot(0, count, UNKNOWN_KEY, PADDING_KEY, dtype=keys.dtype)
    return tf.where(none, only_unknown, picked)


def _lookup_table(values: np.ndarray, table: str) -> tf.lookup.StaticHashTable:
    keys = tf.range(1, len(values) + 1, dtype=tf.int64)
    entries = tf.lookup.KeyValueTensorInitializer(
        tf.constant(list(values), tf.string, shape=[len(values)]), keys
    )
    return tf.lookup.StaticHashTable(entries, UNKNOWN_KEY, name=f"{table}_vocabulary")


def _specs(schema: Schema, part: str) -> dict[str, tf.TensorSpec]:
    return {
        f"{part}_{field.name}": tf.TensorSpec(
            [None, None], tf.float32 if field.kind == "dense" else tf.string
        )
        for field in schema.fields
    }


def _named(specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}


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
