"""The graph of a served model: raw rows in, adapted predictions out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch
from gmeta_tf.distributed.ownership import owner_of
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta_io.batches.assembly import assemble_keys
from gmeta_tf.saving.exports.input_names import input_names
from gmeta_tf.saving.exports.look_ups import LookUp, LookUpTable
from gmeta_tf.saving.exports.served_keys import ServedKeys, crossed_keys
from gmeta_tf.saving.exports.served_values import LOOK_UPS, Values, variable_name
from gmeta_tf.saving.exports.wire_forms import WireForm, as_integers, as_keys, as_texts
from gmeta_tf.schema import Field, Schema
from gmeta_tf.table_groups import key_groups

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
    adapted: Any
    unadapted: Any


class ServingGraph(tf.Module):
    """The saved object: whole tables, vocabularies and the learner's weights."""

    def __init__(
        self,
        model: MetaModel,
        tables: Mapping[str, ServedTable],
        vocabularies: Mapping[str, np.ndarray],
        look_ups: Sequence[LookUp] = (),
    ) -> None:
        super().__init__(name="gmeta_tf")
        # Traced once, and called by all signatures.
        functions = (tf.function(one, autograph=False) for one in (self._adapted, self._unadapted))
        self._untracked = _Untracked(model, *functions)
        # Keras variables wrap TensorFlow ones, and a SavedModel tracks only the latter.
        self.weights = [variable.value for variable in model.variables]
        # By their order: a table's name may hold anything.
        self.tables = list(tables.values())
        self._groups = tuple(tables)
        self.keys = ServedKeys(self.schema, vocabularies)
        self._names = input_names(self.schema)
        self.look_ups = [LookUpTable(one, self.keys, self.schema.fields) for one in look_ups]
        self._looked_up_by = tuple(one.by for one in look_ups)
        self.looked_up = {one.by.name: list(one.values) for one in look_ups}

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
        for place, look_up in enumerate(self.look_ups):
            variables[f"{LOOK_UPS}{place}/texts"] = look_up.texts
            for number, column in enumerate(look_up.columns):
                variables[f"{LOOK_UPS}{place}/columns/{number}"] = column
        return {variable_name(path): value.numpy() for path, value in variables.items()}

    @property
    def schema(self) -> Schema:
        """What a row is."""
        return self._model.embedding.schema

    def signatures(self) -> dict[str, Any]:
        """The concrete functions to serve."""
        texts = as_texts(self.keys)
        predict = self._adapted_function(texts)
        found = {
            "serving_default": predict,
            "predict": predict,
            "predict_unadapted": self._unadapted_function(texts),
            "predict_keys": self._adapted_function(as_keys(self.schema)),
            "predict_examples": self._examples_function(texts),
        }
        key_fields = [field for field in self.schema.given_fields if field.kind != "dense"]
        integers = [field.name for field in key_fields if self.keys.takes_integers(field)]
        if integers:
            found["predict_integers"] = self._adapted_function(as_integers(self.keys, integers))
        return found

    def _adapted_function(self, form: WireForm) -> Any:
        """Of support and query rows."""
        predict = tf.function(functools.partial(self._predict, form), autograph=False)
        return predict.get_concrete_function(**_named(self._task_specs(form)))

    def _unadapted_function(self, form: WireForm) -> Any:
        """Of query rows."""

        def predict(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            keys, dense = self._rows(form, inputs, "query")
            return {"prediction": self._untracked.unadapted(keys, dense)}

        specs = self._specs(form, "query")
        return tf.function(predict, autograph=False).get_concrete_function(**_named(specs))

    def _examples_function(self, form: WireForm) -> Any:
        """Of serialized `tf.train.Example`, one a task, each input a feature of its values."""
        specs = self._task_specs(form)
        del specs["support_count"]
        label = f"support_{self._names.label}"

        def predict(**given: tf.Tensor) -> dict[str, tf.Tensor]:
            features: dict[str, Any] = {
                name: tf.io.FixedLenSequenceFeature([], spec.dtype, allow_missing=True)
                for name, spec in specs.items()
            }
            # A task's labels tell how many support rows it has.
            features[label] = tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
            inputs = dict(tf.io.parse_example(given["examples"], features))
            labels = inputs[label]
            inputs["support_count"] = tf.cast(labels.row_lengths(), tf.int32)
            inputs[label] = labels.to_tensor()
            return self._predict(form, **inputs)

        spec = tf.TensorSpec([None], tf.string, name="examples")
        return tf.function(predict, autograph=False).get_concrete_function(examples=spec)

    def _predict(self, form: WireForm, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        label = inputs[f"support_{self._names.label}"]
        of_support, dense_of_support = self._rows(form, inputs, "support", tf.shape(label))
        of_query, dense_of_query = self._rows(form, inputs, "query")
        keys = {
            group: tf.concat([of_support[group], of_query[group]], axis=1) for group in self._groups
        }
        dense = tf.concat([dense_of_support, dense_of_query], axis=1)
        weight = None
        if self._names.weight is not None:
            weight = tf.broadcast_to(inputs[f"support_{self._names.weight}"], tf.shape(label))
        return self._untracked.adapted(keys, dense, label, inputs["support_count"], weight)

    def _adapted(
        self,
        keys: Inputs,
        dense: tf.Tensor,
        label: tf.Tensor,
        count: tf.Tensor,
        weight: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """The predictions of the query rows, which are those after the label's S."""
        num_support, num_rows = tf.shape(label)[1], tf.shape(dense)[1]
        place = tf.range(num_rows)
        present = (place < count[:, tf.newaxis]) | (place >= num_support)
        of_query = [[0, 0], [0, num_rows - num_support]]
        label = tf.pad(label, of_query)
        if weight is not None:
            weight = tf.pad(weight, of_query, constant_values=1.0)
        batch = assemble_keys(keys, present, label, dense, self.schema, num_support, weight)
        # In one lane: lanes suit the cores of the training machine, and this serves on any other.
        passed = self._model.adapter.query_pass_in_one_lane(
            self._fetch(batch), batch, training=False
        )
        prediction = {"prediction": self._model.row_loss.predict(passed.outputs)}
        return (
            prediction if passed.deviation is None else prediction | {"deviation": passed.deviation}
        )

    def _unadapted(self, keys: Inputs, dense: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(dense)[:2]
        batch = assemble_keys(
            keys, tf.fill(shape, True), tf.zeros(shape), dense, self.schema, num_support=0
        )
        outputs = self._model.adapter.unadapted_outputs(self._fetch(batch), batch)
        return self._model.row_loss.predict(outputs)

    def _fetch(self, batch: Batch) -> dict[str, tf.Tensor]:
        return {
            group: table(batch["keys"][group])
            for group, table in zip(self._groups, self.tables, strict=True)
        }

    def _rows(
        self, form: WireForm, inputs: Inputs, part: str, shape: tf.Tensor | None = None
    ) -> tuple[Inputs, tf.Tensor]:
        """What a signature is given of the support rows or of the query rows.

        Args:
            form: of the signature.
            inputs: what it is given.
            part: `"support"` or `"query"`.
            shape: `[T, R]`; None finds it. A value that is given once, `[T, 1]`, is that of all
                R rows.

        Returns:
            group -> int64 `[T, R, slots]`; and float32 `[T, R, dense fields]`.
        """
        values = {
            field.name: inputs[f"{part}_{self._names.fields[field.name]}"]
            for field in self._given(form)
        }
        if shape is None:
            shape = _common_shape(list(values.values()))
        found = self._found(form, values)
        of_fields = self._keys_of_fields(form, values, found, shape)
        keys: Inputs = {}
        for group, tables in key_groups(self.schema).items():
            names = [field.name for field in self.schema.key_fields if field.table_name in tables]
            keys[group] = tf.concat([of_fields[name] for name in names], axis=2)
        numbers = values | found
        dense = [tf.broadcast_to(numbers[f.name], shape) for f in self.schema.dense_fields]
        if dense:
            return keys, tf.stack(dense, axis=2)
        return keys, tf.zeros(tf.concat([shape, [0]], axis=0))

    def _keys_of_fields(
        self, form: WireForm, values: Inputs, found: Inputs, shape: tf.Tensor
    ) -> Inputs:
        """Field -> its keys, int64 `[T, R, slots]`; a cross is made of the keys of its fields."""
        keys = {}
        for field in self.schema.key_fields:
            if not field.cross:
                name, slots = field.name, tf.concat([shape, [field.num_slots]], 0)
                own = found[name] if name in found else form.keys(field, values[name])
                keys[name] = tf.broadcast_to(own, slots)
                keys[name].set_shape([None, None, field.num_slots])
        for field in self.schema.key_fields:
            if field.cross:
                parts = [keys[name] for name in field.cross]
                table = self.schema.table(field.table_name)
                keys[field.name] = crossed_keys(parts, table, field.num_slots)
        return keys

    def _task_specs(self, form: WireForm) -> dict[str, tf.TensorSpec]:
        """The inputs of support and query rows."""
        known = [one for one in (self._names.label, self._names.weight) if one is not None]
        return {
            **self._specs(form, "support"),
            **{f"support_{name}": tf.TensorSpec([None, None], tf.float32) for name in known},
            "support_count": tf.TensorSpec([None], tf.int32),
            **self._specs(form, "query"),
        }

    def _specs(self, form: WireForm, part: str) -> dict[str, tf.TensorSpec]:
        return {
            f"{part}_{self._names.fields[field.name]}": (
                tf.TensorSpec([None, None], tf.float32)
                if field.kind == "dense"
                else form.spec(field)
            )
            for field in self._given(form)
        }

    def _given(self, form: WireForm) -> list[Field]:
        """The fields that a request has, apart from those that are looked up."""
        found = {name for names in self.looked_up.values() for name in names}
        return [f for f in self.schema.given_fields if form.text is None or f.name not in found]

    def _found(self, form: WireForm, values: Inputs) -> Inputs:
        """Field -> its keys or numbers, of those that are looked up."""
        found: Inputs = {}
        if form.text is not None:
            for by, table in zip(self._looked_up_by, self.look_ups, strict=True):
                found |= table(form.text(by, values[by.name]))
        return found


def _common_shape(values: list[tf.Tensor]) -> tf.Tensor:
    """`[T, R]` of values `[T, R, ...]` some of which may be given once, `[T, 1, ...]`."""
    by_type: dict[tf.DType, list[tf.Tensor]] = {}
    for value in values:
        by_type.setdefault(value.dtype, []).append(value)
    shapes = [shape[:2] for alike in by_type.values() for shape in tf.shape_n(alike)]
    return shapes[0] if len(shapes) == 1 else tf.reduce_max(tf.stack(shapes), axis=0)


def _named(specs: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
