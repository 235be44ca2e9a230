"""SOK's own Python layer on a machine without a GPU: its package, over stubs of its kernels.

What runs is NVIDIA's code from the source distribution that launch/setup.sh keeps outside of the
repository. Its kernels are for GPUs; three of them are enough for static tables, and stand here in
TensorFlow's own ops. `DynamicVariable` needs more, which `sok_dictionary.py` has.
"""

import contextlib
import importlib
import io
import pathlib
import sys
import tarfile
import types
import warnings

import sok_dictionary
import tensorflow as tf
from tensorflow.python.framework import load_library, ops

NAME = "merlin-sok-2.1.0"
SOURCE = pathlib.Path(sys.prefix) / "sources" / f"{NAME}.tar.gz"
_LIBRARY = "lib/libsparse_operation_kit.so"


def dist_select(indices, num_splits):
    """Indices by owner, where each stood, and how many each owner gets."""
    owner = tf.cast(indices % num_splits, tf.int32)
    order = tf.argsort(owner, stable=True)
    splits = tf.math.bincount(owner, minlength=num_splits, maxlength=num_splits)
    return tf.gather(indices, order), order, splits


@tf.custom_gradient
def reorder(embedding, order):
    """`result[order[i]] = embedding[i]`. Its gradient is SOK's own, which calls `gather_ex`."""

    def gradient(upstream):
        operation = types.SimpleNamespace(inputs=(embedding, order))
        return ops.gradient_registry.lookup("Reorder")(operation, upstream)

    return tf.gather(embedding, tf.math.invert_permutation(order)), gradient


def gather_ex(grads, indices):
    """`grads[indices]`."""
    return tf.gather(grads, indices)


KERNELS = types.SimpleNamespace(
    dist_select=dist_select, reorder=reorder, gather_ex=gather_ex, **sok_dictionary.KERNELS
)


def import_sok(folder):
    """The module `sparse_operation_kit`; at the first call it is unpacked into the folder.

    A process has one: its gradients are registered with TensorFlow, which takes no second ones.
    """
    if "sparse_operation_kit" in sys.modules:
        return sys.modules["sparse_operation_kit"]
    if not SOURCE.exists():
        raise FileNotFoundError(
            f"{SOURCE} is missing: launch/setup.sh fetches it from the package registry, and says "
            "so when it can not. Run `bash launch/setup.sh` with a registry that has merlin-sok."
        )
    with tarfile.open(SOURCE) as archive:
        package = [
            member
            for member in archive.getmembers()
            if member.name.startswith(f"{NAME}/sparse_operation_kit/")
        ]
        archive.extractall(folder, package, filter="data")
    root = pathlib.Path(folder) / NAME
    (root / _LIBRARY).parent.mkdir()
    (root / _LIBRARY).touch()
    with _without_libraries(str(root)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("sparse_operation_kit")


@contextlib.contextmanager
def _without_libraries(root):
    """SOK's package is found in the folder, and gets the stubs for its library."""
    load = load_library.load_op_library
    # Horovod, which SOK imports, loads a library of its own meanwhile.
    load_library.load_op_library = lambda path: (
        KERNELS if str(path).startswith(root) else load(path)
    )
    sys.path.insert(0, root)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.path.remove(root)
        load_library.load_op_library = load
