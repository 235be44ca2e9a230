"""A dictionary in the place of the hash table that SOK's `DynamicVariable` keeps on a GPU.

It does what HierarchicalKV is documented and written to do, the awkward parts included: a read
inserts, an update of a key that is not there does nothing, a full table drops the key used least
recently, an export has an order of its own, and no keys are an error to an export or an assignment.
"""

import json
import types

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops

_TABLES = {}


class Dictionary:
    """Key -> row, of one variable; the one used least recently comes first."""

    def __init__(self, dim):
        self.dim, self.rows, self.initial, self.capacity = dim, {}, None, None

    def use(self, key, row):
        self.rows.pop(key, None)
        self.rows[key] = row
        if len(self.rows) > self.capacity:
            del self.rows[next(iter(self.rows))]
        return row

    def read(self, keys):
        new = np.full([self.dim], self.initial, np.float32)
        found = [self.use(key, self.rows.get(key, new)) for key in keys.tolist()]
        return np.array(found, np.float32).reshape(-1, self.dim)

    def find(self, keys):
        return np.array([self.rows[key] for key in keys.tolist()], np.float32)

    def update(self, keys, values):
        for key, value in zip(keys.tolist(), values, strict=True):
            if key in self.rows:
                self.use(key, np.array(value))
        return np.int64(len(keys))

    def assign(self, keys, values):
        assert len(keys), "cudaMallocManaged of 0 bytes"
        self.read(keys)
        return self.update(keys, values)

    def export(self):
        assert self.rows, "cudaMallocManaged of 0 bytes"
        keys = np.array(sorted(self.rows), np.int64)
        # Of two tables of one content, two orders.
        keys = np.random.default_rng([self.dim, len(_TABLES), id(self) % 97]).permutation(keys)
        return keys, self.find(keys)


def table_of(variable):
    """The dictionary of a `sok.DynamicVariable`."""
    return _TABLES[id(variable._dummy_handle)][1]


def dummy_var_handle(*, container, shared_name, key_type, dtype, shape):
    handle = tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=shared_name)
    _TABLES[id(handle)] = handle, Dictionary(shape[1])
    return handle


def dummy_var_initialize(handle, *, initializer, var_type, unique_name, key_type, dtype, config):
    table = _TABLES[id(handle)][1]
    table.initial, table.capacity = np.float32(initializer), json.loads(config)["max_capacity"]


def dummy_var_shape(handle, *, key_type, dtype):
    table = _TABLES[id(handle)][1]
    return tf.constant([len(table.rows), table.dim])


def dummy_var_sparse_read(handle, indices, dtype):
    """The rows. The gradient is SOK's own."""
    table = _TABLES[id(handle)][1]
    with record.stop_recording():
        rows = tf.ensure_shape(tf.numpy_function(table.read, [indices], dtype), [None, table.dim])
    attributes = {"key_type": tf.int64, "dtype": dtype}
    operation = types.SimpleNamespace(inputs=(handle, indices), get_attr=attributes.get)
    gradient = ops.gradient_registry.lookup("DummyVarSparseRead")
    record.record_operation(
        "DummyVarSparseRead", [rows], [handle, indices], lambda g: gradient(operation, g)
    )
    return rows


def dummy_var_scatter_update(handle, indices, values):
    return tf.numpy_function(_TABLES[id(handle)][1].update, [indices, values], tf.int64)


def dummy_var_export(handle, *, key_type, dtype):
    keys, rows = _TABLES[id(handle)][1].export()
    return tf.constant(keys, key_type), tf.constant(rows, dtype)


def dummy_var_assign(handle, indices, values):
    _TABLES[id(handle)][1].assign(indices.numpy(), values.numpy())


KERNELS = {name: value for name, value in globals().items() if name.startswith("dummy_var_")}
