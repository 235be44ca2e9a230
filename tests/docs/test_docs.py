"""The examples in the library's docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import gmeta_tf

MODULES = sorted(
    module.name
    for package in (gmeta_tf, gmeta_tf.models)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)

# Those whose examples must not get lost.
WITH_EXAMPLES = {
    "gmeta_tf.evaluation.metric_accumulator",
    "gmeta_tf.evaluation.metrics",
    "gmeta_tf.models.dlrm",
    "gmeta_tf.models.melu",
    "gmeta_tf.schema.schema",
    "gmeta_tf.distributed.world",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("gmeta_tf"):
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert attempted > 0 or name not in WITH_EXAMPLES


def test_the_modules_were_found():
    assert {
        *WITH_EXAMPLES,
        "gmeta_tf.distributed.collectives",
        "gmeta_tf.meta_io.batches.task_batches",
    } <= set(MODULES)
