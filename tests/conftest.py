"""What tests of several files ask for."""

import collections
import gc
import logging
import re

import keras
import pytest
import sok_stub

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.dynamic import shard as dynamic_shard
from gmeta_tf.embedding.sok import backend as sok_module

# A traced graph is some hundred thousand objects in cycles. Looking through them again and again
# took a third of the time of a test that traces.
gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """Deals the files with most slow tests first, so that two processes end nearly together.

    The processes have to agree on the names of tests, so none may hold an object's address.
    """
    changing = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]+", item.nodeid)]
    if changing:
        raise pytest.UsageError(f"the name of {changing[0]} is another in each process: give ids.")
    if not hasattr(config, "workerinput"):  # no process of pytest-xdist
        return
    slow = collections.Counter(
        item.path for item in items if item.get_closest_marker("slow") is not None
    )
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_collected_once_a_file():
    """What a file leaves is collected at its end; what then is left is not looked through again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _machine_of_little_memory():
    """Tables without a capacity have three blocks, as on a machine of little memory.

    A block more is a branch more wherever rows are read or written: with this machine's nine, the
    graph of a training step takes twice as long to trace and to start.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            dynamic_shard,
            "rows_in_memory",
            lambda width: 4 * dynamic_shard._FIRST_ROWS_BYTES // (4 * width),
        )
        yield


@pytest.fixture
def float64():
    """Keras makes and computes in float64 while the test runs."""
    for floatx in ("float64", "float32"):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        if floatx == "float64":
            yield


@pytest.fixture(scope="module")
def imported_sok(tmp_path_factory):
    """SOK's own Python layer, over stand-ins for its kernels."""
    hvd = pytest.importorskip("horovod.tensorflow", reason="Horovod was left out")
    yield sok_stub.import_sok(tmp_path_factory.mktemp("sok"))
    if not World.detect().is_distributed:
        # Its thread would go on looking for work beside the tests of other files.
        hvd.shutdown()


@pytest.fixture
def sok(imported_sok, monkeypatch):
    """SOK, on a machine that passes for one with GPUs."""
    monkeypatch.setattr(sok_module, "has_gpu", lambda: True)
    return imported_sok


@pytest.fixture
def sok_log(caplog):
    """What the choice of a back-end logs, and nothing else: who shares cores logs, too."""
    sok_module._log_once.cache_clear()
    caplog.set_level(logging.INFO, logger=sok_module.__name__)
    of_sok = logging.Filter(sok_module.__name__)
    caplog.handler.addFilter(of_sok)
    yield caplog
    caplog.handler.removeFilter(of_sok)  # the handler is that of all tests
