"""The graph of a served model: raw rows in, adapted predictions out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch
from gmeta_tf.distributed.ownership import owner_of
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.batches.assembly import assemble_batch
from gmeta_tf.saving.exports.input_names import input_names
from gmeta_tf.saving.exports.served_keys import ServedKeys
from gmeta_tf.saving.exports.served_values import Values, variable_name
from gmeta_tf.schema import Schema

__all__ = ["ServingGraph", "served_tables"]

Inputs = dict[str, tf.Tensor]


def served_tables(model: MetaModel) -> dict[str, ServedTable]:
    """Group -> its rows by key, gathered from the ranks, so every rank must call it."""
    embedding, step = model.embedding, int(model.optimizer.iterations)
    return {
        group: _DynamicTable(embedding, group, step)
        if group in embedding.keyed
        else _StaticTable(embedding.all_rows(group))
        for group in embedding.groups
    }


class _StaticTable(tf.Module):
    """The rows of tables of known size, by key."""

    def __init__(self, rows: tf.Tensor) -> None:
        super().__init__()
        self.rows = tf.Variable(rows, trainable=False, name="rows")

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.rows, keys)


class _DynamicTable(tf.Module):
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


ServedTable = _StaticTable | _DynamicTable


@dataclasses.dataclass(frozen=True)
class _Untracked:
    """What a SavedModel is not to have: a model has optimizers and this rank's shards, too."""

    model: MetaModel


class ServingGraph(tf.Module):
    """The saved object: whole tables, vocabularies and the learner's weights."""

    def __init__(
        self,
        model: MetaModel,
        tables: Mapping[str, ServedTable],
        vocabularies: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__(name="gmeta_tf")
        self._untracked = _Untracked(model)
        # Keras variables wrap TensorFlow ones, and a SavedModel tracks only the latter.
        self.weights = [variable.value for variable in model.variables]
        # By their order: a table's name may hold anything.
        self.tables = list(tables.values())
        self._groups = tuple(tables)
        self.keys = ServedKeys(self.schema, vocabularies)
        self._names = input_names(self.schema)

    @property
    def _model(self) -> MetaModel:
        return self._untracked.model

    def values(self) -> Values:
        """What an export of this has in its variables, by name there."""
        variables: dict[str, tf.Variable] = {
            **{f"weights/{place}": weight for place, weight in enumerate(self.weights)},
            **{f"keys/values/{place}": texts for place, texts in enumerate(self.keys.values)},
        }
        for place, table in enumerate(self.tables):
            variables[f"tables/{place}/rows"] = table.rows
            if isinstance(table, _DynamicTable):
                variables[f"tables/{place}/keys"] = table.keys
        return {variable_name(path): value.numpy() for path, value in variables.items()}

    @property
    def schema(self) -> Schema:
        """What a row is."""
        return self._model.embedding.schema

    def signatures(self) -> dict[str, Any]:
        """The concrete functions to serve."""
        query = self._specs("query")
        support = {
            **self._specs("support"),
            f"support_{self._names.label}": tf.TensorSpec([None, None], tf.float32),
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
        # In one lane: lanes suit the cores of the training machine, and this serves on any other.
        passed = self._model.adapter.query_pass_in_one_lane(
            self._fetch(batch), batch, training=False
        )
        prediction = {"prediction": self._model.row_loss.predict(passed.outputs)}
        return (
            prediction if passed.deviation is None else prediction | {"deviation": passed.deviation}
        )

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
        label = {f"support_{self._names.label}": tf.zeros([num_tasks, 0])}
        return {**nothing, **label, "support_count": tf.zeros([num_tasks], tf.int32)}

    def _fetch(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {
            group: table(batch["keys"][group])
            for group, table in zip(self._groups, self.tables, strict=True)
        }

    def _batch(self, inputs: Inputs) -> Batch:
        """Raw values as int32 words of records, so that serving reads as training does."""
        label = inputs[f"support_{self._names.label}"]
        num_tasks, num_support = tf.shape(label)[0], tf.shape(label)[1]
        support, query = (self._words(inputs, part, label) for part in ("support", "query"))
        there = tf.sequence_mask(inputs["support_count"], num_support)[:, :, tf.newaxis]
        episodes = {
            "task": tf.range(num_tasks, dtype=tf.int64),
            "words": tf.concat([tf.where(there, support, -1), query], axis=1),
            "num_support": inputs["support_count"],
            "num_query": tf.fill([num_tasks], tf.shape(query)[1]),
        }
        return assemble_batch(episodes, self.schema, num_support)

    def _words(self, inputs: Inputs, part: str, label: tf.Tensor) -> tf.Tensor:
        """int32 `[T, R, C]`, see `records`."""
        values = {
            field.name: inputs[f"{part}_{self._names.fields[field.name]}"]
            for field in self.schema.fields
        }
        first = values[self.schema.fields[0].name]
        labels = label if part == "support" else tf.zeros(tf.shape(first))
        words = [tf.bitcast(labels, tf.int32)[:, :, tf.newaxis]]
        for field in self.schema.key_fields:
            keys = self.keys(field, values[field.name])
            if self.schema.table(field.table_name).words_per_key == 2:
                words += tf.unstack(tf.bitcast(keys, tf.int32), axis=3)
            else:
                words.append(tf.cast(keys, tf.int32))
        for field in self.schema.dense_fields:
            words.append(tf.bitcast(values[field.name], tf.int32)[:, :, tf.newaxis])
        return tf.concat(words, axis=2)

    def _specs(self, part: str) -> dict[str, tf.TensorSpec]:
        return {
            f"{part}_{self._names.fields[field.name]}": tf.TensorSpec(
                [None, None], tf.float32 if field.kind == "dense" else tf.string
            )
            for field in self.schema.fields
        }


def _named(specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
